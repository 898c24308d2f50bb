package relay

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// rememberFailure is how long Status tells of a failure that is over.
const rememberFailure = time.Minute

// Ready tells whether users may be sent here: a plan is in force, and a backend has answered.
func (r *Relay) Ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready && slices.ContainsFunc(r.watched, func(w *watched) bool { return w.health.verdict == up })
}

// Status tells how the relay fares. Version, ProfileOff and LogDropped are left to the caller.
func (r *Relay) Status() Status {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts.last(len(r.watched))
	s := Status{
		Started:       r.started,
		UptimeSeconds: int64(now.Sub(r.started) / time.Second),
		Mode:          r.cfg.Mode,
		ModeWhy:       r.cfg.ModeWhy,
		Listen:        slices.Clone(r.cfg.Listen),
		Masquerade:    r.cfg.Masquerade,
		State:         r.state,
		Since:         r.since,
		Backends:      make([]BackendStatus, 0, len(r.watched)),
		Opened:        r.counts.rate(sum(func(b *BackendCounts) uint64 { return b.Opened })),
		RefusedDown:   r.counts.rate(sum(func(b *BackendCounts) uint64 { return b.Down })),
		RefusedBudget: r.counts.rate(sum(func(b *BackendCounts) uint64 { return b.Budget })),
		RefusedSource: r.counts.rate(func(c *Counts) uint64 { return c.Source }),
		NoFlow:        r.counts.rate(func(c *Counts) uint64 { return c.NoFlow }),
		Conntrack:     c.Conntrack,
		ConntrackMax:  c.ConntrackMax,
		InsertFailed:  c.InsertFailed,
		PortsUsed:     c.PortsUsed,
		Conns:         c.Conns,
		ConnsMax:      c.ConnsMax,
		Profile:       r.cfg.Profile,
		Events:        append([]Event{}, r.events...),
	}
	for _, w := range r.watched {
		s.Backends = append(s.Backends, r.backendStatus(w, &c, now))
	}
	s.Why = r.why(&s, now)
	return s
}

// backendStatus is one backend's. The caller holds mu.
func (r *Relay) backendStatus(w *watched, c *Counts, now time.Time) BackendStatus {
	b := BackendStatus{
		Addr:       w.Addr.String(),
		Weight:     max(w.Weight, 1),
		Share:      r.share(w),
		Up:         w.health.verdict != down,
		Since:      w.health.since,
		ProbeMS:    float64(w.took.Microseconds()) / 1000,
		Level:      w.answer.Level,
		Budget:     openOf(r.cfg.Budget, w.budget.open),
		BudgetMax:  r.cfg.Budget,
		Unanswered: c.Backends[w.index].Unanswered,
		Opened:     r.counts.rate(func(c *Counts) uint64 { return c.Backends[w.index].Opened }),
		Refused:    r.counts.rate(func(c *Counts) uint64 { return c.Backends[w.index].Down + c.Backends[w.index].Budget }),
	}
	if !b.Up || !w.failed.IsZero() && now.Sub(w.failed) < rememberFailure {
		b.Why = w.why
	}
	return b
}

// share is the part of its family's sources that go to a backend and are taken. The caller holds mu.
func (r *Relay) share(w *watched) float64 {
	if w.health.verdict == down {
		return 0
	}
	slots := &r.slots4
	if w.Addr.Addr().Is6() {
		slots = &r.slots6
	}
	n := 0
	for _, b := range slots {
		if int(b) == w.index {
			n++
		}
	}
	return float64(n) / Slots
}

// why is the state in words: what is worst first. The caller holds mu.
func (r *Relay) why(s *Status, now time.Time) string {
	var texts []string
	if r.applyErr != "" {
		texts = append(texts, "the plan is not in force, it is tried again each second: "+r.applyErr)
	}
	asked := false
	for _, w := range r.watched {
		asked = asked || w.health.verdict != unknown
		if w.health.verdict != down {
			continue
		}
		fate := "its sources go to the others"
		if s.State == stateRefusing {
			fate = "connections are refused"
		} else if !r.familyUp(w) {
			fate = "connections over its family of addresses are refused"
		}
		texts = append(texts, fmt.Sprintf("backend %s does not answer since %s (probe: %s): %s",
			w.Addr, inWords(now.Sub(w.health.since)), w.why, fate))
	}
	for i, w := range r.watched {
		refused := r.counts.rate(func(c *Counts) uint64 { return c.Backends[i].Budget })
		if w.health.verdict != down && refused > 0 {
			texts = append(texts, fmt.Sprintf("more than %d connections wait for backend %s: those above are refused (%.0f a second)",
				s.Backends[i].Budget, w.Addr, refused))
		}
	}
	switch {
	case len(texts) > 0:
		return strings.Join(texts, "; ")
	case !asked:
		return "just started: connections are forwarded until a probe says otherwise"
	case len(r.watched) == 1:
		return "the backend answers"
	}
	return "all backends answer"
}

// familyUp tells whether a backend of w's family is up. The caller holds mu.
func (r *Relay) familyUp(w *watched) bool {
	return slices.ContainsFunc(r.watched, func(o *watched) bool {
		return o.health.verdict != down && o.Addr.Addr().Is4() == w.Addr.Addr().Is4()
	})
}

// inWords is a duration as short as people want it.
func inWords(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	text, _ := strings.CutSuffix(d.Round(time.Minute).String(), "0s")
	return text
}
