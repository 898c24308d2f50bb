package shedder

import (
	"math/rand/v2"
	"testing"
	"time"
)

// quiet and waiting are ticks in which so many were served, a second, and so many announces refused.
func quiet(served, refused int) tick {
	return tick{length: TickLength, n: 100, median: time.Millisecond, served: served / 20, late: refused / 20, shed: refused / 20}
}

func waiting(served, refused int) tick {
	t := quiet(served, refused)
	t.median = 60 * time.Millisecond
	return t
}

func (l *law) steps(n int, t tick) *law {
	for range n {
		l.step(t)
	}
	return l
}

func freshLaw() *law { return &law{target: 50 * time.Millisecond} }

// overloaded is a law that has been calm for long before.
func overloaded() *law {
	return freshLaw().steps(2*relapseTicks, quiet(2000, 0)).steps(badTicks, waiting(2000, 0))
}

func TestLawStates(t *testing.T) {
	t.Parallel()
	dear := waiting(1000, 1000)
	dear.dearth = 0.5
	f := func(what string, l *law, want State) {
		t.Helper()
		if l.state != want {
			t.Errorf("%s: got %s, want %s", what, l.state, want)
		}
	}
	f("nothing happens", freshLaw().steps(100, quiet(2000, 0)), Calm)
	f("one late tick is a collection of garbage", freshLaw().steps(1, waiting(2000, 0)), Calm)
	f("two in a row", freshLaw().steps(2, waiting(2000, 0)), Overload)
	alternating := freshLaw()
	for range 100 {
		alternating.step(waiting(2000, 0))
		alternating.step(quiet(2000, 0))
	}
	f("every second tick is late", alternating, Calm)
	few := waiting(100, 0)
	few.n = minAges - 1
	f("too few to say", freshLaw().steps(100, few), Calm)
	f("no time has passed", freshLaw().steps(10, tick{n: 100, median: time.Second}), Calm)

	f("all is well, but not for long", overloaded().steps(calmTicks-1, quiet(1000, 0)), Overload)
	f("two seconds", overloaded().steps(calmTicks, quiet(1000, 0)), Calm)
	f("somebody is still refused", overloaded().steps(4*calmTicks, quiet(1700, 200)), Overload)
	// The brownout refuses scrapes while there is overload, and must not keep it up.
	given := quiet(1000, 0)
	given.shed = 50
	f("refused by the brownout alone", overloaded().steps(2*calmTicks, given), Calm)
	half := quiet(1000, 0)
	half.median = 30 * time.Millisecond
	f("not late, and not well", overloaded().steps(10*calmTicks, half), Overload)
	// Sources that are above their budget would be back at once.
	cut := quiet(1000, 0)
	cut.cut = 1000
	f("sources are cut, and the rest is well", overloaded().steps(10*calmTicks, cut), Overload)
	cut.cut = 4
	f("a few of them", overloaded().steps(calmTicks, cut), Calm)

	f("refusing is dear", overloaded().steps(escalateTicks, dear), Escalated)
	f("and cheap again", overloaded().steps(escalateTicks, dear).steps(10*calmTicks, half), Overload)

	ramp := freshLaw()
	ramp.start(2000)
	f("started, the capacity known", ramp, Ramp)
	if ramp.rate != 400 {
		t.Errorf("the rate at the start: got %v, want a fifth of 2000", ramp.rate)
	}
	f("ten seconds later", ramp.steps(200, quiet(300, 100)), Calm)
	ramp = freshLaw()
	ramp.start(2000)
	f("nobody comes", ramp.steps(2*calmTicks, quiet(10, 0)), Calm)
	ramp = freshLaw()
	ramp.start(2000)
	f("too much already", ramp.steps(2, waiting(500, 1000)), Overload)
	unknown := freshLaw()
	unknown.start(0)
	f("started, nothing known", unknown, Calm)
}

