package shedder

import (
	"math/rand/v2"
	"testing"
	"time"
)

// quiet and late are ticks in which so many were served, a second, and as many refused.
func quiet(served, refused int) tick {
	return tick{length: TickLength, n: 100, median: time.Millisecond, served: served / 20, refused: refused / 20}
}

func late(served, refused int) tick {
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

func overloaded() *law {
	return (&law{target: 50 * time.Millisecond}).steps(2*calmTicks, quiet(2000, 0)).steps(badTicks, late(2000, 0))
}

func TestLawStates(t *testing.T) {
	t.Parallel()
	dear := late(1000, 1000)
	dear.dearth = 0.5
	f := func(what string, l *law, want State) {
		t.Helper()
		if l.state != want {
			t.Errorf("%s: got %s, want %s", what, stateNames[l.state], stateNames[want])
		}
	}
	fresh := func() *law { return &law{target: 50 * time.Millisecond} }
	f("nothing happens", fresh().steps(100, quiet(2000, 0)), Calm)
	f("one late tick is a collection of garbage", fresh().steps(1, late(2000, 0)), Calm)
	f("two in a row", fresh().steps(2, late(2000, 0)), Overload)
	alternating := fresh()
	for range 100 {
		alternating.step(late(2000, 0))
		alternating.step(quiet(2000, 0))
	}
	f("every second tick is late", alternating, Calm)
	few := late(100, 0)
	few.n = minAges - 1
	f("too few to say", fresh().steps(100, few), Calm)
	f("no time has passed", fresh().steps(10, tick{n: 100, median: time.Second}), Calm)

	f("all is well, but not for long", overloaded().steps(calmTicks-1, quiet(1000, 0)), Overload)
	f("two seconds", overloaded().steps(calmTicks, quiet(1000, 0)), Calm)
	f("somebody is still refused", overloaded().steps(20, late(1800, 1800)).steps(2*calmTicks, quiet(1700, 1700)), Overload)
	// The brownout refuses scrapes while there is overload, and must not keep it up.
	f("refused by the brownout alone", overloaded().steps(2*calmTicks, quiet(1000, 50)), Calm)
	half := quiet(1000, 0)
	half.median = 30 * time.Millisecond
	f("not late, and not well", overloaded().steps(10*calmTicks, half), Overload)

	f("refusing is dear", overloaded().steps(escalateTicks, dear), Escalated)
	f("and cheap again", overloaded().steps(escalateTicks, dear).steps(10*calmTicks, half), Overload)

	ramp := fresh()
	ramp.start(2000)
	f("started, the capacity known", ramp, Ramp)
	if ramp.rate != 400 {
		t.Errorf("the rate at the start: got %v, want a fifth of 2000", ramp.rate)
	}
	f("ten seconds later", ramp.steps(200, quiet(300, 100)), Calm)
	ramp = fresh()
	ramp.start(2000)
	f("nobody comes", ramp.steps(2*calmTicks, quiet(10, 0)), Calm)
	ramp = fresh()
	ramp.start(2000)
	f("too much already", ramp.steps(2, late(500, 1000)), Overload)
	unknown := fresh()
	unknown.start(0)
	f("started, nothing known", unknown, Calm)
}

func TestLawCuts(t *testing.T) {
	t.Parallel()
	l := overloaded()
	if l.rate != 0.9*2000 || l.wait != minWait {
		t.Fatalf("at the start of an overload: rate %v, wait %s; want 1800, %s", l.rate, l.wait, minWait)
	}
	// What waited before the first cut is no reason for another.
	for range drainTicks - 1 {
		if l.step(late(1800, 200)); l.rate != 1800 {
			t.Fatalf("cut to %v while the queue drains", l.rate)
		}
	}
	l.steps(2, late(1800, 200))
	if l.rate >= 1800 || l.rate < 1800*(1-cutMost) {
		t.Errorf("still late: rate %v, want up to %v less than 1800", l.rate, cutMost)
	}
	before := l.rate
	for median := 55 * time.Millisecond; median > 30*time.Millisecond; median -= time.Millisecond {
		shorter := late(1700, 300)
		shorter.median = median
		if l.step(shorter); l.rate < before {
			t.Fatalf("cut from %v to %v, and the queue was getting shorter", before, l.rate)
		}
	}
}

func TestLawGrows(t *testing.T) {
	t.Parallel()
	l := overloaded().steps(20, late(1800, 200))
	knee := l.knee
	f := func(what string, ticks int, low, high float64) {
		t.Helper()
		before := l.rate
		if l.steps(ticks, quiet(int(l.rate), int(l.rate))); l.rate/before < low || l.rate/before > high {
			t.Errorf("%s: the rate grows by %.3f in %d ticks, want %.2f to %.2f", what, l.rate/before, ticks, low, high)
		}
	}
	l.rate = knee / 2
	f("far below what was served", 20, 1.2, 1.3)
	l.rate, l.uncut = knee, 0
	f("near it", 20, 1.05, 1.12)
	l.uncut = calmTicks
	f("near it, for long", 20, 1.2, 1.3)
	before := l.rate
	if l.steps(20, quiet(int(l.rate/2), 0)); l.rate > 1.1*before {
		t.Errorf("the rate grows from %v to %v, and half of it is not used", before, l.rate)
	}
}

// TestLawWaits: who is refused is kept waiting the longer, the more refusing costs; and not while the tracker is idle.
func TestLawWaits(t *testing.T) {
	t.Parallel()
	dear, cheap := late(1000, 1000), late(1000, 1000)
	dear.dearth, cheap.dearth = 0.5, 0.01
	l := overloaded()
	if l.steps(20*10, dear); l.wait > time.Second {
		t.Errorf("after 10 s: %s; a herd is told to go away within that", l.wait)
	}
	if l.steps(20*25, dear); l.wait != maxWait {
		t.Errorf("after 35 s: %s, want %s", l.wait, maxWait)
	}
	if l.steps(20*10, cheap); l.wait != minWait {
		t.Errorf("refusing is cheap: %s, want %s", l.wait, minWait)
	}
	l.steps(20*35, dear)
	l.rate = 2000
	idle := quiet(100, 100)
	idle.dearth = 0.5
	if l.steps(20, idle); l.wait >= maxWait/2+maxWait/10 {
		t.Errorf("a second in which a tenth of the rate was used: %s, want far less than %s", l.wait, maxWait)
	}
}

// TestLawBounds: whatever happens, the rate has a floor, the wait its bounds, and a law that is left alone becomes calm.
func TestLawBounds(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		l := &law{target: 50 * time.Millisecond}
		l.start(float64(rng.IntN(2) * rng.IntN(50_000)))
		for range 500 {
			l.step(tick{
				length: time.Duration(1 + rng.Int64N(int64(200*time.Millisecond))), n: rng.IntN(100),
				median: time.Duration(rng.ExpFloat64() * float64(60*time.Millisecond)),
				served: rng.IntN(1000), refused: rng.IntN(3) * rng.IntN(1000), cut: rng.IntN(100), dearth: rng.Float64(),
			})
			switch {
			case l.state >= Overload && (l.rate < 0.99*l.floor() || l.wait < minWait || l.wait > maxWait):
				t.Fatalf("%s: rate %v (floor %v), wait %s", stateNames[l.state], l.rate, l.floor(), l.wait)
			case !(l.rate >= 0 && l.rate < 1e9 && l.peak >= 0 && l.peak < 1e9):
				t.Fatalf("%s: rate %v, peak %v", stateNames[l.state], l.rate, l.peak)
			}
		}
		if l.steps(20*60, quiet(100, 0)); l.state != Calm {
			t.Fatalf("a minute of quiet: state %s, rate %v", stateNames[l.state], l.rate)
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
	f("calm says nothing", (&law{target: 50 * time.Millisecond}).steps(100, quiet(1000, 0)), 0, 0)
	f("all wait", (&law{target: 50 * time.Millisecond}).steps(100, late(2000, 0)), 1900, 2000)
	// Known from a day on which the machine was busy: what is served in an overload corrects it, though nobody waits then.
	small := overloaded()
	small.peak = 100
	f("more is served than was known", small.steps(100, quiet(1900, 500)), 1850, 2000)
	cheap := late(200, 100)
	cheap.dearth = 0.02
	f("lost", overloaded().steps(20*60, cheap), 200, 1100)
	dear := cheap
	dear.dearth = 0.7
	f("not lost, but spent on refusing", overloaded().steps(20*60, dear), 1900, 2100)
	f("an overload is remembered for hours", overloaded().steps(calmTicks, quiet(10, 0)).steps(20*3600, quiet(10, 0)), 700, 2000)
}
