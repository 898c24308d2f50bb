package shedder

import (
	"cmp"
	"time"
)

// budgets decides how tight the budgets of sources are. It is pure: step is told each second how things are.
//
// In an overload a source has half the rate for each second in which requests wait too long, and gets it back a step at a time. It gets more
// than it had, in the end, while they do not: else a second's overload, as when a thousand sockets are opened at once, would be followed
// by one that lasts for as long as somebody asks above a budget, on a machine with nothing to do. What follows tells whether the
// overload was theirs: then each trial is followed by a longer wait for the next, and else by a shorter one. The zero value is for a start.
type budgets struct {
	tight   int // how often the rates are halved; below zero, doubled
	changed time.Time
	loosed  bool          // the last change was for more
	wait    time.Duration // for the next for more; 0: the first
}

const (
	firstLoosing = 2 * time.Second
	leastLoosing = time.Second
	mostLoosing  = 80 * time.Second
)

// step takes in whether there is an overload, whether requests wait too long in it in spite of what is cut, and whether sources are cut.
func (b *budgets) step(now time.Time, overload, pressed, cut bool) {
	b.wait = cmp.Or(b.wait, firstLoosing)
	switch {
	case pressed:
		if b.loosed {
			b.wait = min(2*b.wait, mostLoosing)
		} else {
			b.tight = max(b.tight, -1) // one step back was not enough: what was given beyond the budget is taken back
		}
		b.tight, b.changed, b.loosed = min(b.tight+1, mostTight), now, false
	case !overload && b.tight <= 0:
		*b = budgets{}
	case now.Sub(b.changed) >= b.wait && (b.tight > 0 || cut):
		if b.loosed {
			b.wait = max(b.wait/2, leastLoosing)
		}
		b.tight, b.changed, b.loosed = max(b.tight-1, -mostLoose), now, true
	}
}
