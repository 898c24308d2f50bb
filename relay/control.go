package relay

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// ModeProxy is the mode in which this program ends TCP itself.
const ModeProxy = "proxy"

// Health is how backends are asked. Zero values mean the defaults.
type Health struct {
	Path           string        // /healthz
	Every, Timeout time.Duration // between two probes of a backend 100 ms at the most, or three times that while all is well; for one 300 ms
	Fall, Rise     int           // failures in a row that bring a backend down, 2; successes that bring it up, 1
	Proxied        bool          // backends want the PROXY protocol
}

// Config says what is forwarded where.
type Config struct {
	Backends   []Backend // each address once
	Listen     []string  // for Status
	Mode       string    // kernel or ModeProxy
	ModeWhy    string
	Masquerade bool
	Health     Health
	Budget     int    // connections that may wait for a backend's first sign of life; zero means 1,500
	Profile    string // fast-fail or none, for Status
}

const (
	applyEvery = time.Second            // a third of Forget
	countEvery = 200 * time.Millisecond // a sign must be there before a probe has timed out
	countSoon  = 100 * time.Millisecond // while a probe is late
	tickEvery  = 50 * time.Millisecond  // while a probe may be late, or a budget grows
	cutAgain   = time.Second            // after a cut that failed
	excuseFor  = 10 * time.Second       // of probes unanswered, for a backend that speaks
	// A relay that was not run for so long that its own timers were late cannot blame a backend for it; but not again and again,
	// since a storm is when it must not hesitate.
	pardonEvery = 10 * time.Second
)

// Relay is the control plane. Its methods are safe for concurrent use.
type Relay struct {
	cfg     Config
	path    Path
	log     *slog.Logger
	prober  asker
	flights int // of a backend at once
	started time.Time

	cuts chan cutEnd
	work sync.WaitGroup // cuts

	// Of Run's goroutine alone.
	spread4, spread6     *spread
	tried                Plan // what Apply was called with last
	nextApply, lastCount time.Time
	pardoned             time.Time // probes started before may have timed out for our own fault
	ports, conntrack     alarm

	mu       sync.Mutex // guards what follows; Run's goroutine alone writes it
	watched  []*watched
	slots4   [Slots]int16
	slots6   [Slots]int16
	counts   history
	state    string
	since    time.Time
	ready    bool   // a plan has been applied
	applyErr string // of the last Apply; empty: none
	countErr string
	events   []Event // the newest first

	cutFlows, applyErrors, countErrors, cutErrors uint64
}

// watched is a backend and what is known of it.
type watched struct {
	Backend
	index   int
	health  health
	budget  budget
	signs   signs
	suspect bool

	flying []flight  // probes under way, the oldest first
	probes uint64    // that have been started
	next   time.Time // when another is
	usual  time.Duration
	blind  bool // the last probe could not be sent, for a fault of this machine

	cutDue  time.Time     // when its flows are to be ended; zero: they need not
	cutting chan struct{} // while they are: closed when they need not any more
	cutStop bool          // it is closed
	cutErr  string

	askedOK time.Time // when a probe was answered last
	spoke   time.Time // data came from it after this time; zero: none yet
	excused uint64    // probes that timed out while it spoke, or while this process was not run

	why    string // the last failure
	failed time.Time
	took   time.Duration // of the last answer
	answer answer
	ended  [outcomeCount]uint64
	downs  uint64
}

// flight is a probe under way.
type flight struct {
	number  uint64
	started time.Time
}

// cutEnd is how Path.Cut ended.
type cutEnd struct {
	backend, flows int
	err            error
}

