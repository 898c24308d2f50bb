package relay

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBudgetComesBackStepByStep(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	type span struct {
		until time.Duration
		tick  budgetTick
	}
	well := budgetTick{steady: true}
	f := func(name string, spans []span, want map[time.Duration]int) {
		t.Helper()
		b := newBudget(start)
		b.restart(start)
		for d := time.Duration(0); len(spans) > 0; d += 10 * time.Millisecond {
			tick := spans[0].tick
			tick.at = start.Add(d)
			open := b.step(tick)
			if want, ok := want[d]; ok && open != want {
				t.Errorf("%s: %s after it came up: got %d bands, want %d", name, d, open, want)
			}
			if d >= spans[0].until {
				spans = spans[1:]
			}
		}
	}
	const ms = time.Millisecond
	f("well", []span{{time.Second, well}}, map[time.Duration]int{0: 1, 190 * ms: 1, 200 * ms: 2, 400 * ms: 3, 590 * ms: 3, 600 * ms: 4, 900 * ms: 4})
	f("a probe fails", []span{{190 * ms, well}, {490 * ms, budgetTick{}}, {time.Second, well}},
		map[time.Duration]int{200 * ms: 1, 490 * ms: 1, 500 * ms: 2, 700 * ms: 3})
	f("silent", []span{{190 * ms, well}, {900 * ms, budgetTick{steady: true, silent: true}}}, map[time.Duration]int{900 * ms: 1})
	f("full", []span{{time.Second, budgetTick{steady: true, over: true}}}, map[time.Duration]int{290 * ms: 1, 300 * ms: 2, 600 * ms: 3, 900 * ms: 4})
	f("sheds a little", []span{{3 * time.Second, budgetTick{steady: true, level: 0.1}}}, map[time.Duration]int{0: 1, 400 * ms: 3, 3 * time.Second: 3})
	f("sheds much, then less, then nothing", []span{
		{time.Second, well}, {2 * time.Second, budgetTick{steady: true, level: 0.6}}, {6 * time.Second, budgetTick{steady: true, level: 0.45}},
		{12 * time.Second, budgetTick{steady: true, level: 0.2}}, {30 * time.Second, well},
	}, map[time.Duration]int{
		time.Second: 4, 1010 * ms: 2, 2 * time.Second: 2, 6 * time.Second: 2, // not below 0.4
		9 * time.Second: 2, 9010 * ms: 3, 12 * time.Second: 3, // not below 0.05
		15 * time.Second: 3, 15010 * ms: 4,
	})
}

func TestBandsAreStepped(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1000, 0)
		b := newBudget(now)
		rose := time.Time{}
		for range rapid.IntRange(1, 200).Draw(t, "ticks") {
			now = now.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "ms")) * time.Millisecond)
			if rapid.IntRange(0, 30).Draw(t, "back") == 0 {
				b.restart(now)
				rose = now
			}
			tick := budgetTick{
				at: now, steady: rapid.Bool().Draw(t, "steady"), over: rapid.Bool().Draw(t, "over"), silent: rapid.Bool().Draw(t, "silent"),
				level: rapid.SampledFrom([]float64{0, 0.04, 0.07, 0.1, 0.3, 0.45, 0.5, 1}).Draw(t, "level"),
			}
			before := b.open
			open := b.step(tick)
			switch {
			case open < 1 || open > Bands:
				t.Fatalf("got %d bands", open)
			case open > before+1:
				t.Fatalf("got %d bands after %d", open, before)
			case open > before && (!tick.steady || tick.silent):
				t.Fatalf("got %d bands after %d of a backend that does not answer", open, before)
			case open > before && !rose.IsZero() && now.Sub(rose) < rampStep:
				t.Fatalf("got a band %s after the last", now.Sub(rose))
			case tick.level >= 0.5 && open > 2, tick.level >= 0.1 && open > 3:
				t.Fatalf("level %v: got %d bands", tick.level, open)
			}
			if open > before {
				rose = now
			}
		}
	})
}

func TestPartsOfTheBudget(t *testing.T) {
	t.Parallel()
	f := func(budget, bands, want int) {
		t.Helper()
		if got := openOf(budget, bands); got != want {
			t.Errorf("%d bands of %d: got %d, want %d", bands, budget, got, want)
		}
	}
	f(1500, 1, 187)
	f(1500, 2, 375)
	f(1500, 3, 750)
	f(1500, 4, 1500)
	f(1, 1, 1)
	f(7, 1, 1)
}
