package shedder

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// limit puts a rate in force, as an overload does.
func (g gated) limit(rate float64) {
	g.law.state, g.law.rate = Overload, rate
	g.publish()
}

// TestClassesInTheirOrder: whatever the rate, a class that is refused is never one before which another is served.
func TestClassesInTheirOrder(t *testing.T) {
	t.Parallel()
	shares := func(rate float64) (served [classCount]float64) {
		g := newGated(t, Config{}, 0)
		g.limit(rate)
		const asked = 2000
		for i := range asked {
			for c := range classCount {
				now := simEpoch.Add(time.Second * time.Duration(i) / 1000)
				if g.Admit(&Request{Endpoint: Announce, Class: c, Now: now}) == Serve {
					served[c] += 1.0 / asked
				}
			}
		}
		return served
	}
	for rate := 500.0; rate <= 8000; rate += 500 {
		served := shares(rate) // each class asks 1,000 times a second
		for c := 1; c < len(served); c++ {
			if served[c] > served[c-1]+0.1 {
				t.Errorf("rate %v: class %d has %.2f served, and class %d only %.2f", rate, c, served[c], c-1, served[c-1])
			}
		}
		if rate >= 1500 && served[Leaving] < 0.95 || rate >= 2500 && served[KnownLeecher] < 0.9 {
			t.Errorf("rate %v: of what leaves %.2f, of leechers %.2f served", rate, served[Leaving], served[KnownLeecher])
		}
		if total := served[Leaving] + served[KnownLeecher] + served[KnownSeeder] + served[Unknown] + served[Offers] + served[Scrapes] + served[Upgrade]; total > rate/1000+0.2 || total < min(rate/1000, 6.5)-0.2 {
			t.Errorf("rate %v: %.2f thousand served", rate, total)
		}
	}
	if served := shares(1e6); served[Upgrade] < 0.999 {
		t.Errorf("enough for all: of the last class %.2f served", served[Upgrade])
	}
}

func TestBudgetsOnlyInOverload(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{PerSource: Budget{Rate: 1, Burst: 1}}, 0)
	r := &Request{Endpoint: Announce, Class: KnownLeecher, Source: netip.MustParseAddr("192.0.2.1"), Now: simEpoch.Add(time.Second)}
	for range 100 {
		if v := g.Admit(r); v != Serve {
			t.Fatalf("calm, far over its budget: verdict %d, want it served", v)
		}
	}
	g.limit(1000)
	if v := g.Admit(r); v != OverBudget {
		t.Errorf("the same in an overload: verdict %d, want %d", v, OverBudget)
	}
	if !g.Unwelcome(r.Source, r.Now) || g.Unwelcome(netip.MustParseAddr("192.0.2.2"), r.Now) || g.Unwelcome(netip.Addr{}, r.Now) {
		t.Error("unwelcome: want who is over its budget, and nobody else")
	}
	r.Source = netip.Addr{}
	if v := g.Admit(r); v != Serve {
		t.Errorf("without a source: verdict %d, want it served", v)
	}
	if n := g.counts[Announce][OverBudget].Load(); n != 2 {
		t.Errorf("%d counted as over their budget, want 2", n)
	}
}

func TestKnownSourcesBeforeStrangers(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{}, 0)
	known, stranger := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	g.Admit(&Request{Class: Unknown, Source: known, Now: simEpoch}) // served while all was calm
	g.limit(1000)
	var served [2][classCount]int
	for i := range 4000 {
		now := simEpoch.Add(time.Second + time.Second*time.Duration(i)/1000)
		for who, source := range []netip.Addr{known, stranger} {
			// That it leaves, a stranger only says.
			if class := []Class{Leaving, Unknown}[i%2]; g.Admit(&Request{Class: class, Source: source, Now: now}) == Serve {
				served[who][class]++
			}
		}
	}
	if served[0][Leaving] < 1900 || served[0][Unknown] < 1500 || served[1][Leaving]+served[1][Unknown] > 300 {
		t.Errorf("served of 2000 each: known %d leaving, %d started; stranger %d and %d",
			served[0][Leaving], served[0][Unknown], served[1][Leaving], served[1][Unknown])
	}
	g.Admit(&Request{Class: Leaving, Source: stranger, Now: simEpoch.Add(time.Minute)})
	if g.sources.isKnown(g.sources.key(stranger)) {
		t.Error("a source served in an overload became known")
	}
}

