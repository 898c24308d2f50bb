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
	f("the load is as it should be", 40*time.Minute, 600, 1000, 40*time.Minute, 40*time.Minute)
	f("too much", 40*time.Minute, 900, 1000, 40*time.Minute+1, 50*time.Minute)
	f("far too much", 40*time.Minute, 1e6, 1000, 40*time.Minute+1, 50*time.Minute)
	f("little", 40*time.Minute, 100, 1000, 32*time.Minute, 40*time.Minute-1)
	f("nothing", 40*time.Minute, 0, 1000, 32*time.Minute, 40*time.Minute-1)
	f("not above the most", most, 1e6, 1000, most, most)
	f("not below the base", base, 0, 1000, base, base)
	f("the capacity is not known", 40*time.Minute, 900, 0, base, base)
	f("the most was lowered", 3*time.Hour, 600, 1000, most, most)
	f("the base was raised", time.Minute, 600, 1000, base, base)
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
