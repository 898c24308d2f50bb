package shedder

import (
	"sync"
	"time"
)

// An endpoint that panics this often in this time is switched off by itself, for a minute first, then twice as long each time
// it happens again, an hour at the most.
const (
	faultsMost   = 10
	faultsWithin = 10 * time.Second
	tripFirst    = time.Minute
	tripMost     = time.Hour
	tripForget   = 6 * time.Hour
)

// faults counts an endpoint's. It is pure but for its lock.
type faults struct {
	mu    sync.Mutex // guards the rest
	since time.Time
	n     int
	trip  time.Duration // of the last trip
	at    time.Time     // of the last trip
}

// add counts one, and returns for how long the endpoint is to be off: 0 if it stays on.
func (f *faults) add(now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.since) > faultsWithin {
		f.since, f.n = now, 0
	}
	if f.n++; f.n != faultsMost {
		return 0
	}
	if f.trip == 0 || now.Sub(f.at) > tripForget {
		f.trip = tripFirst
	} else {
		f.trip = min(2*f.trip, tripMost)
	}
	f.at, f.since = now, time.Time{}
	return f.trip
}

// Fault tells that an endpoint has panicked. One that does so in a loop is switched off, and not the process.
func (g *Gate) Fault(e Endpoint, now time.Time) {
	if off := g.faults[e].add(now); off > 0 {
		g.Switches.Trip(e, off, "it panicked again and again; see the log for BUG, and report it")
	}
}
