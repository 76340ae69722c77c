package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"strconv"
)

// The JSON half of posthouse's v2 dialect.

func (p *posthouse) helloJSON(c *conn, public ed25519.PublicKey, signature []byte) []byte {
	text := append(p.scratch[:0], `{"type":"hello","client":"bench","key":"`...)
	text = base64.StdEncoding.AppendEncode(text, public)
	text = append(text, `","signature":"`...)
	text = append(base64.StdEncoding.AppendEncode(text, signature), '"')
	if p.window > 0 && c.role == roleReader {
		text = strconv.AppendInt(append(text, `,"window":`...), int64(p.window), 10)
	}
	return append(text, '}')
}

func appendPublishJSON(text []byte, ref uint64, payload []byte) []byte {
	text = base64.StdEncoding.AppendEncode(text, payload)
	return append(strconv.AppendUint(append(text, `","ref":`...), ref, 10), '}')
}

func (p *posthouse) receivedJSON(c *conn, payload []byte) error {
	s := scanner{p: payload}
	if s.peek() != '[' {
		s.item(&p.item)
		return firstError(s.err, p.handle, c, &p.item)
	}
	s.expect('[')
	for first := true; s.more(first, ']'); first = false {
		s.item(&p.item)
		if err := firstError(s.err, p.handle, c, &p.item); err != nil {
			return err
		}
	}
	return s.err
}

// item reads one object into it.
func (s *scanner) item(it *item) {
	*it = item{refs: it.refs[:0]}
	s.expect('{')
	for first := true; s.more(first, '}'); first = false {
		key := s.string()
		s.expect(':')
		switch string(key) {
		case "type":
			it.kind = s.string()
		case "id":
			it.id = s.string()
		case "ciphertext":
			it.ciphertext, it.ciphertextBytes = decodeHead(s.string())
		case "status":
			if s.peek() == '"' {
				it.status = s.string()
			} else {
				s.skip()
			}
		case "code":
			it.code = s.string()
		case "detail":
			it.detail = s.string()
		case "nonce":
			it.nonce, _ = base64.StdEncoding.DecodeString(string(s.string()))
		case "audience":
			it.audience = s.string()
		case "ref":
			it.ref, it.hasRef = s.uint(), true
		case "refs":
			s.expect('[')
			for first := true; s.more(first, ']'); first = false {
				it.refs = append(it.refs, s.uint())
			}
		default:
			s.skip()
		}
	}
}

// decodeHead decodes the first payloadHeadBytes of a base64 text, and says how
// many bytes the whole text stands for.
func decodeHead(text []byte) (head []byte, total int) {
	total = base64.StdEncoding.DecodedLen(len(text))
	for i := len(text); i > 0 && text[i-1] == '='; i-- {
		total--
	}
	quads := (payloadHeadBytes + 2) / 3 * 4
	if len(text) > quads {
		text = text[:quads]
	}
	decoded := headScratch[:base64.StdEncoding.DecodedLen(len(text))]
	n, err := base64.StdEncoding.Decode(decoded, text)
	if err != nil {
		return nil, total
	}
	return decoded[:n], total
}

var headScratch [(payloadHeadBytes + 2) / 3 * 3]byte
