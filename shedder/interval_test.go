package shedder

import (
	"testing"
	"time"
)

func TestIntervalStep(t *testing.T) {
	t.Parallel()
	const base, most = 30 * time.Minute, 90 * time.Minute
	f := func(what string, told time.Duration, rate, capacity float64, low, high time.Duration) {
		t.Helper()
		i := interval{told: told}
		if i.step(rate, capacity, base, most); i.told < low || i.told > high {
			t.Errorf("%s: from %s to %s, want %s to %s", what, told, i.told, low, high)
		}
	}
	f("the load is as it should be", 40*time.Minute, 500, 1000, 40*time.Minute, 40*time.Minute)
	f("too much", 40*time.Minute, 900, 1000, 40*time.Minute+1, 50*time.Minute)
	f("far too much", 40*time.Minute, 1e6, 1000, 40*time.Minute+1, 50*time.Minute)
	f("little", 40*time.Minute, 100, 1000, 32*time.Minute, 40*time.Minute-1)
	f("nothing", 40*time.Minute, 0, 1000, 32*time.Minute, 40*time.Minute-1)
	f("not above the most", most, 1e6, 1000, most, most)
	f("not below the base", base, 0, 1000, base, base)
	f("the capacity is not known", 40*time.Minute, 900, 0, base, base)
	f("the most was lowered", 3*time.Hour, 500, 1000, most, most)
	f("the base was raised", time.Minute, 500, 1000, base, base)
}

func TestJitterIsWideAfterTrouble(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{Capacity: 1000}, 0)
	if g.interval.jitter() != wideJitter {
		t.Errorf("after a restart: jitter %v, want %v", g.interval.jitter(), wideJitter)
	}
	for now := time.Second; now <= simInterval; now += time.Second {
		g.step(now)
	}
	if g.interval.jitter() != usualJitter {
		t.Errorf("an interval later: jitter %v, want %v", g.interval.jitter(), usualJitter)
	}
}

// tellOut has n clients live by what they are told, in slots of ten seconds, and returns the load and the interval of each.
func tellOut(i *interval, clients func(slot int) float64, slots int, capacity float64, base, most time.Duration) (loads []float64, told []time.Duration) {
	const slot = 10 * time.Second
	due, known := make([]float64, slots+int(2*most/slot)), 0.0
	for s := range slots {
		// Clients that join begin at once, spread over an interval; those that leave are not among the due any more.
		switch n := clients(s); {
		case n > known:
			for k := range int(base / slot) {
				due[s+k] += (n - known) / float64(base/slot)
			}
			known = n
		case n < known:
			for k := s; k < len(due); k++ {
				due[k] *= n / known
			}
			known = n
		}
		i.step(due[s]/slot.Seconds(), capacity, base, most)
		loads, told = append(loads, due[s]/slot.Seconds()/capacity), append(told, i.told)
		const spread = 21
		for k := range spread {
			share := 1 - usualJitter + 2*usualJitter*float64(k)/(spread-1)
			due[s+int(float64(i.told)*share/float64(slot))] += due[s] / spread
		}
	}
	return loads, told
}

// TestIntervalPlansCapacity: at nine tenths of the capacity clients are told to come more seldom, until the load is a half; when
// two thirds of them have gone, the interval is what it was.
func TestIntervalPlansCapacity(t *testing.T) {
	t.Parallel()
	const base, most, hour, capacity = 30 * time.Minute, 90 * time.Minute, 360, 1000.0
	i := interval{told: base}
	loads, told := tellOut(&i, func(slot int) float64 {
		if slot < 12*hour {
			return 0.9 * capacity * base.Seconds()
		}
		return 0.3 * capacity * base.Seconds()
	}, 24*hour, capacity, base, most)
	for h := range 24 {
		low, high, sum := loads[h*hour], loads[h*hour], 0.0
		for _, l := range loads[h*hour : (h+1)*hour] {
			low, high, sum = min(low, l), max(high, l), sum+l/hour
		}
		t.Logf("hour %2d: load %.2f (%.2f to %.2f), told %s at its end", h+1, sum, low, high, told[(h+1)*hour-1].Round(time.Second))
		if h >= 5 && h < 12 && (low < intervalTarget-0.1 || high > intervalTarget+0.1) {
			t.Errorf("hour %d: load %.2f to %.2f, want %.1f", h+1, low, high, intervalTarget)
		}
	}
	if got := told[len(told)-1]; got != base {
		t.Errorf("told at the end: %s, want %s", got, base)
	}
}
