package main

import (
	"encoding/binary"
	"errors"
	"math"
)

// As much of MessagePack as posthouse's v2 dialect uses.

var errMsgpack = errors.New("malformed MessagePack")

func packMap(dst []byte, n int) []byte { return append(dst, 0x80|byte(n)) }

func packArray(dst []byte, n int) []byte {
	if n < 16 {
		return append(dst, 0x90|byte(n))
	}
	if n < 1<<16 {
		return append(dst, 0xdc, byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, 0xdd), uint32(n))
}

func packString(dst []byte, s string) []byte {
	if len(s) < 32 {
		dst = append(dst, 0xa0|byte(len(s)))
	} else if len(s) < 256 {
		dst = append(dst, 0xd9, byte(len(s)))
	} else {
		dst = append(dst, 0xda, byte(len(s)>>8), byte(len(s)))
	}
	return append(dst, s...)
}

func packBytes(dst, b []byte) []byte {
	switch {
	case len(b) < 256:
		dst = append(dst, 0xc4, byte(len(b)))
	case len(b) < 1<<16:
		dst = append(dst, 0xc5, byte(len(b)>>8), byte(len(b)))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, 0xc6), uint32(len(b)))
	}
	return append(dst, b...)
}

func packUint(dst []byte, n uint64) []byte {
	switch {
	case n < 128:
		return append(dst, byte(n))
	case n < 1<<16:
		return append(dst, 0xcd, byte(n>>8), byte(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, 0xce), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0xcf), n)
}

func packBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 0xc3)
	}
	return append(dst, 0xc2)
}

// unpacker walks over one frame. The first error sticks; reads after it give
// zero values, so callers check err once.
type unpacker struct {
	p   []byte
	err error
}

func (u *unpacker) fail() { u.err, u.p = errMsgpack, nil }

func (u *unpacker) take(n int) []byte {
	if n < 0 || n > len(u.p) {
		u.fail()
		return nil
	}
	b := u.p[:n]
	u.p = u.p[n:]
	return b
}

func (u *unpacker) byte() byte {
	if len(u.p) == 0 {
		u.fail()
		return 0xc1
	}
	b := u.p[0]
	u.p = u.p[1:]
	return b
}

// size reads a big-endian length of width bytes.
func (u *unpacker) size(width int) int {
	n := 0
	for _, b := range u.take(width) {
		n = n<<8 | int(b)
	}
	return n
}

// container reads the head of a map or an array; ok is false for anything else.
func (u *unpacker) container() (n int, isMap, ok bool) {
	switch b := u.byte(); {
	case b&0xf0 == 0x80:
		return int(b & 15), true, true
	case b&0xf0 == 0x90:
		return int(b & 15), false, true
	case b == 0xdc:
		return u.size(2), false, true
	case b == 0xdd:
		return u.size(4), false, true
	case b == 0xde:
		return u.size(2), true, true
	case b == 0xdf:
		return u.size(4), true, true
	}
	return 0, false, false
}

// bytes reads a str or bin without a copy.
func (u *unpacker) bytes() []byte {
	switch b := u.byte(); {
	case b&0xe0 == 0xa0:
		return u.take(int(b & 31))
	case b == 0xd9 || b == 0xc4:
		return u.take(u.size(1))
	case b == 0xda || b == 0xc5:
		return u.take(u.size(2))
	case b == 0xdb || b == 0xc6:
		return u.take(u.size(4))
	}
	u.fail()
	return nil
}

func (u *unpacker) uint() uint64 {
	switch b := u.byte(); {
	case b < 0x80:
		return uint64(b)
	case b >= 0xcc && b <= 0xcf:
		return uint64(u.size(1 << (b - 0xcc)))
	case b >= 0xd0 && b <= 0xd3:
		return uint64(u.size(1 << (b - 0xd0)))
	}
	u.fail()
	return 0
}

// skip passes over one value of any kind.
func (u *unpacker) skip() {
	if len(u.p) == 0 {
		u.fail()
		return
	}
	switch b := u.p[0]; {
	case b < 0x80 || b >= 0xe0 || b == 0xc0 || b == 0xc2 || b == 0xc3:
		u.take(1)
	case b&0xe0 == 0xa0 || (b >= 0xd9 && b <= 0xdb) || (b >= 0xc4 && b <= 0xc6):
		u.bytes()
	case b >= 0xcc && b <= 0xd3:
		u.uint()
	case b == 0xca:
		u.take(5)
	case b == 0xcb:
		u.take(9)
	case b >= 0xd4 && b <= 0xd8:
		u.take(2 + 1<<(b-0xd4))
	default:
		n, isMap, ok := u.container()
		if !ok || n > math.MaxInt32 {
			u.fail()
			return
		}
		if isMap {
			n *= 2
		}
		for ; n > 0 && u.err == nil; n-- {
			u.skip()
		}
	}
}
