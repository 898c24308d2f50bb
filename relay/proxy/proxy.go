// Package proxy carries a relay's connections in user space, for machines where the kernel may not be told to.
//
// What it costs is system calls, so it makes few: each core has one loop around epoll, which holds all that its connections need and
// takes no lock, starts no goroutine and allocates nothing for one. A connection passes through, on one loop:
//
//	loop.accept      the kernel's queue, in bursts; relay.proxy.max_conns (accept.go)
//	loop.start       source's bound, slot, backend, budget, connect, what the client has sent already (start.go)
//	loop.drive       either side is ready: connect is over, bytes from one to the other, FIN, reset (drive.go)
//	loop.splice      bytes that come without end never leave the kernel (splice.go)
//	loop.end         both sides are closed, or reset
//	loop.expire      who has been silent for too long (timeout.go)
//
// The control plane talks to the loops by a plan they read with each connection (plan.go), and by Cut. While no backend of a listener's
// clients is up, the socket does not listen, and the kernel refuses: nothing of ours runs.
package proxy

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"spillway/relay"
)

// Config says what is carried where.
type Config struct {
	Listen   []string // "host:port"; ":80" is both families
	Backends []relay.Backend

	Budget         int           // connections that may wait for a backend's first sign of life; the plan's bands are parts of it
	MaxConns       int           // connections at once; more wait in the kernel's queue
	PerSource      int           // new connections a second of one IPv4 address or IPv6 /64; 0 means no bound
	ConnectTimeout time.Duration // for a backend to take a connection
	IdleTimeout    time.Duration // for silence both ways
	SendProxy      bool          // tell the backend the client's address: PROXY protocol, version 2

	loops int                  // for tests; 0 means one a core
	clock func() time.Duration // for tests; how long something unnamed has been running
}

// halfClosed is how long a connection may be silent that one side has ended: the other has its answer to give, and no more to wait for.
const halfClosed = 30 * time.Second

// Path is a relay.Path in user space.
type Path struct {
	cfg      Config
	log      *slog.Logger
	backends []*backend
	sources  *sources // nil: no bound
	maxConns int64

	plan      atomic.Pointer[plan] // nil before the first
	listeners []*listener
	loops     []*loop
	running   sync.WaitGroup // the loops

	waking sync.RWMutex // guards each loop's wakeFD, which others write to
	conns  atomic.Int64
	held   atomic.Int32 // loops that do not accept
	stats  stats
	closed chan struct{}
	once   sync.Once
}

// backend is what the loops share about one.
type backend struct {
	addr       address
	connecting atomic.Int64
	lateAt     atomic.Int64 // when a connect was given up last, by the loops' clock; 0: never

	opened, down, budget, spoken atomic.Uint64
}

// stats are the counters behind Stats.
type stats struct {
	failed, retried, nobody, idle, reset, buffers, files atomic.Uint64
}

// Stats is what relay.Counts has no place for; totals.
type Stats struct {
	Failed  uint64 // connects to a backend that were refused or timed out
	Retried uint64 // of those, connections that another backend was tried for
	Nobody  uint64 // connections refused because no family has a backend
	Idle    uint64 // connections ended because they were silent
	Reset   uint64 // connections ended because one side had reset it
	Buffers uint64 // connections ended for want of a buffer: too many clients or backends do not read
	Files   uint64 // pauses of accepting for want of file descriptors or memory
}

// Open binds cfg.Listen and starts the loops. Nothing listens before the first Apply. What strangers can trigger is logged to log, which
// should be a limited one.
func Open(cfg Config, log *slog.Logger) (*Path, error) {
	p := &Path{cfg: cfg, log: log, closed: make(chan struct{})}
	if err := p.check(); err != nil {
		return nil, err
	}
	if cfg.PerSource > 0 {
		p.sources = newSources(cfg.PerSource)
	}
	if p.cfg.clock == nil {
		begun := time.Now()
		p.cfg.clock = func() time.Duration { return time.Since(begun) }
	}
	for _, b := range cfg.Backends {
		addr, err := addressOf(b.Addr)
		if err != nil {
			return nil, fmt.Errorf("relay.backends: %w", err)
		}
		p.backends = append(p.backends, &backend{addr: addr})
	}
	p.maxConns = int64(fitConns(cfg.MaxConns, log))
	for _, at := range cfg.Listen {
		l, err := newListener(at)
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		p.listeners = append(p.listeners, l)
	}
	n := cfg.loops
	if n == 0 {
		n = runtime.GOMAXPROCS(0)
	}
	for range n {
		l, err := p.newLoop(n)
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		p.loops = append(p.loops, l)
		p.running.Go(l.run)
	}
	return p, nil
}

