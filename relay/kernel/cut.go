package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// CutMark is on packets that are not tracked: the table's raw output chain has the notrack rule.
const CutMark = 0x5b11

const (
	// cutFlows is how many flows are held, at some 7 MB. What is beyond is forgotten by the kernel without a word to the peers.
	cutFlows = 1 << 16

	// Of a cut, from its start: when the peers have been told, and when the kernel has forgotten.
	cutCourtesy = 800 * time.Millisecond
	cutTime     = time.Second

	// cutAgain is when clients that have not answered are asked once more. A peer answers a socket's stray SYNs twice a second at
	// most (Linux, tcp_invalid_ratelimit), but those of the first time may be lost.
	cutAgain = 250 * time.Millisecond
	// cutTunnel is how long a backend's answers may take, so that they find their flow.
	cutTunnel = 100 * time.Millisecond
	cutPoll   = 20 * time.Millisecond

	// 100,000 packets a second, each of which has an answer, and that an answer: what one core can do beside its work, without its
	// queues, of a thousand packets, being overrun. A busy machine wakes us late, and lets us send more at once for it.
	cutBatch     = 200
	cutPause     = 2 * time.Millisecond
	cutBatchMost = 500
)

// cutter ends the flows of a backend that has died, of which the table refuses each segment with an exact reset by then. What it
// lacks is a segment. So:
//
//	spoof to clients    a bare SYN of a flow that is established is answered by the sequence numbers in force (RFC 5961, 4.2). The
//	                    answer meets the table's refusal, whose reset is exact. A client whose connection is not established yet
//	                    takes it for a simultaneous open: its SYN-ACK is refused as well.
//	await               until conntrack has seen the refusal of each (since Linux 6.3; the others take their time), once more to
//	                    those that were not
//	spoof to the backend  which may hang only, and would answer them all when it no longer does
//	delete              the entries. What comes later of a flow is refused because it has none.
type cutter struct {
	log   *slog.Logger
	spoof *spoofer

	mu sync.Mutex // guards ct, for one exchange: backends that die together are cut together
	ct *conntrack
}

// newCutter opens the sockets, in the network namespace of the calling thread. It needs CAP_NET_ADMIN and CAP_NET_RAW.
func newCutter(log *slog.Logger) (*cutter, error) {
	s, err := newSpoofer()
	if err != nil {
		return nil, err
	}
	ct, err := openConntrack()
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return &cutter{log: log, spoof: s, ct: ct}, nil
}

func (c *cutter) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.spoof.close(), c.ct.close())
}

// cut ends the flows to a backend, whether masqueraded or not, in a second at most. It ends early when cancelled is closed: then
// what the kernel has not forgotten goes on, and it is safe for flows made since. It tells how many it has ended, without those
// that were over already. Safe for concurrent use.
func (c *cutter) cut(backend netip.AddrPort, cancelled <-chan struct{}) (flows int, err error) {
	start := time.Now()
	backend = netip.AddrPortFrom(backend.Addr().Unmap(), backend.Port())
	held, closed, beyond, err := c.list(backend, false)
	if err != nil {
		return 0, err
	}
	listed := time.Since(start)
	untold := c.tellClients(backend, held, start.Add(cutCourtesy), cancelled)
	c.tellBackend(backend, held, start.Add(cutCourtesy), cancelled)
	told := time.Since(start)

	end := start.Add(cutTime)
	flows, left, err := c.forget(held, end, cancelled)
	for rest := closed + beyond; rest > 0 && err == nil && goesOn(end, cancelled); rest = beyond {
		// Some of these may be younger than the cut. While it is not cancelled they are refused all the same.
		if held, _, beyond, err = c.list(backend, true); err == nil {
			var more int
			more, left, err = c.forget(held, end, cancelled)
			flows += more
		}
	}
	if err == nil && untold+left > 0 && goesOn(time.Now().Add(cutTime), cancelled) {
		err = fmt.Errorf("cut %v: a second was too short: %d clients not told, %d flows left; they are refused with their next segment", backend, untold, left+beyond)
	}
	c.log.Debug("flows cut", "backend", backend, "flows", flows, "closed", closed, "listed", listed, "told", told, "took", time.Since(start))
	return flows, err
}

