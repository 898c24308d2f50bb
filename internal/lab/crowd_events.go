package lab

import (
	"bytes"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// happened takes what the kernel tells of one connection.
func (c *crowd) happened(e *unix.EpollEvent, now time.Duration) {
	i := e.Fd
	p := &c.places[i]
	if p.generation != uint32(e.Pad) {
		return // closed meanwhile
	}
	ended := e.Events&(unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLRDHUP) != 0
	switch p.state {
	case connecting:
		switch {
		case e.Events&unix.EPOLLERR != 0:
			c.finish(i, connectOutcome(socketError(p.fd)), now)
		case e.Events&unix.EPOLLHUP != 0:
			c.finish(i, Reset, now)
		case e.Events&unix.EPOLLOUT != 0 && c.Hold > 0:
			p.state, p.since = holding, now
			c.holds.push(later{at: now + c.Hold, place: i, generation: p.generation})
		case e.Events&unix.EPOLLOUT != 0:
			c.send(i, now)
		}
	case holding:
		if ended {
			c.finish(i, Reset, now)
		}
	case asked:
		c.read(i, now)
	case keptOpening:
		if e.Events&unix.EPOLLERR != 0 {
			c.endKept(i, connectOutcome(socketError(p.fd)), now)
		} else if e.Events&unix.EPOLLOUT != 0 {
			c.sendKept(i, keptProving, now)
		}
	case keptProving, keptIdle, keptAsked:
		c.readKept(i, ended, now)
	}
}

func socketError(fd int32) unix.Errno {
	v, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || v == 0 {
		return unix.ECONNRESET
	}
	return unix.Errno(v)
}

// ask sends the requests of those that have waited enough.
func (c *crowd) ask(now time.Duration) {
	for len(c.holds) > 0 && c.holds[0].at <= now {
		h := c.holds.pop()
		if p := &c.places[h.place]; p.generation == h.generation && p.state == holding {
			c.send(h.place, now)
		}
	}
}

func (c *crowd) send(i int32, now time.Duration) {
	p := &c.places[i]
	request := c.request
	if c.Request != nil {
		request = c.Request(c.written[:0], p.who)
		c.written = request
	}
	if n, errno := sys.Send(p.fd, request); errno != 0 || n < len(request) {
		c.finish(i, Reset, now)
		return
	}
	p.state, p.since = asked, now
}

// read takes the reply. Its end is the connection's, which the server closes first.
func (c *crowd) read(i int32, now time.Duration) {
	p := &c.places[i]
	n, errno := sys.Recv(p.fd, c.scratch[:])
	switch {
	case errno == unix.EAGAIN:
	case errno != 0 || n == 0:
		c.finish(i, Reset, now)
	case c.Judge != nil:
		c.finish(i, c.Judge(c.scratch[:n]), now)
	default:
		c.finish(i, classify(c.scratch[:n]), now)
	}
}

var (
	headOK      = []byte("HTTP/1.1 200 ")
	endOfHead   = []byte("\r\n\r\n")
	keyInterval = []byte("8:interval")
)

// classify judges a reply. Those to announce's request are of 300 bytes and come in one piece.
func classify(b []byte) Outcome {
	head := bytes.Index(b, endOfHead)
	switch {
	case !bytes.HasPrefix(b, headOK[:9]) || len(b) < len(headOK) || head < 0:
		return Bad
	case b[9] == '5' || b[9] == '4': // 502, 503, 429: somebody said no
		return Shed
	case !bytes.HasPrefix(b, headOK):
		return Bad
	}
	body := b[head+len(endOfHead):]
	switch {
	case len(body) == 0 || body[0] != 'd' || body[len(body)-1] != 'e':
		return Bad
	case bytes.Contains(body, []byte("14:failure reason")):
		return Shed
	case bytes.Contains(body, keyInterval):
		return OK
	}
	return Bad
}

// expire gives up attempts that take too long, and kept connections that do not answer.
func (c *crowd) expire(now time.Duration) {
	for c.open.First != sys.None && now-c.places[c.open.First].at >= c.Timeout {
		c.finish(c.open.First, Timeout, now)
	}
	if c.settled == 0 || now < c.keptLook {
		return
	}
	c.keptLook = now + keptLookEach
	for _, i := range c.keptOnes {
		if p := &c.places[i]; p.state == keptAsked && now-p.since >= c.Timeout {
			c.endKept(i, Timeout, now)
		}
	}
}

const keptLookEach = 20 * time.Millisecond

// finish ends an attempt.
func (c *crowd) finish(i int32, o Outcome, now time.Duration) {
	p := &c.places[i]
	at, try, who := p.at, p.try, p.who
	c.flying--
	c.open.Remove(i)
	c.release(i)
	c.judge(at, now, try, who, o)
}

func (c *crowd) release(i int32) {
	p := &c.places[i]
	sys.Close(p.fd)
	p.state = shut
	p.generation++
	c.free = append(c.free, i)
}

// judge writes an attempt down, and has it repeated if it failed.
func (c *crowd) judge(at, now time.Duration, try uint8, who uint32, o Outcome) {
	c.tally.Attempts = append(c.tally.Attempts, Attempt{At: at, Took: now - at, Outcome: o, Try: try})
	c.ended[o].Add(1)
	if !o.Failed() || c.stop.Load() {
		return
	}
	after := c.Again
	if c.Retry != nil {
		after = c.Retry(who, int(try)+1)
	} else if int(try) >= c.Tries {
		return
	}
	c.repeats.push(later{at: now + after, try: min(try, maxTry-1) + 1, who: who})
}

// askKept has kept connections ask by turns, each once in KeptAsk.
func (c *crowd) askKept(now time.Duration) {
	if c.KeptAsk <= 0 || len(c.keptOnes) == 0 {
		return
	}
	want := int(float64(len(c.keptOnes)) * float64(now) / float64(c.KeptAsk))
	for ; c.asks < want; c.asks++ {
		if i := c.keptOnes[c.asks%len(c.keptOnes)]; c.places[i].state == keptIdle {
			c.sendKept(i, keptAsked, now)
		}
	}
}

func (c *crowd) sendKept(i int32, state placeState, now time.Duration) {
	p := &c.places[i]
	if n, errno := sys.Send(p.fd, c.again); errno != 0 || n < len(c.again) {
		c.endKept(i, Reset, now)
		return
	}
	p.state, p.since = state, now
}

func (c *crowd) readKept(i int32, ended bool, now time.Duration) {
	p := &c.places[i]
	n, errno := sys.Recv(p.fd, c.scratch[:])
	switch {
	case errno == unix.EAGAIN && !ended:
		return
	case errno != 0 || n == 0:
		c.endKept(i, Reset, now)
		return
	}
	if p.state == keptProving {
		c.settled++
		c.keptOnes = append(c.keptOnes, i)
	} else {
		c.tally.Replies++
	}
	if p.state, p.since = keptIdle, now; ended {
		c.endKept(i, Reset, now)
	}
}

// endKept is for good: what was kept is not opened again.
func (c *crowd) endKept(i int32, how Outcome, now time.Duration) {
	c.tally.Ends = append(c.tally.Ends, End{now, how})
	p := &c.places[i]
	if p.state == keptOpening || p.state == keptProving {
		c.release(i)
		return
	}
	c.settled--
	sys.Close(p.fd)
	p.state = shut
	p.generation++ // the place is not used again: keptOnes names it
}