// New returns a relay that steers path. The caller calls Run, and closes path after it. The log gets events, never connections.
func New(cfg Config, path Path, log *slog.Logger) *Relay {
	cfg.Backends = slices.Clone(cfg.Backends)
	cfg.Listen = slices.Clone(cfg.Listen)
	cfg.Health = cfg.Health.withDefaults()
	if cfg.Budget <= 0 {
		cfg.Budget = 1500
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	now := time.Now()
	r := &Relay{
		cfg: cfg, path: path, log: log, started: now, since: now, state: stateForwarding,
		flights: int(cfg.Health.Timeout/cfg.Health.Every) + 1,
		ports:   alarm{high: 0.7, low: 0.6}, conntrack: alarm{high: 0.8, low: 0.7},
		cuts: make(chan cutEnd, len(cfg.Backends)),
	}
	r.prober = newProber(cfg.Backends, cfg.Health)
	var v4, v6 []int16
	for i, b := range cfg.Backends {
		r.watched = append(r.watched, &watched{
			Backend: b, index: i, budget: newBudget(now), health: newHealth(cfg.Health.Fall, cfg.Health.Rise, now),
		})
		if b.Addr.Addr().Is4() {
			v4 = append(v4, int16(i))
		} else {
			v6 = append(v6, int16(i))
		}
	}
	weight := func(i int16) int { return max(cfg.Backends[i].Weight, 1) }
	r.spread4, r.spread6 = newSpread(v4, weight), newSpread(v6, weight)
	r.respread()
	return r
}

func (h Health) withDefaults() Health {
	if h.Path == "" {
		h.Path = "/healthz"
	}
	if h.Every <= 0 {
		h.Every = 100 * time.Millisecond
	}
	if h.Timeout <= 0 {
		h.Timeout = 300 * time.Millisecond
	}
	h.Fall = cmp.Or(max(h.Fall, 0), 2)
	h.Rise = cmp.Or(max(h.Rise, 0), 1)
	return h
}

// Run probes the backends and steers the path until ctx ends, gives up its probes, and waits for its cuts. It leaves the last plan in force:
// the kernel forgets what is refused after Forget. It is called once.
func (r *Relay) Run(ctx context.Context) {
	defer r.work.Wait()
	defer r.stopCuts()
	defer r.prober.close()

	now := time.Now()
	for _, w := range r.watched {
		w.next = now.Add(rand.N(r.cfg.Health.Every))
	}
	defer context.AfterFunc(ctx, r.prober.nudge)()
	for wake := now; ; {
		ended := r.prober.wait(wake)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		r.noticeStall(now, wake)
		r.mu.Lock()
		for _, p := range ended {
			r.take(p, now)
		}
		r.takeCuts(now)
		r.mu.Unlock()
		wake = r.turn(now)
	}
}

// turn does what is due, and tells when to come again.
func (r *Relay) turn(now time.Time) time.Time {
	r.mu.Lock()
	for _, w := range r.watched {
		r.judgeLate(w, now)
		r.startProbe(w, now)
		r.stepBudget(w, now)
	}
	plan := r.plan()
	r.mu.Unlock()

	if !now.Before(r.nextApply) || !plan.equal(&r.tried) {
		err := r.path.Apply(plan.clone())
		r.tried, r.nextApply = plan, now.Add(applyEvery)
		r.mu.Lock()
		r.applied(err)
		r.mu.Unlock()
	}
	r.startCuts(now)
	if !now.Before(r.nextCount(now)) {
		r.lastCount = now
		c, err := r.path.Counts()
		r.mu.Lock()
		changed := r.observe(c, err, now)
		r.mu.Unlock()
		if changed {
			return now
		}
	}
	return r.wake(now)
}

// wake is when something is due next.
func (r *Relay) wake(now time.Time) time.Time {
	at := sooner(r.nextApply, r.nextCount(now))
	for _, w := range r.watched {
		if len(w.flying) < r.flights {
			at = sooner(at, r.due(w))
		}
		if late, ok := r.lateAt(w); ok && late.After(now) {
			at = sooner(at, late)
		}
		if w.health.verdict != down && (w.signs.silent || w.budget.open < w.budget.most || w.budget.most < Bands) {
			at = sooner(at, now.Add(tickEvery))
		}
		if !w.cutDue.IsZero() && w.cutting == nil && r.applyErr == "" {
			at = sooner(at, w.cutDue)
		}
	}
	return at
}

// nextCount is when the path's counts are due: soon while a probe is late, since they tell whether to wait for it.
func (r *Relay) nextCount(now time.Time) time.Time {
	for _, w := range r.watched {
		if late, ok := r.lateAt(w); ok && !late.After(now) && !w.signs.silent {
			return r.lastCount.Add(countSoon)
		}
	}
	return r.lastCount.Add(countEvery)
}

// noticeStall pardons the probes that were under way while this process was not run, as on a machine whose host is busy: their
// answers may have been there in time.
func (r *Relay) noticeStall(now, wake time.Time) {
	late := now.Sub(wake)
	if late > r.cfg.Health.Timeout/3 && now.Sub(r.pardoned) >= pardonEvery {
		r.pardoned = now
		r.log.Info("this machine did not run the relay for a while; probes under way are not held against backends", "for", late)
	}
}

// plan is what the path should do now. The caller holds mu.
func (r *Relay) plan() Plan {
	p := Plan{Slots4: r.slots4, Slots6: r.slots6, Down: make([]bool, len(r.watched)), Open: make([]int, len(r.watched))}
	for i, w := range r.watched {
		p.Down[i], p.Open[i] = w.health.verdict == down, w.budget.open
	}
	return p
}

func (p *Plan) equal(q *Plan) bool {
	return p.Slots4 == q.Slots4 && p.Slots6 == q.Slots6 && slices.Equal(p.Down, q.Down) && slices.Equal(p.Open, q.Open)
}

func (p *Plan) clone() Plan {
	q := *p
	q.Down, q.Open = slices.Clone(p.Down), slices.Clone(p.Open)
	return q
}
