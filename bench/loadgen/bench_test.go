package main

import "testing"

// silentCodec is a codec whose server never answers.
type silentCodec struct{ last []byte }

func (*silentCodec) subprotocol() string                          { return "" }
func (*silentCodec) streaming() bool                              { return false }
func (*silentCodec) opened(*conn)                                 {}
func (*silentCodec) received(*conn, byte, []byte) error           { return nil }
func (*silentCodec) start(*conn)                                  {}
func (s *silentCodec) publish(_ *conn, _ uint64, _ int, p []byte) { s.last = append([]byte(nil), p...) }
func (*silentCodec) flush(*conn)                                  {}

func accounting(t *testing.T) (*bench, *silentCodec, *conn) {
	t.Helper()
	codec := &silentCodec{}
	b := newBench(options{size: 64, readers: 1, senders: 1}, &loop{codec: codec})
	sender := &conn{role: roleSender, sentAt: make([]int64, refCount)}
	for i := range sender.sentAt {
		sender.sentAt[i] = unanswered
	}
	return b, codec, sender
}

func TestEachFaultIsCountedAsWhatItIs(t *testing.T) {
	b, codec, sender := accounting(t)
	reader := &conn{role: roleReader}
	b.publish(sender, 0)
	good := codec.last
	other := append([]byte(nil), good...)
	other[0] ^= 1
	b.message(reader, good, len(good)-1)
	b.message(reader, good[:10], len(good))
	b.message(reader, other, len(other))
	b.message(&conn{index: 5}, good, len(good))
	b.message(reader, good, len(good))
	b.message(reader, good, len(good))
	if want := (faults{Damaged: 2, Foreign: 1, Misrouted: 1, Duplicates: 1}); b.faults != want || b.delivered != 1 {
		t.Errorf("%+v, %d delivered", b.faults, b.delivered)
	}
}

func TestLossesAndMissingResultsAreInTheReport(t *testing.T) {
	b, codec, sender := accounting(t)
	for range 3 {
		b.publish(sender, 0)
	}
	b.message(&conn{}, codec.last, len(codec.last))
	b.result(sender, 0, statusStored)
	b.result(sender, 0, statusStored)
	b.result(sender, 9, statusStored)
	r := b.report()
	if want := (faults{Lost: 2, Unanswered: 2, Unexpected: 2}); r.Faults != want || r.Results["stored"] != 1 {
		t.Errorf("%+v %v", r.Faults, r.Results)
	}
}

func TestASenderWithoutAFreeRefHoldsBack(t *testing.T) {
	b, _, sender := accounting(t)
	for range refCount + 5 {
		b.publish(sender, 0)
	}
	if b.sent != refCount-1 || b.heldBack != 6 {
		t.Errorf("%d sent, %d held back", b.sent, b.heldBack)
	}
}

func TestALoopThatServesOnlyLoopbackAddresses(t *testing.T) {
	l, err := newLoop("192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.dial(roleReader, 0); err == nil {
		t.Error("an address of another machine was dialled")
	}
}
