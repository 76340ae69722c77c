package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
)

func TestIdentityMatchesPublishedVectors(t *testing.T) {
	for _, v := range []struct{ seed, key, peerID, audience, nonce, signature string }{{
		"b5ad45dc932b245a2f88f729ce30a4a098c868bd549de8bf8d8641b37a5e8501",
		"06845a5df264c52646bf8f0d1c915e0c182da9e8669cb30331307886edaff9e7",
		"QmNgBy2EQ1A2u5QvN9bkA5uYHKG9i6qwstFuoTC9rHuQym", "relay.example:8080",
		"7e47af158e9db54fc5e4902996f5360a933c581e7bad35436d50e489bd3bd262",
		"K7rXFn5iwtWDqeZd/ozTW0Fm38oaA+NViRS2Jlgwh2eh/qcVaAufgfLssSd7BNjf4JuB6jRpxLWKEL73vlLdDA==",
	}, {
		"755857880e120d9459f8a967958f4bf832e02acdb94518de504f35c6443d818a",
		"42fa0fc4407be2c403566333963aa394dfc3f6081de8193a68e477334817aa2d",
		"QmcsCyAHoLsyzrCmyqjw4e25mmvCE16DafotxHHA7e3H6v", "relay.example:8080",
		"654e2c87d7820cbeb1b5b550f43166549582b5b353e00e277283bfc72dadf1b4",
		"CPjopbOFVB6fRz8harVPyNspOLUdAJNUDv1l4DEw0u9E+Fl+OIlAW2X8eBeR04zMsK9w5Dj3grZEcbzcsYJqBg==",
	}} {
		seed, _ := hex.DecodeString(v.seed)
		nonce, _ := hex.DecodeString(v.nonce)
		key := ed25519.NewKeyFromSeed(seed)
		public := key.Public().(ed25519.PublicKey)
		if hex.EncodeToString(public) != v.key || peerID(public) != v.peerID {
			t.Errorf("seed %s: key %x, peer id %s", v.seed, public, peerID(public))
		}
		got := base64.StdEncoding.EncodeToString(helloSignature(key, v.audience, nonce))
		if got != v.signature {
			t.Errorf("seed %s: signature %s", v.seed, got)
		}
	}
}

func TestBase58KeepsLeadingZeros(t *testing.T) {
	if got := base58([]byte{0, 0, 1, 2}); got != "115T" {
		t.Errorf("got %s", got)
	}
}

func TestFrameComesBackAsItWasSent(t *testing.T) {
	for _, size := range []int{0, 1, 3, 125, 126, 127, 512, 65535, 65536, 70001} {
		payload := bytes.Repeat([]byte("abcdefg"), size/7+1)[:size]
		frame := appendFrame(nil, opBinary, payload, 0x04030201)
		if frame[1]&0x80 == 0 {
			t.Fatalf("size %d: not masked", size)
		}
		frame[1] &^= 0x80 // parseHeader reads a server's frames, which have no mask
		h, ok, err := parseHeader(frame)
		if !ok || err != nil || h.length != size || h.op != opBinary || !h.fin {
			t.Fatalf("size %d: %+v %v %v", size, h, ok, err)
		}
		body := frame[h.start+4:]
		for i := range body {
			body[i] ^= frame[h.start+i%4]
		}
		if !bytes.Equal(body, payload) {
			t.Fatalf("size %d: payload changed", size)
		}
	}
}

func TestHeaderWaitsForAllItsBytes(t *testing.T) {
	frame := []byte{0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0}
	for n := range frame {
		if _, ok, err := parseHeader(frame[:n]); ok || err != nil {
			t.Errorf("%d bytes: ok=%v err=%v", n, ok, err)
		}
	}
	if h, ok, _ := parseHeader(frame); !ok || h.length != 65536 {
		t.Errorf("whole header: %+v", h)
	}
	if _, _, err := parseHeader([]byte{0x82, 0x80}); err == nil {
		t.Error("a masked frame from the server was taken")
	}
}

