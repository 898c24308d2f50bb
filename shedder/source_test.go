package shedder

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func newSources(host, prefix Budget) *sources {
	s := &sources{}
	s.init(host, prefix)
	return s
}

// passes counts how many of n requests in d are within the budgets.
func (s *sources) passes(addr string, from, d time.Duration, n int) (within int) {
	key := s.key(netip.MustParseAddr(addr))
	for i := range n {
		if !s.charge(key, int64(from+d*time.Duration(i)/time.Duration(n))) {
			within++
		}
	}
	return within
}

func TestBudget(t *testing.T) {
	t.Parallel()
	f := func(what string, b Budget, d time.Duration, n, low, high int) {
		t.Helper()
		s := newSources(b, Budget{})
		if got := s.passes("192.0.2.1", time.Hour, d, n); got < low || got > high {
			t.Errorf("%s: %d of %d pass, want %d to %d", what, got, n, low, high)
		}
	}
	f("none", Budget{}, time.Second, 1000, 1000, 1000)
	f("at once", Budget{Rate: 10, Burst: 50}, time.Nanosecond, 1000, 50, 50)
	f("below the rate", Budget{Rate: 10, Burst: 1}, 100*time.Second, 900, 900, 900)
	f("ten times the rate", Budget{Rate: 10, Burst: 20}, 100*time.Second, 10000, 1015, 1021)
	f("no burst is a burst of one", Budget{Rate: 10}, 100*time.Second, 10000, 995, 1001)
	f("less than one a second", Budget{Rate: 0.25, Burst: 2}, 100*time.Second, 1000, 25, 27)
	f("more than there are nanoseconds", Budget{Rate: 1e12, Burst: 1}, time.Second, 1000, 1000, 1000)

	s := newSources(Budget{Rate: 10, Burst: 10}, Budget{})
	s.passes("192.0.2.1", 0, time.Minute, 60*1000)
	if got := s.passes("192.0.2.1", time.Minute+100*time.Millisecond, time.Second, 10); got < 9 {
		t.Errorf("who was far over and keeps to the rate at last: %d of 10 pass", got)
	}
}

func TestBudgetOfNetworks(t *testing.T) {
	t.Parallel()
	f := func(what, a, b string, host, prefix Budget, want int) {
		t.Helper()
		s := newSources(host, prefix)
		s.passes(a, 0, time.Nanosecond, 10)
		if got := s.passes(b, 0, time.Nanosecond, 10); got != want {
			t.Errorf("%s: after 10 of %s, %d of 10 of %s pass, want %d", what, a, got, b, want)
		}
	}
	ten, none := Budget{Rate: 1, Burst: 10}, Budget{}
	f("the same", "192.0.2.1", "192.0.2.1", ten, none, 0)
	f("another host", "192.0.2.1", "192.0.2.2", ten, none, 10)
	f("of one /24", "192.0.2.1", "192.0.2.2", none, ten, 0)
	f("of another", "192.0.2.1", "192.0.3.1", none, ten, 10)
	f("one /64 is one host", "2001:db8::1", "2001:db8::2", ten, none, 0)
	f("another /64", "2001:db8::1", "2001:db8:0:1::1", ten, none, 10)
	f("of one /48", "2001:db8::1", "2001:db8:0:1::1", none, ten, 0)
	f("of another", "2001:db8::1", "2001:db8:1::1", none, ten, 10)
	f("a host far over its budget, and its neighbour", "192.0.2.1", "192.0.2.2", Budget{Rate: 1, Burst: 5}, ten, 5)
	f("both", "192.0.2.1", "192.0.2.2", ten, Budget{Rate: 1, Burst: 15}, 5)
}

// TestFloodersAreCutToTheirBudgets: thousands of sources that ask ten to a thousand times a second have what a budget gives,
// and the many that ask now and then are served.
func TestFloodersAreCutToTheirBudgets(t *testing.T) {
	t.Parallel()
	const flooders, seconds, honest = 2000, 4, 200_000
	budget := Budget{Rate: 2, Burst: 10}
	g := newGated(t, Config{PerSource: budget}, 0)
	flooder := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}) }
	for i := range honest {
		g.sources.remember(g.sources.key(homeOf(int32(i))))
	}
	g.law.state, g.law.rate = Overload, 20_000
	g.publish()
	rng := rand.New(rand.NewPCG(5, 6))
	theirs, served, asked := 0, 0, 0
	for ms := range seconds * 1000 {
		now := simEpoch.Add(time.Second + time.Duration(ms)*time.Millisecond)
		for i := range flooders {
			perSecond := [3]int{10, 100, 1000}[i%3]
			if rng.IntN(1000) < perSecond && g.Admit(&Request{Class: KnownLeecher, Source: flooder(i), Now: now}) == Serve {
				theirs++
			}
		}
		if rng.IntN(1000) < honest/1000 { // each of them once in 1,000 s
			asked++
			if g.Admit(&Request{Class: KnownSeeder, Source: homeOf(int32(rng.IntN(honest))), Now: now}) == Serve {
				served++
			}
		}
	}
	if most := flooders * (budget.Burst + int(budget.Rate*seconds)); theirs > most {
		t.Errorf("flooders: %d served, and their budgets are %d", theirs, most)
	}
	if share := float64(served) / float64(asked); share < 0.9 {
		t.Errorf("of the honest %.3f were served, want 0.9", share)
	} else {
		t.Logf("of the honest %.3f were served", share)
	}
}

