package main

import (
	"crypto/ed25519"
	"fmt"
)

// Posthouse's v2 dialect: docs/protocol.md section 2. Readers and senders both
// prove a key; readers subscribe to the address it proves.

// variant is how a client uses the dialect.
type variant struct {
	name     string
	json     bool
	arrays   bool // one array of all that waits per frame, many ids per ack, compact results
	perFrame int  // most bytes of items in one frame
}

var variants = map[string]variant{
	"arrays": {name: "arrays", arrays: true, perFrame: 512 << 10},
	"single": {name: "single"},
	"json":   {name: "json", json: true},
}

type posthouse struct {
	loop     *loop
	bench    *bench
	v        variant
	window   int // the reader's hello.window; 0 leaves the default
	prefixes [][]byte
	scratch  []byte
	item     item
}

// item holds the fields of one message from the relay that matter here.
type item struct {
	kind, id, status, code, detail []byte
	nonce, audience                []byte
	ciphertext                     []byte // a head of it when only that was decoded
	ciphertextBytes                int
	ref                            uint64
	hasRef                         bool
	refs                           []uint64
}

func newPosthouse(l *loop, b *bench, v variant, window int) *posthouse {
	p := &posthouse{loop: l, bench: b, v: v, window: window}
	for i := range b.o.readers {
		p.prefixes = append(p.prefixes, p.publishPrefix(p.address(i)))
	}
	return p
}

func (p *posthouse) streaming() bool { return false }

func (p *posthouse) subprotocol() string {
	if p.v.json {
		return "posthouse.v2.json"
	}
	return "posthouse.v2.msgpack"
}

// key numbers readers from 0 and senders from a million.
func (p *posthouse) key(r role, index int) ed25519.PrivateKey {
	if r == roleSender {
		index += 1_000_000
	}
	return keyOf(p.bench.seed, index)
}

func (p *posthouse) address(reader int) string {
	return peerID(p.key(roleReader, reader).Public().(ed25519.PublicKey))
}

// opened has nothing to do: the relay speaks first.
func (p *posthouse) opened(*conn) {}

func (p *posthouse) received(c *conn, op byte, payload []byte) error {
	if p.v.json != (op == opText) {
		return fmt.Errorf("frame of opcode %d in dialect %s", op, p.subprotocol())
	}
	if p.v.json {
		return p.receivedJSON(c, payload)
	}
	return p.receivedMsgpack(c, payload)
}

// handle acts on one message of the relay.
func (p *posthouse) handle(c *conn, it *item) error {
	switch string(it.kind) {
	case "message":
		p.bench.message(c, it.ciphertext, it.ciphertextBytes)
		p.ack(c, it.id)
	case "results":
		status := statusOf(it.status)
		for _, ref := range it.refs {
			p.bench.result(c, ref, status)
		}
	case "result":
		if !it.hasRef {
			return fmt.Errorf("result without ref: %s", it.status)
		}
		if string(it.status) == "rejected" {
			p.bench.note(fmt.Sprintf("rejected: %s %s", it.code, it.detail))
		}
		p.bench.result(c, it.ref, statusOf(it.status))
	case "challenge":
		if string(it.audience) != c.address {
			return fmt.Errorf("audience %q is not the address dialled", it.audience)
		}
		p.hello(c, it.nonce)
	case "welcome":
		p.bench.onStandby(c)
	case "caught_up":
		p.bench.onReady(c)
	case "error":
		return fmt.Errorf("error from the relay: %s %s", it.code, it.detail)
	case "goaway":
		return fmt.Errorf("goaway from the relay")
	}
	return nil
}

func (p *posthouse) start(c *conn) {
	if c.role == roleSender {
		p.bench.onReady(c)
		return
	}
	if p.v.json {
		p.send(c, append(p.scratch[:0], `{"type":"subscribe","ref":0}`...))
		return
	}
	text := packMap(p.scratch[:0], 2)
	text = packString(packString(text, "type"), "subscribe")
	p.send(c, packUint(packString(text, "ref"), 0))
}

func (p *posthouse) hello(c *conn, nonce []byte) {
	key := p.key(c.role, c.index)
	signature := helloSignature(key, c.address, nonce)
	public := key.Public().(ed25519.PublicKey)
	if p.v.json {
		p.send(c, p.helloJSON(c, public, signature))
		return
	}
	fields := 4
	window := p.window > 0 && c.role == roleReader
	if window {
		fields++
	}
	if p.v.arrays {
		fields++
	}
	text := packMap(p.scratch[:0], fields)
	text = packString(packString(text, "type"), "hello")
	text = packString(packString(text, "client"), "bench")
	text = packBytes(packString(text, "key"), public)
	text = packBytes(packString(text, "signature"), signature)
	if window {
		text = packUint(packString(text, "window"), uint64(p.window))
	}
	if p.v.arrays {
		text = packBool(packString(text, "compact_results"), true)
	}
	p.send(c, text)
}

