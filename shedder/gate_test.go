package shedder

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// overload has it as it is in one.
func (g gated) overload() {
	g.law.state = Overload
	g.publish()
}

// TestClassesInTheirOrder: a class is never refused at an age at which one behind it is served, and the first never before twice
// the target.
func TestClassesInTheirOrder(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{}, 0)
	admit := func(c Class, age time.Duration) bool {
		return g.Admit(&Request{Endpoint: Announce, Class: c, Now: simEpoch, Age: age}) == Serve
	}
	for c := range classCount {
		if !admit(c, time.Hour) {
			t.Errorf("calm, class %d: refused", c)
		}
	}
	g.overload()
	oldest := [classCount]time.Duration{}
	for age := time.Duration(0); age < 200*time.Millisecond; age += time.Millisecond {
		for c := range classCount {
			if admit(c, age) {
				oldest[c] = age
			}
		}
	}
	want := [classCount]time.Duration{100, 75, 62, 50, 37, 25, 12}
	for c := range want {
		if oldest[c] != want[c]*time.Millisecond {
			t.Errorf("class %d: served up to %s, want %d ms", c, oldest[c], want[c])
		}
	}
	if n := g.late.Load(); n == 0 || n >= g.counts[Announce][Shed].Load() {
		t.Errorf("%d of %d refusals tell of load; want those of announces", n, g.counts[Announce][Shed].Load())
	}

	// Of what comes by ways that tell no age, the median of all decides.
	g.age.Store(int64(60 * time.Millisecond))
	for c, serve := range [classCount]bool{true, true, true} {
		if admit(Class(c), -1) != serve {
			t.Errorf("class %d, age not known, median 60 ms: served %v", c, !serve)
		}
	}
}

// TestTheRampAdmitsARate: after a start, in the order of the classes.
func TestTheRampAdmitsARate(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{Capacity: 10_000}, 0)
	var served [classCount]int
	const asked = 2000
	for i := range asked {
		for c := range classCount {
			// Each class asks 1,000 times a second: 7,000 in all, and 2,000 are admitted.
			if g.Admit(&Request{Endpoint: Announce, Class: c, Now: simEpoch.Add(time.Second * time.Duration(i) / 1000)}) == Serve {
				served[c]++
			}
		}
	}
	total := 0
	for c, n := range served {
		if total += n; c > 0 && n > served[c-1]+asked/10 {
			t.Errorf("class %d has %d served, and class %d only %d", c, n, c-1, served[c-1])
		}
	}
	if total < 3900 || total > 4500 || served[Leaving] < asked*9/10 {
		t.Errorf("in two seconds: %d served, %v; want 4,000, of what leaves nearly all", total, served)
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
	g.overload()
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
	g.overload()
	g.sources.remembering.Store(false) // as from the next second on
	for _, c := range []struct {
		source netip.Addr
		class  Class
		age    time.Duration
		want   Verdict
	}{
		{known, Leaving, 90 * time.Millisecond, Serve}, {stranger, Leaving, 90 * time.Millisecond, Shed}, // that it leaves, a stranger only says
		{known, Unknown, 70 * time.Millisecond, Serve}, {stranger, Unknown, 70 * time.Millisecond, Shed},
		{known, KnownSeeder, 60 * time.Millisecond, Serve}, {stranger, KnownSeeder, 60 * time.Millisecond, Shed},
		{stranger, KnownLeecher, 40 * time.Millisecond, Serve},
	} {
		if got := g.Admit(&Request{Class: c.class, Source: c.source, Now: simEpoch, Age: c.age}); got != c.want {
			t.Errorf("%s, class %d, %s old: verdict %d, want %d", c.source, c.class, c.age, got, c.want)
		}
	}
	if g.sources.isKnown(g.sources.key(stranger)) {
		t.Error("a source served in an overload became known")
	}
}

