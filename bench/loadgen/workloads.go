package main

import (
	"time"
)

// stage is what one measured stretch of a workload gave.
type stage struct {
	Messages       int       `json:"messages"`
	Seconds        float64   `json:"seconds"`
	PerSecond      float64   `json:"per_second"`
	ServerCPUus    float64   `json:"server_cpu_us_per_message"`
	ServerShare    float64   `json:"server_core_share"`
	ServerParts    []float64 `json:"server_parts_cpu_us_per_message"`
	GeneratorCPUus float64   `json:"generator_cpu_us_per_message"`
	GeneratorShare float64   `json:"generator_core_share"`
	OthersShare    float64   `json:"others_core_share"` // all else on the machine, in cores
	StolenShare    float64   `json:"stolen_core_share"` // taken by the hypervisor, in cores
}

// report is the program's output.
type report struct {
	Workload  string         `json:"workload"`
	Sent      int            `json:"sent"`
	Delivered int            `json:"delivered"`
	HeldBack  int            `json:"held_back"`
	Results   map[string]int `json:"results"`
	Faults    faults         `json:"faults"`
	Notes     map[string]int `json:"notes"`
	Online    *stage         `json:"online,omitempty"`
	Offline   *stage         `json:"offline,omitempty"`
	Drain     *stage         `json:"drain,omitempty"`
	Idle      *idleReport    `json:"idle,omitempty"`
	Delivery  *latency       `json:"publish_to_delivery,omitempty"`
	Result    *latency       `json:"publish_to_result,omitempty"`
}

type idleReport struct {
	Connections   int     `json:"connections"`
	RSSBefore     int64   `json:"rss_before_bytes"`
	RSSAfter      int64   `json:"rss_after_bytes"`
	KiBPerConn    float64 `json:"kib_per_connection"`
	SecondsToOpen float64 `json:"seconds_to_open"`
}

// meter reads clocks at both ends of a stretch.
type meter struct {
	b                 *bench
	at                int64
	server            []float64
	own, busy, stolen float64
}

func (b *bench) meter() meter {
	m := meter{b: b, server: eachCPUSeconds(b.o.serverPIDs), own: ownCPUSeconds()}
	m.busy, m.stolen = machineSeconds()
	m.at = b.loop.clock()
	return m
}

// stage closes a stretch in which n messages went by, the last one at end.
// Shares are of the time until now, which may be longer.
func (m meter) stage(n int, end int64) *stage {
	wall := float64(m.b.loop.clock()-m.at) / 1e9
	parts, server, own := eachCPUSeconds(m.b.o.serverPIDs), 0.0, ownCPUSeconds()-m.own
	busy, stolen := machineSeconds()
	seconds := float64(end-m.at) / 1e9
	each := 1e6 / float64(max(n, 1))
	for i := range parts {
		parts[i] -= m.server[i]
		server += parts[i]
		parts[i] *= each
	}
	return &stage{
		Messages: n, Seconds: seconds, PerSecond: float64(n) / seconds,
		ServerCPUus: server * each, ServerShare: server / wall, ServerParts: parts,
		GeneratorCPUus: own * each, GeneratorShare: own / wall,
		OthersShare: max(busy-m.busy-server-own, 0) / wall, StolenShare: (stolen - m.stolen) / wall,
	}
}

// online is W1: readers are there, a closed loop with a window per sender, or
// an open loop at a rate in all.
func (b *bench) online() (*report, error) {
	if err := b.connectReaders(); err != nil {
		return nil, err
	}
	if err := b.connectSenders(); err != nil {
		return nil, err
	}
	drive := b.closedLoop
	if b.o.rate > 0 {
		drive = b.openLoop
	} else {
		b.onResult = func(c *conn) { b.publish(c, b.loop.now) }
		b.fillWindows()
	}
	if err := drive(b.o.warmup); err != nil {
		return nil, err
	}
	start := b.meter()
	b.measuring = true
	if err := drive(b.o.duration); err != nil {
		return nil, err
	}
	b.measuring = false
	measured := start.stage(b.inWindow.delivered, b.loop.clock())
	b.onResult = func(*conn) {}
	// What is still on its way is waited for, so that a loss can be told.
	_ = b.until("the rest", 15*time.Second, func() bool { return b.delivered >= b.sent && b.answered >= b.sent })
	r := b.report()
	r.Online = measured
	return r, b.loop.err
}

func (b *bench) connectReaders() (err error) {
	if b.readers, err = b.open(roleReader, b.o.readers); err != nil {
		return err
	}
	return b.begin(b.readers)
}

func (b *bench) connectSenders() (err error) {
	if b.senders, err = b.open(roleSender, b.o.senders); err != nil {
		return err
	}
	return b.begin(b.senders)
}