// TestAloneIsNotRefusedByTheRate: it would cost what serving it does. But the others have less then, and no debt is left.
func TestAloneIsNotRefusedByTheRate(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{}, 0)
	g.limit(1000)
	served := 0
	for i := range 10_000 {
		now := simEpoch.Add(time.Second * time.Duration(i) / 2000)
		if v := g.Admit(&Request{Class: Upgrade, Alone: true, Now: now}); v != Serve {
			t.Fatalf("request %d: verdict %d, want it served", i, v)
		}
		if i > 1000 && g.Admit(&Request{Class: KnownSeeder, Now: now}) == Serve {
			served++
		}
	}
	if served > 100 {
		t.Errorf("%d others were served, and the rate was used twice over", served)
	}
	if v := g.Admit(&Request{Class: KnownSeeder, Now: simEpoch.Add(5*time.Second + 2*burst)}); v != Serve {
		t.Errorf("a moment later: verdict %d, want it served", v)
	}
}

func TestSwitchModes(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{Disabled: true}, 0) // switches hold, whatever shedding is
	f := func(e Endpoint, m Mode, want map[Class]Verdict) {
		t.Helper()
		if _, err := g.Switches.Set(e, m, 0, "test", "test"); err != nil {
			t.Fatal(err)
		}
		if g.Closed(e) != (m != On) {
			t.Errorf("%s %s: closed %v", e, m, g.Closed(e))
		}
		for c, v := range want {
			if got := g.Admit(&Request{Endpoint: e, Class: c, Now: simEpoch}); got != v {
				t.Errorf("%s %s, class %d: verdict %d, want %d", e, m, c, got, v)
			}
		}
	}
	for _, e := range []Endpoint{Announce, UDP} {
		f(e, On, map[Class]Verdict{Leaving: Serve, KnownLeecher: Serve, Unknown: Serve})
		f(e, RejectNew, map[Class]Verdict{Leaving: Serve, KnownLeecher: Serve, KnownSeeder: Serve, Unknown: Refuse})
		f(e, Drain, map[Class]Verdict{Leaving: Refuse, KnownLeecher: Refuse, Unknown: Refuse})
		f(e, Off, map[Class]Verdict{Leaving: Refuse, KnownLeecher: Refuse, Unknown: Refuse})
	}
	f(Scrape, RejectNew, map[Class]Verdict{Scrapes: Refuse})
	f(WS, On, map[Class]Verdict{Upgrade: Serve, Offers: Serve})
	f(WS, RejectNew, map[Class]Verdict{Upgrade: Refuse, Offers: Serve, KnownLeecher: Serve})
	f(WS, Drain, map[Class]Verdict{Upgrade: Refuse, Offers: Serve})
	f(WS, Off, map[Class]Verdict{Upgrade: Refuse, Offers: Refuse, Leaving: Refuse})
	f(Announce, On, map[Class]Verdict{Unknown: Serve})
}

func TestBrownoutSteps(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{}, 0)
	f := func(step int, e Endpoint, c Class, want Verdict) {
		t.Helper()
		g.ladder.level = step
		g.publish()
		if got := g.Admit(&Request{Endpoint: e, Class: c, Now: simEpoch}); got != want {
			t.Errorf("step %d, %s, class %d: verdict %d, want %d", step, e, c, got, want)
		}
		if g.Limited() != (step > 0) {
			t.Errorf("step %d: limited %v", step, g.Limited())
		}
	}
	f(0, WS, Upgrade, Serve)
	f(BrownUpgrades, WS, Upgrade, Shed)
	f(BrownUpgrades, Scrape, Scrapes, Serve)
	f(BrownScrapes, Scrape, Scrapes, Shed)
	f(BrownScrapes, WS, Offers, Serve)
	f(BrownOffers, WS, Offers, Trim)
	f(BrownOffers, Announce, KnownLeecher, Serve)
	f(BrownNumWant, Announce, KnownLeecher, Trim)
	f(BrownNumWant, Announce, Leaving, Trim)
	f(BrownSeeders, Announce, KnownLeecher, Trim)
	f(BrownSeeders, Announce, KnownSeeder, Trim) // there is no rate in force any more

	g.ladder.level = 0
	g.publish()
	g.memory.Store(memoryTight)
	f(0, WS, Upgrade, Shed)
	f(0, WS, Offers, Serve)
	g.memory.Store(memoryFull)
	if !g.Full() {
		t.Error("memory is full, and connections are accepted")
	}
}

