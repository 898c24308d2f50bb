package shedder

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Load is how the tracker fares, for people.
type Load struct {
	State    State
	Since    time.Time
	Why      string
	Age      time.Duration // median of requests when they were read
	Capacity float64       // requests a second; 0: not known
	Rate     float64       // requests a second admitted; 0: all
	Interval time.Duration
	Jitter   float64
	Brownout int
	Steps    []string // in force
	Parked   int
	Budget   float64       // of a source, as a part of what is configured
	Wait     time.Duration // of a refused client for its answer
	Backlog  int
	Memory   int64 // bytes
	MemMax   int64
	Rates    [EndpointCount]Rates

	ShedCost, ServeCost time.Duration // 0: not known
}

// Rates are requests a second, lately.
type Rates struct{ Offered, Served, Shed, OverBudget, Refused float64 }

// Level is the share of what was offered that is not served.
func (r Rates) Level() float64 {
	if r.Offered <= 0 {
		return 0
	}
	return 1 - r.Served/r.Offered
}

// Load tells how the tracker fares.
func (g *Gate) Load() Load {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := Load{
		State:     g.law.state,
		Since:     g.since,
		Age:       g.median,
		Capacity:  g.law.peak,
		Interval:  g.interval.told,
		Jitter:    g.interval.jitter(),
		Brownout:  g.ladder.level,
		Steps:     brownTexts[:g.ladder.level],
		Parked:    int(g.parked.Load()),
		Budget:    math.Pow(2, -float64(g.budgets.tight)),
		Wait:      time.Duration(g.wait.Load()),
		Backlog:   g.Backlog(),
		Memory:    g.used,
		MemMax:    g.cfg.MemoryMax,
		ShedCost:  g.shedCost.get(),
		ServeCost: g.serveCost.get(),
	}
	if g.law.state == Ramp {
		l.Rate = g.law.rate
	}
	for e := range l.Rates {
		r := g.rates(Endpoint(e))
		l.Rates[e] = Rates{Served: r[Serve] + r[Trim], Shed: r[Shed] + r[Lost], OverBudget: r[OverBudget], Refused: r[Refuse]}
		l.Rates[e].Offered = l.Rates[e].Served + l.Rates[e].Shed + l.Rates[e].OverBudget + l.Rates[e].Refused
	}
	l.Why = g.why(&l)
	return l
}

// why is the state in words. The caller holds mu.
func (g *Gate) why(l *Load) string {
	age, target := l.Age.Round(100*time.Microsecond), g.cfg.Target
	switch {
	case g.cfg.Disabled:
		return "shedder.enabled is false: nothing is shed"
	case g.memory.Load() == memoryFull:
		return "memory is nearly full: no connections are accepted; raise shedder.memory_max if the machine has more"
	case l.State == Ramp:
		return fmt.Sprintf("just started: %.0f requests a second are admitted, and more each second", l.Rate)
	case l.State >= Overload && g.last.Sub(g.pressed) > 2*time.Second && g.cutLately():
		return fmt.Sprintf("sources that ask above their budget are refused, now at %g times shedder.per_source and shedder.per_prefix; "+
			"it grows while the others wait no longer than %s: %s", l.Budget, target, age)
	case l.State == Overload:
		return fmt.Sprintf("requests waited longer than %s (shedder.target), now %s: those that waited too long are refused", target, age)
	case l.State == Escalated:
		return fmt.Sprintf("so many are refused that refusing is dear: each waits about %s for its answer", l.Wait.Round(time.Millisecond))
	case g.memory.Load() == memoryTight:
		return "memory is short: no new WebSockets"
	case l.Brownout > 0:
		return "the overload is over; what was given up comes back a step each 30 s"
	}
	return fmt.Sprintf("requests wait %s, far from %s", age, target)
}

// CapacityNow is the most requests a second that could be served, as far as it is known: to be kept over a restart. 0 is not known.
func (g *Gate) CapacityNow() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.law.peak
}

// WriteMetrics writes the gate's metrics in Prometheus's text format.
func (g *Gate) WriteMetrics(w io.Writer) {
	l := g.Load()
	for e := range EndpointCount {
		metrics.WriteGaugeFloat64(w, fmt.Sprintf("spillway_shed_level{endpoint=%q}", e), l.Rates[e].Level())
		for v, name := range verdictNames {
			metrics.WriteCounterUint64(w, fmt.Sprintf("spillway_decisions_total{endpoint=%q,verdict=%q}", e, name), g.counts[e][v].Load())
		}
		for m := range modeCount {
			on := uint64(0)
			if g.Switches.Mode(e) == m {
				on = 1
			}
			metrics.WriteGaugeUint64(w, fmt.Sprintf("spillway_switch{endpoint=%q,mode=%q}", e, m), on)
		}
	}
	g.writeFaultMetrics(w)
	for s := range stateCount {
		on := uint64(0)
		if l.State == s {
			on = 1
		}
		metrics.WriteGaugeUint64(w, fmt.Sprintf("spillway_overload_state{state=%q}", s), on)
	}
	writeAges(w, "spillway_request_age_seconds", &g.kept, &g.fresh)
	metrics.WriteGaugeFloat64(w, "spillway_admitted_rate", l.Rate)
	metrics.WriteGaugeFloat64(w, "spillway_capacity", l.Capacity)
	metrics.WriteGaugeFloat64(w, "spillway_interval_seconds", l.Interval.Seconds())
	metrics.WriteGaugeFloat64(w, "spillway_interval_jitter", l.Jitter)
	metrics.WriteGaugeUint64(w, "spillway_brownout_step", uint64(l.Brownout))
	metrics.WriteGaugeFloat64(w, "spillway_source_budget_factor", l.Budget)
	metrics.WriteGaugeUint64(w, "spillway_parked", uint64(l.Parked))
	metrics.WriteGaugeFloat64(w, "spillway_park_seconds", l.Wait.Seconds())
	metrics.WriteGaugeUint64(w, "spillway_backlog", uint64(l.Backlog))
	metrics.WriteGaugeUint64(w, "spillway_backlog_max", MaxBacklog)
	metrics.WriteGaugeFloat64(w, `spillway_request_cost_seconds{verdict="serve"}`, l.ServeCost.Seconds())
	metrics.WriteGaugeFloat64(w, `spillway_request_cost_seconds{verdict="shed"}`, l.ShedCost.Seconds())
	metrics.WriteGaugeUint64(w, "spillway_memory_bytes", uint64(max(l.Memory, 0)))
	metrics.WriteGaugeUint64(w, "spillway_memory_bytes_max", uint64(max(l.MemMax, 0)))
	metrics.WriteGaugeUint64(w, "spillway_rules", uint64(len(g.Rules.List())))
}

var verdictNames = [verdictCount]string{"serve", "trim", "shed", "source", "off", "lost"}
