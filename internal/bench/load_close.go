//go:build linux

package bench

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// closedConn is one place of a load that opens a connection for each request.
type closedConn struct {
	fd   int // -1 when none is open
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
				_ = unix.Close(conns[i].fd)
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
	fd, err := c.dial(nil, unix.SOCK_NONBLOCK)
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
		err = unix.Close(k.fd)
		k.fd = -1
		if err != nil {
			return fmt.Errorf("close connection: %w", err)
		}
		body, err := parseReply(k.buf[:k.got])
		if err != nil {
			return fmt.Errorf("server closed early: %w", err)
		}
		c.body = body
		c.replies++
		return c.open(k)
	}
}
