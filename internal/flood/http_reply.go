package flood

import (
	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// ready is told what the poll found.
func (e *httpEngine) ready(i int32, generation, events uint32, now int64) {
	p := &e.places[i]
	if p.generation != generation {
		return
	}
	if p.state == connecting {
		switch {
		case events&(unix.EPOLLERR|unix.EPOLLHUP) != 0:
			_, errno := sys.Recv(p.fd, e.scratch)
			e.dialErr = errno
			e.fail(i, connectOutcome(errno), now)
			return
		case events&unix.EPOLLOUT == 0:
			return
		case e.talk != nil:
			b := e.requests.upgrade(int(p.source))
			if n, errno := sys.Send(p.fd, b); errno != 0 || n < len(b) {
				e.dialErr = errno
				e.fail(i, reset, now)
				return
			}
			p.state = upgrading
		case e.keep:
			e.settled(i)
		default:
			e.sendFirst(i, now)
		}
	}
	if events&(unix.EPOLLIN|endEvents) == 0 || p.generation != generation {
		return
	}
	if e.talk != nil {
		e.readMessages(i, events&endEvents != 0, now)
	} else {
		e.readable(i, events&endEvents != 0, now)
	}
}

// settled puts a kept connection that is open now among those that can be used.
func (e *httpEngine) settled(i int32) {
	e.connecting--
	e.opened++
	e.flight.Remove(i)
	e.places[i].state = idle
	e.setUsable(i)
}

// readable reads all there is: the poll is edge-triggered. A reply in one piece, as nearly all are, is judged where it was read.
func (e *httpEngine) readable(i int32, ended bool, now int64) {
	p := &e.places[i]
	own := e.partial[int(i)*partialBytes : int(i+1)*partialBytes]
	for {
		into := e.scratch
		if p.got > 0 {
			into = own[p.got:]
		}
		n, errno := sys.Recv(p.fd, into)
		switch {
		case errno == unix.EAGAIN:
			return
		case errno != 0:
			e.fail(i, reset, now)
			return
		case n == 0:
			e.end(i, own[:p.got], now)
			return
		}
		data := into[:n]
		if p.got > 0 {
			data = own[:int(p.got)+n]
		}
		switch p.state {
		case idle:
			e.fail(i, malformed, now) // nobody asked
			return
		case asked:
			if o := e.judge(data, false); o != pending {
				if e.finish(i, o, now); p.state == shut {
					return
				}
			} else if len(data) >= partialBytes {
				e.fail(i, malformed, now)
				return
			} else {
				if p.got == 0 {
					copy(own, data)
				}
				p.got = int32(len(data))
			}
		}
		if !ended && n < len(into) {
			return
		}
	}
}

func (e *httpEngine) judge(b []byte, ended bool) outcome {
	switch {
	case e.upgrade:
		return classifyUpgrade(b, ended)
	case e.cfg.Mode == Scrape:
		return classifyScrape(b, e.key, ended)
	}
	return classify(b, e.key, ended)
}

// finish counts an answer. A kept connection is free for the next request; another is waited for until the server closes it, as a
// client does that reads to the end: so the server is the first to close, and TIME_WAIT is its own.
func (e *httpEngine) finish(i int32, o outcome, now int64) {
	p := &e.places[i]
	e.record(p.req, o, now)
	e.unanswered--
	p.got = 0
	switch {
	case e.keep && o != malformed:
		e.flight.Remove(i)
		p.state = idle
		e.setUsable(i)
	case !e.keep && !e.upgrade:
		p.state = answered
	default:
		p.state = answered // it has been counted
		e.shutPlace(i, true, now)
	}
}

// end is the server's.
func (e *httpEngine) end(i int32, rest []byte, now int64) {
	p := &e.places[i]
	if p.state == asked {
		o := e.judge(rest, true)
		if o == pending {
			o = reset
		}
		e.record(p.req, o, now)
		e.unanswered--
		p.state = answered
	}
	e.shutPlace(i, false, now)
}

// fail counts the request on the way, if there is one, and closes.
func (e *httpEngine) fail(i int32, o outcome, now int64) {
	p := &e.places[i]
	if p.state == asked || p.state == connecting && !e.keep {
		e.record(p.req, o, now)
		e.unanswered--
	}
	if p.state == connecting || p.state == upgrading {
		p.since = now + reopenAfter
	} else {
		p.since = now
	}
	e.shutPlace(i, true, now)
}

func (e *httpEngine) shutPlace(i int32, abort bool, now int64) {
	p := &e.places[i]
	switch p.state {
	case idle:
		e.opened--
	case connecting, upgrading:
		e.connecting--
		e.flight.Remove(i)
	default:
		if e.keep {
			e.opened--
		}
		e.flight.Remove(i)
	}
	if p.fd != none {
		if abort {
			sys.Abort(p.fd)
		} else {
			sys.Close(p.fd)
		}
	}
	failed := p.state == connecting || p.state == upgrading
	p.fd, p.state, p.got = none, shut, 0
	p.generation++
	if !e.keep {
		e.setUsable(i)
		return
	}
	if !failed {
		p.since = now
		e.tally.reopened++
	}
	e.reopen.push(i)
}

// expire gives up connections that have brought nothing within the timeout.
func (e *httpEngine) expire(now int64) (next int64) {
	next = never
	if e.reopen.n > 0 && e.connecting < connectingAtOnce {
		next = e.places[e.reopen.first()].since
	}
	for i := e.flight.First; i != none; i = e.flight.First {
		if at := e.places[i].since + int64(e.cfg.Timeout); at > now {
			return min(next, at)
		}
		e.fail(i, timedOut, now)
	}
	return next
}

func (e *httpEngine) giveUp(now int64) {
	for i := range e.places {
		if p := &e.places[i]; p.state == asked || p.state == connecting && !e.keep {
			e.record(p.req, timedOut, now)
		}
	}
	e.unanswered = 0
}

func (e *httpEngine) shift(by int64) {
	for i := range e.places {
		e.places[i].since -= by
	}
}

func (e *httpEngine) close() {
	for i := range e.places {
		if fd := e.places[i].fd; fd != none {
			sys.Abort(fd)
		}
	}
	e.poller.Close()
}
