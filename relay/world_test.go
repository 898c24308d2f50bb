package relay

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// host is a backend's machine, in a bubble. How it fares may be changed at any time.
type host struct {
	mu      sync.Mutex // guards the rest
	fares   fate
	headers string
	latency time.Duration
	asking  int // connections open
	most    int // that were open at once
}

type fate int

const (
	well   fate = iota
	dead        // the process: the host answers with a reset
	gone        // the host: nothing comes back
	hung        // the process: connected, never answered
	unwell      // 503
	ours        // this machine has no socket to ask with
)

func (h *host) set(f fate, headers string, latency time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fares, h.headers, h.latency = f, headers, latency
}

func (h *host) get() (fate, string, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fares, h.headers, h.latency
}

func (h *host) count(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asking += n
	h.most = max(h.most, h.asking)
}

// ask is how a probe fares that ends with ctx.
func (h *host) ask(ctx context.Context, timeout time.Duration) (answer, outcome, string) {
	fail := func(err error, what string) (answer, outcome, string) {
		outcome, words := judge(err, what, timeout)
		return answer{}, outcome, words
	}
	wait := func(what string) (answer, outcome, string) {
		<-ctx.Done()
		return fail(os.ErrDeadlineExceeded, what)
	}
	f, headers, latency := h.get()
	switch f {
	case dead:
		return fail(syscall.ECONNREFUSED, "no connection")
	case ours:
		return fail(syscall.EMFILE, "no connection")
	}
	h.count(1)
	defer h.count(-1)
	if f == gone {
		return wait("no connection")
	}
	select {
	case <-ctx.Done():
	case <-time.After(latency):
		switch f {
		case well:
			return readAnswer([]byte("HTTP/1.1 200 OK\r\n" + headers + "\r\n"))
		case unwell:
			return readAnswer([]byte("HTTP/1.1 503 Service Unavailable\r\n\r\n"))
		}
	}
	return wait("connected, but no answer")
}

// worldProber asks the hosts of a world.
type worldProber struct {
	w      *world
	ctx    context.Context
	cancel func()
	work   sync.WaitGroup
	ended  chan probed
	nudged chan struct{}
}

func (q *worldProber) ask(p probed) {
	q.work.Go(func() {
		timeout := q.w.cfg.Health.Timeout
		ctx, cancel := context.WithTimeout(q.ctx, timeout)
		defer cancel()
		p.answer, p.outcome, p.words = q.w.host(p.backend).ask(ctx, timeout)
		p.took = time.Since(p.started)
		q.ended <- p
	})
}

func (q *worldProber) wait(until time.Time) []probed {
	select {
	case p := <-q.ended:
		return []probed{p}
	case <-time.After(time.Until(until)):
	case <-q.nudged:
	}
	return nil
}

func (q *worldProber) nudge() {
	select {
	case q.nudged <- struct{}{}:
	default:
	}
}

func (q *worldProber) close() {
	q.cancel()
	q.work.Wait()
}

// path keeps what it is told. What it counts is set by the test.
type path struct {
	mu       sync.Mutex // guards the rest
	began    time.Time
	plans    []planned
	applyErr error
	stall    time.Duration // of the next Apply
	count    func() Counts
	opened   uint64
	backends int
	cutTakes time.Duration
	cutErr   error
	cuts     []cut
}

type planned struct {
	Plan
	after time.Duration
}

func (p planned) String() string { return fmt.Sprintf("%s: down %v, open %v", p.after, p.Down, p.Open) }

type cut struct {
	backend      int
	after, ended time.Duration
	cancelled    bool
}

func (p *path) Apply(plan Plan) error {
	p.mu.Lock()
	p.plans = append(p.plans, planned{plan, time.Since(p.began)})
	stall, err := p.stall, p.applyErr
	p.stall = 0
	p.mu.Unlock()
	time.Sleep(stall)
	return err
}

func (p *path) Cut(backend int, cancelled <-chan struct{}) (int, error) {
	p.mu.Lock()
	c := cut{backend: backend, after: time.Since(p.began)}
	takes, err := p.cutTakes, p.cutErr
	p.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-cancelled:
		c.cancelled = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.ended = time.Since(p.began)
	p.cuts = append(p.cuts, c)
	return 7, err
}

func (p *path) Counts() (Counts, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count != nil {
		return p.count(), nil
	}
	// So few connections say nothing, for or against a backend.
	p.opened++
	return Counts{Backends: slices.Repeat([]BackendCounts{{Opened: p.opened}}, p.backends)}, nil
}

func (p *path) set(change func(*path)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// counts has the path count for its one backend by f, which is told how long there has been a path, in milliseconds. The path's lock is held.
func (p *path) counts(f func(ms int) BackendCounts) {
	p.set(func(p *path) {
		p.count = func() Counts {
			return Counts{Backends: []BackendCounts{f(int(time.Since(p.began).Milliseconds()))}}
		}
	})
}

// changes are the plans that differ from the one before, after a time.
func (p *path) changes(since time.Duration) (changed []planned) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, plan := range p.plans {
		if plan.after >= since && (i == 0 || !plan.equal(&p.plans[i-1].Plan)) {
			changed = append(changed, plan)
		}
	}
	return changed
}

// told is how often Apply was called.
func (p *path) told() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.plans)
}

func (p *path) cutsSoFar() []cut {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.cuts)
}

// output is a log that many goroutines may write.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) count(text string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Count(o.buf.String(), text)
}

// world is a relay, its path and its backends, in a bubble.
type world struct {
	*Relay
	path  *path
	hosts map[netip.AddrPort]*host
	log   *output
}

func (w *world) host(i int) *host { return w.hosts[w.cfg.Backends[i].Addr] }

// in has a story told in a bubble.
func in(t *testing.T, backends []string, story func(t *testing.T, w *world)) {
	t.Helper()
	inWith(t, Health{}, backends, story)
}

func inWith(t *testing.T, health Health, backends []string, story func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{hosts: map[netip.AddrPort]*host{}, log: &output{}}
		cfg := Config{Mode: "kernel", ModeWhy: "it may", Listen: []string{":80"}, Profile: "fast-fail", Health: health}
		for _, text := range backends {
			addr, times, weighted := strings.Cut(text, "*")
			b := Backend{Addr: netip.MustParseAddrPort(addr), Weight: 1}
			if weighted {
				b.Weight, _ = strconv.Atoi(times)
			}
			cfg.Backends = append(cfg.Backends, b)
			w.hosts[b.Addr] = &host{latency: time.Millisecond}
		}
		w.path = &path{began: time.Now(), backends: len(backends)}
		w.Relay = New(cfg, w.path, slog.New(slog.NewTextHandler(w.log, nil)))
		q := &worldProber{w: w, ended: make(chan probed, 1000), nudged: make(chan struct{}, 1)}
		q.ctx, q.cancel = context.WithCancel(context.Background())
		w.prober = q
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Run(ctx)
		}()
		defer func() {
			cancel()
			<-done
			time.Sleep(time.Second) // for a slow host to see it
			synctest.Wait()
			for addr, h := range w.hosts {
				h.mu.Lock()
				defer h.mu.Unlock()
				if h.asking != 0 || h.most > w.flights {
					t.Errorf("%s: %d connections are left, %d were open at once, want at most %d", addr, h.asking, h.most, w.flights)
				}
			}
		}()
		story(t, w)
	})
}
