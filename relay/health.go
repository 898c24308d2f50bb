package relay

import (
	"slices"
	"time"
)

// verdict is what a backend is taken for.
type verdict uint8

const (
	unknown verdict = iota // no verdict yet: it is forwarded to, as a relay that starts must not refuse a healthy backend
	up
	down
)

// health decides by the probes of one backend whether it is up. It is pure: step is told what happened.
//
// Probes overlap, and what counts is the order they were started in. So a success says nothing about a probe started after it, and
// a failure is no news once a probe started after it has been answered: one lost packet, which is known after the timeout, harms
// nobody, and a backend that has just come back is not brought down by the probes it had left hanging.
type health struct {
	fall, rise int

	verdict verdict
	since   time.Time // of the verdict
	need    int       // successes in a row that bring it up: more of a backend that flaps

	failed           []uint64 // probes that failed in a row, none started after them answered; fall at most
	answered         []uint64 // while not up: probes answered in a row; need at most
	lastOK, lastFail uint64   // the newest of each kind
}

// event is something that happened to a backend.
type event struct {
	at      time.Time
	probe   uint64 // that has ended: probes are numbered from 1 in the order of their starts; 0: none has
	ok      bool
	suspect bool // the path's counts speak against the backend: one failure is enough
}

// A backend that goes down flapAfter after it came up or earlier needs twice the successes, flapMost at most; one that was up for
// forgiveAfter needs as many as any.
const (
	flapAfter    = 10 * time.Second
	flapMost     = 16
	forgiveAfter = time.Minute
)

func newHealth(fall, rise int, now time.Time) health {
	return health{fall: fall, rise: rise, need: rise, since: now}
}

// step takes an event in, and tells whether it changed the verdict.
func (h *health) step(e event) bool {
	if e.probe != 0 {
		h.end(e.probe, e.ok)
	}
	switch {
	case h.verdict != down && len(h.failed) > 0 && (len(h.failed) >= h.fall || e.suspect):
		if h.verdict == up {
			h.judgeFlapping(e.at.Sub(h.since))
		}
		h.verdict, h.since = down, e.at
	case h.verdict != up && len(h.answered) >= h.need:
		h.verdict, h.since = up, e.at
		h.answered = h.answered[:0]
	default:
		return false
	}
	return true
}

// end takes in how a probe ended. A probe may be called failed for being late, and then be answered after all: the answer counts.
func (h *health) end(probe uint64, ok bool) {
	if ok {
		h.lastOK = max(h.lastOK, probe)
		h.failed = after(h.failed, probe)
		if h.verdict != up && probe >= h.lastFail {
			h.answered = append(h.answered, probe)
		}
		return
	}
	h.lastFail = max(h.lastFail, probe)
	h.answered = after(h.answered, probe)
	if h.verdict != down && probe > h.lastOK && !slices.Contains(h.failed, probe) {
		h.failed = append(h.failed, probe)
	}
}

// after keeps of probes those started after one.
func after(probes []uint64, one uint64) []uint64 {
	return slices.DeleteFunc(probes, func(p uint64) bool { return p <= one })
}

func (h *health) judgeFlapping(lasted time.Duration) {
	switch {
	case lasted < flapAfter:
		h.need = min(2*h.need, max(flapMost, h.rise))
	case lasted >= forgiveAfter:
		h.need = h.rise
	}
}

// steady tells whether the newest probes that ended were answered.
func (h *health) steady() bool { return h.verdict != down && len(h.failed) == 0 && h.lastOK > 0 }