// list gives the flows to a backend, as many as are held, in order of id, and how many there are beyond. Those that both sides have
// closed, which may be most, it only counts, unless it is told otherwise.
func (c *cutter) list(backend netip.AddrPort, all bool) (held []flow, closed, beyond int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.ct.flows(backend, func(f *flow) {
		switch {
		case f.state == tcpTimeWait && !all:
			closed++
		case len(held) < cutFlows:
			held = append(held, *f)
		default:
			beyond++
		}
	})
	slices.SortFunc(held, func(a, b flow) int { return cmp.Compare(a.id, b.id) })
	if beyond > 0 {
		c.log.Warn("a dead backend has more flows than are reset one by one; the others are with their next segment",
			"backend", backend, "flows", len(held), "others", beyond)
	}
	return held, closed, beyond, err
}

// tellClients has the clients of flows ask for their reset, and waits for that. It tells for how many there was no time.
func (c *cutter) tellClients(backend netip.AddrPort, flows []flow, end time.Time, cancelled <-chan struct{}) (untold int) {
	for try := range 2 {
		again := time.Now().Add(cutAgain)
		waiting := 0
		left := c.spoof.send(flows, end, cancelled, func(f *flow) (from, to netip.AddrPort, ok bool) {
			if f.answered || f.state.over() {
				return from, to, false
			}
			if !f.state.opening() { // of whose refusal conntrack learns nothing
				waiting++
			}
			return f.dialled, f.client, true
		})
		if try == 0 {
			untold = left
		}
		pause := cutPoll
		for waiting > 0 && time.Now().Before(again) {
			if !goesOn(end, cancelled) || !wait(pause, cancelled) {
				return untold
			}
			asked := time.Now()
			waiting = c.unanswered(backend, flows)
			pause = max(cutPoll, 4*time.Since(asked)) // it goes over the whole table
		}
		if waiting == 0 {
			break
		}
	}
	return untold
}

// unanswered sees which flows have not been refused yet, and tells how many those are, without what conntrack will not tell of.
func (c *cutter) unanswered(backend netip.AddrPort, flows []flow) (n int) {
	for i := range flows {
		flows[i].answered = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.ct.flows(backend, func(f *flow) {
		i, ok := slices.BinarySearchFunc(flows, f.id, func(f flow, id uint32) int { return cmp.Compare(f.id, id) })
		if !ok || f.state.over() {
			return
		}
		flows[i].answered = false
		if !f.state.opening() {
			n++
		}
	})
	if err != nil {
		c.log.Debug("flows not looked at", "backend", backend, "err", err)
	}
	return n
}

// tellBackend has the backend ask for the resets of its side, of flows that it has answered. Those of which somebody was reset
// come last: it may have been the backend.
func (c *cutter) tellBackend(backend netip.AddrPort, flows []flow, end time.Time, cancelled <-chan struct{}) {
	told := false
	for _, reset := range []bool{false, true} {
		c.spoof.send(flows, end, cancelled, func(f *flow) (from, to netip.AddrPort, ok bool) {
			ok = !f.state.opening() && (f.state == tcpClose) == reset
			told = told || ok
			return f.seen, backend, ok
		})
	}
	if told && goesOn(end, cancelled) {
		wait(cutTunnel, cancelled)
	}
}

// forget deletes flows, and tells how many of them were not over, and for how many there was no time.
func (c *cutter) forget(flows []flow, end time.Time, cancelled <-chan struct{}) (n, left int, err error) {
	left = len(flows)
	for some := range slices.Chunk(flows, deletesAtOnce) {
		if !goesOn(end, cancelled) {
			return n, left, nil
		}
		c.mu.Lock()
		_, err := c.ct.delete(some)
		c.mu.Unlock()
		if err != nil {
			return n, left, err
		}
		left -= len(some)
		for i := range some {
			if !some[i].state.over() {
				n++
			}
		}
	}
	return n, left, nil
}

func goesOn(end time.Time, cancelled <-chan struct{}) bool {
	select {
	case <-cancelled:
		return false
	default:
		return time.Now().Before(end)
	}
}

// wait tells whether it has waited for d, without being cancelled.
func wait(d time.Duration, cancelled <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-cancelled:
		return false
	case <-t.C:
		return true
	}
}
