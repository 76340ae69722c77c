package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// NATS over WebSockets with JetStream: one file stream of subjects "m.n", and
// for reader n a durable push consumer "rn" with explicit acks that delivers to
// subject "d.n". A publish is answered by the stream's acknowledgement to the
// sender's inbox "i.s.ref". The admin connection (sender index -1) creates the
// stream and the consumers before the measurement.

type nats struct {
	loop     *loop
	bench    *bench
	subjects [][]byte
	admin    []string // JetStream API calls still to make, subject and body in turn
}

const natsStream = "BENCH"

func newNATS(l *loop, b *bench) *nats {
	n := &nats{loop: l, bench: b}
	for i := range b.o.readers {
		n.subjects = append(n.subjects, strconv.AppendInt([]byte("m."), int64(i), 10))
	}
	return n
}

// provision queues the calls that make the stream and count consumers.
// Work-queue retention is what comes nearest to a mailbox: an ack deletes.
func (n *nats) provision(retention string, consumers, maxAckPending int) {
	n.admin = append(n.admin, "$JS.API.STREAM.CREATE."+natsStream, fmt.Sprintf(
		`{"name":%q,"subjects":["m.*"],"storage":"file","retention":%q,"num_replicas":1,"max_msgs":-1,"max_bytes":-1}`,
		natsStream, retention))
	for i := range consumers {
		n.admin = append(n.admin, fmt.Sprintf("$JS.API.CONSUMER.DURABLE.CREATE.%s.r%d", natsStream, i), fmt.Sprintf(
			`{"stream_name":%q,"config":{"durable_name":"r%d","deliver_subject":"d.%d","filter_subject":"m.%d",`+
				`"deliver_policy":"all","ack_policy":"explicit","max_ack_pending":%d,"mem_storage":%t}}`,
			natsStream, i, i, i, maxAckPending, n.bench.o.memoryAcks))
	}
}

func (n *nats) subprotocol() string { return "" }
func (n *nats) streaming() bool     { return true }

func (n *nats) opened(c *conn) {
	c.items = append(c.items, `CONNECT {"verbose":false,"pedantic":false,"echo":true,"lang":"bench",`+
		`"version":"1","protocol":1,"headers":true,"no_responders":true}`+"\r\n"...)
	if c.role == roleSender {
		c.items = fmt.Appendf(c.items, "SUB i.%d.* 1\r\n", c.index)
	}
	c.items = append(c.items, "PING\r\n"...)
	n.loop.touch(c)
}

func (n *nats) start(c *conn) {
	switch {
	case c.index < 0:
		n.nextCall(c)
		return
	case c.role == roleSender:
		n.bench.onReady(c)
		return
	}
	c.items = fmt.Appendf(c.items, "SUB d.%d 1\r\nPING\r\n", c.index)
	n.loop.touch(c)
}

// nextCall makes the next API call, or tells that all are made.
func (n *nats) nextCall(c *conn) {
	if len(n.admin) == 0 {
		n.bench.onReady(c)
		return
	}
	subject, body := n.admin[0], n.admin[1]
	n.admin = n.admin[2:]
	c.items = fmt.Appendf(c.items, "PUB %s i.-1.0 %d\r\n%s\r\n", subject, len(body), body)
	n.loop.touch(c)
}

func (n *nats) publish(c *conn, ref uint64, to int, payload []byte) {
	text := append(append(c.items, "PUB "...), n.subjects[to]...)
	text = strconv.AppendInt(append(text, " i."...), int64(c.index), 10)
	text = strconv.AppendUint(append(text, '.'), ref, 10)
	text = strconv.AppendInt(append(text, ' '), int64(len(payload)), 10)
	text = append(append(append(text, "\r\n"...), payload...), "\r\n"...)
	c.items = text
	n.loop.touch(c)
}

func (n *nats) flush(c *conn) {
	if len(c.items) > 0 {
		n.loop.frame(c, opBinary, c.items)
		c.items = c.items[:0]
	}
}

func (n *nats) received(c *conn, _ byte, payload []byte) error {
	data := payload
	if len(c.stream) > 0 {
		c.stream = append(c.stream, payload...)
		data = c.stream
	}
	for {
		size, err := n.operation(c, data)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		data = data[size:]
	}
	c.stream = append(c.stream[:0], data...)
	return nil
}

// operation handles the first operation in data and returns its size, 0 when it
// is not complete.
func (n *nats) operation(c *conn, data []byte) (int, error) {
	end := bytes.IndexByte(data, '\n')
	if end < 1 {
		return 0, nil
	}
	line := data[:end-1]
	switch {
	case bytes.HasPrefix(line, []byte("MSG ")), bytes.HasPrefix(line, []byte("HMSG ")):
		m, err := parseMsg(line)
		if err != nil {
			return 0, err
		}
		size := end + 1 + m.total + 2
		if size > len(data) {
			return 0, nil
		}
		body := data[end+1 : end+1+m.total]
		return size, n.message(c, m, body)
	case bytes.HasPrefix(line, []byte("PING")):
		c.items = append(c.items, "PONG\r\n"...)
		n.loop.touch(c)
	case bytes.HasPrefix(line, []byte("PONG")):
		n.pong(c)
	case bytes.HasPrefix(line, []byte("-ERR")):
		return 0, fmt.Errorf("from the server: %s", line)
	}
	return end + 1, nil
}

// pong ends the log-in at first, the subscription later.
func (n *nats) pong(c *conn) {
	if !c.standby {
		n.bench.onStandby(c)
	} else {
		n.bench.onReady(c)
	}
}

// natsMsg is the head of a MSG or HMSG operation.
type natsMsg struct {
	subject, reply []byte
	headers, total int
}

func parseMsg(line []byte) (m natsMsg, err error) {
	var fields [6][]byte
	count := 0
	for field := range bytes.SplitSeq(line, []byte(" ")) {
		if count == len(fields) {
			return m, errors.New("MSG with too many fields")
		}
		fields[count] = field
		count++
	}
	sizes := 1
	if line[0] == 'H' {
		sizes = 2
	}
	if count < 3+sizes {
		return m, errors.New("MSG with too few fields")
	}
	m.subject = fields[1]
	if count == 4+sizes {
		m.reply = fields[3]
	}
	if m.total, err = strconv.Atoi(string(fields[count-1])); err != nil {
		return m, err
	}
	if sizes == 2 {
		m.headers, err = strconv.Atoi(string(fields[count-2]))
	}
	return m, err
}

func (n *nats) message(c *conn, m natsMsg, body []byte) error {
	switch {
	case c.index < 0:
		if bytes.Contains(body, []byte(`"error"`)) || m.headers > 0 {
			return fmt.Errorf("JetStream API: %s", body)
		}
		n.nextCall(c)
		return nil
	case c.role == roleSender:
		ref, err := strconv.ParseUint(string(m.subject[bytes.LastIndexByte(m.subject, '.')+1:]), 10, 64)
		if err != nil {
			return err
		}
		status := statusAccepted
		if m.headers > 0 || bytes.Contains(body, []byte(`"error"`)) {
			n.bench.note(string(body))
			status = statusRejected
		}
		n.bench.result(c, ref, status)
		return nil
	case m.headers > 0:
		return nil // a status of the consumer, not a message
	}
	n.bench.message(c, body, len(body))
	c.items = append(append(append(c.items, "PUB "...), m.reply...), " 0\r\n\r\n"...)
	n.loop.touch(c)
	return nil
}