func TestUpgradeAnswer(t *testing.T) {
	request, accept := upgradeRequest("127.0.0.1:1", "mqtt")
	if !bytes.Contains(request, []byte("Sec-WebSocket-Protocol: mqtt\r\n")) {
		t.Errorf("request %q", request)
	}
	answer := fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %s\r\n\r\nrest", accept)
	for n := range len(answer) - 4 {
		if used, err := upgradeResponse(answer[:n], accept); used != 0 || err != nil {
			t.Fatalf("%d bytes: used=%d err=%v", n, used, err)
		}
	}
	if used, err := upgradeResponse(answer, accept); used != len(answer)-4 || err != nil {
		t.Errorf("used=%d err=%v", used, err)
	}
	if _, err := upgradeResponse(answer, "other"); err == nil {
		t.Error("a wrong accept value was taken")
	}
	if _, err := upgradeResponse([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), accept); err == nil {
		t.Error("a refusal was taken")
	}
}

func samplePublish(json bool) []byte {
	p := &posthouse{v: variant{json: json}}
	payload := bytes.Repeat([]byte{0xfe}, 300)
	text := p.publishPrefix("QmAddress")
	if json {
		return appendPublishJSON(text, 70000, payload)
	}
	return packUint(packString(packBytes(text, payload), "ref"), 70000)
}

