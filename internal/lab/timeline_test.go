package lab

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"spillway/internal/flood"
)

// aTimeline is of three seconds: a success, a fault in the second one, and a late success.
func aTimeline() *Timeline {
	start := time.Unix(1000, 0)
	core := func(after, idle, user time.Duration) coreClock {
		return coreClock{at: start.Add(after), idle: idle, user: user}
	}
	t := &Tally{Start: start, Attempts: Attempts{
		{At: 50 * time.Millisecond, Took: 30 * time.Millisecond, Outcome: OK},
		{At: s, Took: 2 * time.Millisecond, Outcome: Refused},
		{At: s + 50*time.Millisecond, Took: 150 * time.Millisecond, Outcome: Reset},
		{At: 2 * s, Took: 5 * s, Outcome: Timeout}, // ends after the timeline
		{At: 2 * s, Outcome: Local},
	}}
	l := newTimeline(t, Samples{
		{At: start.Add(-s), Conntrack: 99, core: core(-s, 0, 0)},
		{At: start.Add(10 * time.Millisecond), Conntrack: 7, HalfOpen: 2, core: core(10*time.Millisecond, 500*time.Millisecond, 100*time.Millisecond)},
		{At: start.Add(10 * s), Conntrack: 99, core: core(10*s, 0, 0)},
	}, 3*s)
	l.Name, l.Fault, l.Mended = "a < b", s, 2*s
	return l
}

func TestTimelineSortsIntoSteps(t *testing.T) {
	t.Parallel()
	l := aTimeline()
	if len(l.Offered) != 30 || len(l.Bad) != 30 || len(l.CPU) != 30 {
		t.Fatalf("steps: got %d, %d, %d; want 30", len(l.Offered), len(l.Bad), len(l.CPU))
	}
	for _, c := range []struct {
		what      string
		y         []float64
		at        int
		want      float64
		elsewhere bool
	}{
		{"offered", l.Offered, 0, 10, true}, {"offered", l.Offered, 10, 20, true}, {"offered", l.Offered, 20, 20, true},
		{"ok", l.OK, 0, 10, false}, {"refused", l.Refused, 10, 10, false}, {"reset, when it ended", l.Reset, 12, 10, false},
		{"failure p50, when it began", l.FailureP50, 10, 150, true}, {"of the one that timed out", l.FailureP50, 20, 5000, true},
		{"conntrack", l.Conntrack, 0, 7, true}, {"half-open", l.HalfOpen, 0, 2, true},
		{"conntrack, not seen again", l.Conntrack, 29, 7, true},
	} {
		if got := c.y[c.at]; got != c.want {
			t.Errorf("%s: got %g, want %g", c.what, got, c.want)
		}
		sum := 0.0
		for _, v := range c.y {
			sum += v
		}
		if !c.elsewhere && sum != c.want {
			t.Errorf("%s: %g elsewhere", c.what, sum-c.want)
		}
	}
	// 1.01 s, of which 0.5 idle and 0.1 a stranger's.
	if got := l.CPU[0]; got < 0.40 || got > 0.41 {
		t.Errorf("cpu: got %g, want 0.406", got)
	}
}

func TestTimelineIsPrintedAndDrawn(t *testing.T) {
	t.Parallel()
	l := aTimeline()
	var b strings.Builder
	if err := l.Print(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 5 || !strings.Contains(lines[3], "<- fault") || !strings.Contains(lines[4], "<- mended") || strings.Contains(lines[2], "<-") {
		t.Errorf("table:\n%s", b.String())
	}
	other := aTimeline()
	other.Name = "another"
	for name, svg := range map[string][]byte{
		"timelines": flood.Figure(l.Column(), other.Column()), "comparison": flood.Figure(Compare("F1", []*Timeline{l, other})), "nothing": flood.Figure(Compare("", nil)),
	} {
		dec := xml.NewDecoder(bytes.NewReader(svg))
		for {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if name == "comparison" && (!bytes.Contains(svg, []byte("a &lt; b")) || !bytes.Contains(svg, []byte(`class="phase"`))) {
			t.Errorf("%s has no legend, or no fault", name)
		}
	}
}

func TestTheCoresClockIsRead(t *testing.T) {
	t.Parallel()
	const stat = "cpu  1 1 1 1 1\ncpu0 100 20 30 400 50 60 70 80 0 0\ncpu1 1 2 3 4 5 6\nintr 1\n"
	at := time.Unix(1, 0)
	c, err := parseCore([]byte(stat), 0, at)
	if want := (coreClock{at, 4500 * time.Millisecond, 1200 * time.Millisecond, 800 * time.Millisecond}); err != nil || c != want {
		t.Errorf("got %v, %v; want %v", c, err, want)
	}
	for _, bad := range []string{"", "cpu0 1 2\n", "cpu0 1 2 3 x 5\n", "cpu00 1 2 3 4 5\n"} {
		if _, err := parseCore([]byte(bad), 0, at); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	later := coreClock{at.Add(s), c.idle + 300*time.Millisecond, c.user + 250*time.Millisecond, c.lost + 100*time.Millisecond}
	if got := later.useSince(c, 50*time.Millisecond); math.Abs(got.Relay-0.5)+math.Abs(got.Foreign-0.2) > 1e-9 {
		t.Errorf("use: got %v, want 0.5 and 0.2", got)
	}
	if got := (coreClocks{c, later}).stolenSince(coreClocks{c, c}); math.Abs(got-0.1) > 1e-9 {
		t.Errorf("stolen: got %v, want 0.1", got)
	}
	if got := c.useSince(c, 0); got != (Use{}) {
		t.Errorf("of no time: got %v", got)
	}
	if got, want := mask(33), "2,00000000"; got != want {
		t.Errorf("mask of core 33: got %s, want %s", got, want)
	}
}
