package shedder

import (
	"math"
	"time"
)

// Where the interval is to keep the load, as a share of the capacity. What is missed while the tracker is down is served by what
// is left: at a half, a minute's in a minute; at 0.6 it takes a minute and a half, at 0.7 two and a third.
const intervalTarget = 0.5

// intervalStep is the time between two steps, and intervalsToGo how many intervals it takes to go most of the way.
const (
	intervalStep  = 10 * time.Second
	intervalsToGo = 3
)

// The jitter of what clients are told: usually, and for one interval after a start or an overload, whose clients were answered
// in one moment and would else come back in one.
const (
	usualJitter = 0.2
	wideJitter  = 0.5
)

// interval is what clients are told. It acts one interval late, so it plans capacity and is no defence against a flood. It is
// pure.
type interval struct {
	told time.Duration
	wide time.Duration // for how long the jitter stays wide
}

// step is taken every ten seconds: rate and capacity are announces a second, and a capacity of 0 is not known.
func (i *interval) step(rate, capacity float64, base, most time.Duration) {
	if i.told = min(max(i.told, base), most); capacity <= 0 {
		i.told = base
		return
	}
	// What clients are told now is seen in the load when they come back, an interval later. To go a part of the way in each ten
	// seconds, so small that it takes some intervals to go all of it, is what keeps told from swinging between its bounds.
	far := min(max(rate/(intervalTarget*capacity), 0.5), 2)
	factor := math.Pow(far, intervalStep.Seconds()/(intervalsToGo*i.told.Seconds()))
	i.told = min(max(time.Duration(float64(i.told)*factor), base), most)
}

func (i *interval) jitter() float64 {
	if i.wide > 0 {
		return wideJitter
	}
	return usualJitter
}
