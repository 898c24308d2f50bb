package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// flow is an entry of the kernel's table: a connection that is forwarded to a backend.
type flow struct {
	client, dialled netip.AddrPort // what the client's packets say: from, to
	seen            netip.AddrPort // the client as the backend sees it: another address when masqueraded
	id              uint32         // another one for each entry that the same addresses ever have
	status          uint32
	state           tcpState
	answered        bool // while it is cut: has been refused since
}

// tcpState is what conntrack takes a connection's state to be, from what it has seen pass (enum tcp_conntrack).
type tcpState byte

const (
	tcpSynSent  tcpState = 1
	tcpTimeWait tcpState = 7
	tcpClose    tcpState = 8
	tcpSynSent2 tcpState = 9 // simultaneous open
)

// opening tells whether the backend has not answered yet.
func (s tcpState) opening() bool { return s == tcpSynSent || s == tcpSynSent2 }

// over tells whether both sides have closed, or one has reset.
func (s tcpState) over() bool { return s == tcpTimeWait || s == tcpClose }

// conntrackCounts are of the calling thread's network namespace: entries of the table of flows and how many it holds at most, and
// how many were not entered since the machine was started, as for want of a source port. It takes some 30 µs.
func conntrackCounts() (entries, most int, insertFailed uint64, err error) {
	c, err := openConntrack()
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	err = c.ask(ctGetStats, 0, unix.AF_UNSPEC, nil, func(attrs []byte) {
		entries, most = int(uint32Of(attribute(attrs, ctaStatsEntries))), int(uint32Of(attribute(attrs, ctaStatsMost)))
	})
	if err != nil {
		return 0, 0, 0, fmt.Errorf("counts: %w", err)
	}
	err = c.ask(ctGetStatsCPU, unix.NLM_F_DUMP, unix.AF_UNSPEC, nil, func(attrs []byte) {
		insertFailed += uint64(uint32Of(attribute(attrs, ctaInsertFailed)))
	})
	if err != nil {
		return 0, 0, 0, fmt.Errorf("counts of each CPU: %w", err)
	}
	return entries, most, insertFailed, nil
}

// ports is how many source ports there are for what is masqueraded, towards one address and port.
const ports = lastPort - firstPort + 1

// countAgain is how old a count of flows may be: it takes a second's tenth or more with a full table.
const countAgain = 5 * time.Second

// portGauge tells how many ports are used, at little cost. The zero value is ready.
type portGauge struct {
	mu      sync.Mutex // guards what follows, over a count
	counted time.Time
	share   float64
}

// used is the share of the source ports towards the busiest backend that masquerading has taken. It counts only while that may be
// more than half, and then every 5 seconds: until then it is what it would be if all entries of the table were to one backend. Safe
// for concurrent use.
func (g *portGauge) used(backends []netip.AddrPort, entries int) (float64, error) {
	if len(backends) == 0 {
		return 0, nil
	}
	if used := float64(entries) / ports; used < 0.5 {
		return used, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.counted) >= countAgain {
		share, err := countPorts(backends)
		if err != nil {
			return 0, fmt.Errorf("ports used: %w", err)
		}
		g.share, g.counted = share, time.Now()
	}
	return g.share, nil
}

func countPorts(backends []netip.AddrPort) (share float64, err error) {
	c, err := openConntrack()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	most := 0
	for _, b := range backends {
		n := 0
		if err := c.flows(netip.AddrPortFrom(b.Addr().Unmap(), b.Port()), func(*flow) { n++ }); err != nil {
			return 0, fmt.Errorf("towards %v: %w", b, err)
		}
		most = max(most, n)
	}
	return float64(most) / ports, nil
}
