package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// One thread, one epoll, no goroutine per connection. A turn reads every
// socket that is ready, lets the codec append to the connections' buffers, and
// then writes once to each connection that has something to say. System calls
// on sockets are raw: they never block, so the scheduler need not hear of them.

const (
	readBufferBytes = 256 << 10
	maxEvents       = 512
)

type role byte

const (
	roleReader role = iota
	roleSender
)

// conn is one WebSocket connection. Fields below "codec" belong to the codec
// and the workload.
type conn struct {
	fd        int
	role      role
	index     int // number among its role
	address   string
	accept    string
	upgraded  bool
	closed    bool
	dirty     bool
	wantWrite bool
	in        []byte // a frame that is not complete yet
	fragments []byte // an unfinished fragmented message
	out       []byte
	written   int

	// codec
	stream   []byte // bytes of an unfinished packet (stream protocols)
	items    []byte // encoded messages that wait for flush
	count    int
	acks     []byte
	ackCount int
	nonce    []byte
	audience string

	// workload
	standby     bool
	ready       bool
	outstanding int
	nextRef     uint64
	sentAt      []int64
}

// codec speaks one peer's protocol.
type codec interface {
	subprotocol() string
	// streaming says that frames carry a byte stream, so fragments need no joining.
	streaming() bool
	// opened is called once, after the upgrade.
	opened(c *conn)
	// received handles the payload of one frame.
	received(c *conn, op byte, payload []byte) error
	// start makes a connection on standby subscribe (reader) or ready (sender).
	start(c *conn)
	publish(c *conn, ref uint64, to int, payload []byte)
	// flush turns what waits into frames.
	flush(c *conn)
}

type loop struct {
	epoll   int
	address string
	codec   codec
	conns   []*conn // by file descriptor
	dirty   []*conn
	buffer  []byte
	events  [maxEvents]syscall.EpollEvent
	began   time.Time
	now     int64 // nanoseconds since began, renewed at every wake and read
	random  *rand.PCG
	err     error
	onLost  func(c *conn) // takes a connection that failed; without it that is the end of the run
}

func newLoop(address string) (*loop, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &loop{
		epoll: epoll, address: address, buffer: make([]byte, readBufferBytes),
		began: time.Now(), random: rand.NewPCG(rand.Uint64(), rand.Uint64()),
	}, nil
}

func (l *loop) clock() int64 { return int64(time.Since(l.began)) }

func (l *loop) fail(c *conn, err error) {
	if l.onLost != nil {
		if !c.closed {
			l.close(c)
			l.onLost(c)
		}
		return
	}
	if l.err == nil {
		kind := "reader"
		if c.role == roleSender {
			kind = "sender"
		}
		l.err = fmt.Errorf("%s %d: %w", kind, c.index, err)
	}
}

// dial connects to the server and sends the upgrade request; the answer is read by the loop.
func (l *loop) dial(r role, index int) (*conn, error) { return l.dialAt(l.address, r, index) }

func (l *loop) dialAt(address string, r role, index int) (*conn, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(portText)
	ip := net.ParseIP(host).To4()
	if err != nil || ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback IPv4 address with a port", address)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte(ip)}); err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("connect %s: %w", address, err)
	}
	syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	syscall.SetNonblock(fd, true)
	c := &conn{fd: fd, role: r, index: index, address: address}
	c.out, c.accept = upgradeRequest(address, l.codec.subprotocol())
	for len(l.conns) <= fd {
		l.conns = append(l.conns, nil)
	}
	l.conns[fd] = c
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
	if err := syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		return nil, err
	}
	l.write(c)
	return c, nil
}

func (l *loop) close(c *conn) {
	if !c.closed {
		c.closed = true
		l.conns[c.fd] = nil
		syscall.Close(c.fd)
	}
}

// touch notes that c has something to flush in this turn.
func (l *loop) touch(c *conn) {
	if !c.dirty {
		c.dirty = true
		l.dirty = append(l.dirty, c)
	}
}

// frame appends one masked frame to c's output.
func (l *loop) frame(c *conn, op byte, payload []byte) {
	c.out = appendFrame(c.out, op, payload, uint32(l.random.Uint64()))
	l.touch(c)
}

