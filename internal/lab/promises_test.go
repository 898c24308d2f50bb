//go:build e2e

package lab

import (
	"fmt"
	"testing"
	"time"

	"spillway/relay"
)

// A trial of the promises, as short as it can be.
const (
	usualFor = 1500 * time.Millisecond
	busyFor  = 1500 * time.Millisecond
	faultFor = 3 * time.Second
	afterFor = 2500 * time.Millisecond
)

// The promises.
const (
	failP50     = 5 * time.Millisecond
	failP99     = time.Second
	keptWithinF = 1500 * time.Millisecond
	leastGood   = 0.9
	mostCPU     = 1.1  // of the healthy relay's; the clock's steps and a lab of two cores are not more exact
	cpuFloor    = 0.02 // of the core: a healthy relay that uses hardly anything
)

func TestPromises(t *testing.T) {
	for _, mode := range []string{"kernel", "proxy"} {
		for _, c := range []struct {
			fault Fault
			v6    bool
		}{{F1Killed, false}, {F2Vanished, false}, {F3Hung, false}, {F4Slow, false}, {F2Vanished, true}} {
			name := fmt.Sprintf("%s/%s", mode, c.fault)
			if c.v6 {
				name += "-v6"
			}
			t.Run(name, func(t *testing.T) {
				usual := usualRate(t, usualShare)
				try(t, Trial{
					Contender: Spillway(spillway(t), mode), Program: spillway(t), Fault: c.fault, V6: c.v6, Usual: usual, Busy: 2 * usual, Tries: 1,
					UsualFor: usualFor, BusyFor: busyFor, FaultFor: faultFor, AfterFor: afterFor,
				}, judgePromises)
			})
		}
	}
}

// Clients that try four times, a second apart: at the end of the fault four times as many come as before it.
func TestAHerdIsServed(t *testing.T) {
	for _, mode := range []string{"kernel", "proxy"} {
		t.Run(mode, func(t *testing.T) {
			usual := usualRate(t, herdShare)
			try(t, Trial{
				Contender: Spillway(spillway(t), mode), Program: spillway(t), Fault: F2Vanished, Usual: usual, Busy: 2 * usual, Tries: 3,
				UsualFor: usualFor, BusyFor: busyFor, FaultFor: faultFor, AfterFor: afterFor,
			}, judgePromises)
		})
	}
}

// judgePromises is what docs/relay.md promises of a fault.
func judgePromises(r *Report, broken func(string, ...any)) {
	if r.Healthy < 0.98 {
		broken("before the fault %.1f %% were served", 100*r.Healthy)
	}
	if r.Fault != F4Slow && r.Failed == 0 {
		broken("nobody failed: there was no fault")
	}
	if r.Failed > 0 && r.FailP50 > failP50 {
		broken("half of the failures took %v or more; promised: %v", r.FailP50, failP50)
	}
	if r.FailP99 > failP99 {
		broken("one failure of a hundred took %v or more; promised: %v", r.FailP99, failP99)
	}
	if r.Kept == 0 {
		broken("there were no established connections")
	}
	// Those of a tracker that is slow may live, if the relay goes on with it.
	if r.Fault != F4Slow && r.KeptLeft > 0 {
		broken("%d of %d established connections lived", r.KeptLeft, r.Kept)
	}
	if r.Fault != F4Slow && r.KeptLast > keptWithinF {
		broken("the last established connection ended after %v; promised: %v", r.KeptLast, keptWithinF)
	}
	if r.Goodput < leastGood {
		broken("from a second after the recovery on %.1f %% of the offered was served; promised: %.0f %%", 100*r.Goodput, 100*leastGood)
	}
	judgeProbes(r, broken)
	if limit := mostCPU*r.CPUHealthy.Relay + cpuFloor; r.CPURefuse.Relay > limit && !disturbed(r) {
		broken("the relay's core was at %s in the fault, and at %s before", r.CPURefuse, r.CPUHealthy)
	}
}

