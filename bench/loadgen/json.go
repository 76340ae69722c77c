package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
)

// A pull scanner for the JSON that a relay sends. It copies nothing unless a
// string holds an escape.

var errJSON = errors.New("malformed JSON")

type scanner struct {
	p   []byte
	err error
}

func (s *scanner) fail() { s.err, s.p = errJSON, nil }

// peek passes white space and returns the next byte without taking it.
func (s *scanner) peek() byte {
	for i, b := range s.p {
		if b != ' ' && b != '\n' && b != '\t' && b != '\r' {
			s.p = s.p[i:]
			return b
		}
	}
	s.p = nil
	return 0
}

// take consumes the next byte if it is b.
func (s *scanner) take(b byte) bool {
	if s.peek() != b {
		return false
	}
	s.p = s.p[1:]
	return true
}

func (s *scanner) expect(b byte) {
	if s.err == nil && !s.take(b) {
		s.fail()
	}
}

// more is called before each element of an object or array: it takes the comma
// between elements, or the closing byte at the end.
func (s *scanner) more(first bool, closing byte) bool {
	if s.err != nil || s.take(closing) {
		return false
	}
	if !first {
		s.expect(',')
	}
	return s.err == nil
}

func (s *scanner) string() []byte {
	s.expect('"')
	end := bytes.IndexByte(s.p, '"')
	if end < 0 {
		s.fail()
		return nil
	}
	if bytes.IndexByte(s.p[:end], '\\') >= 0 {
		return s.escaped()
	}
	text := s.p[:end]
	s.p = s.p[end+1:]
	return text
}

func (s *scanner) escaped() []byte {
	for i := 0; i < len(s.p); i++ {
		switch s.p[i] {
		case '\\':
			i++
		case '"':
			var text string
			quoted := append(append([]byte{'"'}, s.p[:i]...), '"')
			s.p = s.p[i+1:]
			if json.Unmarshal(quoted, &text) != nil {
				s.fail()
			}
			return []byte(text)
		}
	}
	s.fail()
	return nil
}

// scalar takes a number, true, false or null.
func (s *scanner) scalar() []byte {
	s.peek()
	end := 0
	for end < len(s.p) && bytes.IndexByte([]byte(",]} \n\t\r"), s.p[end]) < 0 {
		end++
	}
	if end == 0 {
		s.fail()
		return nil
	}
	text := s.p[:end]
	s.p = s.p[end:]
	return text
}

func (s *scanner) uint() uint64 {
	n, err := strconv.ParseUint(string(s.scalar()), 10, 64)
	if err != nil {
		s.fail()
	}
	return n
}

func (s *scanner) skip() {
	switch s.peek() {
	case '"':
		s.string()
	case '{':
		s.expect('{')
		for first := true; s.more(first, '}'); first = false {
			s.string()
			s.expect(':')
			s.skip()
		}
	case '[':
		s.expect('[')
		for first := true; s.more(first, ']'); first = false {
			s.skip()
		}
	default:
		s.scalar()
	}
}
