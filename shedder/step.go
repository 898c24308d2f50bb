package shedder

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// Run steps until ctx ends.
func (g *Gate) Run(ctx context.Context) {
	// By itself: what is written to a slow disk must not keep the law from its tick.
	var others sync.WaitGroup
	others.Go(func() { every(ctx, time.Second, g.keep) })
	others.Go(func() { g.pings(ctx) })
	every(ctx, TickLength, g.Step)
	others.Wait()
}

// pings measures how long a goroutine waits that is woken as one with a request is: by the poller. It stands in for the ages of
// requests that have none, as over a unix socket. A sleeping goroutine would not do: timers go before all others.
func (g *Gate) pings(ctx context.Context) {
	r, w, err := os.Pipe()
	if err != nil {
		return // without files left there are other worries
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		var sent [8]byte
		for {
			if _, err := io.ReadFull(r, sent[:]); err != nil {
				return
			}
			took := int64(time.Since(g.started)) - int64(binary.LittleEndian.Uint64(sent[:]))
			for old := g.ping.Load(); took > old && !g.ping.CompareAndSwap(old, took); old = g.ping.Load() {
			}
		}
	})
	every(ctx, TickLength, func(time.Time) {
		var now [8]byte
		binary.LittleEndian.PutUint64(now[:], uint64(time.Since(g.started)))
		_, _ = w.Write(now[:]) // a pipe holds 8,192 of them
	})
	_, _ = w.Close(), r.Close()
	reading.Wait()
}

func every(ctx context.Context, d time.Duration, f func(now time.Time)) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			f(now)
		}
	}
}

// freeEvery is how often memory is collected and given back while it is full.
const freeEvery = 5 * time.Second

// keep ends switches and rules whose time is up, and adds those that are proposed, if it may.
func (g *Gate) keep(now time.Time) {
	g.Switches.Expire(now)
	g.Rules.Expire(now)
	if g.Full() && now.Sub(g.freed) >= freeEvery {
		// Where no connection is accepted nothing is allocated, and so nothing would be collected for minutes.
		debug.FreeOSMemory()
		g.freed = now
	}
	if g.cfg.AutoRules <= 0 || !g.limited.Load() {
		return
	}
	for _, p := range g.Talkers.Proposals() {
		if g.Rules.Has(p.Kind, p.Value) {
			continue
		}
		// What cannot be added, as where there are too many rules, is still proposed, and so seen.
		if _, err := g.Rules.Add(p.Kind, p.Value, g.cfg.AutoRules, p.Why, bySpillway); err == nil {
			g.Talkers.Renew()
		}
	}
}

// Step is one control tick: it looks at what happened since the last, and decides what holds until the next.
func (g *Gate) Step(now time.Time) {
	g.mu.Lock()
	d := now.Sub(g.last)
	if d <= 0 {
		g.mu.Unlock()
		return
	}
	g.last = now
	t := g.measure(d)
	if !g.cfg.Disabled {
		before := g.law.state
		g.law.step(t)
		if g.law.state != before {
			g.since = now
			if before >= Overload || g.law.state >= Overload {
				g.interval.wide = g.interval.told
			}
		}
		if t.late > 0 || t.median > g.cfg.Target {
			g.pressed = now
		}
		// Where it is enough to cut sources that are above their budget, nothing is given up.
		g.ladder.step(g.law.state >= Overload && now.Sub(g.pressed) < time.Second, d)
	}
	if now.Sub(g.seconds) >= time.Second {
		g.eachSecond(now)
	}
	g.publish()
	overload := g.law.state >= Overload
	g.mu.Unlock()
	g.Talkers.Step(now, overload)
}

// readCost is what it takes to be woken for a request and to read it, which is before the samples of what it costs begin: about
// a third of a request that is served (go tool pprof, of a flood of kept connections).
const readCost = 5 * time.Microsecond

