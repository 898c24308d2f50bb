package relay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// What follows is called by Run's goroutine, which holds mu where nothing else is said.

// startProbe asks a backend for its health if that is due, and there is room for another probe.
func (r *Relay) startProbe(w *watched, now time.Time) {
	if now.Before(r.due(w)) || len(w.flying) >= r.flights {
		return
	}
	// Earlier by up to a fifth, so that relays and backends do not fall into step; never later, so that a hung backend is known
	// after two of them and the timeout.
	w.next = now.Add(r.cfg.Health.Every - rand.N(r.cfg.Health.Every/5+1))
	w.probes++
	p := probed{backend: w.index, number: w.probes, started: now}
	w.flying = append(w.flying, flight{p.number, now})
	r.prober.ask(p)
}

// spared is how many times rarer a backend is asked while nobody can be harmed by that: a probe costs a relay what five connections do.
const spared = 3

// trusted tells whether the backend needs no close watch: its probes are answered, and its connections get answers and data, or it
// has none.
func (w *watched) trusted() bool {
	return w.health.verdict == up && w.health.steady() && !w.suspect && w.budget.open == Bands && !w.answer.overloaded() &&
		(w.signs.idle || w.signs.spoke)
}

// due is when a backend is asked next. One that has a probe to answer is not trusted.
func (r *Relay) due(w *watched) time.Time {
	if len(w.flying) == 0 && w.trusted() {
		return w.next.Add((spared - 1) * r.cfg.Health.Every)
	}
	return w.next
}

