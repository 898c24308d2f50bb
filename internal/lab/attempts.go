package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Outcome is what became of an attempt.
type Outcome uint8

// The outcomes.
const (
	OK      Outcome = iota // the announce was answered with peers
	Shed                   // answered, and refused: by the tracker's shedder, or by a proxy's 502 or 503
	Refused                // connection refused: a reset for the SYN
	Reset                  // ended before the reply was whole
	Timeout                // nothing within Load.Timeout
	Bad                    // a reply that is none
	Local                  // this machine could not make the socket: the relay is not to blame
	outcomes
)

var outcomeNames = [outcomes]string{"ok", "shed", "refused", "reset", "timeout", "bad", "local"}

func (o Outcome) String() string { return outcomeNames[o] }

// Failed tells whether a client has to try again, and may have waited for nothing.
func (o Outcome) Failed() bool { return o >= Refused && o <= Bad }

// Attempt is one connection: when it began, how long it took, how it ended.
type Attempt struct {
	At      time.Duration // since the load's start
	Took    time.Duration
	Outcome Outcome
	Try     uint8 // 0: the first; else one of the impatient repeats
}

// Attempts are all of a load, in the order in which they ended. There are as many as there were, so quantiles are exact.
type Attempts []Attempt

// Between are those that began from from to to.
func (a Attempts) Between(from, to time.Duration) Attempts {
	var some Attempts
	for _, x := range a {
		if x.At >= from && x.At < to {
			some = append(some, x)
		}
	}
	return some
}

// Failed are those that failed.
func (a Attempts) Failed() Attempts {
	var some Attempts
	for _, x := range a {
		if x.Outcome.Failed() {
			some = append(some, x)
		}
	}
	return some
}

// Quantile is the time within which a share q of them ended, 0 if there are none.
func (a Attempts) Quantile(q float64) time.Duration {
	if len(a) == 0 {
		return 0
	}
	took := make([]time.Duration, len(a))
	for i, x := range a {
		took[i] = x.Took
	}
	slices.Sort(took)
	return took[min(int(q*float64(len(took))), len(took)-1)]
}

// Count is the number of those with one of the outcomes.
func (a Attempts) Count(of ...Outcome) (n int) {
	for _, x := range a {
		if slices.Contains(of, x.Outcome) {
			n++
		}
	}
	return n
}

// Goodput is how many succeeded from from to to, for each new client that came in that time. It may be above 1: those who came
// earlier and try again succeed then, too.
func (a Attempts) Goodput(from, to time.Duration) float64 {
	succeeded, came := 0, 0
	for _, x := range a {
		if end := x.At + x.Took; x.Outcome == OK && end >= from && end < to {
			succeeded++
		}
		if x.Try == 0 && x.At >= from && x.At < to {
			came++
		}
	}
	if came == 0 {
		return 0
	}
	return float64(succeeded) / float64(came)
}

// FirstOK is when the first that began after t succeeded, since t.
func (a Attempts) FirstOK(t time.Duration) (took time.Duration, ok bool) {
	for _, x := range a {
		if end := x.At + x.Took - t; x.Outcome == OK && x.At >= t && (!ok || end < took) {
			took, ok = end, true
		}
	}
	return took, ok
}

func (a Attempts) String() string {
	var n [outcomes]int
	tries := 0
	for _, x := range a {
		n[x.Outcome]++
		if x.Try > 0 {
			tries++
		}
	}
	var parts []string
	for o, n := range n {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, Outcome(o)))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return fmt.Sprintf("%s (%d of %d were repeats)", strings.Join(parts, ", "), tries, len(a))
}

// End is how a kept connection ended.
type End struct {
	At  time.Duration // since the load's start
	How Outcome       // Reset, or Timeout when it was asked and stayed silent
}
