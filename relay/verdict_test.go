package relay

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const one, two, six = "10.66.0.2:6969", "10.66.0.3:6969*3", "[fd00::2]:6969"

// openAt are when each number of bands came, after the first change.
func openAt(changes []planned) (bands []int, after []time.Duration) {
	for _, c := range changes {
		bands = append(bands, c.Open[0])
		after = append(after, c.after-changes[0].after)
	}
	return bands, after
}

func TestBackendDiesAndComesBack(t *testing.T) {
	t.Parallel()
	for _, f := range []struct {
		name   string
		fate   fate
		within time.Duration
		why    string
	}{
		{"process dead", dead, 205 * time.Millisecond, "connection refused"},
		{"unwell", unwell, 205 * time.Millisecond, "answered 503"},
		{"host gone", gone, 500 * time.Millisecond, "no connection within 300ms"},
		{"process hung", hung, 500 * time.Millisecond, "connected, but no answer within 300ms"},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for moment := range 20 { // of the fault, between two probes
				in(t, []string{one}, func(t *testing.T, w *world) {
					time.Sleep(20*time.Second + time.Duration(moment)*5*time.Millisecond)
					if got := w.path.changes(0); len(got) != 1 || got[0].after != 0 || got[0].Down[0] || got[0].Open[0] != Bands || got[0].Slots4 != [Slots]int16{} {
						t.Fatalf("while well: got plans %v", got)
					}
					at := time.Since(w.path.began)
					w.host(0).set(f.fate, "", 0)
					time.Sleep(f.within)
					synctest.Wait()
					if got := w.path.changes(at); len(got) != 1 || !got[0].Down[0] {
						t.Fatalf("%s after the fault: got plans %v", f.within, got)
					}
					time.Sleep(12 * time.Second)
					if cuts := w.path.cutsSoFar(); len(cuts) != 1 || cuts[0].backend != 0 || cuts[0].cancelled || cuts[0].after != w.path.changes(at)[0].after {
						t.Errorf("got cuts %+v, want one as the plan was applied", cuts)
					}
					s := w.Status()
					if s.State != "refusing" || !strings.Contains(s.Why, "backend "+one+" does not answer since 12") ||
						!strings.HasSuffix(s.Why, "(probe: "+f.why+"): connections are refused") || s.Backends[0].Up || s.Backends[0].Share != 0 || w.Ready() {
						t.Errorf("status: %s: %s; %+v; ready %v", s.State, s.Why, s.Backends[0], w.Ready())
					}

					at = time.Since(w.path.began)
					w.host(0).set(well, "", time.Millisecond)
					time.Sleep(2 * time.Second)
					changes := w.path.changes(at)
					bands, after := openAt(changes)
					if !slices.Equal(bands, []int{1, 2, 3, 4}) || changes[0].Down[0] || changes[0].after-at > 102*time.Millisecond ||
						after[3] < 600*time.Millisecond || after[3] > 800*time.Millisecond {
						t.Fatalf("it is back: got bands %v after %v, the first %s after its return", bands, after, changes[0].after-at)
					}
					if s := w.Status(); s.State != "forwarding" || s.Why != "the backend answers" || !s.Backends[0].Up || s.Backends[0].Share != 1 || !w.Ready() {
						t.Errorf("status: %s: %s; %+v; ready %v", s.State, s.Why, s.Backends[0], w.Ready())
					}
					if up, down := w.log.count("backend up"), w.log.count("backend down"); up != 2 || down != 1 || w.log.count("all backends are down") != 1 {
						t.Errorf("log:\n%s", w.log.buf.String())
					}
				})
			}
		})
	}
}

// One probe that is lost is known long after those behind it have been answered.
func TestLostProbeIsForgiven(t *testing.T) {
	t.Parallel()
	in(t, []string{one}, func(t *testing.T, w *world) {
		for range 100 {
			time.Sleep(time.Second)
			w.host(0).set(gone, "", 0)
			time.Sleep(80 * time.Millisecond) // one probe, or none
			w.host(0).set(well, "", time.Millisecond)
		}
		if got := w.path.changes(0); len(got) != 1 {
			t.Errorf("got plans %v", got)
		}
	})
}

