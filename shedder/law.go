package shedder

import "time"

// State is how the tracker fares.
type State uint8

// The states.
const (
	Calm      State = iota
	Ramp            // just started: the rate admitted grows from a fifth of the capacity known from before
	Overload        // requests waited too long: those that did are refused
	Escalated       // and refusing has become dear: who is refused waits longer
	stateCount
)

var stateNames = [stateCount]string{"calm", "ramp", "overload", "escalated"}

func (s State) String() string { return stateNames[s] }

// law decides when there is an overload, from how old requests are when they are read, and what a refused client waits. In an
// overload each request is decided upon by its own age: what has waited longer than its class may is refused, and the rest is
// served. That needs no estimate of what can be served, and so holds when a neighbour takes half of the core. It is pure: step
// is told what happened in a tick and says what holds in the next.
type law struct {
	target time.Duration // median age above which there is overload

	state State
	rate  float64       // requests a second admitted during the ramp
	peak  float64       // what can be served a second, as seen in overloads: the capacity
	bad   int           // ticks in a row above target
	good  int           // ticks in a row without a refusal and well below target
	dear  int           // ticks in a row in which refusing took too much
	cheap int           // ticks in a row in which it took little
	wait  time.Duration // what a refused request is kept waiting, about
	calm  int           // ticks without a refusal that end the overload
	quiet int           // ticks since it ended
	young int           // ticks in which clients come back that were turned away before the start
}

// tick is what happened in one.
type tick struct {
	length time.Duration
	n      int           // requests whose age is known
	median time.Duration // of their ages
	served int
	late   int     // announces refused for their age: the only refusals that tell of load
	shed   int     // all that were, those given up by the brownout too
	cut    int     // for their source, or by a switch
	dearth float64 // share of the time of a core that refusing took
}

// What the law goes by. A tick is 50 ms.
const (
	minAges       = 10 // fewer say nothing
	badTicks      = 2  // before there is overload: one is a collection of garbage
	calmTicks     = 40 // two seconds
	calmMost      = 1280
	relapseTicks  = 200  // an overload that comes back within ten seconds has not ended
	rampShare     = 0.2  // of the capacity, at the start
	rampGrow      = 1.25 // a second
	dearShare     = 0.05 // of a core, for refusing
	cheapShare    = 0.02
	firstWait     = 250 * time.Millisecond
	waitGrow      = 16 // part that is added in a tick while refusing is dear: 2.5 s from the first to the most
	waitGrowYoung = 128
	youngTicks    = 1200 // a minute
	minWait       = 50 * time.Millisecond
	maxWait       = 5 * time.Second // give or take a third; every client waits for 10 s at the least
	escalateTicks = 10
	peakHalfLife  = 6 * time.Hour
)

// start begins a ramp if the capacity is known.
func (l *law) start(capacity float64) {
	l.peak, l.calm = capacity, calmTicks
	if capacity > 0 {
		l.state, l.rate, l.young = Ramp, rampShare*capacity, youngTicks
	}
}

// limited tells whether anything is refused.
func (l *law) limited() bool { return l.state != Calm }

func (l *law) step(t tick) {
	if t.length <= 0 {
		return
	}
	served := float64(t.served) / t.length.Seconds()
	over := t.n >= minAges && t.median > l.target
	under := t.n < minAges || t.median < l.target/2
	if over {
		l.bad++
	} else {
		l.bad = 0
	}
	if t.late > 0 || !under || 10*t.cut > t.served {
		l.good = 0
	} else {
		l.good++
	}
	l.peak *= 1 - t.length.Seconds()/peakHalfLife.Seconds()*0.693
	if t.n >= minAges && t.median > l.target/2 {
		// While all wait, what is served is what can be served.
		if served > l.peak {
			l.peak += (served - l.peak) / 4
		} else {
			l.peak += (served - l.peak) / 256
		}
	}
	l.quiet++
	l.young = max(l.young-1, 0)
	switch l.state {
	case Calm:
		if l.bad >= badTicks {
			l.enter()
		}
	case Ramp:
		l.rate *= 1 + (rampGrow-1)*t.length.Seconds()
		switch {
		case l.bad >= badTicks:
			l.enter()
		case l.rate > l.peak, l.good >= calmTicks && l.rate > 2*served:
			l.state = Calm
		}
	default:
		l.steer(t)
	}
}

func (l *law) enter() {
	l.state, l.wait = Overload, firstWait
	if l.young > 0 {
		l.wait = minWait
	}
	l.good, l.dear, l.cheap = 0, 0, 0
	if l.quiet < relapseTicks {
		l.calm = min(2*max(l.calm, calmTicks), calmMost)
	} else {
		l.calm = calmTicks
	}
}

// steer sets what a refused client waits. Who is answered at once asks again at once; who waits cannot, so the cost of refusing
// is bounded by connections over time, however fast they ask. Not so after a start: those who come then are a herd that the
// outage has gathered. They do as they are told and go away for an interval, and soonest if they need not wait.
func (l *law) steer(t tick) {
	grow := time.Duration(waitGrow)
	if l.young > 0 {
		grow = waitGrowYoung
	}
	switch {
	case t.dearth > dearShare:
		l.wait = min(l.wait+l.wait/grow, maxWait)
		l.dear, l.cheap = l.dear+1, 0
	case t.dearth < cheapShare:
		l.wait = max(l.wait-l.wait/32, minWait)
		l.dear, l.cheap = 0, l.cheap+1
	default:
		l.dear, l.cheap = 0, 0
	}
	switch {
	case l.good >= l.calm:
		l.state, l.wait, l.quiet = Calm, 0, 0
	case l.dear >= escalateTicks:
		l.state = Escalated
	case l.state == Escalated && l.cheap >= 5*calmTicks:
		l.state = Overload
	}
}
