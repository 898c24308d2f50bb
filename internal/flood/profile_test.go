package flood

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseProfile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want, err string }{
		{"10s@0.5,60s@10,30s@0.5", "10s@0.5,1m0s@10,30s@0.5", ""},
		{" 1s@1 , 100ms@0", "1s@1,100ms@0", ""},
		{"10s@10/0.95,1s@1/0", "10s@10/0.95,1s@1/0", ""},
		{"", "", "no @"},
		{"10@1", "", "not a time"},
		{"10s@x", "", "not a multiple"},
		{"10s@1/2", "", "from 0 to 1"},
		{"10s@1/NaN", "", "from 0 to 1"},
		{"10s@NaN", "", "must be 0 or more"},
		{"10s@-1", "", "must be 0 or more"},
		{"10s@+Inf", "", "must be 0 or more"},
		{"0s@1", "", "longer than 0"},
		{"-1s@1", "", "longer than 0"},
		{"5m@1,5m1s@1", "", "within 10m"},
		{"2540400h@1,2540400h@1", "", "within 10m"}, // their sum is beyond what a time holds
		{strings.Repeat("1s@1,", 64) + "1s@1", "", "more than 64"},
	} {
		p, err := ParseProfile(c.in)
		if c.err == "" && (err != nil || p.String() != c.want) {
			t.Errorf("%q: got %s, %v, want %s", c.in, p, err, c.want)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: got %s, %v, want %q", c.in, p, err, c.err)
		}
	}
}

// What is read, written and read again is the same.
func FuzzParseProfile(f *testing.F) {
	f.Add("10s@0.5,60s@10/0.9,30s@0.5")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseProfile(s)
		if err != nil {
			return
		}
		again, err := ParseProfile(p.String())
		if err != nil || again.String() != p.String() {
			t.Errorf("%q: read again from %q: got %q, %v", s, p, again, err)
		}
		if total := p.Total(); total <= 0 || total > maxDuration {
			t.Errorf("%q: total %s", s, total)
		}
	})
}

// Given several workers, when their schedules are merged, then each phase has as many requests as its rate says, evenly spaced.
func TestScheduleIsTheSameForAnyNumberOfWorkers(t *testing.T) {
	t.Parallel()
	p, err := ParseProfile("1s@0.5,2s@10,500ms@0,1s@1")
	if err != nil {
		t.Fatal(err)
	}
	for _, workers := range []int{1, 2, 3, 7} {
		counts := make([]int, len(p))
		gaps := make([]int64, 0, 1<<15)
		for w := range workers {
			s := newSchedule(p, 1000, w, workers)
			last := int64(-1)
			for {
				due, phase, ok := s.next()
				if !ok {
					break
				}
				if due <= last || due < s.spans[phase].from || due >= s.spans[phase].to {
					t.Fatalf("worker %d of %d: due %d after %d, in phase %d", w, workers, due, last, phase)
				}
				if phase == 1 && last >= s.spans[1].from {
					gaps = append(gaps, due-last)
				}
				last = due
				counts[phase]++
				s.taken()
			}
		}
		for i, want := range []int{500, 20000, 0, 1000} {
			if counts[i] != want {
				t.Errorf("%d workers, phase %d: got %d requests, want %d", workers, i, counts[i], want)
			}
		}
		for _, gap := range gaps {
			if want := float64(workers) * 1e5; math.Abs(float64(gap)-want) > 2 {
				t.Fatalf("%d workers: a gap of %d ns, want %g", workers, gap, want)
			}
		}
	}
	if s := newSchedule(p, 1000, 0, 1); time.Duration(s.end()) != p.Total() {
		t.Errorf("end: got %d, want %s", s.end(), p.Total())
	}
}