// The users' connections tell sooner than the probes.
func TestCountsSpeakAgainstABackend(t *testing.T) {
	t.Parallel()
	for moment := range 20 {
		in(t, []string{one}, func(t *testing.T, w *world) {
			var fault time.Time
			w.path.counts(func(ms int) BackendCounts {
				c := BackendCounts{Opened: uint64(5 * ms), Unanswered: 100}
				if !fault.IsZero() {
					c.Unanswered = min(100+5*int(time.Since(fault).Milliseconds()), 1500)
				}
				return c
			})
			time.Sleep(10*time.Second + time.Duration(moment)*10*time.Millisecond)
			if got := w.Status().Opened; got != 5000 {
				t.Errorf("got %v connections a second, want 5000", got)
			}
			w.path.set(func(*path) { fault = time.Now() })
			w.host(0).set(gone, "", 0)
			time.Sleep(400 * time.Millisecond)
			synctest.Wait()
			got := w.path.changes(5 * time.Second)
			if len(got) != 1 || !got[0].Down[0] {
				t.Fatalf("400 ms after the fault: got plans %v", got)
			}
		})
	}
}

// A backend that serves, or that nobody asks for, is asked a third as often, and found out in time all the same.
func TestWhoServesIsAskedLess(t *testing.T) {
	t.Parallel()
	for _, f := range []struct {
		name    string
		fate    fate
		headers string
		probes  int // in 30 s before
		within  time.Duration
	}{
		{"idle", hung, "", 103, 700 * time.Millisecond},
		{"dead", dead, "", 103, 405 * time.Millisecond},
		{"gone", gone, "", 103, 700 * time.Millisecond},
		{"hung", hung, "", 103, 700 * time.Millisecond},
		{"sheds", dead, "Spillway-Shed: 0.05\r\n", 330, 205 * time.Millisecond},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for moment := range 20 {
				in(t, []string{one}, func(t *testing.T, w *world) {
					var fault time.Time
					w.path.counts(func(ms int) BackendCounts {
						if f.name == "idle" {
							return BackendCounts{Opened: 7, Spoken: 7}
						}
						c := BackendCounts{Opened: uint64(5 * ms), Spoken: uint64(5 * ms), Unanswered: 100}
						if !fault.IsZero() {
							c.Spoken -= uint64(5 * time.Since(fault).Milliseconds())
							if f.fate != dead {
								c.Unanswered = min(100+int(c.Opened-c.Spoken), 1500)
							}
						}
						return c
					})
					probes := func() uint64 {
						w.mu.Lock()
						defer w.mu.Unlock()
						return w.watched[0].probes
					}
					w.host(0).set(well, f.headers, time.Millisecond)
					time.Sleep(time.Second)
					before := probes()
					time.Sleep(30*time.Second + time.Duration(moment)*15*time.Millisecond)
					if got := int(probes() - before); got < f.probes-f.probes/10 || got > f.probes+f.probes/10 {
						t.Errorf("while it serves: got %d probes in 30 s, want about %d", got, f.probes)
					}
					at := time.Since(w.path.began)
					w.path.set(func(*path) { fault = time.Now() })
					w.host(0).set(f.fate, "", 0)
					time.Sleep(f.within)
					synctest.Wait()
					if got := w.path.changes(at); len(got) != 1 || !got[0].Down[0] {
						t.Fatalf("%s after the fault: got plans %v", f.within, got)
					}
				})
			}
		})
	}
}

// A budget that is full makes one failure enough, but no failure of a slow answer.
func TestFullBudgetAlone(t *testing.T) {
	t.Parallel()
	in(t, []string{one}, func(t *testing.T, w *world) {
		w.host(0).set(well, "", 250*time.Millisecond)
		w.path.counts(func(ms int) BackendCounts {
			return BackendCounts{Opened: uint64(4 * ms), Budget: uint64(ms), Unanswered: 1500}
		})
		time.Sleep(10 * time.Second)
		if got := w.path.changes(0); len(got) != 1 {
			t.Errorf("got plans %v", got)
		}
		if s := w.Status(); s.Why != "more than 1500 connections wait for backend "+one+": those above are refused (1000 a second)" {
			t.Errorf("got %q", s.Why)
		}
		at := time.Since(w.path.began)
		w.host(0).set(dead, "", 0)
		time.Sleep(101 * time.Millisecond)
		synctest.Wait()
		if got := w.path.changes(at); len(got) != 1 || !got[0].Down[0] {
			t.Errorf("one probe after the fault: got plans %v", got)
		}
	})
}

