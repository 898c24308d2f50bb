package relay

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestPlanIsToldAgain(t *testing.T) {
	t.Parallel()
	in(t, []string{one}, func(t *testing.T, w *world) {
		time.Sleep(10500 * time.Millisecond)
		if n := w.path.told(); n != 11 {
			t.Errorf("in 10.5 s: got %d plans, want 11", n)
		}
		w.path.set(func(p *path) { p.applyErr = errors.New("no buffer space") })
		w.host(0).set(dead, "", 0)
		time.Sleep(10 * time.Second)
		if s := w.Status(); !strings.HasPrefix(s.Why, "the plan is not in force, it is tried again each second: no buffer space; backend") {
			t.Errorf("got %q", s.Why)
		}
		if n := w.log.count("plan not applied"); n != 1 {
			t.Errorf("got %d lines", n)
		}
		if got := w.path.cutsSoFar(); len(got) != 0 {
			t.Errorf("flows were ended that the path would let begin anew: %+v", got)
		}
		if n := w.path.told(); n < 20 || n > 23 {
			t.Errorf("got %d plans, want one a second", n)
		}
		w.path.set(func(p *path) { p.applyErr = nil })
		time.Sleep(1100 * time.Millisecond)
		if got := w.path.cutsSoFar(); len(got) != 1 || w.log.count("plan applied again") != 1 {
			t.Errorf("got cuts %+v", got)
		}
	})
}

func TestCutEndsWithTheBackendsReturn(t *testing.T) {
	t.Parallel()
	in(t, []string{one}, func(t *testing.T, w *world) {
		w.path.set(func(p *path) { p.cutTakes = time.Hour })
		time.Sleep(time.Second)
		w.host(0).set(dead, "", 0)
		time.Sleep(time.Second)
		w.host(0).set(well, "", 0)
		time.Sleep(time.Second)
		cuts, changes := w.path.cutsSoFar(), w.path.changes(1900*time.Millisecond)
		if len(cuts) != 1 || !cuts[0].cancelled || cuts[0].ended != changes[0].after {
			t.Errorf("got cuts %+v, want one, cancelled at the first of %v", cuts, changes)
		}
		w.host(0).set(dead, "", 0)
		time.Sleep(time.Second)
		// Its second cut ends with Run, as the end of the story shows.
	})
	in(t, []string{one}, func(t *testing.T, w *world) {
		w.path.set(func(p *path) { p.cutErr = errors.New("interrupted") })
		w.host(0).set(dead, "", 0)
		time.Sleep(5500 * time.Millisecond)
		if got := len(w.path.cutsSoFar()); got != 6 || w.log.count("not all ended") != 1 {
			t.Errorf("a cut that fails: got %d, want one a second", got)
		}
	})
}

// The relay itself was not run: its timers are late, and so are the answers it reads.
func TestStalledRelayBlamesNobody(t *testing.T) {
	t.Parallel()
	in(t, []string{one}, func(t *testing.T, w *world) {
		time.Sleep(810 * time.Millisecond) // two probes before the next Apply
		stall := func() {
			w.path.set(func(p *path) { p.stall = 700 * time.Millisecond })
			w.host(0).set(hung, "", 0)
			time.Sleep(880 * time.Millisecond)
			w.host(0).set(well, "", 0)
			time.Sleep(20 * time.Millisecond)
		}
		stall()
		time.Sleep(time.Second)
		if got := w.path.changes(0); len(got) != 1 || w.log.count("did not run the relay") != 1 {
			t.Errorf("got plans %v", got)
		}
		// Another one so soon is no excuse: a storm may stall it all the time.
		for w.path.told()%2 != 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(810 * time.Millisecond)
		stall()
		time.Sleep(time.Second)
		if got := w.path.changes(time.Second); len(got) == 0 || !got[0].Down[0] {
			t.Errorf("stalled again: got plans %v", got)
		}
	})
}

