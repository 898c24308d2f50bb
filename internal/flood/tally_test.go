package flood

import (
	"cmp"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"pgregory.net/rapid"
)

// Given latencies of any size, counted in one histogram or in two that are merged, a quantile is that of the sorted list, to the
// histogram's digits; the largest is exact.
func TestHistQuantiles(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		digits := rapid.SampledFrom([]int{phaseDigits, binDigits}).Draw(t, "digits")
		latency := rapid.OneOf(rapid.Int64Range(0, int64(time.Millisecond)), rapid.Int64Range(0, int64(histLongest)))
		all := rapid.SliceOfN(latency, 1, 2000).Draw(t, "latencies")
		cut := rapid.IntRange(0, len(all)).Draw(t, "in the first")
		h, other := newHist(digits), newHist(digits)
		for i, d := range all {
			if i < cut {
				h.add(time.Duration(d))
			} else {
				other.add(time.Duration(d))
			}
		}
		h.merge(&other)
		slices.Sort(all)
		for _, q := range []float64{0, 0.5, 0.9, 0.99, 0.999, 1} {
			rank := max(int(q*float64(len(all))+0.5), 1)
			want := float64(all[min(rank, len(all))-1])
			got := float64(h.at(q))
			if within := want*1.01*math.Pow10(-digits) + float64(histUnit); math.Abs(got-want) > within || q > 0 && got < want {
				t.Fatalf("quantile %g of %d, %d digits: got %g, want %g", q, len(all), digits, got, want)
			}
		}
		if got := int64(h.at(1)); got != all[len(all)-1] {
			t.Fatalf("largest: got %d, want %d", got, all[len(all)-1])
		}
		curve := h.curve()
		if last := curve[len(curve)-1]; last.Q != 1 || last.MS != ms(h.most) || h.count() != int64(len(all)) {
			t.Fatalf("%d counted, curve %v: want %d, and the largest at its end", h.count(), curve, len(all))
		}
		if !slices.IsSortedFunc(curve, func(a, b Quantile) int { return cmp.Compare(a.MS, b.MS) }) {
			t.Fatalf("a curve that falls: %v", curve)
		}
		again, err := hdrhistogram.Decode([]byte(h.encoded()))
		if err != nil || again.TotalCount() != h.count() || again.ValueAtQuantile(50) != h.h.ValueAtQuantile(50) {
			t.Fatalf("written and read again: %v", err)
		}
	})
}

func TestHistOfNothingAndOfTooMuch(t *testing.T) {
	t.Parallel()
	h := newHist(phaseDigits)
	if h.at(0.5) != 0 || h.at(1) != 0 || h.curve() != nil || h.encoded() != "" {
		t.Errorf("of nothing: %s, %s, %v, %q", h.at(0.5), h.at(1), h.curve(), h.encoded())
	}
	h.add(-time.Second)
	h.add(time.Hour)
	if h.at(0.5) > histUnit || h.at(1) != time.Hour || h.count() != 2 {
		t.Errorf("of -1s and 1h: median %s, largest %s", h.at(0.5), h.at(1))
	}
}