// turn waits at most wait nanoseconds, handles what is ready and flushes.
func (l *loop) turn(wait int64) error {
	l.flush()
	n := l.poll(wait)
	l.now = l.clock()
	for i := range n {
		event := &l.events[i]
		c := l.conns[event.Fd]
		if c == nil {
			continue
		}
		if event.Events&syscall.EPOLLOUT != 0 {
			l.write(c)
		}
		if event.Events&^syscall.EPOLLOUT != 0 && !c.closed {
			l.read(c)
		}
	}
	l.flush()
	return l.err
}

// poll is epoll_pwait2: its time-out is in nanoseconds, which an open loop of
// tens of thousands of messages a second needs.
func (l *loop) poll(wait int64) int {
	timeout := syscall.NsecToTimespec(max(wait, 0))
	n, _, errno := syscall.Syscall6(sysEpollPwait2, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[0])),
		maxEvents, uintptr(unsafe.Pointer(&timeout)), 0, 0)
	if errno != 0 {
		if errno != syscall.EINTR {
			l.err = fmt.Errorf("epoll_pwait2: %w", errno)
		}
		return 0
	}
	return int(n)
}

// sysEpollPwait2 has one number on every architecture (Linux 5.11 and later).
const sysEpollPwait2 = 441

func (l *loop) flush() {
	for i := 0; i < len(l.dirty); i++ {
		c := l.dirty[i]
		if c.upgraded && !c.closed {
			l.codec.flush(c)
		}
		c.dirty = false // only now: frames made by flush must not queue c again
		if !c.closed {
			l.write(c)
		}
	}
	l.dirty = l.dirty[:0]
}

func (l *loop) write(c *conn) {
	for c.written < len(c.out) {
		rest := c.out[c.written:]
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(c.fd),
			uintptr(unsafe.Pointer(&rest[0])), uintptr(len(rest)))
		if errno == syscall.EAGAIN {
			l.wantWrite(c, true)
			return
		}
		if errno != 0 {
			l.fail(c, fmt.Errorf("write: %w", errno))
			return
		}
		c.written += int(n)
	}
	c.out, c.written = c.out[:0], 0
	l.wantWrite(c, false)
}

func (l *loop) wantWrite(c *conn, want bool) {
	if c.wantWrite == want {
		return
	}
	c.wantWrite = want
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(c.fd)}
	if want {
		event.Events |= syscall.EPOLLOUT
	}
	syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_MOD, c.fd, &event)
}

func (l *loop) read(c *conn) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(c.fd),
		uintptr(unsafe.Pointer(&l.buffer[0])), readBufferBytes)
	switch {
	case errno == syscall.EAGAIN:
		return
	case errno != 0:
		l.fail(c, fmt.Errorf("read: %w", errno))
		return
	case n == 0:
		l.fail(c, errors.New("closed by the server"))
		l.close(c)
		return
	}
	l.now = l.clock()
	data := l.buffer[:n]
	if len(c.in) > 0 {
		c.in = append(c.in, data...)
		data = c.in
	}
	used, err := l.feed(c, data)
	if err != nil {
		l.fail(c, err)
		return
	}
	// append copies forward within the same array, which copy semantics allow.
	c.in = append(c.in[:0], data[used:]...)
}

// feed handles the whole frames in data and says how many bytes they took.
func (l *loop) feed(c *conn, data []byte) (int, error) {
	used := 0
	if !c.upgraded {
		n, err := upgradeResponse(data, c.accept)
		if n == 0 || err != nil {
			return 0, err
		}
		c.upgraded, used = true, n
		l.codec.opened(c)
		l.touch(c)
	}
	for {
		h, ok, err := parseHeader(data[used:])
		if err != nil {
			return used, err
		}
		if !ok || len(data)-used < h.start+h.length {
			return used, nil
		}
		payload := data[used+h.start : used+h.start+h.length]
		used += h.start + h.length
		if err := l.handle(c, h, payload); err != nil {
			return used, err
		}
	}
}

func (l *loop) handle(c *conn, h frameHeader, payload []byte) error {
	switch h.op {
	case opPing:
		l.frame(c, opPong, payload)
		return nil
	case opPong:
		return nil
	case opClose:
		code := 1005
		if len(payload) >= 2 {
			code = int(payload[0])<<8 | int(payload[1])
			payload = payload[2:]
		}
		return fmt.Errorf("closed by the server: %d %q", code, payload)
	}
	if !l.codec.streaming() && (!h.fin || h.op == opContinuation) {
		c.fragments = append(c.fragments, payload...)
		if !h.fin {
			return nil
		}
		payload = c.fragments
		defer func() { c.fragments = c.fragments[:0] }()
	}
	return l.codec.received(c, h.op, payload)
}