func TestPublishInBothEncodings(t *testing.T) {
	var fromJSON struct {
		Type, Recipient string
		Ciphertext      []byte
		Ref             int
	}
	if err := json.Unmarshal(samplePublish(true), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if fromJSON.Type != "publish" || fromJSON.Recipient != "QmAddress" || fromJSON.Ref != 70000 ||
		len(fromJSON.Ciphertext) != 300 || fromJSON.Ciphertext[299] != 0xfe {
		t.Errorf("%+v", fromJSON)
	}
	u := unpacker{p: samplePublish(false)}
	n, isMap, ok := u.container()
	var it item
	u.item(&it, n)
	if !ok || !isMap || u.err != nil || len(u.p) != 0 || string(it.kind) != "publish" || it.ref != 70000 ||
		it.ciphertextBytes != 300 {
		t.Errorf("%+v %v, %d bytes left", it, u.err, len(u.p))
	}
}

func TestItemsInBothEncodings(t *testing.T) {
	text := packMap(nil, 7)
	text = packString(packString(text, "type"), "results")
	text = packString(packString(text, "status"), "stored")
	text = packArray(packString(text, "refs"), 3)
	text = packUint(packUint(packUint(text, 1), 300), 1<<40)
	text = append(packString(text, "float"), 0xcb, 1, 2, 3, 4, 5, 6, 7, 8)
	text = append(packString(text, "nil"), 0xc0)
	text = packArray(packString(text, "nested"), 20)
	for range 20 {
		text = packBool(packString(packMap(text, 1), "k"), true)
	}
	text = append(packString(text, "negative"), 0xd1, 0xff, 0x00)
	u := unpacker{p: text}
	n, _, _ := u.container()
	var packed item
	u.item(&packed, n)
	if u.err != nil || len(u.p) != 0 {
		t.Fatalf("%v, %d bytes left", u.err, len(u.p))
	}
	s := scanner{p: []byte(`{ "float": 1.5e3, "nil":null,"nested":[{"k":true},[ ]], "negative":-1,
		"status":"st\u006fred", "text":"a\"}b", "refs": [1, 300,1099511627776 ], "type":"results"}`)}
	var scanned item
	s.item(&scanned)
	if s.err != nil || len(s.p) != 0 {
		t.Fatalf("%v, %d bytes left", s.err, len(s.p))
	}
	want := []uint64{1, 300, 1 << 40}
	for _, it := range []item{packed, scanned} {
		if string(it.kind) != "results" || string(it.status) != "stored" || !reflect.DeepEqual(it.refs, want) {
			t.Errorf("%+v", it)
		}
	}
}

func TestTornInputIsAnErrorNotAPanic(t *testing.T) {
	packed, scanned := samplePublish(false), samplePublish(true)
	for n := range packed {
		u := unpacker{p: packed[:n]}
		fields, _, _ := u.container()
		var it item
		u.item(&it, fields)
		if u.err == nil {
			t.Errorf("MessagePack cut at %d was taken", n)
		}
	}
	for n := range scanned {
		s := scanner{p: scanned[:n]}
		var it item
		s.item(&it)
		if s.err == nil {
			t.Errorf("JSON cut at %d was taken", n)
		}
	}
}

func TestPayloadHeadSurvivesBase64(t *testing.T) {
	pool, payload := newRandomPool(512), make([]byte, 512)
	h := payloadHead{run: 7, number: 1 << 33, reader: 199, size: 512, sent: 1 << 50}
	pool.fill(payload, h)
	head, total := decodeHead([]byte(base64.StdEncoding.EncodeToString(payload)))
	if got, ok := parseHead(head); !ok || got != h || total != 512 {
		t.Errorf("%+v %v %d", got, ok, total)
	}
	again := bytes.Clone(payload)
	pool.fill(payload, h)
	if bytes.Equal(again[payloadHeadBytes:], payload[payloadHeadBytes:]) {
		t.Error("two payloads with the same random bytes")
	}
}

func TestMQTTPacketsAreFoundInAStream(t *testing.T) {
	m := &mqtt{}
	m.topics = [][]byte{[]byte("m/0")}
	body := bytes.Repeat([]byte{1}, 500)
	stream := mqttHead(nil, mqttPublish|mqttQoS1, 2+3+2+len(body))
	stream = append(append(mqttString(stream, m.topics[0]), 0, 9), body...)
	whole := len(stream)
	stream = append(stream, mqttPuback, 2, 0xff, 0xff)
	for n := range whole {
		if _, _, size := mqttPacket(stream[:n]); size != 0 {
			t.Fatalf("a packet in %d of %d bytes", n, whole)
		}
	}
	kind, got, size := mqttPacket(stream)
	if size != whole || kind != 0x32 || binary.BigEndian.Uint16(got) != 3 || !bytes.HasSuffix(got, body) {
		t.Errorf("kind %#x, size %d of %d", kind, size, whole)
	}
	if kind, got, size = mqttPacket(stream[whole:]); kind != mqttPuback || size != 4 || len(got) != 2 {
		t.Errorf("kind %#x, size %d", kind, size)
	}
}

func TestNATSHeads(t *testing.T) {
	for line, want := range map[string]natsMsg{
		"MSG i.3.17 1 5":                {subject: []byte("i.3.17"), total: 5},
		"MSG d.3 1 $JS.ACK.a.b.1 512":   {subject: []byte("d.3"), reply: []byte("$JS.ACK.a.b.1"), total: 512},
		"HMSG i.3.17 1 30 30":           {subject: []byte("i.3.17"), headers: 30, total: 30},
		"HMSG d.3 1 $JS.ACK.a.b 12 524": {subject: []byte("d.3"), reply: []byte("$JS.ACK.a.b"), headers: 12, total: 524},
	} {
		if got, err := parseMsg([]byte(line)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v", line, got, err)
		}
	}
	for _, line := range []string{"MSG a 1", "MSG a b c d e f g", "MSG a 1 x"} {
		if _, err := parseMsg([]byte(line)); err == nil {
			t.Errorf("%s was taken", line)
		}
	}
}

func TestHistogramIsWithinOnePercent(t *testing.T) {
	for _, ns := range []int64{0, 1, 127, 128, 129, 255, 256, 1000, 123_456, 5_000_000, 1 << 40} {
		top := bucketTop(bucketOf(ns))
		if top < ns || float64(top-ns) > float64(ns)*0.01 {
			t.Errorf("%d ns is counted as up to %d ns", ns, top)
		}
	}
	var h histogram
	for i := range int64(1000) {
		h.add((i + 1) * 1000)
	}
	for q, want := range map[float64]int64{0.5: 500_000, 0.99: 990_000, 1: 1_000_000} {
		if got := h.quantile(q); float64(got) < float64(want)*0.99 || float64(got) > float64(want)*1.01 {
			t.Errorf("quantile %v is %d", q, got)
		}
	}
}
