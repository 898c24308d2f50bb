package shedder

import "time"

// State is how the tracker fares.
type State uint8

// The states.
const (
	Calm      State = iota
	Ramp            // just started: the rate admitted grows from a fifth of the capacity known from before
	Overload        // requests wait too long: a bounded rate is admitted
	Escalated       // and refusing has become dear: who is refused is kept waiting, and fewer connections may wait in the kernel
	stateCount
)

var stateNames = [stateCount]string{"calm", "ramp", "overload", "escalated"}

func (s State) String() string { return stateNames[s] }

// law decides how many requests a second are admitted, from how old they are when they are read. It is pure: step is told what
// happened in a tick and says what holds in the next.
//
// Three laws that failed, kept as tests: to charge what is refused to the same budget (a flood of refusals then leaves nothing to
// serve); to cut again while the queue of the last cut still drains (a sawtooth to the floor); and any law without a floor,
// where refusing costs nearly what serving does.
type law struct {
	target time.Duration // median age above which there is overload

	state State
	rate  float64       // requests a second admitted, unless calm
	peak  float64       // the most that was ever served a second in overload, slowly forgotten: the capacity
	bad   int           // ticks in a row above target
	hold  int           // ticks until the rate may be cut again
	good  int           // ticks in a row without a refusal and well below target
	cut   bool          // the rate was cut since the overload began
	dear  int           // ticks in a row in which refusing took too much
	cheap int           // ticks in a row in which it took little
	wait  time.Duration // what a refused request is kept waiting, at most
}

// tick is what happened in one.
type tick struct {
	length  time.Duration
	n       int           // requests whose age is known
	median  time.Duration // of their ages
	served  int
	refused int     // by the law
	cut     int     // for their source, or by a switch: as dear as refused, but no reason to go on
	dearth  float64 // share of the time of a core that refusing took
}

// What the law goes by. A tick is 50 ms.
const (
	minAges       = 20   // fewer say nothing
	badTicks      = 2    // before there is overload: one is a collection of garbage
	calmTicks     = 40   // two seconds
	drainTicks    = 2    // after a cut
	firstCut      = 0.9  // of what was served in the tick before
	cutLeast      = 0.05 // of the rate, just above target
	cutMost       = 0.15 // far above it
	growFast      = 1.25 // until the first cut
	growSlow      = 1.02 // after it
	floorShare    = 0.2  // of the peak, always admitted
	rampShare     = 0.2  // of the capacity, at the start
	rampGrow      = 1.25 // a second
	dearShare     = 0.10 // of a core, for refusing
	cheapShare    = 0.03 //
	minWait       = 50 * time.Millisecond
	maxWait       = 4 * time.Second // every client waits for 10 s at the least
	escalateTicks = 10
	peakHalfLife  = 6 * time.Hour
)

// start begins a ramp if the capacity is known.
func (l *law) start(capacity float64) {
	l.peak = capacity
	if capacity > 0 {
		l.state, l.rate = Ramp, rampShare*capacity
	}
}

// limited tells whether a rate is in force.
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
	if t.refused > 0 || !under {
		l.good = 0
	} else {
		l.good++
	}
	l.hold = max(l.hold-1, 0)
	l.peak *= 1 - t.length.Seconds()/peakHalfLife.Seconds()*0.693
	if over && served > l.peak {
		// What is served while all wait is what can be served.
		l.peak += (served - l.peak) / 4
	}

	switch l.state {
	case Calm:
		if l.bad >= badTicks {
			l.enter(served)
		}
	case Ramp:
		l.rate *= 1 + (rampGrow-1)*t.length.Seconds()
		switch {
		case l.bad >= badTicks:
			l.enter(served)
		case l.rate > l.peak, l.good >= calmTicks && l.rate > 2*served:
			l.state = Calm
		}
	default:
		l.steer(t, served, over, under)
	}
}

func (l *law) enter(served float64) {
	l.state = Overload
	l.rate = max(firstCut*served, l.floor())
	l.hold, l.good, l.cut, l.dear, l.cheap = drainTicks, 0, false, 0, 0
	l.wait = minWait
}

func (l *law) floor() float64 { return max(floorShare*l.peak, 50) }

// steer moves the rate while there is overload.
func (l *law) steer(t tick, served float64, over, under bool) {
	switch {
	case over && l.hold == 0:
		far := min(1, float64(t.median-l.target)/float64(3*l.target))
		l.rate = min(l.rate, max(served, l.floor())) * (1 - cutLeast - (cutMost-cutLeast)*far)
		l.hold, l.cut = drainTicks, true
	case under && !l.cut:
		l.rate *= growFast
	case under:
		l.rate *= growSlow
	}
	l.rate = min(max(l.rate, l.floor()), max(1.5*l.peak, 1000))

	// Who is answered at once comes back at once. So each refusal waits, and the longer the more refusing costs: a connection
	// can be refused once in that time, however fast it asks.
	switch {
	case t.dearth > dearShare:
		l.wait = min(l.wait+l.wait/2, maxWait)
		l.dear, l.cheap = l.dear+1, 0
	case t.dearth < cheapShare:
		l.wait = max(l.wait-l.wait/32, minWait)
		l.dear, l.cheap = 0, l.cheap+1
	default:
		l.dear, l.cheap = 0, 0
	}
	switch {
	case l.good >= calmTicks:
		l.state, l.wait, l.rate = Calm, 0, 0
	case l.dear >= escalateTicks:
		l.state = Escalated
	case l.state == Escalated && l.cheap >= 10*calmTicks:
		l.state = Overload
	}
}
