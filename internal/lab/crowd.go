package lab

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/flood"
	"spillway/internal/sys"
)

// crowd is a load's thread, or one of them.
type crowd struct {
	*Load
	tally    Tally
	share    float64 // of the rate
	sources  uint16  // the first of its own
	poller   *sys.Poller
	from, to *sys.Addr
	places   []place
	free     []int32
	open     sys.Flight    // attempts, the oldest first
	holds    agenda        // those of them that wait before they ask
	repeats  agenda        // failed ones, to be made again
	keptOnes []int32       // places of kept connections
	asks     int           // of them, by turns
	flying   int           // attempts without an outcome
	settled  int           // of them that are open
	keptLook time.Duration // when those that are silent are looked for
	source   uint16        // of the last
	due      float64       // of the next, seconds since the start
	request  []byte        // of an attempt
	written  []byte        // the last of Load.Request
	again    []byte        // on a kept connection
	keep     int           // how many
	atOnce   int           // of a closed loop
	start    time.Time
	scratch  [16 << 10]byte
}

// later is something that is due at its time.
type later struct {
	at         time.Duration
	place      int32
	generation uint32
	try        uint8
	who        uint32
}

type placeState uint8

const (
	shut placeState = iota
	connecting
	holding
	asked
	keptOpening
	keptProving // asked for the first time
	keptIdle
	keptAsked
)

type place struct {
	fd         int32
	generation uint32
	state      placeState
	try        uint8
	who        uint32
	at         time.Duration // began
	since      time.Duration // of the state
}

// newCrowd is number i of n.
func newCrowd(l *Load, i, n int) *crowd {
	clients := clients4
	if l.Target.Addr().Is6() {
		clients = clients6
	}
	c := &crowd{Load: l, to: sys.NewAddr(l.Target), from: sys.NewAddr(netip.AddrPortFrom(clients.Addr(), 0)), share: 1 / float64(n),
		sources: uint16(i * l.Sources), places: make([]place, l.MaxOpen/n), open: sys.NewFlight(l.MaxOpen / n),
		keep: (l.Kept - i + n - 1) / n, atOnce: (l.AtOnce - i + n - 1) / n,
		request: announce(l.Target, "close"), again: announce(l.Target, "keep-alive")}
	for i := len(c.places) - 1; i >= 0; i-- {
		c.free = append(c.free, int32(i))
	}
	return c
}

// live is the thread's life: it opens what is kept, says so, and begins with the others.
func (c *crowd) live(ready chan<- error, begin <-chan struct{}) error {
	sys.LockThread()
	err := unix.Unshare(unix.CLONE_FILES)
	if err == nil {
		c.poller, err = sys.NewPoller()
	}
	if err == nil {
		defer c.close()
		c.start = time.Now()
		err = c.openKept()
	}
	ready <- err
	<-begin
	if err != nil {
		return nil // it has been told
	}
	c.start = c.Load.start
	before := sys.ThreadCPU()
	err = c.run()
	c.tally.CPU = sys.ThreadCPU() - before
	return err
}

// announce is a client's as a CDN passes it on: its address is in a header. One swarm of one peer makes the shortest reply, which
// is the relay's worst case: all of its work is connections.
func announce(target netip.AddrPort, connection string) []byte {
	var hash bytes.Buffer
	for _, b := range flood.InfoHash(1) {
		hash.WriteString("%" + hex.EncodeToString([]byte{b}))
	}
	return fmt.Appendf(nil, "GET /announce?info_hash=%s&peer_id=-LB0100-abcdefghijkl&port=6881&uploaded=0&downloaded=0&left=1&compact=1&numwant=0 HTTP/1.1\r\n"+
		"Host: %s\r\nX-Forwarded-For: 203.0.113.7\r\nUser-Agent: lab/1.0\r\nConnection: %s\r\n\r\n", hash.Bytes(), target, connection)
}

func (c *crowd) close() {
	for i := range c.places {
		if c.places[i].state != shut {
			sys.Close(c.places[i].fd)
		}
	}
	c.poller.Close()
}

func (c *crowd) now() time.Duration { return time.Since(c.start) }

