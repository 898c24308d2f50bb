package shedder

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// TestBudgets: a trial for more that goes wrong is followed by a longer wait, one that goes well by a shorter.
func TestBudgets(t *testing.T) {
	t.Parallel()
	var b budgets
	now := simEpoch
	seconds := func(overload bool, fits int) (trials int) {
		for range 600 {
			now = now.Add(time.Second)
			pressed := overload && b.tight < fits
			before := b.tight
			b.step(now, overload, pressed, overload)
			if b.tight < before {
				trials++
			}
			if b.tight < -mostLoose || b.tight > mostTight {
				t.Fatalf("halved %d times", b.tight)
			}
		}
		return trials
	}
	if n := seconds(true, 3); n < 7 || n > 12 || b.tight < 2 {
		t.Errorf("an attack that has to be cut to an eighth: %d trials in ten minutes, in the end halved %d times; want some 10, and 3", n, b.tight)
	}
	if seconds(true, -2); b.tight < -3 || b.tight > -1 {
		t.Errorf("the attack is weaker, and four times the budget can be had: halved %d times", b.tight)
	}
	if seconds(false, 0); b != (budgets{}) {
		t.Errorf("calm: got %+v, want it as at a start", b)
	}
	b.step(now.Add(time.Second), true, true, true)
	for s := 1; b.tight > -3; s++ {
		if s > 20 {
			t.Fatalf("nothing waits: after 20 s still halved %d times", b.tight)
		}
		b.step(now.Add(time.Duration(1+s)*time.Second), true, false, true)
	}
	b.step(now.Add(60*time.Second), true, true, true)
	b.step(now.Add(61*time.Second), true, true, true)
	if b.tight != 0 {
		t.Errorf("the attack is back for two seconds: halved %d times, want the budget as it was set", b.tight)
	}
}

// TestAStallIsNoOverload: the server stands still for half a second, which makes an overload; before and after it it has three times what it
// needs, for a few sources that ask far above their budgets, as a carrier's or a CDN's. They must not be refused from then on.
func TestAStallIsNoOverload(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0.5, 2, 4} {
		s := &simulation{
			capacity: 1000, refuse: 0.3, length: 2 * time.Minute, clients: libtorrent, pool: 64, load: func(time.Duration) float64 { return 0 },
			flood: 300, floodTo: 2 * time.Minute,
			source: func(_ int32, rng *rand.Rand) netip.Addr {
				return netip.AddrFrom4([4]byte{203, 0, 113, byte(rng.IntN(64))})
			},
			runs: func(now time.Duration) bool { return now < 20*time.Second || now > 20500*time.Millisecond },
		}
		g := newGated(t, Config{PerSource: Budget{Rate: rate, Burst: int(10 * rate)}}, 0)
		s.shed, s.park = g, true
		limited := false
		s.after = func(now time.Duration) { limited = limited || now > 20*time.Second && g.Limited() }
		s.run()
		if !limited {
			t.Errorf("budgets of %v a second: the stall made no overload; nothing is shown", rate)
		}
		if sum := s.sum(50, 120); sum.refused > 0 || sum.admitted < 290*70 {
			t.Errorf("budgets of %v a second: half a minute after the stall and later %d served, %d refused; want none, at a third of what can be served", rate, sum.admitted, sum.refused)
		}
	}
}
