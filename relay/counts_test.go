package relay

import (
	"testing"
	"time"
)

func TestSignsInTheCounts(t *testing.T) {
	t.Parallel()
	f := func(name string, before, now BackendCounts, want signs) {
		t.Helper()
		if got := readSigns(before, now); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	f("nothing happens", BackendCounts{}, BackendCounts{}, signs{idle: true})
	f("nobody comes, one waits", BackendCounts{Opened: 7, Unanswered: 1}, BackendCounts{Opened: 7, Unanswered: 1}, signs{})
	f("all are answered", BackendCounts{Opened: 1000, Unanswered: 200}, BackendCounts{Opened: 2000, Unanswered: 210}, signs{})
	f("a herd, half of it answered so far", BackendCounts{}, BackendCounts{Opened: 1000, Unanswered: 500}, signs{})
	f("none is answered", BackendCounts{Opened: 1000, Unanswered: 5}, BackendCounts{Opened: 2000, Unanswered: 1004}, signs{silent: true})
	f("nearly none", BackendCounts{Opened: 1000}, BackendCounts{Opened: 2000, Unanswered: 905}, signs{silent: true})
	f("the budget is full and stays so", BackendCounts{Opened: 1500, Unanswered: 1500, Budget: 10},
		BackendCounts{Opened: 1500, Unanswered: 1500, Budget: 1010}, signs{over: true, silent: true})
	f("the budget is full, and the backend answers", BackendCounts{Opened: 1500, Unanswered: 1500, Budget: 10},
		BackendCounts{Opened: 2500, Unanswered: 1500, Budget: 1010}, signs{over: true})
	f("its accept queue is full, and it serves those it has", BackendCounts{Opened: 1500, Unanswered: 1500, Budget: 10, Spoken: 5},
		BackendCounts{Opened: 1500, Unanswered: 1500, Budget: 1010, Spoken: 6}, signs{over: true, silent: true, spoke: true})
	f("few users, on their way", BackendCounts{}, BackendCounts{Opened: 9, Unanswered: 9}, signs{})
	f("what waited is answered", BackendCounts{Opened: 1500, Unanswered: 1500}, BackendCounts{Opened: 1520, Unanswered: 0}, signs{})
	f("the path was made anew", BackendCounts{Opened: 1e6, Budget: 1e6, Unanswered: 1000}, BackendCounts{Opened: 5, Unanswered: 5}, signs{})
}

func TestRatesAreOfTheLastSeconds(t *testing.T) {
	t.Parallel()
	var h history
	opened := sum(func(b *BackendCounts) uint64 { return b.Opened })
	if got := h.rate(opened); got != 0 {
		t.Errorf("of nothing: got %v", got)
	}
	now := time.Unix(1000, 0)
	total := uint64(0)
	second := func(perSecond uint64) {
		for range time.Second / countEvery {
			now = now.Add(countEvery)
			total += perSecond / uint64(time.Second/countEvery)
			h.add(now, Counts{Backends: []BackendCounts{{Opened: total / 2}, {Opened: total / 2}}})
		}
	}
	for range 10 {
		second(1000)
	}
	if got := h.rate(opened); got != 1000 {
		t.Errorf("steady: got %v, want 1000", got)
	}
	for range 3 {
		second(0)
	}
	if got := h.rate(opened); got != 0 || len(h) != historyLen || cap(h) > 2*historyLen {
		t.Errorf("3 s after the end: got %v of %d samples, cap %d", got, len(h), cap(h))
	}
	h.add(now.Add(time.Second), Counts{Backends: make([]BackendCounts, 2)})
	if got := h.rate(opened); got != 0 {
		t.Errorf("of a path made anew: got %v, want 0", got)
	}
}

func TestAlarmOncePerCrossing(t *testing.T) {
	t.Parallel()
	a := alarm{high: 0.7, low: 0.6}
	var got []int
	for i, share := range []float64{0.1, 0.69, 0.7, 0.9, 0.65, 0.75, 0.59, 0.65, 0.71, 0.8} {
		if a.step(share) {
			got = append(got, i)
		}
	}
	if len(got) != 2 || got[0] != 2 || got[1] != 8 {
		t.Errorf("raised at %v, want 2 and 8", got)
	}
}
