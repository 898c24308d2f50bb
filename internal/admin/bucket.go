package admin

import (
	"sync"
	"time"
)

// bucket lets perSecond events pass in the long run, and burst at once. It starts full.
type bucket struct {
	perSecond, burst float64

	mu   sync.Mutex // guards the rest
	left float64
	at   time.Time // of left; zero before the first event
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() {
		b.left = b.burst
	} else if passed := now.Sub(b.at); passed > 0 { // a clock set back gives nothing and takes nothing
		b.left = min(b.burst, b.left+b.perSecond*passed.Seconds())
	}
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
