package relay

import "time"

// budget decides how many bands of a backend's budget are open. It is pure: step is told what happened.
//
// A backend that comes back finds the herd that its absence has gathered; it gets one band at first, and another each rampStep
// while it takes them. One that sheds has less to wait for it: what it would refuse anyway is refused here, which is cheaper.
type budget struct {
	open    int       // bands, 1 to Bands
	stepped time.Time // when open last changed
	most    int       // bands that its own level allows
	eased   time.Time // since when it would allow more; zero: it does not
}

// budgetTick is how a backend fares.
type budgetTick struct {
	at     time.Time
	steady bool    // its newest probes were answered
	over   bool    // connections were refused lately because too many wait
	silent bool    // it answers no connections
	level  float64 // share of what it is offered that it sheds, as it says itself
}

const (
	rampStep = 200 * time.Millisecond
	// rampHold is what a step takes while the budget is full. It is not never: one band is less than what a herd has under way over
	// a long line, however well the backend is.
	rampHold = 300 * time.Millisecond
	easeStep = 3 * time.Second // of quiet, for each band that its level gives back
)

// levels says how many bands a level allows at most; below easy of it the next is allowed again.
var levels = [Bands + 1]struct{ level, easy float64 }{
	Bands - 1: {0.1, 0.05},
	Bands - 2: {0.5, 0.4},
}

func newBudget(now time.Time) budget { return budget{open: Bands, most: Bands, stepped: now} }

// restart is for a backend that has come up again.
func (b *budget) restart(now time.Time) { b.open, b.stepped = 1, now }

// step takes in how the backend fares, and tells how many bands are to be open.
func (b *budget) step(t budgetTick) int {
	b.heed(t)
	waited := t.at.Sub(b.stepped)
	switch {
	case b.open > b.most:
		b.open, b.stepped = b.most, t.at
	case b.open < b.most && t.steady && !t.silent && waited >= rampStep && (!t.over || waited >= rampHold):
		b.open, b.stepped = b.open+1, t.at
	}
	return b.open
}

// heed sets most by the backend's level: down at once, up a band at a time.
func (b *budget) heed(t budgetTick) {
	for bands := Bands - 1; bands >= Bands-2; bands-- {
		if t.level >= levels[bands].level && b.most > bands {
			b.most, b.eased = bands, time.Time{}
		}
	}
	switch {
	case b.most == Bands || t.level >= levels[b.most].easy:
		b.eased = time.Time{}
	case b.eased.IsZero():
		b.eased = t.at
	case t.at.Sub(b.eased) >= easeStep:
		b.most++
		b.eased = time.Time{}
	}
}

// openOf is how many connections may wait with so many bands open: an eighth, a quarter, half of the budget, all.
func openOf(budget, bands int) int { return max(budget>>(Bands-bands), 1) }
