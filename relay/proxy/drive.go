package proxy

import (
	"golang.org/x/sys/unix"
)

// quantum is how many bytes one direction of a connection moves before the others have their turn.
const quantum = 256 << 10

// drive does all that can be done for c without waiting.
func (l *loop) drive(c *conn) {
	if c.connecting {
		switch {
		case c.client.failed:
			l.p.stats.reset.Add(1)
			l.end(c, true)
			return
		case c.backend.failed:
			if !l.connectFailed(c, socketError(c.backend.fd), nil) || c.connecting {
				return
			}
		case !c.backend.writable:
			return
		default:
			l.connected(c)
		}
	}
	c.active = l.now
	if !l.pump(c, &c.client, &c.backend) || !l.pump(c, &c.backend, &c.client) {
		l.p.stats.reset.Add(1)
		l.end(c, true)
		return
	}
	if c.over() {
		l.end(c, false)
	}
}

func socketError(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	return unix.Errno(n)
}

// pump moves what it can from one half to the other, the end too. False means that the connection is to be reset.
func (l *loop) pump(c *conn, from, to *half) bool {
	for moved := 0; ; {
		if to.broken {
			return true
		}
		if to.waits() {
			if !to.writable {
				return l.awaitWritable(c, to)
			}
			if !l.flush(to) {
				return l.cannotWrite(c, to)
			}
			continue
		}
		if from.ended {
			l.passEnd(c, from, to)
			return true
		}
		if !from.readable || !to.writable {
			return true
		}
		if moved >= quantum {
			l.later(c)
			return true
		}
		if from.streak >= spliceAfter && l.pipeFor(to) {
			n, ok := l.splice(from, to)
			if !ok {
				return false
			}
			moved += n
			l.heard(c, from)
			continue
		}
		b := l.buf[maxHeader:]
		n, err := recv(from.fd, b)
		switch {
		case err == unix.EAGAIN:
			from.readable, from.streak = false, 0
			continue
		case err == unix.EINTR:
			continue
		case err != nil:
			return false
		case n == 0:
			from.ended = true
			continue
		}
		moved += n
		l.heard(c, from)
		from.streak = fill(from.streak, n)
		more := 0
		if n < len(b) && !from.failed { // it was all there is, until the next event
			from.readable = false
			if from.fin {
				from.ended = true
				more = unix.MSG_MORE // the FIN follows
			}
		}
		if to.wrote && !to.noDelay {
			l.setNoDelay(c, to)
		}
		to.wrote = true
		m, err := send(to.fd, b[:n], more)
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return l.cannotWrite(c, to)
		}
		if m = max(m, 0); m < n {
			to.writable = false
			if !l.keep(to, b[m:n]) {
				l.p.stats.buffers.Add(1)
				return false
			}
		}
	}
}

// heard counts what a backend says: a sign of life, however late its health is told.
func (l *loop) heard(c *conn, from *half) {
	if from == &c.backend {
		l.p.backends[c.target].spoken.Add(1)
	}
}

// fill is a streak after a read of n bytes.
func fill(streak, n int) int {
	if n < readSize {
		return 0
	}
	return streak + n
}

// setNoDelay turns off Nagle's algorithm for who is written to more than once. Clients have inherited that.
func (l *loop) setNoDelay(c *conn, h *half) {
	h.noDelay = true
	if h == &c.backend {
		setInt(h.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
}

// flush writes what waits. False means that writing failed; else either nothing waits any more, or h is not writable.
func (l *loop) flush(h *half) bool {
	for h.waits() {
		var n int
		var err error
		if len(h.rest) > 0 {
			n, err = send(h.fd, h.rest, 0)
		} else {
			n, err = splice(h.pipe.read, h.fd, h.piped)
		}
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			h.writable = false
			return true
		case err != nil:
			return false
		case len(h.rest) > 0:
			h.wrote = true
			if h.rest = h.rest[n:]; len(h.rest) == 0 {
				l.drop(h)
			}
		default:
			h.piped -= n
		}
	}
	return true
}

// awaitWritable asks epoll for it; once is enough, as it is edge-triggered.
func (l *loop) awaitWritable(c *conn, h *half) bool {
	if h.watchOut {
		return true
	}
	h.watchOut = true
	return l.watch(c, h, unix.EPOLLOUT) == nil
}

// cannotWrite is called when h takes nothing any more. A backend may have answered before it gave up reading: that is the client's.
func (l *loop) cannotWrite(c *conn, h *half) bool {
	if h != &c.backend {
		return false
	}
	h.broken, h.readable, h.failed = true, true, true
	l.drop(h)
	l.pipes.put(h.pipe, h.piped == 0)
	h.pipe, h.piped = nil, 0
	return true
}

// passEnd tells to that from has ended.
func (l *loop) passEnd(c *conn, from, to *half) {
	if to.shut {
		return
	}
	to.shut = true
	l.pipes.put(to.pipe, true)
	to.pipe = nil
	if to.ended && !from.waits() {
		return // both are closed now, which tells it too
	}
	shutdown(to.fd, unix.SHUT_WR)
	l.enqueue(&l.halfClosed, c)
}

// later has c driven again, after the others.
func (l *loop) later(c *conn) {
	if !c.waiting {
		c.waiting = true
		l.pending = append(l.pending, c)
	}
}
