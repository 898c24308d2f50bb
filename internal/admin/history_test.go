package admin

import (
	"encoding/json"
	"math"
	"slices"
	"sync"
	"testing"
	"time"
)

// told is a History as a client reads it.
type told struct {
	StepSeconds int64                `json:"step_seconds"`
	To          int64                `json:"to"`
	Series      map[string][]float64 `json:"series"`
}

func (h *History) told(t *testing.T) told {
	t.Helper()
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var got told
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	if got.StepSeconds != 10 || len(got.Series) != len(historySeries) {
		t.Errorf("got a step of %d s and %d series, want 10 and %d", got.StepSeconds, len(got.Series), len(historySeries))
	}
	for name, list := range got.Series {
		if list == nil || len(list) != len(got.Series["offered"]) || len(list) > 360 {
			t.Errorf("%s: got %d points, want as many as offered (%d), at most 360", name, len(list), len(got.Series["offered"]))
		}
	}
	return got
}

func TestHistoryKeepsTheLastHour(t *testing.T) {
	t.Parallel()
	var h History
	if got := h.told(t); got.To != 0 || len(got.Series["offered"]) != 0 {
		t.Errorf("empty: got %+v", got)
	}
	start := time.Unix(1_700_000_000, 0)
	for i := range 1000 {
		v := float64(i)
		h.Add(start.Add(time.Duration(i)*HistoryStep), Sample{v, v + 0.126, v + 2, v + 3, i + 4, i + 5, int64(i) + 6<<40})
		if got := h.told(t); len(got.Series["offered"]) != min(i+1, 360) {
			t.Fatalf("points after %d: got %d", i+1, len(got.Series["offered"]))
		}
	}
	got := h.told(t)
	if want := start.Add(999 * HistoryStep).Unix(); got.To != want {
		t.Errorf("to: got %d, want %d", got.To, want)
	}
	for name, want := range map[string]float64{"offered": 0, "served": 0.13, "shed": 2, "age_ms": 3, "conns": 4, "websockets": 5, "memory_bytes": 6 << 40} {
		list := got.Series[name]
		for i, v := range list {
			if math.Abs(v-(640+float64(i)+want)) > 1e-3 {
				t.Fatalf("%s[%d]: got %v, want %v", name, i, v, 640+float64(i)+want)
			}
		}
	}
}

func TestHistoryFillsWhatNobodyMeasured(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		after []time.Duration // between points
		want  []float64
	}{
		{"on time", []time.Duration{10 * time.Second, 10 * time.Second}, []float64{1, 2, 3}},
		{"a ticker that is late, then not", []time.Duration{14 * time.Second, 6 * time.Second}, []float64{1, 2, 3}},
		{"slept for 30 s", []time.Duration{40 * time.Second, 10 * time.Second}, []float64{1, 0, 0, 0, 2, 3}},
		{"clock set back", []time.Duration{-time.Hour, 10 * time.Second}, []float64{1, 2, 3}},
		{"twice at once", []time.Duration{0, 0}, []float64{1, 2, 3}},
	} {
		var h History
		now := time.Unix(1_700_000_000, 0)
		h.Add(now, Sample{Offered: 1})
		for i, d := range c.after {
			now = now.Add(d)
			h.Add(now, Sample{Offered: float64(i + 2)})
		}
		if got := h.told(t).Series["offered"]; !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}

	var h History
	h.Add(time.Unix(0, 0), Sample{Offered: 1})
	h.Add(time.Unix(math.MaxInt32, 0), Sample{Offered: 2}) // as a machine without a clock does when it finds one
	got := h.told(t).Series["offered"]
	if len(got) != 360 || got[359] != 2 || slices.Max(got[:359]) != 0 {
		t.Errorf("a leap of decades: got %d points that end with %v", len(got), got[len(got)-1])
	}
}

func TestHistoryHasOnlyNumbersJSONHas(t *testing.T) {
	t.Parallel()
	var h History
	h.Add(time.Unix(1, 0), Sample{Offered: math.NaN(), Served: math.Inf(1), Shed: math.Inf(-1), AgeMS: math.MaxFloat64})
	got := h.told(t)
	if got.Series["offered"][0] != 0 || got.Series["served"][0] != 0 || got.Series["shed"][0] != 0 || got.Series["age_ms"][0] != math.MaxFloat64 {
		t.Errorf("got %v", got.Series)
	}
}

func TestHistoryIsReadWhileItGrows(t *testing.T) {
	t.Parallel()
	var h History
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 2000 {
			h.Add(time.Unix(int64(10*i), 0), Sample{Offered: 1, Served: 1})
		}
	})
	for range 50 {
		got := h.told(t)
		if !slices.Equal(got.Series["offered"], got.Series["served"]) {
			t.Fatal("series do not belong together")
		}
	}
	wg.Wait()
}
