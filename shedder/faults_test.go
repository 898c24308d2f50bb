package shedder

import (
	"strings"
	"testing"
	"time"
)

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, kind := range []faultKind{panicked, erred} {
		var f faults
		now, served := simEpoch, uint64(0)
		burst := func(n int, over time.Duration, each uint64) (off time.Duration) {
			for range n {
				now = now.Add(over / time.Duration(n))
				served += each
				off = max(off, f.add(kind, served, true, now))
			}
			return off
		}
		for _, want := range []struct {
			what  string
			n     int
			over  time.Duration
			each  uint64 // served for each of them
			pause time.Duration
			off   time.Duration
		}{
			{"a few", faultsMost - 1, time.Second, 0, time.Minute, 0},
			{"many, but slowly", 100, 100 * 2 * time.Second, 0, time.Minute, 0},
			{"in a loop", faultsMost, time.Second, 2, time.Minute, time.Minute},
			{"again", faultsMost, time.Second, 0, time.Minute, 2 * time.Minute},
			{"and again", faultsMost, time.Second, 0, time.Minute, 4 * time.Minute},
			{"", faultsMost, time.Second, 0, time.Minute, 8 * time.Minute},
			{"", faultsMost, time.Second, 0, time.Minute, 16 * time.Minute},
			{"", faultsMost, time.Second, 0, time.Minute, 32 * time.Minute},
			{"an hour at the most", faultsMost, time.Second, 0, time.Minute, time.Hour},
			{"", faultsMost, time.Second, 0, tripForget, time.Hour},
			{"hours later", faultsMost, time.Second, 0, time.Minute, time.Minute},
		} {
			if off := burst(want.n, want.over, want.each); off != want.off {
				t.Fatalf("%s, %s: off for %s, want %s", faultNames[kind], want.what, off, want.off)
			}
			now = now.Add(want.pause)
		}
		want := time.Duration(0) // more is served than that
		if kind == panicked {
			want = 2 * time.Minute
		}
		if off := burst(faultsMost, time.Second, 3); off != want {
			t.Errorf("%s, one in three: off for %s, want %s", faultNames[kind], off, want)
		}
	}
}

// The operator's page, ctl and the metrics say that an endpoint is off and why, whichever way it failed.
func TestAnEndpointThatFailsInALoopGoesOffAndComesBack(t *testing.T) {
	t.Parallel()
	for why, fail := range map[string]func(*Gate, Endpoint, time.Time){"panic": (*Gate).Fault, "error": (*Gate).Erred} {
		g := New(Config{}, nil, nil, time.Now())
		var told []SwitchState
		g.Switches.OnChange(func(s SwitchState) { told = append(told, s) })
		loop := func(n int) {
			for range n {
				fail(g, Scrape, time.Now())
			}
		}
		want := func(when string, mode Mode, changes int, lines ...string) {
			t.Helper()
			var out strings.Builder
			g.writeFaultMetrics(&out)
			for _, line := range lines {
				if !strings.Contains(out.String(), line+"\n") {
					t.Errorf("%s, %s: want %q in the metrics, got\n%s", why, when, line, out.String())
				}
			}
			if got := g.Switches.State(Scrape); got.Mode != mode || len(told) != changes {
				t.Errorf("%s, %s: got %+v after %d changes, want %v after %d", why, when, got, len(told), mode, changes)
			}
		}
		tripped := `spillway_switch_tripped{endpoint="scrape",why="` + why + `"} `
		loop(faultsMost - 1)
		want("not yet", On, 0, tripped+"0")
		loop(1)
		want("in a loop", Off, 1, tripped+"1", `spillway_faults_total{endpoint="scrape",why="`+why+`"} 10`, `spillway_faults_total{endpoint="udp",why="`+why+`"} 0`)
		if got := g.Switches.State(Scrape); !strings.Contains(got.Reason, why) || got.By != bySpillway || time.Until(got.Until) > tripFirst {
			t.Errorf("got %+v, want a reason with %q in it, for %s", got, why, tripFirst)
		}
		loop(3 * faultsMost) // what was under way
		want("off already", Off, 1, tripped+"1")
		g.Switches.Expire(time.Now().Add(tripFirst))
		want("tried again", On, 2, tripped+"0")
		loop(faultsMost)
		want("no better", Off, 3, tripped+"1")
		if left := time.Until(g.Switches.State(Scrape).Until); left <= tripFirst || left > 2*tripFirst {
			t.Errorf("%s, the second time: off for %s, want %s", why, left, 2*tripFirst)
		}
		if _, err := g.Switches.Set(Scrape, On, 0, "", "api"); err != nil {
			t.Fatal(err)
		}
		loop(faultsMost)
		want("the operator wants it", On, 4, tripped+"0")
	}
}