// send puts one message into a frame of its own.
func (p *posthouse) send(c *conn, text []byte) {
	op := byte(opBinary)
	if p.v.json {
		op = opText
	}
	p.loop.frame(c, op, text)
	p.scratch = text
}

func (p *posthouse) publishPrefix(recipient string) []byte {
	if p.v.json {
		return []byte(`{"type":"publish","recipient":"` + recipient + `","ciphertext":"`)
	}
	text := packMap(nil, 4)
	text = packString(packString(text, "type"), "publish")
	text = packString(packString(text, "recipient"), recipient)
	return packString(text, "ciphertext")
}

func (p *posthouse) publish(c *conn, ref uint64, to int, payload []byte) {
	switch {
	case p.v.json:
		p.send(c, appendPublishJSON(append(p.scratch[:0], p.prefixes[to]...), ref, payload))
	case p.v.arrays:
		text := packBytes(append(c.items, p.prefixes[to]...), payload)
		c.items = packUint(packString(text, "ref"), ref)
		c.count++
		p.loop.touch(c)
		if len(c.items) > p.v.perFrame {
			p.flush(c)
		}
	default:
		text := packBytes(append(p.scratch[:0], p.prefixes[to]...), payload)
		p.send(c, packUint(packString(text, "ref"), ref))
	}
}

func (p *posthouse) ack(c *conn, id []byte) {
	switch {
	case p.v.json:
		text := append(p.scratch[:0], `{"type":"ack","ids":["`...)
		text = append(text, id...)
		p.send(c, append(text, `"]}`...))
	case p.v.arrays:
		c.acks = append(append(c.acks, 0xd9, byte(len(id))), id...)
		c.ackCount++
		p.loop.touch(c)
	default:
		p.send(c, append(append(ackHead(p.scratch[:0], 1), 0xd9, byte(len(id))), id...))
	}
}

func ackHead(dst []byte, ids int) []byte {
	dst = packMap(dst, 2)
	dst = packString(packString(dst, "type"), "ack")
	return packArray(packString(dst, "ids"), ids)
}

func (p *posthouse) flush(c *conn) {
	count := c.count
	if c.ackCount > 0 {
		count++
	}
	if count == 0 {
		return
	}
	text := packArray(p.scratch[:0], count)
	if c.ackCount > 0 {
		text = append(ackHead(text, c.ackCount), c.acks...)
		c.acks, c.ackCount = c.acks[:0], 0
	}
	text = append(text, c.items...)
	c.items, c.count = c.items[:0], 0
	p.send(c, text)
}

func (p *posthouse) receivedMsgpack(c *conn, payload []byte) error {
	u := unpacker{p: payload}
	n, isMap, ok := u.container()
	if !ok {
		return errMsgpack
	}
	if isMap {
		u.item(&p.item, n)
		return firstError(u.err, p.handle, c, &p.item)
	}
	for range n {
		fields, isMap, ok := u.container()
		if !ok || !isMap {
			return errMsgpack
		}
		u.item(&p.item, fields)
		if err := firstError(u.err, p.handle, c, &p.item); err != nil {
			return err
		}
	}
	return nil
}

func firstError(err error, handle func(*conn, *item) error, c *conn, it *item) error {
	if err != nil {
		return err
	}
	return handle(c, it)
}

// item reads the fields of one map into it.
func (u *unpacker) item(it *item, fields int) {
	*it = item{refs: it.refs[:0]}
	for ; fields > 0 && u.err == nil; fields-- {
		switch string(u.bytes()) {
		case "type":
			it.kind = u.bytes()
		case "id":
			it.id = u.bytes()
		case "ciphertext":
			it.ciphertext = u.bytes()
			it.ciphertextBytes = len(it.ciphertext)
		case "status":
			it.status = u.bytes()
		case "code":
			it.code = u.bytes()
		case "detail":
			it.detail = u.bytes()
		case "nonce":
			it.nonce = u.bytes()
		case "audience":
			it.audience = u.bytes()
		case "ref":
			it.ref, it.hasRef = u.uint(), true
		case "refs":
			n, isMap, ok := u.container()
			if !ok || isMap {
				u.fail()
			}
			for ; n > 0 && u.err == nil; n-- {
				it.refs = append(it.refs, u.uint())
			}
		default:
			u.skip()
		}
	}
}
