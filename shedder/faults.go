package shedder

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// An endpoint that fails in a loop, of itself, is switched off by itself, for a minute first, then twice as long each time it
// happens again, an hour at the most. Then it is tried again, with all that comes. In a loop is this often in this time; of
// errors, after which all else goes on as ever, it must be half of what is served besides: to be off is worse than the rest.
const (
	faultsMost   = 10
	faultsWithin = 10 * time.Second
	tripFirst    = time.Minute
	tripMost     = time.Hour
	tripForget   = 6 * time.Hour
)

// faultKind is how an endpoint fails of itself. What a stranger sends is no failure, and what there is no room for is not.
type faultKind uint8

const (
	panicked faultKind = iota
	erred              // a store's reply that makes no sense, a handler's error, a call to the kernel that cannot fail
	faultKinds
)

var faultNames = [faultKinds]string{"panic", "error"}

var faultReasons = [faultKinds]string{
	"it panicked again and again; see the log for BUG, and report it",
	"it met errors of its own again and again; see the log for BUG, and report it",
}

// faults counts an endpoint's. It is pure but for its lock.
type faults struct {
	mu     sync.Mutex // guards the rest
	lately [faultKinds]struct {
		since  time.Time
		n      int
		served uint64 // by then
	}
	total [faultKinds]uint64
	why   faultKind     // of the last trip
	trip  time.Duration // how long that was
	at    time.Time     // and when
}

// add counts one, and returns for how long the endpoint is to be off: 0 if it stays as it is. served is how much it has served so
// far.
func (f *faults) add(kind faultKind, served uint64, mayTrip bool, now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.total[kind]++
	if !mayTrip {
		return 0 // what is under way when it goes off makes that no longer
	}
	l := &f.lately[kind]
	if now.Sub(l.since) > faultsWithin {
		l.since, l.n, l.served = now, 0, served
	}
	if l.n++; l.n < faultsMost || kind == erred && 2*uint64(l.n) < served-l.served {
		return 0
	}
	if f.trip == 0 || now.Sub(f.at) > tripForget {
		f.trip = tripFirst
	} else {
		f.trip = min(2*f.trip, tripMost)
	}
	f.why, f.at, l.since = kind, now, time.Time{}
	return f.trip
}

func (f *faults) seen() (total [faultKinds]uint64, why faultKind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total, f.why
}

// Fault tells that an endpoint has panicked. One that does so in a loop is switched off, and not the process.
func (g *Gate) Fault(e Endpoint, now time.Time) { g.fault(e, panicked, now) }

// Erred tells the same of an error of our own: never of what a stranger can cause, who could turn the endpoint off by it.
func (g *Gate) Erred(e Endpoint, now time.Time) { g.fault(e, erred, now) }

func (g *Gate) fault(e Endpoint, kind faultKind, now time.Time) {
	served := g.counts[e][Serve].Load() + g.counts[e][Trim].Load()
	if off := g.faults[e].add(kind, served, g.Switches.mayTrip(e), now); off > 0 {
		g.Switches.Trip(e, off, faultReasons[kind])
	}
}

// writeFaultMetrics is a part of WriteMetrics.
func (g *Gate) writeFaultMetrics(w io.Writer) {
	for e := range EndpointCount {
		total, why := g.faults[e].seen()
		tripped := g.Switches.Tripped(e)
		for kind, name := range faultNames {
			off := uint64(0)
			if tripped && faultKind(kind) == why {
				off = 1
			}
			metrics.WriteGaugeUint64(w, fmt.Sprintf("spillway_switch_tripped{endpoint=%q,why=%q}", e, name), off)
			metrics.WriteCounterUint64(w, fmt.Sprintf("spillway_faults_total{endpoint=%q,why=%q}", e, name), total[kind])
		}
	}
}
