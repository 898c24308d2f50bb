package flood

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Given latencies of any size, a quantile is at most 3.2 % above the one of the sorted list.
func TestHistQuantiles(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var h, other hist
		var all []time.Duration
		for range 1 + rng.IntN(2000) {
			d := time.Duration(rng.Int64N(1 << (10 + rng.IntN(23))))
			all = append(all, d)
			if rng.IntN(2) == 0 {
				h.add(d)
			} else {
				other.add(d)
			}
		}
		h.merge(&other)
		slices.Sort(all)
		for _, q := range []float64{0, 0.5, 0.9, 0.99, 0.999, 1} {
			want := all[min(int(q*float64(len(all))), len(all)-1)]
			if got := h.at(q); got < want || float64(got) > float64(want)*1.032+1000 {
				t.Fatalf("quantile %g of %d: got %s, want %s", q, len(all), got, want)
			}
		}
	}
	var h hist
	if got := h.at(0.5); got != 0 {
		t.Errorf("of nothing: got %s", got)
	}
	h.add(time.Hour)
	h.add(-time.Second)
	if got := h.at(1); got != time.Hour {
		t.Errorf("beyond the last cell: got %s", got)
	}
}

func TestHistBoundIsTheNextCell(t *testing.T) {
	t.Parallel()
	for i := range histCells - 1 {
		if at := histCell(histBound(i) - 1); at != i {
			t.Errorf("below the bound of %d: got cell %d", i, at)
		}
		if at := histCell(histBound(i)); at != i+1 {
			t.Errorf("at the bound of %d: got cell %d", i, at)
		}
	}
}
