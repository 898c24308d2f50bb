package listen

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// deadlineSlack is how far an armed deadline may be from the one asked for.
const deadlineSlack = time.Second

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

	mu       sync.Mutex // guards the deadlines, and their order on the socket
	read     time.Time  // armed; while headerBy is set: to be armed after the header
	write    time.Time
	headerBy time.Time // zero when no PROXY header is being read
}

func newConn(sock net.Conn, d *Door) *Conn {
	c := &Conn{Conn: sock, door: d}
	if d.cfg.ProxyProtocol {
		c.proxy = &proxied{trusted: d.trusts(sock.RemoteAddr())}
	}
	return c
}

func (c *Conn) Read(b []byte) (int, error) {
	if c.proxy != nil {
		return c.readProxied(b)
	}
	return c.Conn.Read(b)
}

// Write answers nobody whose PROXY header is not read yet, or was refused.
func (c *Conn) Write(b []byte) (int, error) {
	if c.proxy != nil {
		if err := c.readHeader(); err != nil {
			return 0, err
		}
	}
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
