package shedder

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// trouble is what happens to a tracker with a load of 0.7 of its capacity, from 60 s on, for a minute.
type trouble struct {
	name string
	run  func(*simulation)
}

const (
	troubleFrom = 60 * time.Second
	troubleEnd  = 120 * time.Second
	simCapacity = 1000.0 // requests a second: all that matters is relative to it
	simBase     = 0.7
)

var (
	tenfold = trouble{"flood to 10x", func(s *simulation) {
		s.flood, s.floodFrom, s.floodTo = (10-simBase)*s.capacity, troubleFrom, troubleEnd
	}}
	outage = trouble{"down for 60 s", func(s *simulation) { s.downFrom, s.downTo = troubleFrom, troubleEnd }}
)

// leechersOnly keeps seeders out of the simulations: the brownout's last step refuses those that wait at all.
const leechersOnly = true

// guard is how a tracker is protected.
type guard struct {
	name    string
	protect func(testing.TB, *simulation)
}

func useGate(tb testing.TB, s *simulation) {
	cfg, at := Config{}, time.Duration(0)
	if s.downTo > 0 {
		cfg.Capacity, at = s.capacity, s.downTo // it knows from before
	}
	s.shed, s.park = newGated(tb, cfg, at), true
}

// recoveries runs a trouble for each kind of client and returns how long it lasted beyond its end.
// The pool is in seconds: what its connections can have wait, at the capacity. base is the load, of that.
func recoveries(t *testing.T, tr trouble, g guard, capacity, base, pool, refuse float64, length time.Duration) (row string, answered, served []time.Duration) {
	t.Helper()
	kinds := []clients{naive, anacrolix, libtorrent}
	if raceDetector {
		kinds = kinds[:1]
	}
	for _, kind := range kinds {
		s := &simulation{
			capacity: capacity, refuse: refuse, length: length, clients: kind, pool: int(pool * capacity),
			leechers: leechersOnly, load: func(time.Duration) float64 { return base * capacity },
		}
		tr.run(s)
		g.protect(t, s)
		s.run()
		a, b := s.recovered(troubleEnd)
		answered, served = append(answered, a), append(served, b)
		sum := s.sum(60, 120)
		row += fmt.Sprintf("| %5s %5s (%3.0f %% answered) ", inSeconds(a), inSeconds(b), 100*float64(sum.answered)/float64(max(sum.asked, 1)))
	}
	front := "a connection each"
	if pool > 0 {
		front = fmt.Sprintf("pool of %.1f s", pool)
	}
	return fmt.Sprintf("%-13s | %-34s | %.1f | %-17s %s|", tr.name, g.name, base, front, row), answered, served
}

