package lab

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"spillway/internal/plot"
)

// Timeline is what happened in each tenth of a second of a trial. All slices have one length.
type Timeline struct {
	Name       string        `json:"name"`
	Step       time.Duration `json:"step"`
	Fault      time.Duration `json:"fault"`          // when it came; 0: none
	Mended     time.Duration `json:"mended"`         // when it went
	Offered    []float64     `json:"offered"`        // attempts that began, a second, repeats among them
	OK         []float64     `json:"ok"`             // a second, of those that ended then
	Shed       []float64     `json:"shed"`           //
	Refused    []float64     `json:"refused"`        //
	Reset      []float64     `json:"reset"`          //
	TimedOut   []float64     `json:"timed_out"`      //
	Bad        []float64     `json:"bad"`            //
	FailureP50 []float64     `json:"failure_p50_ms"` // of those that began then and failed; 0: none
	FailureP99 []float64     `json:"failure_p99_ms"` //
	Conntrack  []float64     `json:"conntrack"`      //
	HalfOpen   []float64     `json:"half_open"`      //
	CPU        []float64     `json:"cpu"`            // share of the relay's core, over the half second before
}

// cpuOver is what a point of Timeline.CPU is averaged over: the kernel counts 10 ms at a time.
const cpuOver = 5

// newTimeline sorts what was written down into steps.
func newTimeline(t *Tally, samples Samples, length time.Duration) *Timeline {
	n := int((length + SampleEvery - 1) / SampleEvery)
	l := &Timeline{Step: SampleEvery}
	by := [outcomes]*[]float64{OK: &l.OK, Shed: &l.Shed, Refused: &l.Refused, Reset: &l.Reset, Timeout: &l.TimedOut, Bad: &l.Bad}
	for _, s := range append(by[:Local], &l.Offered, &l.FailureP50, &l.FailureP99, &l.Conntrack, &l.HalfOpen, &l.CPU) {
		*s = make([]float64, n)
	}
	failed := make([]Attempts, n)
	perSecond := float64(time.Second / SampleEvery)
	for _, a := range t.Attempts {
		if i := int(a.At / SampleEvery); i < n {
			l.Offered[i] += perSecond
			if a.Outcome.Failed() {
				failed[i] = append(failed[i], a)
			}
		}
		if i := int((a.At + a.Took) / SampleEvery); i < n && a.Outcome < Local {
			(*by[a.Outcome])[i] += perSecond
		}
	}
	for i, f := range failed {
		l.FailureP50[i], l.FailureP99[i] = ms(f.Quantile(0.5)), ms(f.Quantile(0.99))
	}
	seen := make([]bool, n)
	for i := range samples {
		s := &samples[i]
		at := int(s.At.Sub(t.Start) / SampleEvery)
		if at < 0 || at >= n || s.At.Before(t.Start) {
			continue
		}
		l.Conntrack[at], l.HalfOpen[at] = float64(s.Conntrack), float64(s.HalfOpen)
		l.CPU[at] = s.useSince(&samples[max(i-cpuOver, 0)]).Relay
		seen[at] = true
	}
	for i := 1; i < n; i++ { // a sample that was late leaves what was seen last
		if !seen[i] {
			l.Conntrack[i], l.HalfOpen[i], l.CPU[i] = l.Conntrack[i-1], l.HalfOpen[i-1], l.CPU[i-1]
		}
	}
	return l
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// spans are the fault.
func (l *Timeline) spans() []plot.Span {
	return []plot.Span{{From: l.Fault.Seconds(), To: l.Mended.Seconds(), Shaded: l.Mended > l.Fault}}
}

func (l *Timeline) seconds() float64 { return float64(len(l.Offered)) * l.Step.Seconds() }

// Print writes a line for each second: rates are of all of it, the rest is the highest in it.
func (l *Timeline) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%6s %9s %7s %6s %8s %7s %8s %10s %10s %9s %9s %5s\n", l.Name, "s", "offered/s", "ok", "shed", "refused", "reset", "timeout",
		"fail p50", "fail p99", "conntrack", "half-open", "cpu")
	each := int(time.Second / l.Step)
	for i := 0; i < len(l.Offered); i += each {
		end := min(i+each, len(l.Offered))
		mean := func(y []float64) float64 {
			sum := 0.0
			for _, v := range y[i:end] {
				sum += v
			}
			return sum / float64(end-i)
		}
		most := func(y []float64) (m float64) {
			for _, v := range y[i:end] {
				m = max(m, v)
			}
			return m
		}
		note := ""
		for _, m := range []struct {
			at   time.Duration
			text string
		}{{l.Fault, "  <- fault"}, {l.Mended, "  <- mended"}} {
			if at := int(m.at / l.Step); m.at > 0 && at >= i && at < end {
				note += m.text
			}
		}
		fmt.Fprintf(&b, "%6.1f %9.0f %7.0f %6.0f %8.0f %7.0f %8.0f %7.2f ms %7.1f ms %9.0f %9.0f %4.0f%%%s\n", float64(i)*l.Step.Seconds(), mean(l.Offered),
			mean(l.OK), mean(l.Shed), mean(l.Refused), mean(l.Reset), mean(l.TimedOut), most(l.FailureP50), most(l.FailureP99), most(l.Conntrack),
			most(l.HalfOpen), 100*mean(l.CPU), note)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Column is the timeline as drawn: rates, time to failure, conntrack, the core.
func (l *Timeline) Column() plot.Column {
	return plot.Column{
		Name: l.Name, Seconds: l.seconds(), Step: l.Step.Seconds(), Spans: l.spans(),
		Panels: []plot.Panel{
			{Title: "connections/s", Curves: []plot.Curve{{Name: "offered, with repeats", Y: l.Offered}, {Name: "ok", Y: l.OK}, {Name: "refused", Y: l.Refused},
				{Name: "reset", Y: l.Reset}, {Name: "timed out", Y: l.TimedOut}, {Name: "shed", Y: l.Shed}}},
			{Title: "time to failure, ms", Log: true, Curves: []plot.Curve{{Name: "p99", Y: l.FailureP99}, {Name: "p50", Y: l.FailureP50}}},
			{Title: "conntrack entries", Curves: []plot.Curve{{Name: "entries", Y: l.Conntrack}, {Name: "half-open", Y: l.HalfOpen}}},
			{Title: "relay's core, %", Curves: []plot.Curve{{Name: "cpu", Y: percent(l.CPU)}}},
		},
	}
}

func draw(columns ...plot.Column) []byte {
	f := plot.Figure{Columns: columns}
	return f.SVG()
}

// Compare draws one fault's timelines in one another's axes: time to failure, conntrack, half-open, the core.
func Compare(name string, all []*Timeline) plot.Column {
	col := plot.Column{Name: name, Panels: []plot.Panel{{Title: "time to failure, median, ms", Log: true}, {Title: "conntrack entries"}, {Title: "half-open"},
		{Title: "relay's core, %"}, {Title: "ok/s"}}}
	for _, l := range all {
		col.Step = l.Step.Seconds()
		if s := l.seconds(); s > col.Seconds {
			col.Seconds, col.Spans = s, l.spans()
		}
		for i, y := range [][]float64{l.FailureP50, l.Conntrack, l.HalfOpen, percent(l.CPU), l.OK} {
			col.Panels[i].Curves = append(col.Panels[i].Curves, plot.Curve{Name: l.Name, Y: y})
		}
	}
	return col
}

func percent(share []float64) []float64 {
	p := make([]float64, len(share))
	for i, v := range share {
		p[i] = 100 * v
	}
	return p
}

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
		"timelines": draw(l.Column(), other.Column()), "comparison": draw(Compare("F1", []*Timeline{l, other})), "nothing": draw(Compare("", nil)),
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
