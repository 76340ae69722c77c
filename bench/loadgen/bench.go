package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Accounting that all workloads share: what was sent, answered and delivered,
// and how long it took.

type status byte

const (
	statusOther status = iota
	statusDelivered
	statusStored
	statusAccepted // a peer's own acknowledgement to the sender
	statusDuplicate
	statusUndeliverable
	statusRejected
	statusCount
)

var statusNames = [statusCount]string{
	"other", "delivered", "stored", "accepted", "duplicate", "undeliverable", "rejected",
}

func statusOf(name []byte) status {
	for s, known := range statusNames {
		if known == string(name) {
			return status(s)
		}
	}
	return statusOther
}

// refCount bounds the refs of one sender: MQTT has 65,535 packet identifiers.
const refCount = 65535

const unanswered = int64(-1)

type bench struct {
	o      options
	loop   *loop
	seed   uint64 // names the run in payloads and keys
	pool   *randomPool
	buffer []byte
	random *rand.Rand

	readers, senders []*conn
	standbys, readys int
	onResult         func(c *conn) // what a closed loop does next
	onWelcome        func(c *conn) // hold: a connection may subscribe

	seen      []uint64 // bit per message number
	sent      int
	delivered int // distinct
	answered  int
	heldBack  int // open loop: not sent because all refs were outstanding
	measuring bool
	inWindow  struct{ delivered, answered int }
	results   [statusCount]int
	faults    faults
	notes     map[string]int
	delivery  histogram
	result_   histogram
}

// faults should all be zero.
type faults struct {
	Lost       int `json:"lost"`
	Unanswered int `json:"unanswered"`
	Duplicates int `json:"duplicates"`
	Misrouted  int `json:"misrouted"`
	Damaged    int `json:"damaged"`
	Foreign    int `json:"foreign"`
	Unexpected int `json:"unexpected_results"`
}

func newBench(o options, l *loop) *bench {
	seed := o.seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	return &bench{
		o: o, loop: l, seed: seed, pool: newRandomPool(o.size), buffer: make([]byte, o.size),
		random: rand.New(rand.NewPCG(seed, 1)), notes: map[string]int{}, onResult: func(*conn) {},
		onWelcome: func(*conn) {},
	}
}

func (b *bench) note(text string) {
	if len(b.notes) < 8 || b.notes[text] > 0 {
		b.notes[text]++
	}
}

func (b *bench) onStandby(c *conn) {
	if !c.standby {
		c.standby = true
		b.standbys++
		b.onWelcome(c)
	}
}

func (b *bench) onReady(c *conn) {
	if !c.ready {
		c.ready = true
		b.readys++
	}
}

// publish sends one message to a random reader; at is when it counts as sent.
func (b *bench) publish(c *conn, at int64) {
	if c.outstanding >= refCount-1 || c.sentAt[c.nextRef] != unanswered {
		b.heldBack++
		return
	}
	to := b.random.IntN(b.o.readers)
	b.pool.fill(b.buffer, payloadHead{b.seed, uint64(b.sent), uint32(to), uint32(b.o.size), at})
	b.sent++
	ref := c.nextRef
	c.nextRef = (ref + 1) % refCount
	c.sentAt[ref] = at
	c.outstanding++
	b.loop.codec.publish(c, ref, to, b.buffer)
}

// result is the answer to a sender.
func (b *bench) result(c *conn, ref uint64, s status) {
	if ref >= refCount || c.sentAt == nil || c.sentAt[ref] == unanswered {
		b.faults.Unexpected++
		return
	}
	if b.measuring {
		b.inWindow.answered++
		b.result_.add(b.loop.now - c.sentAt[ref])
	}
	c.sentAt[ref] = unanswered
	c.outstanding--
	b.answered++
	b.results[s]++
	b.onResult(c)
}

// message is a delivery to a reader. head is at least the payload's head.
func (b *bench) message(c *conn, head []byte, size int) {
	h, ok := parseHead(head)
	switch {
	case !ok || int(h.size) != size:
		b.faults.Damaged++
		return
	case h.run != b.seed:
		b.faults.Foreign++
		return
	case int(h.reader) != c.index:
		b.faults.Misrouted++
		return
	}
	word, bit := int(h.number/64), uint64(1)<<(h.number%64)
	for word >= len(b.seen) {
		b.seen = append(b.seen, make([]uint64, 4096)...)
	}
	if b.seen[word]&bit != 0 {
		b.faults.Duplicates++
		return
	}
	b.seen[word] |= bit
	b.delivered++
	if b.measuring {
		b.inWindow.delivered++
		b.delivery.add(b.loop.now - h.sent)
	}
}

// open makes n connections and brings them to standby, a few at a time.
func (b *bench) open(r role, n int) ([]*conn, error) {
	const atOnce = 32
	made, before := make([]*conn, 0, n), b.standbys
	for b.standbys < before+n {
		for len(made) < n && len(made) < b.standbys-before+atOnce {
			c, err := b.loop.dial(r, len(made))
			if err != nil {
				return nil, err
			}
			if r == roleSender {
				c.sentAt = make([]int64, refCount)
				for i := range c.sentAt {
					c.sentAt[i] = unanswered
				}
			}
			made = append(made, c)
		}
		now := b.standbys
		what := fmt.Sprintf("opening of %d connections", n)
		if err := b.until(what, 20*time.Second, func() bool { return b.standbys > now }); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// begin starts connections on standby and waits until all are ready.
func (b *bench) begin(conns []*conn) error {
	const atOnce = 64
	for len(conns) > 0 {
		group := conns[:min(atOnce, len(conns))]
		conns = conns[len(group):]
		goal := b.readys + len(group)
		for _, c := range group {
			b.loop.codec.start(c)
		}
		if err := b.until("subscription", 20*time.Second, func() bool { return b.readys >= goal }); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) close(conns []*conn) {
	for _, c := range conns {
		b.loop.close(c)
	}
}

// until turns the loop until done or until limit has passed.
func (b *bench) until(what string, limit time.Duration, done func() bool) error {
	end := b.loop.clock() + int64(limit)
	for !done() {
		now := b.loop.clock()
		if now >= end {
			return fmt.Errorf("%s not finished after %s", what, limit)
		}
		if err := b.loop.turn(min(end-now, int64(100*time.Millisecond))); err != nil {
			return err
		}
	}
	return nil
}

// idle turns the loop for a while.
func (b *bench) idle(d time.Duration) error {
	end := b.loop.clock() + int64(d)
	for now := b.loop.clock(); now < end; now = b.loop.clock() {
		if err := b.loop.turn(end - now); err != nil {
			return err
		}
	}
	return nil
}
