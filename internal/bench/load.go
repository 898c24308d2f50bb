//go:build linux

package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Load drives one server with announces, closed loop: each of Conns connections has one request on the way at any time.
//
// It is one thread that never sleeps: it polls, so a server's write never pays for waking it. That costs a whole core,
// which is not measured.
type Load struct {
	Addr    netip.AddrPort // of the server; IPv4
	NumWant int
	Event   string

	// Torrent is which one is announced: InfoHash(Torrent). With Torrents above one, they are Torrent and those after
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
	Replies int
	Elapsed time.Duration
	CPU     time.Duration // of the client, which polls: less than Elapsed means that others took its core
	Body    []byte        // of the last reply
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

func (l Load) run(d time.Duration, once bool) (n Count, err error) {
	done := make(chan struct{})
	go func() { // ends with its thread pinned, and the thread with it
		defer close(done)
		if err = PinThread(l.Core); err != nil {
			return
		}
		c := client{Load: l, stopAfter: d, once: once, buf: make([]byte, l.Conns*maxReply)}
		c.request = NewRequest(l.Addr.String(), InfoHash(l.Torrent), l.Event, l.NumWant, l.KeepAlive)
		c.to.Addr, c.to.Port = l.Addr.Addr().As4(), int(l.Addr.Port())
		start, cpu := time.Now(), threadCPU()
		if l.KeepAlive {
			err = c.keepAlive()
		} else {
			err = c.connPerRequest()
		}
		n = Count{Replies: c.replies, Elapsed: time.Since(start), CPU: threadCPU() - cpu, Body: append([]byte(nil), c.body...)}
	}()
	<-done
	return n, err
}

// A client is a load at work.
type client struct {
	Load
	to        unix.SockaddrInet4
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
		c.request.SetInfoHash(InfoHash(c.Torrent + c.torrent))
	}
	return c.request.SetPort(port)
}

// dial connects, from an address of its own when from is set. With SOCK_NONBLOCK among flags it does not wait for that.
func (c *client) dial(from *unix.SockaddrInet4, flags int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	if from != nil {
		err = unix.Bind(fd, from)
	}
	if err == nil {
		err = unix.Connect(fd, &c.to)
	}
	if err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", c.Addr, err)
	}
	return fd, nil
}

// send writes a request, which an idle loopback connection always takes whole.
func send(fd int, b []byte) error {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), ptr(b), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return fmt.Errorf("send request: %w", errno)
	}
	if int(n) != len(b) {
		return fmt.Errorf("send request: %d bytes of %d taken", n, len(b))
	}
	return nil
}

// recv reads what is there: -1 for nothing yet, 0 for the end.
func recv(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), ptr(b), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN, unix.EINTR:
		return -1, nil
	}
	return 0, fmt.Errorf("read reply: %w", errno)
}
