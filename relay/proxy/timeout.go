package proxy

import (
	"golang.org/x/sys/unix"
)

// queue has the connections that are ended some time after they were last active. It is a wheel: the list a connection is in says when to
// look at it, to a forty-eighth of that time, and nothing is touched when it is active; it is put back then.
type queue struct {
	after int64 // nanoseconds
	lists [64]list
	next  int64 // number of the list to look at next, since the clock's beginning
}

type list struct{ first *conn }

func (q *queue) step() int64 { return q.after/48 + 1 }

// enqueue moves c to q.
func (l *loop) enqueue(q *queue, c *conn) {
	c.dequeue()
	in := &q.lists[((c.active+q.after)/q.step()+1)%int64(len(q.lists))]
	c.in, c.prev, c.next = in, nil, in.first
	if in.first != nil {
		in.first.prev = c
	}
	in.first = c
}

func (c *conn) dequeue() {
	if c.in == nil {
		return
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		c.in.first = c.next
	}
	c.in, c.prev, c.next = nil, nil, nil
}

// expire ends who has been silent for too long.
func (l *loop) expire() {
	for _, q := range [...]*queue{&l.connecting, &l.idle, &l.halfClosed} {
		now := l.now / q.step()
		for q.next = max(q.next, now-int64(len(q.lists))+1); q.next <= now; q.next++ {
			in := &q.lists[q.next%int64(len(q.lists))]
			for c := in.first; c != nil; {
				next := c.next
				l.look(q, c)
				c = next
			}
		}
	}
	if l.ticking = false; l.live > 0 || l.held {
		l.startTicking()
	}
}

// look decides about a connection whose list's time has come.
func (l *loop) look(q *queue, c *conn) {
	switch {
	case l.now < c.active+q.after:
		l.enqueue(q, c)
	case q == &l.connecting:
		l.connectFailed(c, unix.ETIMEDOUT, nil)
	default:
		l.p.stats.idle.Add(1)
		l.end(c, true)
	}
}

// startTicking has epoll tell of the next tick.
func (l *loop) startTicking() {
	if l.ticking {
		return
	}
	l.ticking = true
	_ = unix.TimerfdSettime(l.tickFD, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(tick.Nanoseconds())}, nil)
}
