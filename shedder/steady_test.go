package shedder

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// steady is a flood that does not end, and no others.
func steady(capacity, refuse, load float64, pool int, length time.Duration) *simulation {
	return &simulation{
		capacity: capacity, refuse: refuse, length: length, clients: naive, pool: pool, leechers: leechersOnly,
		load: func(time.Duration) float64 { return 0 }, flood: load * capacity, floodTo: length,
	}
}

// TestSteadyOverload: what is served while an overload lasts. If refusals were answered at once it would be what is left of the
// core when all the others were refused, (1 - rL)/(1 - r) of the capacity; because they wait for their answer it is more.
func TestSteadyOverload(t *testing.T) {
	t.Parallel()
	skipIfSlow(t)
	const capacity, length, settled = 2000.0, 60 * time.Second, 20
	rows := []string{"refusing costs | load | connections | served, of the capacity | without waiting | oldest served | refused wait"}
	f := func(refuse, load float64, pool int) {
		t.Helper()
		s := steady(capacity, refuse, load, pool, length)
		g := newGated(t, Config{}, 0)
		s.shed, s.park = g, true
		s.run()
		sum := s.sum(settled, 60)
		served := float64(sum.admitted) / (60 - settled) / capacity
		rows = append(rows, fmt.Sprintf("%14.2f | %3.0fx | %11d | %23.2f | %15.2f | %13s | %s", refuse, load, pool, served,
			max((1-refuse*load)/(1-refuse), 0), sum.oldest.Round(time.Millisecond), g.wait().Round(10*time.Millisecond)))
		// As many as there are ask once in the time that one waits; what refusing them costs cannot be served.
		if want := 0.9 * (1 - refuse*float64(pool)/maxWait.Seconds()/capacity); served < min(0.8, want) {
			t.Errorf("want %.2f: %s", min(0.8, want), rows[len(rows)-1])
		}
		if sum.oldest > 3*50*time.Millisecond {
			t.Errorf("served after waiting too long: %s", rows[len(rows)-1])
		}
	}
	for _, refuse := range []float64{0.05, 0.33, 0.5, 1} {
		for _, load := range []float64{2, 5} {
			f(refuse, load, 400)
			f(refuse, load, 2000)
			f(refuse, load, 10000) // as 200,000 connections of a core that serves 40,000 a second
		}
	}
	t.Log(strings.Join(rows, "\n"))
}

// TestLoadInSteps: half, nearly all, too much and four fifths of what can be served.
func TestLoadInSteps(t *testing.T) {
	t.Parallel()
	const capacity = 1000
	s := &simulation{
		capacity: capacity, refuse: 0.33, length: 4 * time.Minute, clients: anacrolix, pool: 1000, leechers: leechersOnly, park: true,
		load: func(now time.Duration) float64 { return []float64{0.5, 0.95, 1.2, 0.8}[now/time.Minute] * capacity },
	}
	g := newGated(t, Config{}, 0)
	s.shed = g
	s.run()
	f := func(from, to int, load, want float64) {
		t.Helper()
		sum := s.sum(from, to)
		served, answered := float64(sum.served)/float64(sum.asked), float64(sum.answered)/float64(sum.asked)
		t.Logf("load %.2f: served %.3f, answered %.3f, oldest when read %s", load, served, answered, sum.age)
		if served < want || answered < 0.99 {
			t.Errorf("load %.2f: served %.3f, want %.2f; answered %.3f", load, served, want, answered)
		}
	}
	f(0, 60, 0.5, 1)
	f(60, 120, 0.95, 0.99)
	f(130, 180, 1.2, 0.8*0.9)
	f(190, 220, 0.8, 0.98)
	if g.law.state != Calm {
		t.Errorf("state %s at the end, want calm", stateNames[g.law.state])
	}
}

// TestCapacityLost: a neighbour takes nine tenths of the core, and gives them back.
func TestCapacityLost(t *testing.T) {
	t.Parallel()
	skipIfSlow(t)
	const capacity = 4000
	s := steady(capacity, 0.05, 1.5, 4000, 150*time.Second)
	g := newGated(t, Config{}, 0)
	s.shed, s.park = g, true
	s.after = func(now time.Duration) {
		s.capacity = capacity
		if now > 30*time.Second && now < 90*time.Second {
			s.capacity = capacity / 10
		}
	}
	s.run()
	for _, want := range []struct {
		from, to int
		served   float64
	}{{20, 30, 0.8 * capacity}, {70, 90, 0.7 * capacity / 10}, {130, 150, 0.8 * capacity}} {
		if served := float64(s.sum(want.from, want.to).admitted) / float64(want.to-want.from); served < want.served {
			t.Errorf("second %d to %d: %.0f requests a second served, want %.0f", want.from, want.to, served, want.served)
		}
	}
	if age := s.sum(80, 90).age; age > time.Second {
		t.Errorf("with a tenth of the core requests are %s old when read, want 1 s at most", age)
	}
}

