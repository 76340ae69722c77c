package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// hold keeps subscribed connections open, spread over several addresses, until
// standard input ends. One that is lost comes back within the spread, to its
// own address if anybody listens there, else to the next. A line of JSON on
// standard output says how many are there whenever that has changed.

const (
	holdOpening = 32 // connections under way at once
	holdTurn    = int64(10 * time.Millisecond)
	holdReport  = int64(50 * time.Millisecond)
	holdAgain   = int64(100 * time.Millisecond) // after nobody listened anywhere
)

type held struct {
	index int
	due   int64
}

func (b *bench) hold() (*report, error) {
	addresses := strings.Split(b.o.address, ",")
	var ended atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		ended.Store(true)
	}()
	away := make([]held, 0, b.o.readers)
	for i := range b.o.readers {
		away = append(away, held{index: i})
	}
	alive, lost := 0, 0
	b.onWelcome = func(c *conn) { b.loop.codec.start(c) }
	b.loop.onLost = func(c *conn) {
		alive--
		if c.ready {
			b.readys--
			lost++
		}
		back := b.loop.clock() + rand.Int64N(max(int64(b.o.spread), 1))
		away = append(away, held{c.index, back})
	}
	saidAt, saidReady, saidLost := int64(0), -1, -1
	for !ended.Load() {
		now := b.loop.clock()
		if (b.readys != saidReady || lost != saidLost) && now-saidAt >= holdReport {
			saidAt, saidReady, saidLost = now, b.readys, lost
			fmt.Printf("{\"held\":%d,\"lost\":%d}\n", b.readys, lost)
		}
		waiting, tries := away, holdOpening-(alive-b.readys)
		away = nil
		for _, h := range waiting {
			if tries > 0 && h.due <= now {
				tries--
				if b.dialHome(addresses, h.index) {
					alive++
					continue
				}
				h.due = now + holdAgain
			}
			away = append(away, h)
		}
		if err := b.loop.turn(holdTurn); err != nil {
			return nil, err
		}
	}
	return b.report(), nil
}

// dialHome says whether anybody listens at the connection's own address, or at one of those after it.
func (b *bench) dialHome(addresses []string, index int) bool {
	for i := range addresses {
		if _, err := b.loop.dialAt(addresses[(index+i)%len(addresses)], roleReader, index); err == nil {
			return true
		}
	}
	return false
}
