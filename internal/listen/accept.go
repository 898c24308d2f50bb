package listen

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
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
		sock, err := l.Listener.Accept()
		if err == nil {
			if !l.door.enter(l.closed) {
				_ = sock.Close()
				return nil, net.ErrClosed
			}
			return newConn(sock, l.door), nil
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