// TestAloneIsNotRefusedForItsAge: to refuse it would cost what serving it does.
func TestAloneIsNotRefusedForItsAge(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{Capacity: 1000}, 0)
	for i := range 10_000 {
		if v := g.Admit(&Request{Class: Unknown, Alone: true, Age: time.Second, Now: simEpoch.Add(time.Duration(i))}); v != Serve {
			t.Fatalf("request %d: verdict %d, want it served", i, v)
		}
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
	g.overload()
	var got [EndpointCount][verdictCount]uint64
	for i := range 1000 {
		e := Endpoint(i % int(EndpointCount))
		got[e][g.Admit(&Request{Endpoint: e, Class: Class(i % int(classCount)), Age: time.Duration(i) * 100 * time.Microsecond, Now: simEpoch.Add(time.Duration(i) * time.Millisecond)})]++
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

// TestOffenders: told of once in ten seconds, and only where the kernel can drop them.
func TestOffenders(t *testing.T) {
	t.Parallel()
	told := map[netip.Addr]int{}
	g := newGated(t, Config{PerSource: Budget{Rate: 10, Burst: 10}, Offender: func(a netip.Addr) { told[a]++ }}, 0)
	g.overload()
	direct, proxied := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	for i := range 5000 {
		now := simEpoch.Add(time.Duration(i) * time.Millisecond)
		g.Admit(&Request{Source: direct, Direct: true, Now: now})
		g.Admit(&Request{Source: proxied, Now: now})
	}
	if told[direct] != 1 || len(told) != 1 {
		t.Errorf("told of %v, want of %s once", told, direct)
	}
}

// TestPacketsAreNotRefused: neither for their age nor at the ramp's rate nor for their source; who offends is told once in ten seconds,
// by the budget as it was set, and only while more comes than is read.
func TestPacketsAreNotRefused(t *testing.T) {
	t.Parallel()
	source := netip.MustParseAddr("192.0.2.1")
	for name, state := range map[string]State{"calm": Calm, "ramp": Ramp, "overload": Overload, "escalated": Escalated} {
		for _, crowded := range []bool{false, true} {
			g := newGated(t, Config{PerSource: Budget{Rate: 10, Burst: 10}, PerPrefix: Budget{Rate: 1, Burst: 1}, Capacity: 1}, 0)
			g.law.state = state
			g.sources.tight.Store(mostTight)
			g.publish()
			ask := func(every time.Duration) (offends int) {
				for i := range 5000 {
					r := Request{Endpoint: UDP, Class: Unknown, Source: source, Now: simEpoch.Add(time.Duration(i) * every), Age: time.Minute, Crowded: crowded}
					if v := g.Admit(&r); v != Serve {
						t.Fatalf("%s, crowded %v, request %d: got %d", name, crowded, i, v)
					}
					if r.Offends {
						offends++
					}
				}
				return offends
			}
			if n := ask(100 * time.Millisecond); n != 0 {
				t.Errorf("%s, crowded %v, within the budget: offended %d times", name, crowded, n)
			}
			source = source.Next()
			want := 0
			if crowded {
				want = 1
			}
			if n := ask(time.Millisecond); n != want {
				t.Errorf("%s, crowded %v, far above it, for five seconds: offended %d times, want %d", name, crowded, n, want)
			}
			source = source.Next()
		}
	}
}

// TestLostPacketsAreSeen: as what was shed, in what was offered, and not by who stands in front, who forwards none.
func TestLostPacketsAreSeen(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{}, 0)
	for i := range 10 * rateSeconds * int(time.Second/TickLength) {
		g.Admit(&Request{Endpoint: UDP, Now: simEpoch})
		g.Lose(UDP, 3)
		g.step(time.Duration(i+1) * TickLength)
	}
	if r := g.Load().Rates[UDP]; r.Level() < 0.7 || r.Level() > 0.8 || r.Served < 15 || r.Shed < 45 {
		t.Errorf("got %+v, level %v, want three quarters of it shed", r, r.Level())
	}
	if state, level := g.Pressure(); state != Calm || level != 0 {
		t.Errorf("pressure: got %v, %d", state, level)
	}
}

// TestCalmBacklog: a flood that begins finds a queue of 80 ms, if what can be served is known, and not one of a second.
func TestCalmBacklog(t *testing.T) {
	t.Parallel()
	for capacity, want := range map[float64]int{0: MaxBacklog, 1: calmBacklogLeast, 5000: 400, 1e6: MaxBacklog} {
		g := newGated(t, Config{}, 0)
		g.law.peak = capacity
		g.step(TickLength)
		if got := g.Backlog(); got != want && got != want-1 { // the capacity is forgotten slowly
			t.Errorf("%.0f a second can be served: backlog %d, want %d", capacity, got, want)
		}
	}
}

// TestFloodOfConnectionsBegins: from half of what can be served to three times as much, a connection each, on a core that the server
// shares with five programs, 3 ms each in turn. What is served in 200 ms takes 100 at p99, though it does not know of the flood before a
// tick has ended. It is half of what can be served: as much again goes to SYNs that are sent a second time.
func TestFloodOfConnectionsBegins(t *testing.T) {
	t.Parallel()
	skipIfSlow(t)
	const core, share, slice, length, inTime = 19000.0, 6, 3 * time.Millisecond, 12 * time.Second, 200 * time.Millisecond
	for _, phase := range []time.Duration{0, 13, 29, 43} {
		begins := 3*time.Second + phase*time.Millisecond
		s := steady(core, 0.97, 0.5/share, 0, begins+length)
		s.runs = func(now time.Duration) bool {
			if now >= begins {
				s.flood = 3 * core / share
			}
			return now%(slice*share) < slice
		}
		s.shed = withFresh{newGated(t, Config{}, 0)}
		s.run()
		slices.Sort(s.took)
		n, _ := slices.BinarySearch(s.took, inTime+1)
		good, p99 := float64(n)/(length.Seconds()+1.5)/(core/share), s.took[:n][n*99/100]
		t.Logf("begins %d ms after a tick: good %.2f, p99 %s", phase, good, p99)
		if good < 0.45 || p99 > 100*time.Millisecond {
			t.Errorf("begins %d ms after a tick: good %.2f, want 0.45; p99 %s, want 100 ms", phase, good, p99)
		}
	}
}

// withFresh has, besides the kernel's queue, the 128 connections that a listener has accepted and not answered.
type withFresh struct{ gated }

func (g withFresh) backlog() int { return g.Backlog() + 128 }

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

// TestWithoutAgesWakeUpsTell: over a unix socket the kernel stamps nothing.
func TestWithoutAgesWakeUpsTell(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{}, 0)
	tick := func(i int, asked int, ping time.Duration) {
		for range asked {
			g.Admit(&Request{Endpoint: Announce, Class: Unknown, Age: -1, Now: simEpoch})
		}
		g.ping.Store(int64(ping))
		g.step(time.Duration(i) * TickLength)
	}
	for i := range 10 {
		tick(i+1, minAges-1, time.Second)
	}
	if g.Limited() {
		t.Error("nobody asks, and there is an overload")
	}
	tick(11, 100, 60*time.Millisecond)
	tick(12, 100, 60*time.Millisecond)
	if !g.Limited() {
		t.Error("wake-ups take longer than the target, and there is no overload")
	}
	if v := g.Admit(&Request{Endpoint: Announce, Class: Unknown, Age: -1, Now: simEpoch}); v != Shed {
		t.Errorf("a request without an age: verdict %d, want %d", v, Shed)
	}
}

