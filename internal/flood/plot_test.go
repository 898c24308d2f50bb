package flood

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

// example is a flood in numbers.
func example(name string, attacked bool) *Result {
	p := Profile{{Duration: time.Second, Multiple: 0.5}, {Duration: time.Second, Multiple: 10}, {Duration: time.Second, Multiple: 0.5}}
	t := newTeam(Config{Name: name, Mode: KeepAlive, Rate: 1000, Profile: p, Threads: 2, Conns: 2, Honest: 10}, false)
	for _, w := range t.workers {
		for {
			due, phase, ok := w.plan.next()
			if !ok {
				break
			}
			w.plan.taken()
			r := request{due: due, phase: uint8(phase)}
			if attacked && phase == 1 && w.plan.n%10 > 0 {
				r.side = attack
			}
			w.tally.offer(r)
			w.tally.record(r, []outcome{good, good, shed, unsent}[w.plan.n%4], time.Duration(w.plan.n*7%150)*time.Millisecond, 100*time.Millisecond)
		}
	}
	return t.result(time.Unix(0, 0), 3*time.Second)
}

// A picture is XML whatever the runs are called and whatever they are made of, and has finite coordinates only.
func TestSVGIsXML(t *testing.T) {
	t.Parallel()
	empty := &Result{Name: "nothing"}
	for _, runs := range [][]*Result{{}, {empty}, {example("on", false)}, {example(`<b>"&'`, true), example("off", false), empty}} {
		b := SVG(runs...)
		for d := xml.NewDecoder(bytes.NewReader(b)); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%d runs: %v in %s", len(runs), err, b)
			}
		}
		if bytes.Contains(b, []byte("NaN")) || bytes.Contains(b, []byte("Inf")) {
			t.Errorf("%d runs: a coordinate is no number: %s", len(runs), b)
		}
		for _, run := range runs {
			if !bytes.Contains(Page("a & b", runs...), []byte("a &amp; b")) || bytes.Contains(b, []byte("<b>")) || !bytes.Contains(b, []byte(escape(run.title()))) {
				t.Errorf("%q is not written as it should be", run.title())
			}
		}
	}
	b := string(SVG(example("x", true)))
	for part, n := range map[string]int{"honest requests/s": 1, "attack requests/s": 1, "latency": 1, "prefers-color-scheme": 2, `class="phase"`: 3} {
		if got := strings.Count(b, part); got != n {
			t.Errorf("%s: got %d of them, want %d", part, got, n)
		}
	}
}

// Every request is in the phases and in the series, once.
func TestResultAddsUp(t *testing.T) {
	t.Parallel()
	r := example("x", true)
	var offered, outcomes uint64
	for _, p := range r.Phases {
		for _, s := range []Side{p.Honest, p.Attack} {
			offered += s.Offered
			outcomes += s.Good + s.Late + s.Shed + s.Failed
		}
	}
	var binned, series float64
	for _, l := range []Lines{r.Series.Honest, r.Series.Attack} {
		for i := range l.Offered {
			binned += l.Offered[i] * r.Series.BinSeconds
			series += (l.Good[i] + l.Late[i] + l.Shed[i] + l.Failed[i]) * r.Series.BinSeconds
		}
	}
	if offered != 11_000 || outcomes != offered || math.Abs(binned-11_000) > 0.5 || math.Abs(series-11_000) > 0.5 {
		t.Errorf("offered %d, outcomes %d, in bins %g, %g; want 11000 of each", offered, outcomes, binned, series)
	}
	if s := r.Phases[1].Attack; s.Good == 0 || s.Late == 0 || s.Shed == 0 || s.Unsent != s.Failed || s.P99 > 100 || s.ServedMax < 100 {
		t.Errorf("attack: %+v", s)
	}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil || !strings.Contains(out.String(), "attack") {
		t.Errorf("table: %v, %s", err, out.String())
	}
}
