// Command loadgen puts load on a message relay over WebSockets and prints what
// it saw as one JSON object. It runs on one thread; see loop.go.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	peer, variant, workload, address string
	senders, readers, size           int
	window, readerWindow, rate       int
	messages                         int
	warmup, duration, limit          time.Duration
	serverPIDs                       []int
	retention                        string
	maxAckPending                    int
	memoryAcks                       bool
	spread                           time.Duration
	seed                             uint64
}

func parseOptions() options {
	var o options
	flag.StringVar(&o.peer, "peer", "posthouse", "posthouse, mqtt or nats")
	flag.StringVar(&o.variant, "variant", "", "posthouse: arrays, single, json; mqtt: single, joined")
	flag.StringVar(&o.workload, "workload", "w1",
		"w1 (readers online), w2 (readers offline), w3 (idle connections), hold (idle connections until standard input ends)")
	flag.StringVar(&o.address, "address", "127.0.0.1:8080", "loopback address of the server; hold: several, with commas")
	flag.IntVar(&o.senders, "senders", 20, "sending connections")
	flag.IntVar(&o.readers, "readers", 200, "reading connections (w3: idle connections)")
	flag.IntVar(&o.size, "size", 512, "payload bytes, at least 32")
	flag.IntVar(&o.window, "window", 64, "closed loop: messages without a result per sender")
	flag.IntVar(&o.readerWindow, "reader-window", 0, "posthouse: window of a reader; 0 leaves the default")
	flag.IntVar(&o.rate, "rate", 0, "open loop: messages a second in all; 0 is the closed loop")
	flag.IntVar(&o.messages, "messages", 200_000, "w2: messages in all")
	flag.DurationVar(&o.warmup, "warmup", time.Second, "time before the measurement")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "w1: time measured")
	flag.DurationVar(&o.limit, "limit", 120*time.Second, "w2: most time for publishing")
	flag.Func("server-pid", "processes whose CPU and memory are read, with commas", o.setServerPIDs)
	flag.DurationVar(&o.spread, "spread", 5*time.Second, "hold: a lost connection comes back within this time")
	flag.StringVar(&o.retention, "nats-retention", "workqueue", "limits, interest or workqueue")
	flag.IntVar(&o.maxAckPending, "nats-max-ack-pending", 1000, "unacknowledged messages per consumer")
	flag.BoolVar(&o.memoryAcks, "nats-memory-acks", true, "keep the state of consumers in memory, not in files")
	flag.Uint64Var(&o.seed, "seed", 0, "names the run; 0 takes a random one")
	flag.Parse()
	return o
}

// setServerPIDs takes process ids with commas between them.
func (o *options) setServerPIDs(text string) error {
	for _, field := range strings.Split(text, ",") {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		o.serverPIDs = append(o.serverPIDs, pid)
	}
	return nil
}

func main() {
	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	debug.SetGCPercent(800)
	preciseTimers()
	o := parseOptions()
	r, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

// preciseTimers lowers this thread's timer slack from 50 µs to 1 ns.
func preciseTimers() {
	const prSetTimerslack = 29
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetTimerslack, 1, 0)
}

func run(o options) (*report, error) {
	if o.size < payloadHeadBytes || o.senders < 1 || o.readers < 1 {
		return nil, fmt.Errorf("size is at least %d, senders and readers at least 1", payloadHeadBytes)
	}
	if o.rate == 0 && (o.window < 1 || o.window >= refCount) {
		return nil, fmt.Errorf("window is 1 to %d", refCount-1)
	}
	l, err := newLoop(o.address)
	if err != nil {
		return nil, err
	}
	b := newBench(o, l)
	if l.codec, err = newCodec(b); err != nil {
		return nil, err
	}
	if o.peer == "nats" {
		if err := b.provisionNATS(); err != nil {
			return nil, err
		}
	}
	switch o.workload {
	case "w1":
		return b.online()
	case "w2":
		return b.offline()
	case "w3":
		return b.idleConnections()
	case "hold":
		return b.hold()
	}
	return nil, fmt.Errorf("unknown workload %q", o.workload)
}

func newCodec(b *bench) (codec, error) {
	o := b.o
	switch o.peer {
	case "posthouse":
		if o.variant == "" {
			o.variant = "arrays"
		}
		if v, ok := variants[o.variant]; ok {
			return newPosthouse(b.loop, b, v, o.readerWindow), nil
		}
		return nil, fmt.Errorf("unknown variant %q", o.variant)
	case "mqtt":
		return newMQTT(b.loop, b, o.variant == "joined"), nil
	case "nats":
		return newNATS(b.loop, b), nil
	}
	return nil, fmt.Errorf("unknown peer %q", o.peer)
}

// provisionNATS makes the stream, and for w1 and w2 a consumer per reader. An
// idle connection of w3 has a plain subscription: the least that NATS can hold.
func (b *bench) provisionNATS() error {
	n := b.loop.codec.(*nats)
	consumers := b.o.readers
	if b.o.workload == "w3" {
		consumers = 0
	}
	n.provision(b.o.retention, consumers, b.o.maxAckPending)
	c, err := b.loop.dial(roleSender, -1)
	if err != nil {
		return err
	}
	if err := b.until("log-in", 10*time.Second, func() bool { return c.standby }); err != nil {
		return err
	}
	n.start(c)
	if err := b.until("making of the stream", 60*time.Second, func() bool { return c.ready }); err != nil {
		return err
	}
	b.loop.close(c)
	b.standbys, b.readys = 0, 0
	return nil
}
