package listen

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// deadlineSlack is how far an armed deadline may be from the one asked for.
const deadlineSlack = time.Second

var interim = []byte("HTTP/1.1 1")

// Conn is a connection that holds one of a Door's places until Close.
//
// Deadlines are coarse: a call that would move a deadline by at most a second, or an eighth of the time that is left
// if that is less, does nothing. fasthttp sets three deadlines a request, and each costs two locks and a runtime timer
// (BenchmarkDeadlines).
// So a deadline may be early or late by that much; one in the past, and the zero time, always take effect.
type Conn struct {
	net.Conn
	door  *Door
	proxy *proxied // nil where no PROXY header is looked for; never changes
	left  atomic.Bool
	plain bool                      // no TLS above it
	fresh atomic.Pointer[freshness] // that counts it, until its first request is answered or waited for

	// Of requests, where there is a Gate. One goroutine reads and writes.
	requests uint32        // reads that began one, at most 2
	age      time.Duration // of the last; negative: not known
	answered bool          // something was written since the last read
	decided  bool          // Early has let the last one pass
	whole    bool          // what was read last ended as a request does
	sampled  time.Time     // when the request under way was read, if it is one of those whose cost is looked at

	mu       sync.Mutex // guards the deadlines, and their order on the socket
	read     time.Time  // armed; while headerBy is set: to be armed after the header
	write    time.Time
	headerBy time.Time // zero when no PROXY header is being read
}

func newConn(sock net.Conn, l *listener) *Conn {
	d := l.door
	c := &Conn{Conn: sock, door: d, plain: l.plain, age: -1}
	if d.cfg.ProxyProtocol {
		c.proxy = &proxied{trusted: d.trusts(sock.RemoteAddr())}
	}
	if d.cfg.Gate != nil {
		l.fresh.enter()
		c.fresh.Store(&l.fresh)
	}
	return c
}

func (c *Conn) Read(b []byte) (int, error) {
	if c.door.cfg.Gate != nil {
		return c.readGated(b)
	}
	n, _, err := c.readSome(b)
	return n, err
}

// readSome also tells when the kernel had what it read, in nanoseconds of Unix time; 0 is not known.
func (c *Conn) readSome(b []byte) (n int, stamp int64, err error) {
	if c.proxy != nil {
		n, err = c.readProxied(b)
		return n, 0, err
	}
	if s, ok := c.Conn.(*socket); ok {
		return s.readStamped(b, c)
	}
	c.seen()
	n, err = c.Conn.Read(b)
	return n, 0, err
}

// seen ends the time in which a connection counts as fresh.
func (c *Conn) seen() {
	if c.fresh.Load() == nil {
		return
	}
	if f := c.fresh.Swap(nil); f != nil {
		f.leave()
	}
}

// Write answers nobody whose PROXY header is not read yet, or was refused.
func (c *Conn) Write(b []byte) (int, error) {
	if c.proxy != nil {
		if err := c.readHeader(); err != nil {
			return 0, err
		}
	}
	if c.plain {
		// An interim reply is none: what is read after it is the request's body.
		c.answered = !bytes.HasPrefix(b, interim)
	}
	c.seen()
	return c.Conn.Write(b)
}

// RemoteAddr is the client's address: the one in the PROXY header if there was one (*net.TCPAddr), else the socket's peer.
// It may wait for the header, as the first Read does: do not call it in an accept loop with ProxyProtocol on
// (fasthttp does if MaxConnsPerIP is set). It does not allocate.
func (c *Conn) RemoteAddr() net.Addr {
	if c.proxy != nil {
		if c.readHeader(); c.proxy.client != nil {
			return c.proxy.client
		}
	}
	return c.Conn.RemoteAddr()
}

// Close closes the socket and gives the place back, once.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.Leave()
	c.seen()
	return err
}

// Leave gives the place back before Close, for a connection that is somebody else's to count from now on.
func (c *Conn) Leave() {
	if !c.left.Swap(true) {
		c.door.leave()
	}
}

// SyscallConn gives the socket's file descriptor, if it has one. With ProxyProtocol, bytes may be buffered above it until
// the first Read that follows the header.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// SetDeadline sets both deadlines. See Conn for how exact they are.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the deadline of Read. See Conn for how exact it is.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.headerBy.IsZero() {
		c.read = t
		return c.Conn.SetReadDeadline(earlier(t, c.headerBy))
	}
	if near(c.read, t) {
		return nil
	}
	c.read = t
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline sets the deadline of Write. See Conn for how exact it is.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if near(c.write, t) {
		return nil
	}
	c.write = t
	return c.Conn.SetWriteDeadline(t)
}

// near reports whether a deadline armed at one time serves as well for another. One that has passed never does: it is
// farther from any in the future than an eighth of what is left to that.
func near(armed, wanted time.Time) bool {
	if armed.IsZero() || wanted.IsZero() {
		return false
	}
	off := wanted.Sub(armed).Abs()
	return off <= deadlineSlack && off < time.Until(wanted)/8 // the clock is read last: it is most of the cost
}

// earlier is the deadline that comes first; the zero time is no deadline.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