// failedLaw is one of the laws that failed, in the place of ours.
type failedLaw struct {
	ages   ages
	charge float64 // what a refusal takes from the budget of what is served
	cut    func(l *failedLaw, median time.Duration)
	grow   float64
	rate   float64 // 0: no limit
	tokens float64
	served int
}

func (l *failedLaw) observe(age time.Duration, _ bool)   { l.ages.observe(age) }
func (l *failedLaw) spent(time.Duration, bool)           {}
func (l *failedLaw) wait() time.Duration                 { return 50 * time.Millisecond }
func (l *failedLaw) backlog() int                        { return MaxBacklog }
func (l *failedLaw) told(bool, *rand.Rand) time.Duration { return simInterval }
func (l *failedLaw) lastRate() float64                   { return float64(l.served) / TickLength.Seconds() }
func (l *failedLaw) admit(*simCall, time.Duration, time.Duration, bool) Verdict {
	if l.rate > 0 && l.tokens < 1 {
		l.tokens = max(l.tokens-l.charge, -l.rate)
		return Shed
	}
	l.tokens--
	l.served++
	return Serve
}

func (l *failedLaw) step(time.Duration) {
	switch n, median := l.ages.drain(); {
	case n < minAges:
	case median > 50*time.Millisecond && l.rate == 0:
		l.rate = 0.9 * l.lastRate()
	case median > 50*time.Millisecond:
		l.cut(l, median)
	case median < 25*time.Millisecond:
		l.rate *= l.grow
	}
	l.served, l.tokens = 0, min(l.tokens+l.rate*TickLength.Seconds(), l.rate*burst.Seconds())
}

// TestFailedLaws shows what laws do that look right, next to ours, so that nobody tries them again.
func TestFailedLaws(t *testing.T) {
	t.Parallel()
	skipIfSlow(t)
	const capacity, floor = 2000, 0.2
	run := func(refuse, load float64, law *failedLaw, park bool) (served, lowest, swing float64) {
		s := steady(capacity, refuse, load, 4000, 40*time.Second)
		s.shed, s.park = newGated(t, Config{}, 0), true
		if law != nil {
			s.shed, s.park = law, park
		}
		s.run()
		lowest, most := 10.0, 0.0
		for i := 10; i < 40; i++ {
			share := float64(s.sum(i, i+1).admitted) / capacity
			lowest, most = min(lowest, share), max(most, share)
		}
		served = float64(s.sum(20, 40).admitted) / 20 / capacity
		return served, lowest, (most - lowest) / max(served, 0.01)
	}
	f := func(what string, refuse, load float64, law *failedLaw, park bool, want, wantOurs float64) {
		t.Helper()
		theirs, lowest, swing := run(refuse, load, law, park)
		ours, ourLowest, ourSwing := run(refuse, load, nil, true)
		t.Logf("%s: served %.2f of the capacity, at the least %.2f, swings by %.2f; ours %.2f, %.2f, %.2f", what, theirs, lowest, swing, ours, ourLowest, ourSwing)
		if theirs > want || ours < wantOurs {
			t.Errorf("%s: served %.2f, want %.2f at most; ours %.2f, want %.2f", what, theirs, want, ours, wantOurs)
		}
	}
	once := func(l *failedLaw, _ time.Duration) { l.rate = max(0.9*l.rate, floor*capacity) }
	f("refusals charged to the same budget", 0.33, 2, &failedLaw{charge: 0.33, grow: 1.02, cut: once}, false, 0.2, 0.8)
	f("three tenths cut each tick, while the queue drains", 0.33, 2,
		&failedLaw{grow: 1.05, cut: func(l *failedLaw, _ time.Duration) { l.rate *= 0.7 }}, false, 0.5, 0.8)
	f("no floor", 0.97, 3, &failedLaw{grow: 1.02, cut: func(l *failedLaw, _ time.Duration) {
		l.rate = min(l.rate, max(l.lastRate(), 1)) * 0.85
	}}, false, 0.05, 0.55)
	// With a floor, and refused clients that wait 50 ms: the law that real floods have brought down, where refusing costs as much
	// as serving.
	f("a rate, and a short wait", 1, 5, &failedLaw{grow: 1.02, cut: func(l *failedLaw, _ time.Duration) {
		l.rate = max(min(l.rate, l.lastRate())*0.9, floor*capacity)
	}}, true, 0.3, 0.55)
}