// TestRun: wake-ups are measured, and nothing is left running.
func TestRun(t *testing.T) {
	t.Parallel()
	g := newGated(t, Config{}, 0)
	g.started = time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { g.pings(ctx); close(ended) }()
	for end := time.Now().Add(10 * time.Second); g.ping.Load() == 0; {
		if time.Now().After(end) {
			t.Fatal("no wake-up in 10 s")
		}
		<-time.After(time.Millisecond)
	}
	cancel()
	<-ended
}

func BenchmarkAdmit(b *testing.B) {
	addrs := make([]netip.Addr, 4096)
	for i := range addrs {
		addrs[i] = homeOf(int32(i))
	}
	for _, load := range []string{"calm", "overloaded"} {
		g := newGated(b, Config{PerSource: Budget{Rate: 20, Burst: 200}, PerPrefix: Budget{Rate: 200, Burst: 2000}}, 0)
		if load == "overloaded" {
			g.overload()
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

// TestAutoRules: what a flood has in common becomes a rule by itself, once and for its time, where the operator wants that.
func TestAutoRules(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{0, time.Hour} {
		s := newStory()
		g := newGated(t, Config{AutoRules: d}, 0)
		g.Talkers = s.t
		s.calm(5)
		g.overload()
		s.play(time.Minute, 3000, true, func(rng *rand.Rand) asked {
			r := publicMix(rng)
			if rng.IntN(10) < 7 {
				r.userAgent = "flood/1"
			}
			return r
		})
		g.keep(s.now)
		g.keep(s.now.Add(time.Second))
		rules := g.Rules.List()
		switch {
		case d == 0 && len(rules) > 0:
			t.Errorf("rules nobody wanted: %v", rules)
		case d > 0 && (len(rules) != 1 || rules[0].Kind != RuleUserAgent || rules[0].Value != "flood/1" || rules[0].By != bySpillway):
			t.Errorf("got rules %v, want one of the user agent", rules)
		case d > 0 && !g.Rules.MatchUserAgent([]byte("flood/1")):
			t.Error("the rule matches nothing")
		}
	}
}