// TestLawRelapses: an overload that is back as soon as it is over lasts twice as long each time, for a minute at the most.
func TestLawRelapses(t *testing.T) {
	t.Parallel()
	l, last := overloaded(), 0
	for i := range 8 {
		ticks := 0
		for ; l.state != Calm; ticks++ {
			l.step(quiet(1000, 0))
		}
		if want := min(calmTicks<<i, calmMost); ticks != want {
			t.Errorf("relapse %d: over after %d ticks, want %d; the last took %d", i, ticks, want, last)
		}
		last = ticks
		l.steps(badTicks, waiting(2000, 0))
	}
	l.steps(calmMost, quiet(1000, 0)).steps(relapseTicks, quiet(1000, 0)).steps(badTicks, waiting(2000, 0))
	if l.steps(calmTicks, quiet(1000, 0)); l.state != Calm {
		t.Error("ten seconds of calm are forgotten")
	}
}

// TestLawWaits: who is refused is kept waiting the longer, the more refusing costs.
func TestLawWaits(t *testing.T) {
	t.Parallel()
	dear, cheap, fair := waiting(1000, 1000), waiting(1000, 1000), waiting(1000, 1000)
	dear.dearth, cheap.dearth, fair.dearth = 0.5, 0.01, (dearShare+cheapShare)/2
	l := overloaded()
	if l.wait != firstWait {
		t.Errorf("at first: %s, want %s", l.wait, firstWait)
	}
	if l.steps(3*20, dear); l.wait != maxWait {
		t.Errorf("dear for three seconds: %s, want %s", l.wait, maxWait)
	}
	if l.steps(20, fair); l.wait != maxWait {
		t.Errorf("neither dear nor cheap: %s, want %s", l.wait, maxWait)
	}
	if l.steps(20*10, cheap); l.wait != minWait {
		t.Errorf("cheap for ten seconds: %s, want %s", l.wait, minWait)
	}
	if l.steps(calmTicks, quiet(100, 0)); l.wait != 0 {
		t.Errorf("calm: %s, want 0", l.wait)
	}
	herd := freshLaw()
	herd.start(2000)
	if herd.steps(badTicks, waiting(500, 1000)); herd.wait != minWait {
		t.Errorf("a herd after a start, at first: %s, want %s", herd.wait, minWait)
	}
	if herd.steps(10*20, dear); herd.wait > time.Second {
		t.Errorf("a herd after a start, ten seconds later: %s; it goes away sooner if it need not wait", herd.wait)
	}
}

// TestLawBounds: whatever happens, the wait has its bounds, and a law that is left alone becomes calm.
func TestLawBounds(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		l := freshLaw()
		l.start(float64(rng.IntN(2) * rng.IntN(50_000)))
		for range 500 {
			l.step(tick{
				length: time.Duration(1 + rng.Int64N(int64(200*time.Millisecond))), n: rng.IntN(100),
				median: time.Duration(rng.ExpFloat64() * float64(60*time.Millisecond)),
				served: rng.IntN(1000), late: rng.IntN(3) * rng.IntN(1000), cut: rng.IntN(100), dearth: rng.Float64(),
			})
			switch {
			case l.state >= Overload && (l.wait < minWait || l.wait > maxWait || l.calm < calmTicks || l.calm > calmMost):
				t.Fatalf("%s: wait %s, calm after %d ticks", l.state, l.wait, l.calm)
			case !(l.rate >= 0 && l.rate < 1e9 && l.peak >= 0):
				t.Fatalf("%s: rate %v, peak %v", l.state, l.rate, l.peak)
			}
		}
		if l.steps(calmMost+1, quiet(100, 0)); l.state != Calm {
			t.Fatalf("a minute of quiet: state %s", l.state)
		}
	}
}

func TestLawLearnsTheCapacity(t *testing.T) {
	t.Parallel()
	f := func(what string, l *law, low, high float64) {
		t.Helper()
		if l.peak < low || l.peak > high {
			t.Errorf("%s: capacity %v, want %v to %v", what, l.peak, low, high)
		}
	}
	f("calm says nothing", freshLaw().steps(100, quiet(1000, 0)), 0, 0)
	f("all wait", freshLaw().steps(100, waiting(2000, 0)), 1900, 2000)
	f("more is served than was known", freshLaw().steps(100, waiting(500, 0)).steps(100, waiting(2000, 500)), 1900, 2000)
	f("a neighbour takes the core, for a minute", freshLaw().steps(100, waiting(2000, 0)).steps(20*60, waiting(200, 0)), 200, 300)
	f("an overload is remembered for hours", overloaded().steps(100, waiting(2000, 0)).steps(calmTicks, quiet(10, 0)).steps(20*3600, quiet(10, 0)), 1000, 2000)
}