func inSeconds(d time.Duration) string {
	if d == never {
		return "NEVER"
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

const recoveryHead = "seconds from the end of the trouble to the last 10 s with more than 5 % not answered in time, and not served;\n" +
	"in brackets what was answered during it. The load before, of the capacity. Clients: flat 10 s, flat 60 s, libtorrent"

// TestRecovery: whatever clients do on failure, with the Gate all are answered again 75 s after the trouble, and nobody did
// anything. That all are served takes another ten: a client that tries again after 60 s flat and is turned away once more by the
// last of the outage is back no sooner.
func TestRecovery(t *testing.T) {
	t.Parallel()
	const within = 75 * time.Second
	gate := guard{"gate", useGate}
	rows := []string{recoveryHead}
	f := func(tr trouble, base, pool, refuse float64) {
		t.Helper()
		row, answered, served := recoveries(t, tr, gate, simCapacity, base, pool, refuse, troubleEnd+2*within)
		rows = append(rows, row)
		for i := range answered {
			if answered[i] > within || served[i] > within+10*time.Second {
				t.Errorf("not within %s: %s", within, row)
			}
		}
	}
	for _, pool := range []float64{0.2, 1, 5} {
		f(tenfold, simBase, pool, 0.33)
		f(outage, simBase, pool, 0.33)
	}
	f(tenfold, intervalTarget, 0, 0.97)
	f(outage, intervalTarget, 0, 0.97)
	t.Log(strings.Join(rows, "\n"))
}

// earliest is when clients that come back after every failure may be answered again at the soonest, a connection each, whatever
// the law. Where each request has its own connection, none can be refused for less than serving it costs. So what was missed, load
// for a minute, goes away by what is left beside the load; those who still wait ask again each period; and all is well when
// nineteen of twenty of those who ask in a period can be answered in it. missed is the share of the load that the trouble left unanswered.
func earliest(load, missed, refuse float64, c clients) time.Duration {
	period := (c.timeout + c.retry(1)).Seconds()
	rate := 1 / refuse
	missed *= load * (troubleEnd - troubleFrom).Seconds()
	t := (missed + load*period - rate*(period+backlogTime.Seconds())/0.95) / (rate - load)
	return time.Duration(max(t, 0) * float64(time.Second))
}

// TestRecoveryCannotBeFaster: at 0.7 of the capacity, a connection each, 75 s after an outage is more than can be had from clients
// that come back all the time: half a minute more is the least. Nor after a flood that leaves them a tenth. So the interval keeps the load at
// a half, where it can be had.
func TestRecoveryCannotBeFaster(t *testing.T) {
	t.Parallel()
	const refuse = 0.97
	for _, f := range []struct {
		trouble
		missed float64
		within []time.Duration // of each kind of client
	}{
		{outage, 1, []time.Duration{200 * time.Second, 140 * time.Second, 75 * time.Second}},
		{tenfold, 0.9, []time.Duration{150 * time.Second, 110 * time.Second, 130 * time.Second}},
	} {
		row, answered, served := recoveries(t, f.trouble, guard{"gate", useGate}, simCapacity, simBase, 0, refuse, troubleEnd+5*time.Minute)
		t.Log(recoveryHead + "\n" + row)
		for i, c := range []clients{naive, anacrolix, libtorrent}[:len(answered)] {
			if answered[i] > f.within[i] || served[i] > f.within[i] {
				t.Errorf("%s, %s: not within %s", f.name, c.name, f.within[i])
			}
			if c.name == libtorrent.name {
				continue // its period grows
			}
			soonest := earliest(simBase, f.missed, refuse, c)
			t.Logf("%s, %s: %s, at the soonest %s", f.name, c.name, answered[i], soonest.Round(time.Second))
			if answered[i] < soonest {
				t.Errorf("%s, %s: %s, sooner than can be (%s): the arithmetic is wrong", f.name, c.name, answered[i], soonest)
			}
		}
		if soonest := earliest(simBase, f.missed, refuse, naive); soonest < 80*time.Second {
			t.Errorf("%s: clients that come back after 10 s: at the soonest %s; then 75 s could be had", f.name, soonest)
		}
		if soonest := earliest(intervalTarget, f.missed, refuse, naive); soonest > 60*time.Second {
			t.Errorf("%s: at the load the interval is to keep: at the soonest %s, want a minute", f.name, soonest)
		}
	}
}

// TestRecoveryFromFewSources: a flood from 2,000 addresses, whose budgets are eight times what can be served, is cut until clients hardly see it.
func TestRecoveryFromFewSources(t *testing.T) {
	t.Parallel()
	skipIfSlow(t)
	few := trouble{"2,000 sources", func(s *simulation) {
		tenfold.run(s)
		s.strangers = true
		s.source = func(peer int32, rng *rand.Rand) netip.Addr {
			if peer >= 0 {
				return homeOf(peer)
			}
			n := rng.IntN(2000)
			return netip.AddrFrom4([4]byte{203, 0, byte(n >> 8), byte(n)})
		}
	}}
	served := 0
	budgets := guard{"gate, budgets of 4 a second", func(tb testing.TB, s *simulation) {
		g := newGated(tb, Config{PerSource: Budget{Rate: 4, Burst: 40}}, 0)
		for peer := range int32(simBase * simCapacity * s.length.Seconds() * 1.1) {
			g.sources.remember(g.sources.key(homeOf(peer))) // as they were served before
		}
		s.shed, s.park = g, true
		s.after = func(now time.Duration) {
			if now == troubleEnd {
				served = s.sum(60, 120).served
			}
		}
	}}
	row, answered, again := recoveries(t, few, budgets, simCapacity, simBase, 1, 0.05, troubleEnd+2*time.Minute)
	t.Log(recoveryHead + "\n" + row)
	for i := range answered {
		if answered[i] > 30*time.Second || again[i] > 30*time.Second {
			t.Errorf("not within 30 s: %s", row)
		}
	}
	if share := float64(served) / (simBase * simCapacity * 60); share < 0.5 {
		t.Errorf("of the clients' requests %.2f are served during the flood, want half", share)
	}
}

// TestNoRecovery: the tests above would mean little if anything at all recovered. These do not, in ten minutes.
func TestNoRecovery(t *testing.T) {
	t.Parallel()
	skipIfSlow(t)
	rows := []string{recoveryHead}
	f := func(tr trouble, g guard, capacity, pool, refuse float64, forgiving bool) {
		t.Helper()
		row, answered, _ := recoveries(t, tr, g, capacity, simBase, pool, refuse, troubleEnd+10*time.Minute+30*time.Second)
		rows = append(rows, row)
		for i, d := range answered {
			if d != never && !(forgiving && i == 2) {
				t.Errorf("recovered: %s", row)
			}
		}
	}
	unbounded := guard{"no shedding, no bound", func(testing.TB, *simulation) {}}
	errors := guard{"gate, errors for replies, at once", func(tb testing.TB, s *simulation) {
		useGate(tb, s)
		s.reply, s.park = failing, false
	}}
	for _, tr := range []trouble{tenfold, outage} {
		// libtorrent's backoff grows with the square of the failures, which is enough after an outage.
		f(tr, unbounded, 150, 0, 1, tr.name == outage.name)
		f(tr, errors, 500, 1, 0.33, false)
	}
	t.Log(strings.Join(rows, "\n"))
}

// TestRecoveryHasNoEcho: clients that were turned away in one moment must not come back in one, an interval later.
func TestRecoveryHasNoEcho(t *testing.T) {
	t.Parallel()
	skipIfSlow(t)
	s := &simulation{
		capacity: 600, refuse: 0.33, length: troubleEnd + 3*simInterval, clients: naive, pool: 600,
		leechers: leechersOnly, load: func(time.Duration) float64 { return simBase * 600 },
	}
	outage.run(s)
	useGate(t, s)
	s.run()
	if answered, served := s.recovered(troubleEnd); answered > 75*time.Second || served > 75*time.Second {
		t.Errorf("an hour and a half: requests not answered until %s after the outage, not served until %s", answered, served)
	}
}
