package shedder

import (
	"fmt"
	"math"
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

// swing is the greatest distance between two rates within ten seconds, as a share of their mean.
func swing(rates []float64) (most float64) {
	const ticks = int(10 * time.Second / TickLength)
	for i := 0; i+ticks <= len(rates); i += ticks / 10 {
		low, high, sum := math.MaxFloat64, 0.0, 0.0
		for _, r := range rates[i : i+ticks] {
			low, high, sum = min(low, r), max(high, r), sum+r
		}
		most = max(most, (high-low)/(sum/float64(ticks)))
	}
	return most
}

// TestSteadyOverload: what is served while an overload lasts. With refusals answered at once it is what is left of the core
// when all the others were refused, (1 - rL)/(1 - r) of the capacity; those that wait for their answer leave more.
func TestSteadyOverload(t *testing.T) {
	t.Parallel()
	skipIfSlow(t)
	const capacity, length, settled = 2000.0, 75 * time.Second, 45
	rows := []string{"refusing costs | load | connections | served, of the capacity | rate swings after 5 s, after 40 s | refused wait"}
	f := func(refuse, load float64, pool int, park bool, want float64) {
		t.Helper()
		s := steady(capacity, refuse, load, pool, length)
		g := newGated(t, Config{}, 0)
		s.shed, s.park = g, park
		var early, rates []float64
		s.after = func(now time.Duration) {
			early = append(early, g.law.rate)
			if now > (settled-5)*time.Second {
				rates = append(rates, g.law.rate)
			}
		}
		s.run()
		served := float64(s.sum(settled, 75).admitted) / (75 - settled) / capacity
		rows = append(rows, fmt.Sprintf("%14.2f | %3.0fx | %11d | %23.2f | %16.0f %% %12.0f %% | %s", refuse, load, pool, served,
			100*swing(early[100:]), 100*swing(rates), g.wait().Round(10*time.Millisecond)))
		if served < want {
			t.Errorf("want %.2f: %s", want, rows[len(rows)-1])
		}
		// In the first half minute the rate is not steady, because the wait still grows. Without it, refusing takes the larger
		// part of the core, and a little more of it is a much larger part of the little that is left.
		if bound := 0.25; refuse == 0.33 && load == 2 && park && swing(rates) > bound {
			t.Errorf("the rate swings by more than %.2f: %s", bound, rows[len(rows)-1])
		}
	}
	for _, refuse := range []float64{0.05, 0.33, 0.5} {
		for _, load := range []float64{2, 5} {
			if left := (1 - refuse*load) / (1 - refuse); left > 0 {
				f(refuse, load, 1<<20, false, 0.9*left)
			}
			f(refuse, load, 400, true, 0.8)
			f(refuse, load, 2000, true, 0.8)
			// Ten thousand ask 2,500 times a second if each waits 4 s, which is more than this core has. A core that is
			// five times as fast has a pool of 10,000 as this one has one of 2,000.
			f(refuse, load, 10000, true, min(0.8, 0.9*(1-refuse*10000/maxWait.Seconds()/capacity)))
		}
	}
	f(0.97, 2, 400, true, 0.8)
	f(0.97, 2, 2000, true, 0.65)
	f(0.97, 5, 10000, true, 0.9*floorShare*0.9)
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
	f(190, 220, 0.8, 0.99)
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

// failedLaw is one of the three laws that failed, in the place of ours.
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
func (l *failedLaw) wait() time.Duration                 { return 0 }
func (l *failedLaw) backlog() int                        { return MaxBacklog }
func (l *failedLaw) told(bool, *rand.Rand) time.Duration { return simInterval }
func (l *failedLaw) lastRate() float64                   { return float64(l.served) / TickLength.Seconds() }
func (l *failedLaw) admit(*simCall, time.Duration, bool) Verdict {
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
		l.rate = firstCut * l.lastRate()
	case median > 50*time.Millisecond:
		l.cut(l, median)
	case median < 25*time.Millisecond:
		l.rate *= l.grow
	}
	l.served, l.tokens = 0, min(l.tokens+l.rate*TickLength.Seconds(), l.rate*burst.Seconds())
}

// TestFailedLaws shows what three laws do that look right, next to ours, so that nobody tries them again.
func TestFailedLaws(t *testing.T) {
	t.Parallel()
	skipIfSlow(t)
	const capacity = 2000
	run := func(refuse, load float64, pool int, law *failedLaw) (served, lowest, swings float64) {
		s := steady(capacity, refuse, load, pool, 40*time.Second)
		g := newGated(t, Config{}, 0)
		rate := func() float64 { return g.law.rate }
		s.shed = g
		if law != nil {
			s.shed, rate = law, func() float64 { return law.rate }
		}
		var rates []float64
		lowest = math.MaxFloat64
		s.after = func(now time.Duration) {
			if now > 10*time.Second {
				rates, lowest = append(rates, rate()/capacity), min(lowest, rate()/capacity)
			}
		}
		s.run()
		return float64(s.sum(20, 40).admitted) / 20 / capacity, lowest, swing(rates)
	}
	once := func(l *failedLaw, _ time.Duration) { l.rate = max(0.9*l.rate, floorShare*capacity) }

	theirs, _, _ := run(0.33, 2, 4000, &failedLaw{charge: 0.33, grow: 1.02, cut: once})
	ours, _, _ := run(0.33, 2, 4000, nil)
	t.Logf("refusals charged to the same budget: %.2f of the capacity served; ours %.2f", theirs, ours)
	if theirs > 0.2 || ours < 0.9*0.5 {
		t.Errorf("refusals charged to the same budget: served %.2f and %.2f, want a livelock and no livelock", theirs, ours)
	}

	theirs, _, swings := run(0.33, 2, 4000, &failedLaw{grow: 1.05, cut: func(l *failedLaw, _ time.Duration) { l.rate *= 0.7 }})
	ours, _, our := run(0.33, 2, 4000, nil)
	t.Logf("three tenths cut each tick: the rate swings %.0f %%, %.2f served; ours %.0f %%, %.2f", 100*swings, theirs, 100*our, ours)
	if swings < 0.8 || our > 0.5*swings {
		t.Errorf("three tenths cut each tick: the rate swings %.2f and %.2f, want a sawtooth and none", swings, our)
	}

	theirs, lowest, _ := run(0.97, 3, 4000, &failedLaw{grow: 1.02, cut: func(l *failedLaw, _ time.Duration) {
		l.rate = min(l.rate, max(l.lastRate(), 1)) * 0.85
	}})
	ours, ourLowest, _ := run(0.97, 3, 4000, nil)
	t.Logf("no floor: the rate sinks to %.3f, %.3f served; ours to %.2f, %.2f", lowest, theirs, ourLowest, ours)
	if lowest > 0.02 || ourLowest < 0.9*floorShare || ours < 0.9*floorShare*0.8 {
		t.Errorf("no floor: the rate sinks to %.3f and %.3f, served %.3f and %.3f", lowest, ourLowest, theirs, ours)
	}
}