func sooner(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// take is told how a probe ended.
func (r *Relay) take(p probed, now time.Time) {
	w := r.watched[p.backend]
	w.flying = slices.DeleteFunc(w.flying, func(f flight) bool { return f.number == p.number })
	w.ended[p.outcome]++
	if p.outcome == ourFault {
		if !w.blind {
			r.log.Error("backend cannot be asked; its state stays as it is", "addr", w.Addr, "err", p.words)
		}
		w.blind = true
		return
	}
	w.blind = false
	switch {
	case p.outcome == answeredOK:
		w.answer, w.took, w.askedOK = p.answer, p.took, now
		if w.usual == 0 {
			w.usual = p.took
		}
		w.usual += (p.took - w.usual) / 8
	case (p.outcome == timedOut || p.outcome == broken) && (p.started.Before(r.pardoned) || w.speaksSince(p.started, now)):
		w.excused++
		return
	default:
		w.why, w.failed = p.words, now
	}
	r.judge(w, event{at: now, probe: p.number, ok: p.outcome == answeredOK, suspect: w.suspect})
}

// speaksSince tells whether the backend has sent data to anybody since a probe was started, as far as the counts can tell. Such a
// one is overloaded and not dead: its accept queue is full, so that probes hang or are reset (tcp_abort_on_overflow) as often as
// anybody's connections, and to call it down would take from it what it still serves. If not one probe has been answered for excuseFor, it may speak to old connections
// alone, and is not excused.
func (w *watched) speaksSince(started, now time.Time) bool {
	return w.spoke.After(started.Add(-countEvery)) && now.Sub(w.askedOK) < excuseFor
}

// judgeLate takes a probe for failed that is late, if the backend answers no connections either.
func (r *Relay) judgeLate(w *watched, now time.Time) {
	if at, ok := r.lateAt(w); !ok || now.Before(at) || !w.signs.silent {
		return
	}
	w.why, w.failed = "no answer yet, nor to any connection", now
	r.judge(w, event{at: now, probe: w.oldest().number, suspect: true})
}

// lateAt is when the oldest probe under way is late; none is while the backend is down. Late is what is far from usual, so what is
// usual must be known: over a long line, or while all wait a little, a slow answer is an answer.
func (r *Relay) lateAt(w *watched) (time.Time, bool) {
	late := max(r.cfg.Health.Timeout/2, 3*w.usual)
	f := w.oldest()
	if w.health.verdict == down || w.usual == 0 || late >= r.cfg.Health.Timeout || f.number == 0 || f.started.Before(r.pardoned) {
		return time.Time{}, false
	}
	return f.started.Add(late), true
}

// oldest is the oldest probe under way that nothing started after it has made old news of.
func (w *watched) oldest() flight {
	for _, f := range w.flying {
		if f.number > w.health.lastOK {
			return f
		}
	}
	return flight{}
}

// judge has the backend's health take a step, and does what follows from it.
func (r *Relay) judge(w *watched, e event) {
	was, since := w.health.verdict, w.health.since
	if !w.health.step(e) {
		return
	}
	lasted := e.at.Sub(since)
	if w.health.verdict == down {
		w.downs++
		w.cutDue = e.at
		r.log.Warn("backend down", "addr", w.Addr, "err", w.why, "after", lasted)
		if was == up {
			r.event(e.at, "backend %s is down: %s; it was up for %s", w.Addr, w.why, inWords(lasted))
		} else {
			r.event(e.at, "backend %s is down: %s", w.Addr, w.why)
		}
	} else {
		w.cutDue = time.Time{}
		w.stopCut()
		if was == down {
			w.budget.restart(e.at)
			r.log.Info("backend up", "addr", w.Addr, "after", lasted)
			r.event(e.at, "backend %s is up; it was down for %s", w.Addr, inWords(lasted))
		} else {
			r.log.Info("backend up", "addr", w.Addr)
			r.event(e.at, "backend %s is up", w.Addr)
		}
	}
	r.respread()
	r.restate(e.at)
}

// respread sets which slots go where.
func (r *Relay) respread() {
	isUp := func(i int16) bool { return r.watched[i].health.verdict != down }
	r.spread4.fill(&r.slots4, isUp)
	r.spread6.fill(&r.slots6, isUp)
}

// The states of Status.
const (
	stateForwarding = "forwarding"
	stateDegraded   = "degraded"
	stateRefusing   = "refusing"
)

// restate sets the state.
func (r *Relay) restate(now time.Time) {
	downs := 0
	for _, w := range r.watched {
		if w.health.verdict == down {
			downs++
		}
	}
	state := stateForwarding
	switch {
	case downs == len(r.watched):
		state = stateRefusing
	case downs > 0:
		state = stateDegraded
	}
	if state == r.state {
		return
	}
	r.state, r.since = state, now
	if state == stateRefusing {
		r.log.Error("all backends are down: connections are refused", "backends", downs)
		if downs > 1 {
			r.event(now, "all %d backends are down: connections are refused", downs)
		}
	}
}

// stepBudget opens and closes bands.
func (r *Relay) stepBudget(w *watched, now time.Time) {
	if w.health.verdict == down {
		return
	}
	before, most := w.budget.open, w.budget.most
	w.budget.step(budgetTick{
		at: now, steady: w.health.steady(), over: w.signs.over, silent: w.signs.silent, level: w.answer.Level,
	})
	switch {
	case w.budget.most < most:
		to := openOf(r.cfg.Budget, w.budget.most)
		r.log.Warn("budget lowered: the backend sheds", "addr", w.Addr, "level", w.answer.Level, "budget", to)
		r.event(now, "backend %s sheds %.0f %% of what it is offered: at most %d connections may wait for it", w.Addr, 100*w.answer.Level, to)
	case w.budget.open > before && w.budget.open == Bands:
		r.log.Info("budget is whole again", "addr", w.Addr, "budget", r.cfg.Budget)
	}
}

// applied is told how Path.Apply ended.
func (r *Relay) applied(err error) {
	if err == nil {
		if r.applyErr != "" {
			r.log.Info("plan applied again")
		}
		r.ready, r.applyErr = true, ""
		return
	}
	r.applyErrors++
	if text := err.Error(); text != r.applyErr {
		r.applyErr = text
		r.log.Error("plan not applied; it is tried again each second", "err", err)
	}
}

// observe takes in the path's counts, and tells whether a verdict changed.
func (r *Relay) observe(c Counts, err error, now time.Time) (changed bool) {
	if err == nil && len(c.Backends) != len(r.watched) {
		err = fmt.Errorf("BUG: counts of %d backends, want %d", len(c.Backends), len(r.watched))
	}
	if err != nil {
		r.countErrors++
		if text := err.Error(); text != r.countErr {
			r.countErr = text
			r.log.Error("the path's counts cannot be read: backends are judged by probes alone", "err", err)
		}
		for _, w := range r.watched {
			w.signs, w.suspect = signs{}, false
		}
		return false
	}
	r.countErr = ""
	c.Backends = slices.Clone(c.Backends)
	if len(r.counts) > 0 {
		before := r.counts[len(r.counts)-1]
		for i, w := range r.watched {
			s := readSigns(before.c.Backends[i], c.Backends[i])
			if s.spoke {
				w.spoke = before.at
			}
			changed = r.heed(w, s, now) || changed
		}
	}
	r.counts.add(now, c)
	if r.ports.step(c.PortsUsed) {
		r.log.Warn("the source ports towards a backend run out: route back without masquerade (docs/relay.md), or lower net.netfilter.nf_conntrack_tcp_timeout_time_wait",
			"used", c.PortsUsed)
		r.event(now, "%.0f %% of the source ports towards a backend are taken; above all, connections are lost", 100*c.PortsUsed)
	}
	if c.ConntrackMax > 0 && r.conntrack.step(float64(c.Conntrack)/float64(c.ConntrackMax)) {
		r.log.Warn("the kernel's table of connections is nearly full; raise net.netfilter.nf_conntrack_max", "entries", c.Conntrack, "max", c.ConntrackMax)
		r.event(now, "the kernel's table of connections is nearly full: %d of %d", c.Conntrack, c.ConntrackMax)
	}
	return changed
}

// heed takes in what the counts say of a backend. With a first sign against it, it is asked at once.
func (r *Relay) heed(w *watched, s signs, now time.Time) (changed bool) {
	// One that goes on serving those it has is not dead: its accept queue is full. Where this program itself accepts before it refuses,
	// the herd costs the machine what the backend's return takes; there, one that has not said that it is overloaded is left
	// alone for a moment, with the listener closed.
	if s.spoke && (r.cfg.Mode != ModeProxy || w.answer.overloaded()) {
		s.silent = false
	}
	// While only a part of the budget is open a herd fills it however well the backend is.
	suspect := s.silent || s.over && w.budget.open == Bands
	if suspect && !w.suspect && w.health.verdict != down {
		w.next = now
		changed = true
	}
	w.signs, w.suspect = s, suspect
	before := w.health.verdict
	r.judge(w, event{at: now, suspect: suspect})
	return changed || w.health.verdict != before
}

// event keeps what happened for Status.
func (r *Relay) event(at time.Time, format string, args ...any) {
	r.events = slices.Insert(r.events, 0, Event{At: at, Text: fmt.Sprintf(format, args...)})
	r.events = r.events[:min(len(r.events), MaxEvents)]
}

// startCuts ends the flows of backends that are down, if the path has been told so: it would forward their next packets. The
// caller does not hold mu.
func (r *Relay) startCuts(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.applyErr != "" {
		return
	}
	for _, w := range r.watched {
		if w.cutDue.IsZero() || now.Before(w.cutDue) || w.cutting != nil {
			continue
		}
		cancelled := make(chan struct{})
		w.cutDue, w.cutting, w.cutStop = time.Time{}, cancelled, false
		r.work.Go(func() {
			flows, err := r.path.Cut(w.index, cancelled)
			r.cuts <- cutEnd{w.index, flows, err}
			r.prober.nudge()
		})
	}
}

// takeCuts is told of the cuts that have ended.
func (r *Relay) takeCuts(now time.Time) {
	for {
		select {
		case c := <-r.cuts:
			r.takeCut(c, now)
		default:
			return
		}
	}
}

// takeCut is told how a cut ended. One that failed is tried again while the backend is down.
func (r *Relay) takeCut(c cutEnd, now time.Time) {
	w := r.watched[c.backend]
	w.cutting = nil
	r.cutFlows += uint64(max(c.flows, 0))
	if c.err == nil || w.cutStop {
		w.cutErr = ""
		r.log.Info("flows of a backend that is down were ended", "addr", w.Addr, "flows", c.flows)
		return
	}
	r.cutErrors++
	if w.health.verdict == down && w.cutDue.IsZero() {
		w.cutDue = now.Add(cutAgain)
	}
	if text := c.err.Error(); text != w.cutErr {
		w.cutErr = text
		r.log.Warn("flows of a backend that is down were not all ended", "addr", w.Addr, "flows", c.flows, "err", c.err)
	}
}

// stopCut has the cut under way end.
func (w *watched) stopCut() {
	if w.cutting != nil && !w.cutStop {
		close(w.cutting)
		w.cutStop = true
	}
}

// stopCuts has all end. The caller does not hold mu.
func (r *Relay) stopCuts() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.watched {
		w.stopCut()
	}
}