func TestDisabledShedsNothing(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{Disabled: true, Capacity: 100, PerSource: Budget{Rate: 1, Burst: 1}}, 0)
	for i := range 1000 {
		now := time.Duration(i) * TickLength
		for range 30 {
			g.Observe(time.Second, i%2 == 0)
			if v := g.Admit(&Request{Class: Upgrade, Source: netip.MustParseAddr("192.0.2.1"), Now: simEpoch.Add(now)}); v != Serve {
				t.Fatalf("tick %d: verdict %d, want it served", i, v)
			}
		}
		g.step(now + TickLength)
	}
	if g.Limited() || g.Backlog() != MaxBacklog || g.law.state != Calm {
		t.Errorf("limited %v, backlog %d, state %d", g.Limited(), g.Backlog(), g.law.state)
	}
}

// TestWhatIsAskedIsCounted: each verdict, once.
func TestWhatIsAskedIsCounted(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{}, 0)
	g.limit(100)
	var got [EndpointCount][verdictCount]uint64
	for i := range 1000 {
		e := Endpoint(i % int(EndpointCount))
		got[e][g.Admit(&Request{Endpoint: e, Class: Class(i % int(classCount)), Now: simEpoch.Add(time.Duration(i) * time.Millisecond)})]++
	}
	for e := range got {
		for v := range got[e] {
			if n := g.counts[e][v].Load(); n != got[e][v] {
				t.Errorf("%s, verdict %d: counted %d, want %d", Endpoint(e), v, n, got[e][v])
			}
		}
	}
	if got[Announce][Shed] == 0 || got[Announce][Serve] == 0 {
		t.Error("nothing was shed, or nothing served")
	}
}

// TestOffenders: told of once a second, and only where the kernel can drop them.
func TestOffenders(t *testing.T) {
	t.Parallel()
	told := map[netip.Addr]int{}
	g := newGated(t, Config{PerSource: Budget{Rate: 10, Burst: 10}, Offender: func(a netip.Addr) { told[a]++ }}, 0)
	g.limit(1000)
	direct, proxied := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	for i := range 5000 {
		now := simEpoch.Add(time.Duration(i) * time.Millisecond)
		g.Admit(&Request{Source: direct, Direct: true, Now: now})
		g.Admit(&Request{Source: proxied, Now: now})
	}
	if told[direct] != 5 || len(told) != 1 {
		t.Errorf("told of %v, want of %s five times", told, direct)
	}
}

// TestBacklogFollowsTheLoad: where each request has its connection, the kernel's queue is the only one there is.
func TestBacklogFollowsTheLoad(t *testing.T) {
	t.Parallel()
	f := func(capacity float64, low, high int) {
		t.Helper()
		s := steady(capacity, 1, 2, 0, 10*time.Second)
		g := newGated(t, Config{}, 0)
		s.shed = g
		s.run()
		if g.Backlog() < low || g.Backlog() > high {
			t.Errorf("twice %v connections a second: backlog %d, want %d to %d", capacity, g.Backlog(), low, high)
		}
		if served := float64(s.sum(5, 10).admitted) / 5 / capacity; served < 0.95 {
			t.Errorf("twice %v connections a second: %.2f of the capacity served", capacity, served)
		}
		if age := s.sum(5, 10).age; age > 200*time.Millisecond {
			t.Errorf("twice %v connections a second: requests are up to %s old", capacity, age)
		}
	}
	f(1000, MinBacklog, MinBacklog)
	f(10000, 150, 250)
	g := newGated(t, Config{}, 0)
	g.SetMaxBacklog(100)
	if g.step(TickLength); g.Backlog() != 100 || g.BacklogLimit() != 100 {
		t.Errorf("bounded to 100: backlog %d, limit %d", g.Backlog(), g.BacklogLimit())
	}
}

func BenchmarkAdmit(b *testing.B) {
	addrs := make([]netip.Addr, 4096)
	for i := range addrs {
		addrs[i] = homeOf(int32(i))
	}
	for _, load := range []string{"calm", "overloaded"} {
		g := newGated(b, Config{PerSource: Budget{Rate: 20, Burst: 200}, PerPrefix: Budget{Rate: 200, Burst: 2000}}, 0)
		if load == "overloaded" {
			g.limit(20_000)
		}
		one := func(i int, r *Request) {
			r.Source, r.Now = addrs[i%len(addrs)], simEpoch.Add(time.Duration(i)*10*time.Microsecond)
			g.Observe(time.Millisecond, false)
			g.Admit(r)
		}
		b.Run(fmt.Sprintf("%s/one", load), func(b *testing.B) {
			r, i := Request{Class: KnownLeecher}, 0
			for b.Loop() {
				one(i, &r)
				i++
			}
		})
		b.Run(fmt.Sprintf("%s/parallel", load), func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				r := Request{Class: KnownLeecher}
				for i := 0; pb.Next(); i++ {
					one(i, &r)
				}
			})
		})
	}
}