func (p *Path) check() error {
	switch {
	case len(p.cfg.Listen) == 0:
		return errors.New("relay.listen is empty; name an address, as \":80\"")
	case len(p.cfg.Backends) == 0:
		return errors.New("relay.backends is empty; name one, as \"10.66.0.2:6969\"")
	case len(p.cfg.Backends) > 1<<14:
		return fmt.Errorf("relay.backends: %d of them; at most %d", len(p.cfg.Backends), 1<<14)
	case p.cfg.Budget < 1:
		return fmt.Errorf("relay.budget: %d; at least 1", p.cfg.Budget)
	case p.cfg.MaxConns < 1:
		return fmt.Errorf("relay.proxy.max_conns: %d; at least 1", p.cfg.MaxConns)
	case p.cfg.PerSource < 0:
		return fmt.Errorf("relay.per_source: %d; 0 means no bound", p.cfg.PerSource)
	case p.cfg.ConnectTimeout <= 0:
		return fmt.Errorf("relay.proxy.connect_timeout: %v; more than 0", p.cfg.ConnectTimeout)
	case p.cfg.IdleTimeout <= 0:
		return fmt.Errorf("relay.proxy.idle_timeout: %v; more than 0", p.cfg.IdleTimeout)
	}
	return nil
}

// Close refuses what comes, resets every connection and waits for the loops.
func (p *Path) Close() error {
	p.once.Do(func() {
		for _, l := range p.listeners {
			l.refuse()
		}
		close(p.closed)
		for _, l := range p.loops {
			l.wake()
		}
		p.running.Wait()
		for _, l := range p.loops {
			l.close()
		}
		for _, l := range p.listeners {
			closeFD(l.fd)
		}
	})
	return nil
}

// Cut resets both sides of each connection to a backend, those that are being connected too. It ends early when cancelled is closed.
func (p *Path) Cut(backend int, cancelled <-chan struct{}) (flows int, err error) {
	if backend < 0 || backend >= len(p.backends) {
		return 0, fmt.Errorf("BUG: cut backend %d of %d", backend, len(p.backends))
	}
	c := &cut{backend: int16(backend), cancelled: cancelled, done: make(chan int, len(p.loops))}
	for _, l := range p.loops {
		select {
		case l.cuts <- c:
			l.wake()
		case <-p.closed:
			return 0, nil
		}
	}
	for range p.loops {
		select {
		case n := <-c.done:
			flows += n
		case <-p.closed:
			return flows, nil
		}
	}
	return flows, nil
}

// Counts are totals since Open.
func (p *Path) Counts() (relay.Counts, error) {
	c := relay.Counts{Conns: int(min(p.conns.Load(), p.maxConns)), ConnsMax: int(p.maxConns)}
	for _, b := range p.backends {
		c.Backends = append(c.Backends, relay.BackendCounts{
			Opened: b.opened.Load(), Down: b.down.Load(), Budget: b.budget.Load(), Unanswered: int(b.connecting.Load()),
			Spoken: b.spoken.Load(),
		})
	}
	if p.sources != nil {
		c.Source = p.sources.refused.Load()
	}
	return c, nil
}

// WriteMetrics writes Stats in Prometheus's text format.
func (p *Path) WriteMetrics(w io.Writer) {
	s := p.Stats()
	for _, ended := range []struct {
		name string
		n    uint64
	}{{"connect", s.Failed}, {"no_backend", s.Nobody}, {"idle", s.Idle}, {"reset", s.Reset}, {"buffers", s.Buffers}} {
		metrics.WriteCounterUint64(w, fmt.Sprintf("spillway_relay_proxy_ended_total{why=%q}", ended.name), ended.n)
	}
	metrics.WriteCounterUint64(w, "spillway_relay_proxy_retried_total", s.Retried)
	metrics.WriteCounterUint64(w, "spillway_relay_proxy_accept_paused_total", s.Files)
}

// Stats are totals since Open.
func (p *Path) Stats() Stats {
	s := &p.stats
	return Stats{Failed: s.failed.Load(), Retried: s.retried.Load(), Nobody: s.nobody.Load(), Idle: s.idle.Load(), Reset: s.reset.Load(),
		Buffers: s.buffers.Load(), Files: s.files.Load()}
}
