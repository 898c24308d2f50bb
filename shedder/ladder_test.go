package shedder

import (
	"testing"
	"time"
)

func TestLadder(t *testing.T) {
	t.Parallel()
	l := &ladder{}
	f := func(overload bool, d time.Duration, want int) {
		t.Helper()
		for range int(d / TickLength) {
			if l.step(overload, TickLength); l.level < 0 || l.level > brownSteps {
				t.Fatalf("level %d", l.level)
			}
		}
		if l.level != want {
			t.Fatalf("after %s more, overload %v: got level %d, want %d", d, overload, l.level, want)
		}
	}
	f(true, 1950*time.Millisecond, 0)
	f(true, 50*time.Millisecond, BrownUpgrades)
	f(true, 8*time.Second, BrownSeeders)
	f(true, time.Minute, BrownSeeders)
	f(false, 29*time.Second, BrownSeeders)
	f(true, time.Second, BrownSeeders)
	f(false, 29*time.Second, BrownSeeders) // the thirty seconds began again
	f(false, time.Second, BrownNumWant)
	f(false, 4*30*time.Second, 0)
	f(false, time.Hour, 0)
	if len(brownTexts) != brownSteps {
		t.Errorf("%d steps have a text, want %d", len(brownTexts), brownSteps)
	}
}

func TestMemoryLevel(t *testing.T) {
	t.Parallel()
	level := memoryFine
	for _, step := range []struct {
		percent int64
		want    int
	}{
		{50, memoryFine}, {84, memoryFine}, {86, memoryTight}, {84, memoryTight}, {83, memoryTight}, {81, memoryFine},
		{86, memoryTight}, {92, memoryTight}, {93, memoryFull}, {90, memoryFull}, {88, memoryTight}, {83, memoryTight}, {50, memoryFine},
		{100, memoryFull}, {120, memoryFull}, {10, memoryFine},
	} {
		if level = memoryLevel(level, step.percent, 100); level != step.want {
			t.Errorf("%d %% used: got level %d, want %d", step.percent, level, step.want)
		}
	}
	if got := memoryLevel(memoryFull, 1<<40, 0); got != memoryFine {
		t.Errorf("no limit is known: got level %d, want %d", got, memoryFine)
	}
}

func TestCost(t *testing.T) {
	t.Parallel()
	var c cost
	if c.get() != 0 {
		t.Errorf("before the first sample: %s", c.get())
	}
	for range 200 {
		c.sample(10 * time.Microsecond)
	}
	if c.sample(time.Second); c.get() > 11*time.Microsecond {
		t.Errorf("a thread taken away for a second makes %s of 10 us", c.get())
	}
	for range 200 {
		c.sample(40 * time.Microsecond)
	}
	if got := c.get(); got < 38*time.Microsecond || got > 41*time.Microsecond {
		t.Errorf("samples of 40 us: %s", got)
	}
	if c.sample(-time.Hour); c.get() <= 0 {
		t.Errorf("a clock that went back: %s", c.get())
	}
}