// A backend whose accept queue is full answers probes no more than it answers anybody, and still serves all it can.
func TestWhoSpeaksIsNotDead(t *testing.T) {
	t.Parallel()
	in(t, []string{one}, func(t *testing.T, w *world) {
		var said atomic.Uint64
		speaking := atomic.Bool{}
		speaking.Store(true)
		w.path.set(func(p *path) {
			p.count = func() Counts {
				if speaking.Load() {
					said.Add(100)
				}
				return Counts{Backends: []BackendCounts{{Opened: 1500, Budget: said.Load(), Spoken: said.Load(), Unanswered: 1500}}}
			}
		})
		time.Sleep(time.Second)
		w.host(0).set(hung, "", 0)
		time.Sleep(5 * time.Second)
		if b := w.Status().Backends[0]; !b.Up || len(w.path.changes(0)) != 1 {
			t.Errorf("it speaks: got %+v, plans %v", b, w.path.changes(0))
		}
		speaking.Store(false)
		time.Sleep(800 * time.Millisecond)
		if b := w.Status().Backends[0]; b.Up {
			t.Errorf("silent for 800 ms: got %+v", b)
		}

		// One that speaks to old connections alone is of no use to new ones.
		w.host(0).set(well, "", 0)
		speaking.Store(true)
		time.Sleep(2 * time.Second)
		w.host(0).set(hung, "", 0)
		time.Sleep(excuseFor - time.Second)
		if b := w.Status().Backends[0]; !b.Up {
			t.Errorf("unanswered for %s: got %+v", excuseFor-time.Second, b)
		}
		time.Sleep(2 * time.Second)
		if b := w.Status().Backends[0]; b.Up {
			t.Errorf("unanswered for %s: got %+v", excuseFor+time.Second, b)
		}
	})
}

func TestSilenceOfOneThatSpeaks(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		mode   string
		answer answer
		spoke  bool
		silent bool
	}{
		{"kernel", answer{}, true, false},
		{"kernel", answer{State: "overload"}, false, true},
		{ModeProxy, answer{}, true, true},
		{ModeProxy, answer{State: "calm"}, true, true},
		{ModeProxy, answer{State: "escalated"}, true, false},
		{ModeProxy, answer{Level: 0.1}, true, false},
		{ModeProxy, answer{Level: 0.1}, false, true},
	} {
		r := New(Config{Mode: tt.mode, Backends: []Backend{{Addr: netip.MustParseAddrPort(one)}}}, &path{}, nil)
		w := r.watched[0]
		w.answer = tt.answer
		r.heed(w, signs{silent: true, spoke: tt.spoke}, time.Now())
		if w.signs.silent != tt.silent || w.suspect != tt.silent {
			t.Errorf("%+v: got %+v, suspect %v", tt, w.signs, w.suspect)
		}
	}
}

func TestSheddingLowersTheBudget(t *testing.T) {
	t.Parallel()
	in(t, []string{one}, func(t *testing.T, w *world) {
		time.Sleep(time.Second)
		w.host(0).set(well, "Spillway-State: overload\r\nSpillway-Shed: 0.5\r\n", 0)
		time.Sleep(time.Second)
		if b := w.Status().Backends[0]; b.Budget != 375 || b.BudgetMax != 1500 || b.Level != 0.5 {
			t.Errorf("got %+v", b)
		}
		w.host(0).set(well, "", 0)
		time.Sleep(7 * time.Second)
		bands, _ := openAt(w.path.changes(0))
		if !slices.Equal(bands, []int{4, 2, 3, 4}) || w.log.count("budget lowered") != 1 || w.log.count("whole again") != 1 {
			t.Errorf("got bands %v", bands)
		}
	})
}

func TestRelayThatCannotAsk(t *testing.T) {
	t.Parallel()
	in(t, []string{one}, func(t *testing.T, w *world) {
		time.Sleep(time.Second)
		w.host(0).set(ours, "", 0)
		time.Sleep(10 * time.Second)
		if got := w.path.changes(0); len(got) != 1 || w.log.count("cannot be asked") != 1 {
			t.Errorf("got plans %v", got)
		}
	})
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	in(t, []string{one}, func(t *testing.T, w *world) {
		set := func(ports float64, entries int) {
			w.path.set(func(p *path) {
				p.count = func() Counts {
					return Counts{Backends: make([]BackendCounts, 1), PortsUsed: ports, Conntrack: entries, ConntrackMax: 1000}
				}
			})
			time.Sleep(time.Second)
		}
		set(0.5, 500)
		set(0.8, 900)
		set(0.65, 750)
		set(0.8, 900)
		if ports, entries := w.log.count("nf_conntrack_tcp_timeout_time_wait"), w.log.count("raise net.netfilter.nf_conntrack_max"); ports != 1 || entries != 1 {
			t.Errorf("got %d and %d warnings, want one each:\n%s", ports, entries, w.log.buf.String())
		}
		w.path.set(func(p *path) { p.count = func() Counts { return Counts{} } })
		time.Sleep(time.Second)
		if n := w.log.count("counts cannot be read"); n != 1 || !w.Ready() {
			t.Errorf("counts of no backend: got %d lines", n)
		}
	})
}

