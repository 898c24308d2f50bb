//go:build linux

package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/flood"
	"spillway/internal/sys"
)

// Load drives one server with announces, closed loop: each of Conns connections has one request on the way at any time.
//
// It is one thread that never sleeps: it polls, so a server's write never pays for waking it. That costs a whole core,
// which is not measured.
type Load struct {
	Addr    netip.AddrPort // of the server; IPv4
	NumWant int
	Event   string

	// Torrent is which one is announced: flood.InfoHash(Torrent). With Torrents above one, they are Torrent and those after
	// it, in turn.
	Torrent, Torrents int

	// Conns is how many connections are in use at once. With KeepAlive each lives as long as the load and has a source
	// address of its own, 127.1.x.y; without, each carries one request, from 127.0.0.1, and the server closes it.
	Conns     int
	KeepAlive bool

	// Peers is how many peers announce, in turn: each connection's address with as many ports as it takes.
	Peers int

	Core int // the client's
}

// A Count is what a load saw.
type Count struct {
	Replies   int
	Delivered int // offers, over WebSockets
	Elapsed   time.Duration
	CPU       time.Duration // of the client, which polls: less than Elapsed means that others took its core
	Body      []byte        // of the last reply
}

// errStalled means that the server answered nothing for a while.
var errStalled = errors.New("no reply for 5 s")

const (
	stallAfter = 5 * time.Second
	maxReply   = 4096 // 200 peers of IPv4 and a head fit twice
)

// For runs the load for about d.
func (l Load) For(d time.Duration) (Count, error) { return l.run(d, false) }

// Once has every peer announce once.
func (l Load) Once() (Count, error) { return l.run(0, true) }

// at has a server loaded for a turn.
func (l Load) at(s server) entrant {
	l.Addr = s.addr
	return entrant{s, func() (Count, error) { return l.For(*turn) }}
}

func (l Load) run(d time.Duration, once bool) (n Count, err error) {
	err = pinned(l.Core, func() error {
		c := client{Load: l, stopAfter: d, once: once, buf: make([]byte, l.Conns*maxReply)}
		c.request = NewRequest(l.Addr.String(), flood.InfoHash(l.Torrent), l.Event, l.NumWant, l.KeepAlive)
		start, cpu := time.Now(), sys.ThreadCPU()
		run := c.connPerRequest
		if l.KeepAlive {
			run = c.keepAlive
		}
		err := run()
		n = Count{Replies: c.replies, Elapsed: time.Since(start), CPU: sys.ThreadCPU() - cpu, Body: append([]byte(nil), c.body...)}
		return err
	})
	return n, err
}

// pinned runs f on a thread of its own on one core, on any if that is -1, and waits. What f changes about the thread goes with it.
func pinned(core int, f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if core >= 0 {
			err = sys.PinThread(core)
		}
		if err == nil {
			err = f()
		}
	}()
	<-done
	return err
}

// A client is a load at work.
type client struct {
	Load
	request   *Request
	stopAfter time.Duration
	once      bool
	replies   int
	opened    int // connections, and
	asked     int // requests on them, of a load that opens one for each
	torrent   int
	body      []byte // in buf or in a connection's buffer
	buf       []byte
	progress  progress
}

// progress tells a client when to stop; it looks at the clock only now and then.
type progress struct {
	start, last time.Time
	lastReplies int
}

// over is asked once a turn of the loop.
func (c *client) over(now time.Time) (bool, error) {
	p := &c.progress
	if p.start.IsZero() {
		p.start, p.last = now, now
	}
	if c.replies != p.lastReplies {
		p.last, p.lastReplies = now, c.replies
	} else if now.Sub(p.last) > stallAfter {
		return true, fmt.Errorf("after %d replies: %w", c.replies, errStalled)
	}
	if c.once {
		return c.replies >= c.Peers, nil
	}
	return now.Sub(p.start) >= c.stopAfter, nil
}

// render is the next request, of a peer at port.
func (c *client) render(port int) []byte {
	if c.Torrents > 1 {
		// A prime step: neighbours in time are not neighbours in the order in which the torrents were made.
		c.torrent = (c.torrent + 611953) % c.Torrents
		c.request.SetInfoHash(flood.InfoHash(c.Torrent + c.torrent))
	}
	return c.request.SetPort(port)
}