func judgeProbes(r *Report, broken func(string, ...any)) {
	for _, p := range r.Probes {
		if p.Failed > 0 || p.N < int(r.Length/SampleEvery)/2 {
			broken("of %d requests to the relay's own port from %s, %d failed: %v", p.N, p.From, p.Failed, p.Err)
		}
	}
}

// The incident's flood, into a backend that has vanished.
func TestConntrackStaysSmallWhileDown(t *testing.T) {
	const budget = 1500
	r := try(t, Trial{
		Contender: Spillway(spillway(t), "kernel", fmt.Sprintf("--relay.budget=%d", budget)), Program: spillway(t), Fault: F2Vanished,
		Usual: 50, Busy: 50, Kept: 50, UsualFor: 500 * time.Millisecond, BusyFor: 500 * time.Millisecond, FaultFor: 4 * time.Second, AfterFor: 2 * time.Second,
		Syn: 7000,
	}, func(r *Report, broken func(string, ...any)) {
		if r.PeakConntrack > budget+1000 {
			broken("%d conntrack entries at 7,000 SYN/s into nothing; promised: %d", r.PeakConntrack, budget+1000)
		}
		if r.InsertFailed > 0 {
			broken("insert_failed: %d", r.InsertFailed)
		}
		judgeProbes(r, broken)
	})
	if r.PeakConntrack == 0 {
		t.Error("nothing was tracked: the lab looks elsewhere")
	}
}

// A relay that is the backend's only client, as far as the backend sees: each connection takes one of 64,000 ports.
//
// That none fails is not asked for: a port that the relay uses again within a minute may still be in TIME_WAIT at the backend, which
// answers a SYN there only if its timestamp is later than the last (PAWSTimewait), and different clients have different clocks.
func TestMasqueradeRunsOutOfNoPorts(t *testing.T) {
	rate := min(7000, 1.3*usualRate(t, usualShare))
	enough := time.Duration(70_000 / rate * float64(time.Second)) // for every port to have been used
	r := try(t, Trial{
		Contender: Spillway(spillway(t), "kernel", "--relay.masquerade=on"), Program: spillway(t), Lab: Config{NoRouteBack: true}, Fault: F2Vanished,
		Usual: rate, Busy: rate, UsualFor: time.Second, BusyFor: enough - time.Second, FaultFor: 10 * time.Second, AfterFor: 2 * time.Second, Syn: 7000, Tries: -1,
	}, func(r *Report, broken func(string, ...any)) {
		if r.InsertFailed > 0 {
			broken("insert_failed: %d", r.InsertFailed)
		}
		if r.Healthy < 0.9 {
			broken("%.1f %% were served while healthy", 100*r.Healthy)
		}
		if n := r.Tally.Attempts.Between(0, r.Began).Count(OK); n < 64_000 {
			broken("only %d connections before the fault: not every port was used", n)
		}
		judgeProbes(r, broken)
	})
	healthy := r.Tally.Attempts.Between(0, r.Began-time.Second)
	t.Logf("%.0f connections/s for %v: %s; one of a hundred took %v or more", rate, enough, healthy, healthy.Quantile(0.99))
}

// What a client takes to send its request is not the backend's fault.
func TestSlowClientsAreServed(t *testing.T) {
	for _, mode := range []string{"kernel", "proxy"} {
		t.Run(mode, func(t *testing.T) {
			try(t, Trial{ // 400 wait at any time, twice the budget
				Contender: Spillway(spillway(t), mode, "--relay.budget=200"), Program: spillway(t), Usual: 1000, Busy: 1000, Hold: 400 * time.Millisecond,
				UsualFor: time.Second, BusyFor: 3 * time.Second, AfterFor: time.Millisecond,
			}, func(r *Report, broken func(string, ...any)) {
				if n := len(r.Tally.Attempts.Failed()); n > 0 {
					broken("%d of %d failed: %s", n, len(r.Tally.Attempts), r.Tally.Attempts)
				}
				if n := r.Tally.Attempts.Count(OK); n < 3000 {
					broken("only %d were served", n)
				}
			})
		})
	}
}