func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	in(t, []string{one}, func(t *testing.T, w *world) {
		for range MaxEvents {
			w.host(0).set(dead, "", 0)
			time.Sleep(time.Second)
			w.host(0).set(well, "", 0)
			time.Sleep(3 * time.Second)
		}
		s := w.Status()
		if len(s.Events) != MaxEvents || s.Events[0].At.Before(s.Events[1].At) || !strings.Contains(s.Events[0].Text, "is up; it was down for ") {
			t.Errorf("got %d events, the newest %+v", len(s.Events), s.Events[0])
		}
	})
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	in(t, []string{one, six}, func(t *testing.T, w *world) {
		w.host(1).set(dead, "", 0)
		w.path.set(func(p *path) {
			p.count = func() Counts {
				return Counts{
					Backends: []BackendCounts{{Opened: 1, Down: 2, Budget: 3, Unanswered: 4}, {Opened: 10, Down: 20, Budget: 30, Unanswered: 40}},
					NoFlow:   5, Source: 6, Conntrack: 7, ConntrackMax: 8, InsertFailed: 9, PortsUsed: 0.25, Conns: 11, ConnsMax: 12,
				}
			}
		})
		time.Sleep(time.Second)
		var b strings.Builder
		w.WriteMetrics(&b)
		for _, want := range []string{
			`spillway_relay_backend_up{backend="10.66.0.2:6969"} 1`, `spillway_relay_backend_up{backend="[fd00::2]:6969"} 0`,
			`spillway_relay_backend_downs_total{backend="[fd00::2]:6969"} 1`, `spillway_relay_opened_total{backend="[fd00::2]:6969"} 10`,
			`spillway_relay_unanswered{backend="10.66.0.2:6969"} 4`, `spillway_relay_budget{backend="10.66.0.2:6969"} 1500`,
			`spillway_relay_refused_total{reason="down"} 22`, `spillway_relay_refused_total{reason="budget"} 33`,
			`spillway_relay_refused_total{reason="source"} 6`, `spillway_relay_refused_total{reason="no_flow"} 5`,
			`spillway_relay_conntrack 7`, `spillway_relay_conntrack_max 8`, `spillway_relay_insert_failed_total 9`,
			`spillway_relay_ports_used_ratio 0.25`, `spillway_relay_conns 11`, `spillway_relay_conns_max 12`, `spillway_relay_cut_flows_total 7`,
			`spillway_relay_apply_errors_total 0`, `spillway_relay_mode{mode="kernel"} 1`, `spillway_relay_mode{mode="proxy"} 0`,
			`spillway_relay_state{state="degraded"} 1`, `spillway_relay_probe_seconds{backend="10.66.0.2:6969"} 0.001`,
			`spillway_relay_probes_total{backend="10.66.0.2:6969",result="refused"} 0`,
		} {
			if !strings.Contains(b.String(), want+"\n") {
				t.Errorf("%s is missing", want)
			}
		}
		if t.Failed() {
			t.Log(b.String())
		}
	})
}

// The same with a real server, real connections and the clock on the wall.
func TestRealBackendDiesAndComesBack(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	serve := func(l net.Listener) (stop func()) {
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Spillway-State", "calm")
			w.Header().Set("Spillway-Shed", "0.01")
		})}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = server.Serve(l)
		}()
		return func() {
			server.Close()
			<-done
		}
	}
	stop := serve(l)
	p := &path{began: time.Now(), backends: 1}
	r := New(Config{Backends: []Backend{{Addr: addr, Weight: 1}}}, p, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	await := func(what string, is func(Status) bool) {
		t.Helper()
		began := time.Now()
		for !is(r.Status()) {
			if time.Since(began) > 20*time.Second {
				t.Fatalf("%s: not after 20 s: %+v", what, r.Status())
			}
			time.Sleep(time.Millisecond)
		}
		t.Logf("%s: after %s", what, time.Since(began).Round(time.Millisecond))
	}
	await("ready", func(Status) bool { return r.Ready() })
	await("its level", func(s Status) bool { return s.Backends[0].Level == 0.01 })
	stop()
	await("down", func(s Status) bool { return s.State == "refusing" && s.Backends[0].Why == "connection refused" })
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) { // somebody's connection may have the port for a moment
		if l, err = net.Listen("tcp", addr.String()); err == nil {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal(err)
		}
	}
	stop = serve(l)
	await("up", func(s Status) bool { return s.State == "forwarding" && s.Backends[0].Up })
	await("whole budget", func(s Status) bool { return s.Backends[0].Budget == 1500 })
	cancel()
	<-done
	stop()
}