// dial begins to connect, from an address of its own unless that is zero.
func dial(to netip.AddrPort, from [4]byte) (fd int32, err error) {
	var own *sys.Addr
	if from != [4]byte{} {
		own = sys.NewAddr(netip.AddrPortFrom(netip.AddrFrom4(from), 0))
	}
	fd, errno := sys.Dial(unix.SOCK_STREAM, own, sys.NewAddr(to))
	if errno != 0 {
		return -1, fmt.Errorf("connect to %s: %w", to, errno)
	}
	return fd, nil
}

// connect is dial that waits.
func connect(to netip.AddrPort, from [4]byte) (fd int32, err error) {
	if fd, err = dial(to, from); err != nil {
		return -1, err
	}
	for {
		_, err = unix.Poll([]unix.PollFd{{Fd: fd, Events: unix.POLLOUT}}, int(stallAfter/time.Millisecond))
		if err != unix.EINTR {
			break
		}
	}
	if err == nil {
		var refused int
		if refused, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && refused != 0 {
			err = unix.Errno(refused)
		}
	}
	if err != nil {
		sys.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", to, err)
	}
	return fd, nil
}

// send writes a request, which an idle loopback connection always takes whole.
func send(fd int32, b []byte) error {
	n, errno := sys.Send(fd, b)
	if errno != 0 {
		return fmt.Errorf("send request: %w", errno)
	}
	if n != len(b) {
		return fmt.Errorf("send request: %d bytes of %d taken", n, len(b))
	}
	return nil
}

// recv reads what is there: -1 for nothing yet, 0 for the end.
func recv(fd int32, b []byte) (int, error) {
	n, errno := sys.Recv(fd, b)
	switch errno {
	case 0:
		return n, nil
	case unix.EAGAIN:
		return -1, nil
	}
	return 0, fmt.Errorf("read reply: %w", errno)
}

// keptConn is one connection of a keep-alive load.
type keptConn struct {
	fd   int32
	turn int
	got  int
	buf  []byte
}

// keepAlive polls all connections with epoll; a reply read sends the connection's next request.
func (c *client) keepAlive() error {
	poller, err := sys.NewPoller()
	if err != nil {
		return err
	}
	defer poller.Close()
	conns := make([]keptConn, c.Conns)
	for i := range conns {
		conns[i].fd = -1
		conns[i].buf = c.buf[i*maxReply : (i+1)*maxReply]
	}
	defer func() {
		for i := range conns {
			if conns[i].fd >= 0 {
				sys.Close(conns[i].fd)
			}
		}
	}()
	for i := range conns {
		if conns[i].fd, err = connect(c.Addr, [4]byte{127, 1, byte(i >> 8), byte(i)}); err != nil {
			return err
		}
		if errno := poller.Add(conns[i].fd, int32(i), 0, unix.EPOLLIN); errno != 0 {
			return fmt.Errorf("poll connection: %w", errno)
		}
	}
	for i := range conns {
		if err := c.sendNext(i, &conns[i]); err != nil {
			return err
		}
	}
	for {
		if over, err := c.over(time.Now()); over || err != nil {
			return err
		}
		events, errno := poller.Wait(0)
		if errno != 0 {
			return fmt.Errorf("poll: %w", errno)
		}
		for _, ev := range events {
			if err := c.readReply(int(ev.Fd), &conns[ev.Fd]); err != nil {
				return err
			}
		}
	}
}

// sendNext announces the connection's next peer.
func (c *client) sendNext(i int, k *keptConn) error {
	// Peer n of the load is port minPort + n/Conns of connection n%Conns.
	ports := (c.Peers - i + c.Conns - 1) / c.Conns
	if c.once && k.turn >= ports {
		return nil
	}
	b := c.render(minPort + k.turn%max(ports, 1))
	k.turn++
	return send(k.fd, b)
}

// readReply reads until the reply is whole or nothing is left to read: the poll is edge-triggered.
func (c *client) readReply(i int, k *keptConn) error {
	n, err := recv(k.fd, k.buf[k.got:])
	if err != nil || n < 0 {
		return err
	}
	if n == 0 {
		return fmt.Errorf("server closed a kept connection after %d bytes of a reply: %w", k.got, io.ErrUnexpectedEOF)
	}
	k.got += n
	body, err := parseReply(k.buf[:k.got])
	if err == errShort {
		return nil // its rest is an edge of its own
	}
	if err != nil {
		return err
	}
	k.got = 0
	c.body = body
	c.replies++
	return c.sendNext(i, k)
}