// measure takes the counts since the last tick.
func (g *Gate) measure(d time.Duration) tick {
	t := tick{length: d}
	keptN, kept := g.kept.drain()
	freshN, fresh := g.fresh.drain()
	t.n, t.median = keptN, kept
	g.median, g.freshMed = kept, fresh
	g.freshN += (float64(freshN)/d.Seconds() - g.freshN) / 8
	if freshN > keptN {
		// Connections of one request: their queue is the kernel's, which Backlog bounds. It is full when they have waited for most
		// of what it holds.
		t.n, t.median = freshN, time.Duration(float64(fresh)*float64(g.cfg.Target)/float64(freshTarget))
		g.median = fresh
	}
	for e := range g.counts {
		for v := range g.counts[e] {
			n := g.counts[e][v].Load()
			diff := int(n - g.seen[e][v])
			g.seen[e][v] = n
			switch Verdict(v) {
			case Serve, Trim:
				t.served += diff
			case Shed:
				t.shed += diff
			case Lost: // cost us nothing
			default:
				t.cut += diff
			}
		}
	}
	ping := time.Duration(g.ping.Swap(0))
	if t.n < minAges && t.served+t.shed+t.cut >= minAges {
		t.n, t.median = t.served+t.shed+t.cut, ping
		g.median = ping
	}
	late := g.late.Load()
	t.late, g.lateSeen = int(late-g.lateSeen), late
	t.dearth = float64(t.shed+t.cut) * (g.shedCost.get() + readCost).Seconds() / d.Seconds() / float64(g.cfg.Cores)
	return t
}

// eachSecond looks at what changes slowly. The caller holds mu.
func (g *Gate) eachSecond(now time.Time) {
	d := now.Sub(g.seconds)
	g.seconds = now
	copy(g.history[1:], g.history[:])
	for e := range g.seen {
		g.history[0][e] = g.seen[e]
	}
	g.used = memoryUsed(g.samples)
	g.memory.Store(int32(memoryLevel(int(g.memory.Load()), g.used, g.cfg.MemoryMax)))
	overload := g.law.state >= Overload
	g.budgets.step(now, overload, overload && now.Sub(g.pressed) < time.Second, g.cutLately())
	g.sources.tight.Store(int32(g.budgets.tight))
	g.sources.remembering.Store(g.law.state == Calm)
	g.sources.rotate(now)
	g.interval.wide = max(g.interval.wide-d, 0)
	if d := now.Sub(g.tens); d >= 10*time.Second {
		g.tens = now
		offered := 0.0
		for _, e := range [...]Endpoint{Announce, UDP} {
			for _, n := range g.rates(e) {
				offered += n
			}
		}
		g.interval.step(offered, g.law.peak, g.cfg.Interval, g.cfg.MaxInterval)
	}
}

// cutLately tells whether more than one request of a hundred was refused for its source's budget in the last second. The caller holds mu.
func (g *Gate) cutLately() bool {
	var all counts
	for e := range g.history[0] {
		for v := range g.history[0][e] {
			all[v] += g.history[0][e][v] - g.history[1][e][v]
		}
	}
	return 100*all[OverBudget] > all[Serve]+all[Trim]
}

// rates are an endpoint's verdicts a second, lately. The caller holds mu.
func (g *Gate) rates(e Endpoint) (r [verdictCount]float64) {
	for v := range r {
		r[v] = float64(g.history[0][e][v]-g.history[rateSeconds][e][v]) / rateSeconds
	}
	return r
}

// publish tells those that ask what was decided. The caller holds mu.
func (g *Gate) publish() {
	g.limited.Store(g.law.limited())
	if g.law.limited() {
		g.wait.Store(int64(g.law.wait))
	} else {
		g.wait.Store(0)
	}
	if g.law.state == Ramp {
		g.spacing.Store(int64(float64(time.Second) / max(g.law.rate, 1)))
	} else {
		g.spacing.Store(0)
	}
	g.age.Store(int64(g.median))
	g.brownout.Store(int32(g.ladder.level))
	backlog := MaxBacklog
	switch {
	case g.cfg.Disabled:
	case g.law.limited() || g.freshMed > backlogTime:
		backlog = min(max(int(g.freshN*backlogTime.Seconds()), MinBacklog), MaxBacklog)
	case g.law.peak > 0:
		backlog = min(max(int(g.law.peak*calmBacklogTime.Seconds()), calmBacklogLeast), MaxBacklog)
	}
	g.backlog.Store(min(int32(backlog), g.mostWait.Load()))
	g.told.Store(int64(g.interval.told / time.Second))
	g.most.Store(int64(g.cfg.MaxInterval / time.Second))
	g.jitter.Store(int64(100 * g.interval.jitter()))
	g.state.Store(int32(g.law.state))
	var offered, shed float64
	for e := range EndpointCount {
		if e == UDP {
			continue // nobody stands in front of it who could send less
		}
		r := g.rates(e)
		offered += r[Serve] + r[Trim] + r[Shed] + r[OverBudget]
		shed += r[Shed] + r[OverBudget]
	}
	g.level.Store(int32(100 * shed / max(offered, 1)))
}
