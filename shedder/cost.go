package shedder

import (
	"sync/atomic"
	"time"
)

// cost is what a kind of work takes, as a moving average of samples: the time on the straight line from one end to the other.
// Where the thread was taken away meanwhile a sample is far too long, so it counts for at most twice the average.
type cost struct{ ns atomic.Int64 }

func (c *cost) sample(d time.Duration) {
	old := c.ns.Load()
	if old == 0 {
		c.ns.Store(max(int64(d), 1))
		return
	}
	c.ns.Store(max(old+(min(int64(d), 2*old)-old)/16, 1)) // a sample lost to another thread's does not matter
}

// get is zero before the first sample.
func (c *cost) get() time.Duration { return time.Duration(c.ns.Load()) }
