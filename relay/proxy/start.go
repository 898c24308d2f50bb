package proxy

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"spillway/relay"
)

// farFor is how many connects to a backend go without asking whether it has answered already, after one that had not.
const farFor = 1024

// start forwards a connection that has been accepted from l.peer; it is counted in Path.conns.
func (l *loop) start(fd int) {
	source := l.peer.addrPort()
	target, ok := l.admit(source.Addr())
	if !ok {
		reset(fd)
		l.p.conns.Add(-1)
		return
	}
	c := l.take()
	c.client.fd, c.client.writable = fd, true
	c.source, c.target = source, target

	// What the client has sent already goes with the connect.
	room := l.buf[maxHeader:]
	n, err := recv(fd, room)
	first := room[:max(n, 0)]
	switch {
	case n > 0:
		c.client.streak = fill(0, n)
	case err == unix.EAGAIN || err == unix.EINTR:
	case err == nil:
		c.client.ended = true
	default: // the client is gone
		l.p.backends[target].connecting.Add(-1)
		l.p.stats.reset.Add(1)
		l.end(c, true)
		return
	}
	if l.p.cfg.SendProxy {
		header := l.proxyHeader(c)
		first = l.buf[maxHeader-len(header) : maxHeader+len(first)]
		copy(first, header)
	}
	if !l.connect(c, first) {
		return
	}
	// What has come since recv is an event.
	if l.watch(c, &c.client, 0) != nil {
		l.end(c, true)
		return
	}
	if !c.connecting { // a client that has ended already is passed on
		l.drive(c)
	}
}

// admit decides who a client goes to, and counts it there, or why it does not.
func (l *loop) admit(client netip.Addr) (target int16, ok bool) {
	if s := l.p.sources; s != nil && !s.allow(client, l.now) {
		return 0, false
	}
	target = l.plan.backendFor(client)
	if target == relay.Nobody {
		l.p.stats.nobody.Add(1)
		return 0, false
	}
	if l.plan.down[target] {
		l.p.backends[target].down.Add(1)
		return 0, false
	}
	return target, l.mayConnect(target)
}

// A backend that has not answered a connect in time drops SYNs: its accept queue is full. Whoever else is sent there waits in vain as
// well, as long as the timeout; so for lateFor few may, and the others are refused at once. It is given what it takes all the same, since
// a connect it answers gives its place back.
const (
	lateFor  = int64(time.Second)
	latePart = 16
)

// mayConnect takes a place among those that wait for the backend's first sign of life.
func (l *loop) mayConnect(target int16) bool {
	b := l.p.backends[target]
	places := l.plan.budget[target]
	if at := b.lateAt.Load(); at > 0 && l.now-at < lateFor {
		places = max(places/latePart, 1)
	}
	if b.connecting.Add(1) > places {
		b.connecting.Add(-1)
		b.budget.Add(1)
		return false
	}
	b.opened.Add(1)
	return true
}

func (l *loop) proxyHeader(c *conn) []byte {
	to := netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	if l.local.local(c.client.fd) == nil {
		to = l.local.addrPort()
	}
	return appendHeader(l.header[:0], c.source, to)
}

// connect connects c to its target, which has counted it, and sends first. False means that c is over.
func (l *loop) connect(c *conn, first []byte) bool {
	b := l.p.backends[c.target]
	fd, err := socket(b.addr.family())
	if err != nil {
		b.connecting.Add(-1)
		l.outOfFiles(err)
		l.end(c, true)
		return false
	}
	c.backend = half{fd: fd}
	c.connecting, c.active = true, l.now
	if len(first) > 0 {
		setInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0) // the last segment of the handshake goes with first, not before it
	}
	if err := b.addr.connect(fd); err != nil && err != unix.EINPROGRESS {
		return l.connectFailed(c, err, first)
	}
	events := uint32(unix.EPOLLOUT)
	switch {
	case l.far[c.target] > 0:
		l.far[c.target]--
	case len(first) > 0: // a backend on this machine has answered by now
		n, err := send(fd, first, 0)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			l.far[c.target] = farFor
		case err != nil:
			return l.connectFailed(c, err, first)
		default:
			l.connected(c)
			first = first[n:]
			c.backend.wrote = true
			if len(first) == 0 {
				events = 0
			} else {
				c.backend.writable = false
			}
		}
	}
	if !l.keep(&c.backend, first) {
		l.p.stats.buffers.Add(1)
		l.end(c, true)
		return false
	}
	if l.watch(c, &c.backend, events) != nil {
		l.end(c, true)
		return false
	}
	c.backend.watchOut = events != 0
	if c.connecting {
		l.enqueue(&l.connecting, c)
	}
	return true
}

func (l *loop) connected(c *conn) {
	c.connecting = false
	c.backend.writable = true
	l.p.backends[c.target].connecting.Add(-1)
	if c.client.ended {
		l.enqueue(&l.halfClosed, c)
	} else {
		l.enqueue(&l.idle, c)
	}
}

// connectFailed tries another backend, once, with first or what waits to be sent. False means that c is over.
func (l *loop) connectFailed(c *conn, err error, first []byte) bool {
	l.p.stats.failed.Add(1)
	if errors.Is(err, unix.ETIMEDOUT) {
		l.p.backends[c.target].lateAt.Store(l.now)
	}
	c.connecting = false
	l.p.backends[c.target].connecting.Add(-1)
	refused := c.target
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		l.p.log.Warn("no port left to connect to a backend from; set net.ipv4.tcp_tw_reuse=1, or widen net.ipv4.ip_local_port_range", "err", err)
	}
	if !c.retried && !errors.Is(err, unix.ETIMEDOUT) {
		c.retried = true
		if next := l.plan.instead(c.source.Addr(), refused); next != relay.Nobody && l.mayConnect(next) {
			l.p.stats.retried.Add(1)
			c.target = next
			closeFD(int(c.backend.fd))
			buf := c.backend.buf
			if len(first) == 0 {
				first = c.backend.rest
			}
			ok := l.connect(c, first)
			l.memory.put(buf)
			return ok
		}
	}
	l.p.backends[refused].down.Add(1)
	l.end(c, true)
	return false
}
