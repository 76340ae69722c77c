package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// Client side of RFC 6455, only what a load generator needs: one upgrade
// request, masked frames out, unmasked frames in. No extension is offered.

const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

const acceptSalt = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// upgradeRequest returns the HTTP request and the Sec-WebSocket-Accept value
// that the server has to answer with.
func upgradeRequest(host, subprotocol string) (request []byte, accept string) {
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	sum := sha1.Sum([]byte(key + acceptSalt))
	request = fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n", host, key)
	if subprotocol != "" {
		request = fmt.Appendf(request, "Sec-WebSocket-Protocol: %s\r\n", subprotocol)
	}
	return append(request, "\r\n"...), base64.StdEncoding.EncodeToString(sum[:])
}

// upgradeResponse reads the server's answer. It returns how many bytes the
// answer took, or 0 when it is not complete yet.
func upgradeResponse(data []byte, accept string) (int, error) {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		if len(data) > 16<<10 {
			return 0, errors.New("upgrade answer without an end")
		}
		return 0, nil
	}
	head := data[:end]
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101")) {
		line, _, _ := bytes.Cut(head, []byte("\r\n"))
		return 0, fmt.Errorf("upgrade refused: %s", line)
	}
	if !bytes.Contains(head, []byte(accept)) {
		return 0, errors.New("upgrade answer with a wrong Sec-WebSocket-Accept")
	}
	return end + 4, nil
}

// appendFrame appends one masked frame with FIN set.
func appendFrame(dst []byte, op byte, payload []byte, mask uint32) []byte {
	n := len(payload)
	switch {
	case n < 126:
		dst = append(dst, 0x80|op, 0x80|byte(n))
	case n < 1<<16:
		dst = append(dst, 0x80|op, 0x80|126, byte(n>>8), byte(n))
	default:
		dst = append(dst, 0x80|op, 0x80|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	dst = binary.LittleEndian.AppendUint32(dst, mask)
	start := len(dst)
	dst = append(dst, payload...)
	xorMask(dst[start:], mask)
	return dst
}

// xorMask masks in place; mask holds the four key bytes, first byte lowest.
func xorMask(p []byte, mask uint32) {
	wide := uint64(mask) | uint64(mask)<<32
	for len(p) >= 32 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
		binary.LittleEndian.PutUint64(p[8:], binary.LittleEndian.Uint64(p[8:])^wide)
		binary.LittleEndian.PutUint64(p[16:], binary.LittleEndian.Uint64(p[16:])^wide)
		binary.LittleEndian.PutUint64(p[24:], binary.LittleEndian.Uint64(p[24:])^wide)
		p = p[32:]
	}
	for i := range p {
		p[i] ^= byte(mask >> (8 * (i & 3)))
	}
}

// frameHeader is what stands before a payload from the server.
type frameHeader struct {
	op     byte
	fin    bool
	start  int // where the payload begins
	length int
}

// parseHeader returns ok=false when data does not hold a whole header.
func parseHeader(data []byte) (h frameHeader, ok bool, err error) {
	if len(data) < 2 {
		return h, false, nil
	}
	if data[0]&0x70 != 0 || data[1]&0x80 != 0 {
		return h, false, errors.New("frame with reserved bits or a mask from the server")
	}
	h.op, h.fin = data[0]&0x0f, data[0]&0x80 != 0
	h.start, h.length = 2, int(data[1]&0x7f)
	switch h.length {
	case 126:
		if len(data) < 4 {
			return h, false, nil
		}
		h.start, h.length = 4, int(binary.BigEndian.Uint16(data[2:]))
	case 127:
		if len(data) < 10 {
			return h, false, nil
		}
		n := binary.BigEndian.Uint64(data[2:])
		if n > 64<<20 {
			return h, false, errors.New("frame over 64 MiB from the server")
		}
		h.start, h.length = 10, int(n)
	}
	return h, true, nil
}
