package shedder

import "time"

// The brownout's steps: what is given up, the dearest first, while an overload lasts.
const (
	BrownUpgrades = 1 + iota // new WebSockets
	BrownScrapes             // scrapes are answered without counts
	BrownOffers              // fewer offers are relayed
	BrownNumWant             // fewer peers are given
	BrownSeeders             // seeders' periodic announces that wait at all: they need nothing of us
	brownSteps    = BrownSeeders
)

var brownTexts = [brownSteps]string{
	"new WebSockets are refused",
	"scrapes are answered without counts",
	"one offer of an announce is relayed",
	"replies have 10 peers at most",
	"seeders' announces are served when there is time",
}

// How fast the ladder goes up, and down.
const (
	brownUp   = 2 * time.Second
	brownDown = 30 * time.Second
)

// ladder is the step of the brownout. It is pure.
type ladder struct {
	level int
	held  time.Duration // in overload, or in calm, since the last step
	up    bool          // which of the two
}

// step goes up one for each two seconds of overload, and down one for each thirty of calm.
func (l *ladder) step(overload bool, d time.Duration) {
	if overload != l.up {
		l.up, l.held = overload, 0
	}
	l.held += d
	switch {
	case l.up && l.held >= brownUp:
		l.level, l.held = min(l.level+1, brownSteps), 0
	case !l.up && l.held >= brownDown:
		l.level, l.held = max(l.level-1, 0), 0
	}
}