func TestKnownSources(t *testing.T) {
	t.Parallel()
	s := newSources(Budget{}, Budget{})
	key := func(i int) sourceKey {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(i))
		return s.key(netip.AddrFrom4(b))
	}
	const known = 200_000
	for i := range known {
		s.remember(key(i))
	}
	for i := range known {
		if !s.isKnown(key(i)) {
			t.Fatalf("source %d is forgotten", i)
		}
	}
	strangers := 0
	for i := range known {
		if s.isKnown(key(1<<24 + i)) {
			strangers++
		}
	}
	if share := float64(strangers) / known; share > 1.0/60 {
		t.Errorf("of strangers %.4f pass for known, want one in 60 at most", share)
	}

	// Each generation is half of knownFor.
	now := simEpoch
	s.rotate(now)
	s.rotate(now.Add(knownFor / 2))
	if !s.isKnown(key(7)) {
		t.Error("forgotten after half its time")
	}
	s.remember(key(1))
	s.rotate(now.Add(knownFor))
	if s.isKnown(key(7)) || !s.isKnown(key(1)) {
		t.Errorf("after %s: never served again, known %v; served again, known %v; want no and yes", knownFor, s.isKnown(key(7)), s.isKnown(key(1)))
	}

	// In an overload nobody becomes known, and nobody is forgotten.
	s.remembering.Store(false)
	s.remember(key(1 << 25))
	s.rotate(now.Add(10 * knownFor))
	s.rotate(now.Add(20 * knownFor))
	if s.isKnown(key(1<<25)) || !s.isKnown(key(1)) {
		t.Errorf("in an overload: a stranger known %v, one of before known %v; want no and yes", s.isKnown(key(1<<25)), s.isKnown(key(1)))
	}
}

func TestStrikes(t *testing.T) {
	t.Parallel()
	s := newSources(Budget{}, Budget{})
	k, told := s.key(netip.MustParseAddr("192.0.2.1")), 0
	for i := range 30 * 1000 {
		if s.strike(k, int64(i)*int64(time.Millisecond)) {
			told++
		}
	}
	if told != 3 {
		t.Errorf("a thousand refusals a second for thirty seconds: told %d times, want once in ten", told)
	}
	for i := range 10 * (strikesOut - 1) {
		if s.strike(k, int64(time.Hour)+int64(i)*strikeTime/(strikesOut-1)) {
			t.Fatal("told of one that is refused a little less than that")
		}
	}
	for range 1 << 17 {
		s.strike(k, int64(2*time.Hour)) // the counter must not run into the window
	}
	if s.strikes[k.host%strikeCells].Load()>>16 != uint64(int64(2*time.Hour)/strikeTime) {
		t.Error("the counter ran into the window")
	}
}

// TestTighten: a source may ask half as much, again and again, down to a 32nd, and of it in a burst too; or twice as much.
func TestTighten(t *testing.T) {
	t.Parallel()
	var s sources
	s.init(Budget{Rate: 20, Burst: 200}, Budget{})
	key := s.key(netip.MustParseAddr("192.0.2.1"))
	now := int64(0)
	served := func(d time.Duration) (n int) {
		for end := now + int64(d); now < end; now += int64(time.Millisecond) {
			if !s.charge(key, now) {
				n++
			}
		}
		return n
	}
	served(10 * time.Second) // the burst
	for tight, want := range []int{2000, 1000, 500, 250, 125, 62} {
		s.tight.Store(int32(tight))
		if n := served(100 * time.Second); n < want*9/10-1 || n > want*11/10+1 {
			t.Errorf("halved %d times: %d requests in 100 s, want %d", tight, n, want)
		}
	}
	s.tight.Store(-2)
	now += int64(time.Minute)
	served(10 * time.Second)
	if n := served(100 * time.Second); n < 7900 || n > 8100 {
		t.Errorf("doubled twice: %d requests in 100 s, want 8000", n)
	}
	s.tight.Store(-mostLoose)
	if n := served(time.Second); n != 1000 {
		t.Errorf("doubled as often as can be: %d requests of 1000", n)
	}
	s.tight.Store(0)
	now += int64(time.Minute)
	if n := served(time.Second); n < 200 || n > 225 {
		t.Errorf("as it was, after a minute of silence: %d at once, want the burst of 200", n)
	}
}
