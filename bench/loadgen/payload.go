package main

import (
	"encoding/binary"
	"math/rand/v2"
)

// A payload starts with a head that lets the reader check and time it; the rest
// is random. No two payloads of a run are equal: posthouse takes equal bytes to
// one address for one message.
//
//	0  run    u64   payloads of another run are counted as foreign
//	8  number u64   counts all messages of the run
//	16 reader u32   who it is for
//	20 size   u32
//	24 sent   i64   nanoseconds on the load generator's clock

const payloadHeadBytes = 32

type payloadHead struct {
	run, number  uint64
	reader, size uint32
	sent         int64
}

// randomPool is where the random rest of payloads comes from.
type randomPool struct {
	bytes  []byte
	offset int
}

func newRandomPool(size int) *randomPool {
	pool := &randomPool{bytes: make([]byte, 1<<20+size)}
	random := rand.NewChaCha8([32]byte{1})
	random.Read(pool.bytes)
	return pool
}

func (r *randomPool) fill(dst []byte, h payloadHead) {
	binary.LittleEndian.PutUint64(dst, h.run)
	binary.LittleEndian.PutUint64(dst[8:], h.number)
	binary.LittleEndian.PutUint32(dst[16:], h.reader)
	binary.LittleEndian.PutUint32(dst[20:], h.size)
	binary.LittleEndian.PutUint64(dst[24:], uint64(h.sent))
	r.offset = (r.offset + 8191) & (1<<20 - 1)
	copy(dst[payloadHeadBytes:], r.bytes[r.offset:])
}

func parseHead(p []byte) (h payloadHead, ok bool) {
	if len(p) < payloadHeadBytes {
		return h, false
	}
	return payloadHead{
		run:    binary.LittleEndian.Uint64(p),
		number: binary.LittleEndian.Uint64(p[8:]),
		reader: binary.LittleEndian.Uint32(p[16:]),
		size:   binary.LittleEndian.Uint32(p[20:]),
		sent:   int64(binary.LittleEndian.Uint64(p[24:])),
	}, true
}
