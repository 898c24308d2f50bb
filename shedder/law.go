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
// where refusing costs nearly what serving does. What this one does, in figures: go test -run 'Recovery|Steady' -v ./shedder
type law struct {
	target time.Duration // median age above which there is overload

	state State
	rate  float64       // requests a second admitted, unless calm
	peak  float64       // the most that was ever served a second in overload, slowly forgotten: the capacity
	knee  float64       // what was served a second when the rate was cut last: near it the rate grows slowly
	asked float64       // requests a second that the rate decides about, averaged over some ticks
	got   float64       // those of them that are served
	bad   int           // ticks in a row above target
	hold  int           // ticks until the rate may be cut again
	good  int           // ticks in a row in which the rate refused none, and well below target
	was   time.Duration // the median when it was looked at last, while above target
	uncut int           // ticks since the last cut
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
	minAges      = 10    // fewer say nothing: 200 a second
	badTicks     = 2     // before there is overload: one is a collection of garbage
	calmTicks    = 40    // two seconds
	averageTicks = 4     // of what is asked and served
	drainTicks   = 6     // after a cut, and as many as the queue is long unless it grows: what waited then is no reason for another
	firstCut     = 0.9   // of what was served in the tick before
	cutLeast     = 0.05  // of what is served, just above target
	cutMost      = 0.15  // far above it
	growFast     = 1.25  // a tick, until the first cut
	growSlow     = 1.01  // after it
	growNear     = 1.005 // from nearKnee on: to find the limit gently is what keeps the rate from swinging
	nearKnee     = 0.95  // of what was served at the last cut
	spareShare   = 1.3   // of what is asked: a rate that high refuses nobody
	floorShare   = 0.2   // of the peak, always admitted
	nearFloor    = 1.25  // of it
	peakSink     = 256   // part of the peak that is forgotten in a tick near the floor: half in nine seconds
	rampShare    = 0.2   // of the capacity, at the start
	rampGrow     = 1.25  // a second
	peakHalfLife = 6 * time.Hour

	dearShare     = 0.20 // of a core, for refusing
	cheapShare    = 0.03 //
	escalateTicks = 10
	minWait       = 50 * time.Millisecond
	maxWait       = 4 * time.Second // every client waits for 10 s at the least
	waitGrow      = 128             // part that is added in a tick: 28 s from the least to the most
	waitShrink    = 32              // and taken off
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
	l.got += (served - l.got) / averageTicks
	l.asked += (float64(t.served+t.refused)/t.length.Seconds() - l.asked) / averageTicks
	over := t.n >= minAges && t.median > l.target
	under := t.n < minAges || t.median < l.target/2
	if over {
		l.bad++
	} else {
		l.bad = 0
	}
	if !under || t.refused > 0 && !l.spare() {
		l.good = 0
	} else {
		l.good++
	}
	l.hold = max(l.hold-1, 0)
	l.learn(t, over)

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
		l.steer(t, over, under)
	}
}

// spare tells whether the rate is so far above what is asked that it refuses nobody. What is refused then is for the brownout,
// or for a class's reserve in a burst, and is no reason to go on.
func (l *law) spare() bool { return l.rate > spareShare*l.asked }

// learn keeps the peak. While all wait, and while a rate is in force, what is served is what can be; and where even the floor is
// too much though refusing costs little, the capacity is gone, as to a neighbour on the same core.
func (l *law) learn(t tick, over bool) {
	l.peak *= 1 - t.length.Seconds()/peakHalfLife.Seconds()*0.693
	switch {
	case (over || l.state >= Overload) && l.got > l.peak:
		l.peak = l.got
	case over && l.state >= Overload && l.rate < nearFloor*l.floor() && t.dearth < dearShare:
		l.peak -= l.peak / peakSink
	}
}

func (l *law) enter(served float64) {
	l.state = Overload
	l.rate = max(firstCut*served, l.floor())
	l.knee, l.was, l.uncut = served, 0, 0
	l.hold, l.good, l.cut, l.dear, l.cheap = drainTicks, 0, false, 0, 0
	l.wait = minWait
}

func (l *law) floor() float64 { return max(floorShare*l.peak, 50) }

// steer moves the rate while there is overload.
func (l *law) steer(t tick, over, under bool) {
	l.uncut++
	switch {
	case over && l.hold > 0:
	case over && t.median < l.was-l.was/8:
		l.was, l.hold = t.median, drainTicks // it drains
	case over:
		far := min(1, float64(t.median-l.target)/float64(3*l.target))
		l.knee = min(l.rate, max(l.got, l.floor()))
		l.rate = l.knee * (1 - cutLeast - (cutMost-cutLeast)*far)
		if l.hold = drainTicks; t.median <= l.was+l.was/8 {
			// It does not grow: until what waits now was read, nothing can be seen of this cut.
			l.hold += min(int(t.median/t.length), calmTicks)
		}
		l.was, l.cut, l.uncut = t.median, true, 0
	case !under, l.spare():
	case !l.cut:
		l.rate *= growFast
	case l.rate < nearKnee*l.knee, l.uncut > calmTicks:
		l.rate *= growSlow
	default:
		l.rate *= growNear
	}
	if !over {
		l.was = 0
	}
	l.rate = max(l.rate, l.floor())

	// Who is answered at once comes back at once. So each refusal waits, and the longer the more refusing costs: a connection
	// can be refused once in that time, however fast it asks. The wait grows slowly, because a herd of clients that come back
	// after a fault goes away for an interval when it is told to, and soonest without waiting; what is still there after half
	// a minute is no herd. And connections that wait carry nothing else: while the rate is not used up, they wait less.
	switch {
	case t.dearth < cheapShare, under && l.spare():
		l.wait = max(l.wait-l.wait/waitShrink, minWait)
		l.dear, l.cheap = 0, l.cheap+1
	case t.dearth > dearShare:
		l.wait = min(l.wait+l.wait/waitGrow, maxWait)
		l.dear, l.cheap = l.dear+1, 0
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
