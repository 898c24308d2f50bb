package listen

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of the wait after a failed accept. The shortest is what net/http takes.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// listener is one socket of a Door.
type listener struct {
	net.Listener
	door *Door

	closeOnce sync.Once
	closed    chan struct{}

	plain   bool // no TLS above it
	backlog int  // as last set; 0: as it was bound
	fresh   freshness
}

// Accept gives the next connection once there is a place for it. It returns no error but net.ErrClosed: fasthttp takes
// any error other than a timeout for the end of its listener, so that one moment without file descriptors would
// leave a tracker that is up and deaf.
//
// The place is asked after the kernel's accept, not before: a listener nobody connects to would hold one for ever.
// So at the bound one more connection a listener is out of the kernel's queue, and waits here.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, err // not c: a nil *Conn is not a nil net.Conn
	}
	return c, nil
}

func (l *listener) accept() (*Conn, error) {
	for delay := minAcceptDelay; ; delay = min(2*delay, maxAcceptDelay) {
		if !l.ready() {
			return nil, net.ErrClosed
		}
		sock, err := l.Listener.Accept()
		if err == nil {
			if l.turnedAway(sock) {
				delay = minAcceptDelay / 2
				continue
			}
			if !l.door.enter(l.closed) {
				_ = sock.Close()
				return nil, net.ErrClosed
			}
			return newConn(sock, l), nil
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, net.ErrClosed
		}
		l.door.refuse(err)
		select {
		case <-time.After(delay):
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
}

// Close wakes Accept, also one that waits for a place.
func (l *listener) Close() error {
	var err error
	l.closeOnce.Do(func() {
		close(l.closed)
		err = l.Listener.Close()
	})
	return err
}

// refuse counts a failed accept, and tells the operator what to turn.
func (d *Door) refuse(err error) {
	d.acceptErrors.Inc()
	if !d.acceptLog.ok(time.Now()) {
		return
	}
	advice := "see the error"
	switch {
	case errors.Is(err, syscall.EMFILE):
		advice = "raise LimitNOFILE (ulimit -n) or lower http.max_conns"
	case errors.Is(err, syscall.ENFILE):
		advice = "raise the sysctl fs.file-max"
	case errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
		advice = "the kernel is out of memory: lower http.max_conns or add memory"
	}
	d.log.Warn("accept failed, trying again", "advice", advice, "err", err)
}

// tlsListener is a listener which speaks TLS.
type tlsListener struct {
	*listener
	config *tls.Config
}

func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, err
	}
	return &tlsConn{Conn: tls.Server(c, l.config), door: l.door}, nil
}

// heldPoll is how often a listener that accepts nothing looks whether it may again.
const heldPoll = 50 * time.Millisecond

// ready waits until another connection may be accepted, and sets how many may wait for that. It reports false if the listener
// is closed first.
func (l *listener) ready() bool {
	gate := l.door.cfg.Gate
	if gate == nil {
		return true
	}
	for held := false; gate.Full(); held = true {
		if !held {
			l.door.held.Inc()
		}
		select {
		case <-time.After(heldPoll):
		case <-l.closed:
			return false
		}
	}
	if want := gate.Backlog(); want != l.backlog {
		if tcp, ok := l.Listener.(*tcpListener); ok {
			tcp.setBacklog(want)
		}
		l.backlog = want
	}
	return l.fresh.wait(l.closed)
}

// turnedAway closes a connection whose source asks too much, with a reset: it costs half of what reading its request and
// answering does. A proxy's address is everybody's behind it, and is never turned away.
func (l *listener) turnedAway(sock net.Conn) bool {
	gate := l.door.cfg.Gate
	c, ok := sock.(*socket)
	if gate == nil || !ok {
		return false
	}
	addr := c.remote.AddrPort().Addr().Unmap()
	if !gate.Unwelcome(addr, time.Now()) || l.door.cfg.Trusted != nil && l.door.cfg.Trusted(addr) {
		return false
	}
	l.door.unwelcome.Inc()
	c.reset()
	return true
}

// maxFresh is how many connections of a listener are accepted whose first request is not answered yet, of those whose request
// is there. More wait in the kernel, where they cost less, and where the backlog bounds them: accepted, they would only wait in
// the scheduler's queue. With an overload of connections of one request, 128 kept p50 at 9 ms where no bound gave 100.
const maxFresh = 128

// freshness counts them. Accept waits at maxFresh until there are half as many, so that it does not wake up for each.
type freshness struct {
	n       atomic.Int32
	waiting atomic.Bool
	wake    chan struct{} // holds one
}

func (f *freshness) enter() { f.n.Add(1) }

func (f *freshness) leave() {
	if f.n.Add(-1) <= maxFresh/2 && f.waiting.Load() && f.waiting.CompareAndSwap(true, false) {
		f.wake <- struct{}{}
	}
}

// wait reports false if closed ends first. One goroutine calls it.
func (f *freshness) wait(closed <-chan struct{}) bool {
	if f.n.Load() < maxFresh {
		return true
	}
	f.waiting.Store(true)
	if f.n.Load() <= maxFresh/2 && f.waiting.CompareAndSwap(true, false) {
		return true // all left before they could see that somebody waits
	}
	select {
	case <-f.wake:
		return true
	case <-closed:
		return false
	}
}