func (b *bench) fillWindows() {
	b.loop.now = b.loop.clock()
	for range b.o.window {
		for _, c := range b.senders {
			b.publish(c, b.loop.now)
		}
	}
}

func (b *bench) closedLoop(d time.Duration) error { return b.idle(d) }

// openLoop publishes on a fixed schedule. A message counts as sent when it was
// due, so a server (or generator) that falls behind shows in the latencies.
func (b *bench) openLoop(d time.Duration) error {
	interval := int64(time.Second) / int64(b.o.rate)
	now := b.loop.clock()
	end, due, turn := now+int64(d), now, b.sent
	for now < end {
		for due <= now {
			b.publish(b.senders[turn%len(b.senders)], due)
			turn++
			due += interval
		}
		if err := b.loop.turn(due - b.loop.clock()); err != nil {
			return err
		}
		now = b.loop.clock()
	}
	return nil
}

// offline is W2: all is published while no reader is there, then drained.
func (b *bench) offline() (*report, error) {
	if b.o.peer == "mqtt" { // a kept session begins with a first visit
		if err := b.connectReaders(); err != nil {
			return nil, err
		}
		b.close(b.readers)
	}
	if err := b.connectSenders(); err != nil {
		return nil, err
	}
	if err := b.idle(b.o.warmup); err != nil {
		return nil, err
	}
	var last int64
	b.onResult = func(c *conn) {
		last = b.loop.now
		if b.sent < b.o.messages {
			b.publish(c, b.loop.now)
		}
	}
	start := b.meter()
	b.measuring = true
	b.fillWindows()
	if err := b.until("publishing", b.o.limit, func() bool { return b.answered >= b.o.messages }); err != nil {
		return nil, err
	}
	b.measuring = false
	published := start.stage(b.answered, last)
	drained, err := b.drain()
	if err != nil {
		return nil, err
	}
	r := b.report()
	r.Offline, r.Drain, r.Delivery = published, drained, nil
	return r, nil
}

// drain connects the readers, then lets all of them take their backlog at once.
func (b *bench) drain() (*stage, error) {
	var err error
	if b.readers, err = b.open(roleReader, b.o.readers); err != nil {
		return nil, err
	}
	if err := b.idle(500 * time.Millisecond); err != nil {
		return nil, err
	}
	start := b.meter()
	for _, c := range b.readers {
		b.loop.codec.start(c)
	}
	before := b.delivered
	quiet, last := b.delivered, start.at
	for b.delivered < b.sent && b.loop.clock()-last < int64(15*time.Second) {
		if err := b.loop.turn(int64(100 * time.Millisecond)); err != nil {
			return nil, err
		}
		if b.delivered != quiet {
			quiet, last = b.delivered, b.loop.now
		}
	}
	// The acks are work too: give the server time to take them.
	if err := b.idle(500 * time.Millisecond); err != nil {
		return nil, err
	}
	return start.stage(b.delivered-before, last), nil
}

// idleConnections is W3: what one subscribed connection costs in memory. The
// first few connections, which make the server load what it needs, are not
// counted.
func (b *bench) idleConnections() (*report, error) {
	const first = 50
	warm, err := b.open(roleReader, first)
	if err == nil {
		err = b.begin(warm)
	}
	if err != nil {
		return nil, err
	}
	b.close(warm)
	if err := b.idle(time.Second); err != nil {
		return nil, err
	}
	before, start := rssBytes(b.o.serverPIDs), b.loop.clock()
	if err := b.connectReaders(); err != nil {
		return nil, err
	}
	seconds := float64(b.loop.clock()-start) / 1e9
	if err := b.idle(3 * time.Second); err != nil {
		return nil, err
	}
	after := rssBytes(b.o.serverPIDs)
	r := b.report()
	r.Idle = &idleReport{
		Connections: b.o.readers, RSSBefore: before, RSSAfter: after, SecondsToOpen: seconds,
		KiBPerConn: float64(after-before) / 1024 / float64(b.o.readers),
	}
	return r, nil
}

func (b *bench) report() *report {
	r := &report{
		Workload: b.o.workload, Sent: b.sent, Delivered: b.delivered, HeldBack: b.heldBack,
		Results: map[string]int{}, Faults: b.faults, Notes: b.notes,
	}
	r.Faults.Lost = b.sent - b.delivered
	r.Faults.Unanswered = b.sent - b.answered
	for s, n := range b.results {
		if n > 0 {
			r.Results[statusNames[s]] = n
		}
	}
	if b.delivery.total > 0 {
		l := b.delivery.summary()
		r.Delivery = &l
	}
	if b.result_.total > 0 {
		l := b.result_.summary()
		r.Result = &l
	}
	return r
}