// run is the crowd until it is stopped.
func (c *crowd) run() error {
	for _, i := range c.keptOnes { // all began before the start
		c.places[i].since = 0
	}
	c.tally.Kept = c.settled
	var stopped time.Duration
	for {
		now := c.now()
		if c.stop.Load() && stopped == 0 {
			stopped = now
		}
		if stopped == 0 && len(c.tally.Attempts) < maxAttempts {
			c.beginDue(now)
			c.askKept(now)
		} else if c.flying == 0 || now > stopped+time.Duration(c.wait.Load()) {
			for c.open.First != sys.None {
				c.finish(c.open.First, Timeout, now)
			}
			return nil
		}
		c.ask(now)
		c.expire(now)
		events, errno := c.poller.Wait(time.Millisecond)
		if errno != 0 {
			return fmt.Errorf("poll: %w", errno)
		}
		now = c.now()
		for i := range events {
			c.happened(&events[i], now)
		}
	}
}

// openKept opens the kept connections, a few at a time, and asks once on each: a connection that was never used proves nothing.
func (c *crowd) openKept() error {
	const atOnce, each = 20, 10 * time.Millisecond
	opening := time.Duration(-each)
	for begun := 0; c.settled < c.keep; {
		now := c.now()
		if now > keptWithin {
			return fmt.Errorf("only %d of %d connections to keep were opened in %s", c.settled, c.keep, keptWithin)
		}
		if now-opening >= each {
			opening = now
			// Those that were refused are opened again.
			for ; begun-len(c.tally.Ends) < min(c.keep, c.settled+atOnce); begun++ {
				if errno := c.begin(now, keptOpening, 0, 0); errno != 0 {
					return fmt.Errorf("connect to %s: %w", c.Target, errno)
				}
			}
		}
		events, errno := c.poller.Wait(each)
		if errno != 0 {
			return fmt.Errorf("poll: %w", errno)
		}
		for i := range events {
			c.happened(&events[i], now)
		}
	}
	c.tally.Ends = nil
	return nil
}

// beginDue makes the attempts whose time has come: fresh ones, and repeats.
func (c *crowd) beginDue(now time.Duration) {
	if c.AtOnce > 0 {
		for c.flying < c.atOnce && c.begin(now, connecting, 0, c.next()) == 0 {
		}
		return
	}
	rate := float64(c.rate.Load()) / 1000 * c.share
	if rate <= 0 {
		c.due = now.Seconds()
	}
	for n := 0; rate > 0 && c.due <= now.Seconds() && n < 1000; n++ {
		if now.Seconds()-c.due > behindAfter.Seconds() {
			c.tally.Behind++
		}
		c.begin(now, connecting, 0, c.next())
		c.due += 1 / rate
	}
	for len(c.repeats) > 0 && c.repeats[0].at <= now {
		r := c.repeats.pop()
		c.begin(now, connecting, r.try, r.who)
	}
}

// next is the client whose turn it is to come.
func (c *crowd) next() uint32 { return uint32(c.came.Add(1) - 1) }

// begin connects from the next source.
func (c *crowd) begin(now time.Duration, state placeState, try uint8, who uint32) unix.Errno {
	c.begun.Add(1)
	if len(c.free) == 0 {
		c.judge(now, now, try, who, Local)
		return unix.EMFILE
	}
	c.source = c.source%uint16(c.Sources) + 1
	c.from.SetHost(c.sources + c.source)
	fd, errno := sys.Dial(unix.SOCK_STREAM, c.from, c.to)
	if errno != 0 {
		if state == keptOpening {
			return errno
		}
		c.judge(now, now, try, who, connectOutcome(errno))
		return errno
	}
	i := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	p := &c.places[i]
	p.fd, p.state, p.try, p.who, p.at, p.since = fd, state, try, who, now, now
	if state != keptOpening {
		c.flying++
		c.open.Push(i)
	}
	if errno = c.poller.Add(fd, i, p.generation, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP); errno != 0 && state == keptOpening {
		c.release(i)
	} else if errno != 0 {
		c.finish(i, Local, now)
	}
	return errno
}

func connectOutcome(errno unix.Errno) Outcome {
	switch errno {
	case unix.ECONNREFUSED:
		return Refused
	case unix.ECONNRESET:
		return Reset
	case unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH:
		return Timeout // as a client sees it: nobody answered
	}
	return Local
}

// maxTry is where the count of a client's repeats ends.
const maxTry = 255

// agenda is what is due later, the earliest first: a binary heap.
type agenda []later

func (a *agenda) push(l later) {
	h := append(*a, l)
	for i := len(h) - 1; i > 0 && h[i].at < h[(i-1)/2].at; i = (i - 1) / 2 {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
	}
	*a = h
}

// pop must not be asked of an empty agenda.
func (a *agenda) pop() later {
	h := *a
	first, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		least := i
		for _, child := range [2]int{2*i + 1, 2*i + 2} {
			if child < last && h[child].at < h[least].at {
				least = child
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*a = h
	return first
}
