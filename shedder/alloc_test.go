//go:build !race

package shedder

import (
	"net/netip"
	"testing"
	"time"
)

func TestAdmitAllocatesNothing(t *testing.T) {
	for _, limited := range []bool{false, true} {
		g := newGated(t, Config{PerSource: Budget{Rate: 20, Burst: 200}, PerPrefix: Budget{Rate: 200, Burst: 2000}, Offender: func(netip.Addr) {}}, 0)
		if limited {
			g.overload()
		}
		r, i := Request{Class: KnownLeecher, Direct: true}, 0
		if n := testing.AllocsPerRun(10_000, func() {
			i++
			r.Source, r.Now = homeOf(int32(i%100)), simEpoch.Add(time.Duration(i)*time.Microsecond)
			g.Observe(time.Millisecond, false)
			g.Admit(&r)
			g.Spent(10*time.Microsecond, i%2 == 0)
			g.Unwelcome(r.Source, r.Now)
			g.Told()
			g.ToldShed()
			g.ToldOff()
			g.Sample()
		}); n != 0 {
			t.Errorf("limited %v: %v allocations a request, want none", limited, n)
		}
	}
}
