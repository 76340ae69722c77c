package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// MQTT 3.1.1 over WebSockets at QoS 1. Reader n reads topic "m/n" in a session
// that the broker keeps, so that messages wait for it while it is away.

const (
	mqttConnect    = 0x10
	mqttConnack    = 0x20
	mqttPublish    = 0x30
	mqttPuback     = 0x40
	mqttSubscribe  = 0x82
	mqttSuback     = 0x90
	mqttPingresp   = 0xd0
	mqttQoS1       = 0x02
	mqttDisconnect = 0xe0
)

type mqtt struct {
	loop    *loop
	bench   *bench
	joined  bool // all packets of a turn in one frame, instead of a frame each
	topics  [][]byte
	scratch []byte
}

func newMQTT(l *loop, b *bench, joined bool) *mqtt {
	m := &mqtt{loop: l, bench: b, joined: joined}
	for i := range b.o.readers {
		m.topics = append(m.topics, strconv.AppendInt([]byte("m/"), int64(i), 10))
	}
	return m
}

func (m *mqtt) subprotocol() string { return "mqtt" }
func (m *mqtt) streaming() bool     { return true }

// opened leaves the connection on standby: CONNECT would start the backlog of
// a kept session.
func (m *mqtt) opened(c *conn) { m.bench.onStandby(c) }

func (m *mqtt) start(c *conn) {
	kind, flags := "r", byte(0) // clean session off: the broker keeps what waits
	if c.role == roleSender {
		kind, flags = "s", 2
	}
	body := append(mqttString(m.scratch[:0], []byte("MQTT")), 4, flags, 0, 0)
	body = mqttString(body, strconv.AppendInt([]byte(kind), int64(c.index), 10))
	m.packet(c, mqttConnect, body)
}

func mqttString(dst, s []byte) []byte {
	return append(append(dst, byte(len(s)>>8), byte(len(s))), s...)
}

// packet queues one packet whose body was built in scratch.
func (m *mqtt) packet(c *conn, kind byte, body []byte) {
	m.scratch = body[:0]
	head := mqttHead(c.items, kind, len(body))
	c.items = append(head, body...)
	m.queued(c)
}

func mqttHead(dst []byte, kind byte, length int) []byte {
	dst = append(dst, kind)
	for length >= 128 {
		dst = append(dst, byte(length)|0x80)
		length >>= 7
	}
	return append(dst, byte(length))
}

func (m *mqtt) queued(c *conn) {
	if m.joined && len(c.items) < 64<<10 {
		m.loop.touch(c)
	} else {
		m.flush(c)
	}
}

func (m *mqtt) flush(c *conn) {
	if len(c.items) > 0 {
		m.loop.frame(c, opBinary, c.items)
		c.items = c.items[:0]
	}
}

// publish uses ref+1 as the packet identifier: the workload keeps refs of one
// sender below 65,535 and answers each before it comes again.
func (m *mqtt) publish(c *conn, ref uint64, to int, payload []byte) {
	topic := m.topics[to]
	head := mqttHead(c.items, mqttPublish|mqttQoS1, 2+len(topic)+2+len(payload))
	head = append(mqttString(head, topic), byte((ref+1)>>8), byte(ref+1))
	c.items = append(head, payload...)
	m.queued(c)
}

// received takes the packets out of the byte stream.
func (m *mqtt) received(c *conn, _ byte, payload []byte) error {
	data := payload
	if len(c.stream) > 0 {
		c.stream = append(c.stream, payload...)
		data = c.stream
	}
	for {
		kind, body, size := mqttPacket(data)
		if size == 0 {
			break
		}
		if err := m.handle(c, kind, body); err != nil {
			return err
		}
		data = data[size:]
	}
	c.stream = append(c.stream[:0], data...)
	return nil
}

// mqttPacket returns the first packet in data and its whole size, 0 when it is
// not complete.
func mqttPacket(data []byte) (kind byte, body []byte, size int) {
	length := 0
	for i := 1; i < len(data) && i < 5; i++ {
		length |= int(data[i]&0x7f) << (7 * (i - 1))
		if data[i]&0x80 == 0 {
			size = i + 1 + length
			if size > len(data) {
				return 0, nil, 0
			}
			return data[0], data[i+1 : size], size
		}
	}
	return 0, nil, 0
}

func (m *mqtt) handle(c *conn, kind byte, body []byte) error {
	switch kind & 0xf0 {
	case mqttPublish:
		return m.message(c, kind, body)
	case mqttPuback:
		if len(body) != 2 {
			return errors.New("PUBACK of a wrong size")
		}
		m.bench.result(c, uint64(binary.BigEndian.Uint16(body))-1, statusAccepted)
	case mqttConnack:
		if len(body) != 2 || body[1] != 0 {
			return fmt.Errorf("CONNACK refused: %v", body)
		}
		if c.role == roleSender || body[0]&1 == 1 { // a kept session needs no new subscription
			m.bench.onReady(c)
			return nil
		}
		m.packet(c, mqttSubscribe, append(mqttString(append(m.scratch[:0], 0, 1), m.topics[c.index]), 1))
	case mqttSuback:
		if len(body) != 3 || body[2] != 1 {
			return fmt.Errorf("SUBACK refused: %v", body)
		}
		m.bench.onReady(c)
	case mqttPingresp:
	default:
		return fmt.Errorf("packet of kind %#x", kind)
	}
	return nil
}

func (m *mqtt) message(c *conn, kind byte, body []byte) error {
	if len(body) < 4 || kind&0x06 != mqttQoS1 {
		return fmt.Errorf("PUBLISH with flags %#x", kind&0x0f)
	}
	topic := 2 + int(binary.BigEndian.Uint16(body))
	if len(body) < topic+2 {
		return errors.New("PUBLISH shorter than its topic")
	}
	id, payload := body[topic:topic+2], body[topic+2:]
	m.bench.message(c, payload, len(payload))
	c.items = append(c.items, mqttPuback, 2, id[0], id[1])
	m.queued(c)
	return nil
}