// closedConn is one place of a load that opens a connection for each request.
type closedConn struct {
	fd   int32 // -1 when none is open
	sent bool
	got  int
	buf  []byte
}

// connPerRequest goes round its connections and reads what each has, without epoll: five calls a request are all it can
// do, or the client would be slower than the servers it measures. A connection is done when the server has closed it,
// so that the server is the first to close, as it is with a client that reads to the end, and TIME_WAIT is its own.
func (c *client) connPerRequest() error {
	conns := make([]closedConn, c.Conns)
	for i := range conns {
		conns[i] = closedConn{fd: -1, buf: c.buf[i*maxReply : (i+1)*maxReply]}
	}
	defer func() {
		for i := range conns {
			if conns[i].fd >= 0 {
				sys.Close(conns[i].fd)
			}
		}
	}()
	for {
		if over, err := c.over(time.Now()); over || err != nil {
			return err
		}
		for i := range conns {
			if err := c.visit(&conns[i]); err != nil {
				return err
			}
		}
	}
}

// visit does what a place is ready for.
func (c *client) visit(k *closedConn) error {
	if k.fd < 0 {
		return c.open(k)
	}
	if !k.sent {
		return c.ask(k)
	}
	return c.readToEnd(k)
}

// open connects and, as loopback connects at once, asks. Now and then the kernel drops a SYN whose address and port are
// still in TIME_WAIT, and sends it again after a second; the other places go on meanwhile.
func (c *client) open(k *closedConn) error {
	if c.once && c.opened >= c.Peers {
		return nil
	}
	fd, err := dial(c.Addr, [4]byte{})
	if err != nil {
		return err
	}
	c.opened++
	k.fd, k.sent, k.got = fd, false, 0
	return c.ask(k)
}

func (c *client) ask(k *closedConn) error {
	// Connections come and go, so the peers are counted on one address.
	err := send(k.fd, c.render(minPort+c.asked%c.Peers))
	if errors.Is(err, unix.EAGAIN) {
		return nil // not connected yet
	}
	if err == nil {
		k.sent = true
		c.asked++
	}
	return err
}

func (c *client) readToEnd(k *closedConn) error {
	for {
		n, err := recv(k.fd, k.buf[k.got:])
		if err != nil || n < 0 {
			return err
		}
		k.got += n
		if n > 0 {
			continue
		}
		sys.Close(k.fd)
		k.fd = -1
		body, err := parseReply(k.buf[:k.got])
		if err != nil {
			return fmt.Errorf("server closed early: %w", err)
		}
		c.body = body
		c.replies++
		return c.open(k)
	}
}

// Given the floor in this process, when loaded in each way, then replies are counted and the body comes back.
func TestLoad(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("d8:completei0e5:peers0:e")
	served := make(chan error, 1)
	go func() { served <- serveFloor(ln, body) }()
	t.Cleanup(func() {
		ln.Close()
		<-served
	})
	client, _ := cores(t)
	for _, keepAlive := range []bool{true, false} {
		load := Load{Addr: netip.MustParseAddrPort(ln.Addr().String()), NumWant: 50, Conns: 4, KeepAlive: keepAlive, Peers: 10, Core: client}
		n, err := load.Once()
		if err != nil {
			t.Fatalf("keep-alive %t: %v", keepAlive, err)
		}
		if n.Replies != load.Peers {
			t.Errorf("keep-alive %t: replies: got %d, want %d", keepAlive, n.Replies, load.Peers)
		}
		if !bytes.Equal(n.Body, body) {
			t.Errorf("keep-alive %t: body: got %q, want %q", keepAlive, n.Body, body)
		}
		if n, err = load.For(50 * time.Millisecond); err != nil {
			t.Fatalf("keep-alive %t: %v", keepAlive, err)
		}
		if n.Replies == 0 || n.Elapsed < 50*time.Millisecond {
			t.Errorf("keep-alive %t: got %d replies in %s", keepAlive, n.Replies, n.Elapsed)
		}
	}
}

func TestLoadSaysWhyItFailed(t *testing.T) {
	t.Parallel()
	client, _ := cores(t)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(ln.Addr().String())
	ln.Close()
	load := Load{Addr: addr, NumWant: 50, Conns: 1, KeepAlive: true, Peers: 1, Core: client}
	if _, err := load.Once(); err == nil || !strings.Contains(err.Error(), "connect to "+addr.String()) {
		t.Errorf("nobody listens: got %v, want the address", err)
	}
}