// The packets are the kernel's: they flow on without the program.
func TestTrafficGoesOnWithoutTheRelay(t *testing.T) {
	l, _, running := open(t, Spillway(spillway(t), "kernel"))
	load := &Load{Target: Public(false), Rate: 1000, Kept: 100, KeptAsk: time.Second}
	if err := l.Load(load); err != nil {
		t.Fatal(err)
	}
	wait(time.Second)
	running.Process.Kill()
	killed := load.Since()
	wait(relay.Forget + time.Second)
	tally, err := load.Stop(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	after := tally.Attempts.Between(killed, time.Hour)
	if failed := after.Failed(); len(failed) > 0 || after.Count(OK) < 3000 || len(tally.Ends) > 0 {
		t.Errorf("after kill -9 of the relay: %s; %d of %d established connections ended", after, len(tally.Ends), tally.Kept)
	}
}

// A relay that dies while it refuses leaves a refusal that ends by itself.
func TestRefusalEndsWithoutTheRelay(t *testing.T) {
	const within = relay.Forget + time.Second
	try(t, Trial{
		Contender: Spillway(spillway(t), "kernel"), Program: spillway(t), Fault: F1Killed, Usual: 500, Busy: 500, Kept: 50,
		UsualFor: 500 * time.Millisecond, BusyFor: 500 * time.Millisecond, FaultFor: 1500 * time.Millisecond, AfterFor: within + time.Second,
		Mending: func(r *Running) error { r.Process.Kill(); return nil },
	}, func(r *Report, broken func(string, ...any)) {
		if n := r.Tally.Attempts.Between(r.Began, r.Mended).Count(Refused); n < 100 {
			broken("only %d were refused in the fault", n)
		}
		if r.FirstOK == 0 || r.FirstOK > within {
			broken("first success %v after the backend's return; promised: %v", r.FirstOK, within)
		}
		if late := r.Tally.Attempts.Between(r.Mended+within, r.Length).Failed(); len(late) > 0 {
			broken("%d failed after that", len(late))
		}
	})
}

// What a CDN's visitors see.
func TestCDNAnswersAtOnce(t *testing.T) {
	for _, mode := range []string{"kernel", "proxy"} {
		for _, fault := range []Fault{F1Killed, F2Vanished} {
			t.Run(fmt.Sprintf("%s/%s", mode, fault), func(t *testing.T) {
				try(t, Trial{
					Contender: Spillway(spillway(t), mode), Program: spillway(t), Fault: fault, Front: CDN, Usual: 500, Busy: 500, Kept: -1, Tries: -1,
					UsualFor: 500 * time.Millisecond, BusyFor: 500 * time.Millisecond, FaultFor: 2500 * time.Millisecond, AfterFor: 2 * time.Second,
				}, func(r *Report, broken func(string, ...any)) {
					const detected, at = 1200 * time.Millisecond, 10 * time.Millisecond
					if r.Healthy < 0.98 {
						broken("before the fault %.1f %% were served", 100*r.Healthy)
					}
					down := r.Tally.Attempts.Between(r.Began+detected, r.Mended-100*time.Millisecond)
					if n := down.Count(Shed); n != len(down) || n < 300 {
						broken("%d of %d visitors had a 502 while it was known: %s", n, len(down), down)
					}
					// Not one of a hundred: nginx, the visitors and the tracker share a core here, and wait for one another's turns.
					if p90 := down.Quantile(0.9); p90 > at {
						broken("one 502 of ten took %v or more; promised: %v", p90, at)
					}
					if r.Goodput < leastGood {
						broken("from a second after the recovery on %.1f %% was served", 100*r.Goodput)
					}
				})
			})
		}
	}
}

// wait lets a time of a trial pass: there is nothing to wait for but the load.
func wait(d time.Duration) { time.Sleep(d) }