// A relay that starts in the rush hour, over a long line, sees nothing answered at first and knows no usual.
func TestStartOverALongLine(t *testing.T) {
	t.Parallel()
	in(t, []string{one}, func(t *testing.T, w *world) {
		const line = 250 * time.Millisecond
		w.host(0).set(well, "", line)
		w.path.counts(func(ms int) BackendCounts {
			return BackendCounts{Opened: uint64(5 * ms), Unanswered: 5 * min(ms, int(line.Milliseconds()))}
		})
		time.Sleep(time.Minute)
		if got := w.path.changes(0); len(got) != 1 {
			t.Errorf("got plans %v", got)
		}
	})
}

// A herd fills what is open of a budget that comes back, however well the backend is: that speaks not against it.
func TestBackendComesBackToAHerd(t *testing.T) {
	t.Parallel()
	failed := uint64(0)
	for moment := range 20 {
		in(t, []string{one}, func(t *testing.T, w *world) {
			w.path.counts(func(ms int) BackendCounts { return BackendCounts{Opened: uint64(4 * ms), Budget: uint64(ms)} })
			w.host(0).set(dead, "", 0)
			time.Sleep(2 * time.Second)
			at := time.Since(w.path.began)
			w.host(0).set(well, "", time.Millisecond)
			time.Sleep(200*time.Millisecond + time.Duration(moment)*5*time.Millisecond)
			w.host(0).set(unwell, "", time.Millisecond)
			time.Sleep(79 * time.Millisecond) // one probe, or none
			w.host(0).set(well, "", time.Millisecond)
			time.Sleep(1200 * time.Millisecond)
			if bands, _ := openAt(w.path.changes(at)); !slices.Equal(bands, []int{1, 2, 3, 4}) {
				t.Errorf("got plans %v", w.path.changes(at))
			}
			w.mu.Lock()
			failed += w.watched[0].ended[badStatus]
			w.mu.Unlock()
		})
	}
	if failed == 0 {
		t.Error("no probe failed in the time given")
	}
}

func TestProbesUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	// 290 ms would be enough for four, did they wait for each other 80 ms only.
	inWith(t, Health{Timeout: 290 * time.Millisecond}, []string{one}, func(t *testing.T, w *world) {
		w.host(0).set(gone, "", 0)
		time.Sleep(20 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := w.watched[0].probes; n < 200 || n > 250 || w.flights != 3 {
			t.Errorf("in 20 s: got %d probes, %d at once", n, w.flights)
		}
	})
}

func TestSourcesGoToTheOthers(t *testing.T) {
	t.Parallel()
	in(t, []string{one, two, six}, func(t *testing.T, w *world) {
		time.Sleep(time.Second)
		first := w.path.changes(0)[0]
		shares := func(want ...float64) {
			t.Helper()
			s := w.Status()
			for i, b := range s.Backends {
				if b.Share != want[i] {
					t.Errorf("share of %s: got %v, want %v", b.Addr, b.Share, want[i])
				}
			}
		}
		shares(0.25, 0.75, 1)
		w.host(1).set(dead, "", 0)
		time.Sleep(time.Second)
		shares(1, 0, 1)
		if s := w.Status(); s.State != "degraded" || !strings.HasSuffix(s.Why, "its sources go to the others") {
			t.Errorf("status: %s: %s", s.State, s.Why)
		}
		w.host(2).set(dead, "", 0)
		time.Sleep(time.Second)
		if s := w.Status(); s.State != "degraded" || !strings.HasSuffix(s.Why, "connections over its family of addresses are refused") {
			t.Errorf("status: %s: %s", s.State, s.Why)
		}
		w.host(0).set(dead, "", 0)
		time.Sleep(time.Second)
		at := time.Since(w.path.began)
		shares(0, 0, 0)
		if s := w.Status(); s.State != "refusing" || w.log.count("all backends are down") != 1 || !strings.Contains(s.Events[0].Text, "all 3 backends are down") {
			t.Errorf("status: %s: %s", s.State, s.Why)
		}
		for i := range 3 {
			w.host(i).set(well, "", 0)
		}
		time.Sleep(3 * time.Second)
		changes := w.path.changes(at)
		last := changes[len(changes)-1]
		if last.Slots4 != first.Slots4 || last.Slots6 != first.Slots6 || slices.Contains(last.Down, true) {
			t.Error("not all sources are back where they were")
		}
		shares(0.25, 0.75, 1)
	})
}
