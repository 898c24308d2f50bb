// Package swarmtest is the behaviour that every store of swarms has, as one suite of tests.
package swarmtest

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"spillway/tracker/swarm"
)

// Store is what the suite drives.
type Store interface {
	Announce(a *swarm.Announce, now time.Time, r *swarm.Reply)
	Scrape(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts
	// Sweep removes what has expired by now.
	Sweep(now time.Time)
}

// TTL is the lifetime the suite's peers announce with.
const TTL = time.Hour

// Run drives a fresh store from open through every case.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for name, f := range map[string]func(*testing.T, *story){
		"a leecher meets a seeder":                    leecherMeetsSeeder,
		"seeders are not handed seeders":              seedersApart,
		"the announcer is never told of itself":       notSelf,
		"both families are told of both":              bothFamilies,
		"one peer on both families is listed on both": dualStack,
		"random peer ids from one endpoint are one":   oneEndpoint,
		"stopped leaves at once":                      stopped,
		"completed counts once":                       completed,
		"a partial seed is incomplete":                partialSeed,
		"port 0 is answered and not stored":           unreachable,
		"numwant bounds the reply":                    numWant,
		"silence expires":                             expiry,
		"an announce renews":                          renewal,
		"unknown swarms scrape as zeros":              unknownScrape,
		"WebSocket peers are apart, and counted":      webPeers,
		"the sample is fair":                          fairSample,
		"the preferred family gets its half":          preferredFamily,
		"a seeder may become a leecher again":         seederTurnsLeecher,
		"large swarms shrink to nothing":              growAndShrink,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, &story{T: t, store: open(t), now: time.Now()})
		})
	}
}

// A story is a store, a clock and the words to announce in.
type story struct {
	*testing.T
	store Store
	now   time.Time
}

// Hash is an info hash that begins with name.
func Hash(name string) (h swarm.InfoHash) {
	copy(h[:], name)
	return h
}

type option func(*swarm.Announce)

func seeder(a *swarm.Announce)     { a.Seeder = true }
func event(e swarm.Event) option   { return func(a *swarm.Announce) { a.Event = e } }
func want(n int) option            { return func(a *swarm.Announce) { a.NumWant = n } }
func also(addr string) option      { return func(a *swarm.Announce) { set(a, addr) } }
func prefer(f swarm.Family) option { return func(a *swarm.Announce) { a.PreferFamily = f } }
func portZero(a *swarm.Announce)   { a.Unreachable = true }
func set(a *swarm.Announce, addr string) {
	ap := netip.MustParseAddrPort(addr)
	a.SetEndpoint(ap.Addr(), ap.Port())
}
func (s *story) pass(d time.Duration) { s.now = s.now.Add(d); s.store.Sweep(s.now) }
func (s *story) scrape(name string) swarm.Counts {
	return s.store.Scrape([]swarm.InfoHash{Hash(name)}, nil)[0]
}

// announce announces addr to the swarm and returns the counts and the peers told, sorted.
func (s *story) announce(name, addr string, opts ...option) (swarm.Counts, []string) {
	s.Helper()
	a := swarm.Announce{InfoHash: Hash(name), NumWant: 50, TTL: TTL}
	set(&a, addr)
	for _, o := range opts {
		o(&a)
	}
	var r swarm.Reply
	s.store.Announce(&a, s.now, &r)
	return r.Counts, Peers(s.T, &r)
}

// Peers reads a reply's compact peers, sorted. It fails the test when one is told twice.
func Peers(t testing.TB, r *swarm.Reply) []string {
	t.Helper()
	var out []string
	for _, f := range []struct {
		b []byte
		n int
	}{{r.Peers4, 4}, {r.Peers6, 16}} {
		if len(f.b)%(f.n+2) != 0 {
			t.Fatalf("compact peers: %d bytes are no multiple of %d", len(f.b), f.n+2)
		}
		for p := range slices.Chunk(f.b, f.n+2) {
			ip, _ := netip.AddrFromSlice(p[:f.n])
			out = append(out, netip.AddrPortFrom(ip, uint16(p[f.n])<<8|uint16(p[f.n+1])).String())
		}
	}
	slices.Sort(out)
	if n := len(out); len(slices.Compact(slices.Clone(out))) != n {
		t.Errorf("a peer is told twice: %v", out)
	}
	return out
}

func (s *story) wantCounts(what string, got, want swarm.Counts) {
	s.Helper()
	if got != want {
		s.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

func (s *story) wantPeers(what string, got []string, want ...string) {
	s.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func addr4(i int) string {
	return fmt.Sprintf("10.%d.%d.%d:%d", i>>16&255, i>>8&255, i&255, 1000+i%50000)
}
func addr6(i int) string { return fmt.Sprintf("[2001:db8::%x]:%d", i+1, 1000+i%50000) }

func leecherMeetsSeeder(_ *testing.T, s *story) {
	c, peers := s.announce("a", "192.0.2.1:6881", seeder, event(swarm.EventStarted))
	s.wantCounts("first announce", c, swarm.Counts{Complete: 1})
	s.wantPeers("first announce", peers)
	c, peers = s.announce("a", "192.0.2.2:6882", event(swarm.EventStarted))
	s.wantCounts("second announce", c, swarm.Counts{Complete: 1, Incomplete: 1, Downloaders: 1})
	s.wantPeers("second announce", peers, "192.0.2.1:6881")
	_, peers = s.announce("b", "192.0.2.2:6882")
	s.wantPeers("another swarm", peers)
}

func seedersApart(_ *testing.T, s *story) {
	s.announce("a", "192.0.2.1:1", seeder)
	s.announce("a", "[2001:db8::1]:1", seeder)
	s.announce("a", "192.0.2.3:3")
	s.announce("a", "[2001:db8::3]:3")
	_, peers := s.announce("a", "192.0.2.2:2", seeder)
	s.wantPeers("a seeder", peers, "192.0.2.3:3", "[2001:db8::3]:3")
}

func notSelf(_ *testing.T, s *story) {
	for i := range 200 {
		s.announce("a", addr4(i), func(a *swarm.Announce) { a.Seeder = i%2 == 0 })
	}
	for i := range 200 {
		for _, n := range []int{10, 150, 1000} {
			_, peers := s.announce("a", addr4(i), want(n), func(a *swarm.Announce) { a.Seeder = i%2 == 0 })
			if slices.Contains(peers, addr4(i)) {
				s.Fatalf("numwant %d: %s is told of itself", n, addr4(i))
			}
			most := 199
			if i%2 == 0 {
				most = 100
			}
			if len(peers) != min(n, most) {
				s.Fatalf("numwant %d: got %d peers, want %d", n, len(peers), min(n, most))
			}
		}
	}
}

func bothFamilies(_ *testing.T, s *story) {
	s.announce("a", "192.0.2.1:1")
	_, peers := s.announce("a", "[2001:db8::2]:2")
	s.wantPeers("over IPv6", peers, "192.0.2.1:1")
	_, peers = s.announce("a", "192.0.2.1:1")
	s.wantPeers("over IPv4", peers, "[2001:db8::2]:2")
}

func dualStack(_ *testing.T, s *story) {
	c, _ := s.announce("a", "192.0.2.1:1", also("[2001:db8::1]:1"))
	s.wantCounts("dual announce", c, swarm.Counts{Incomplete: 2, Downloaders: 2})
	_, peers := s.announce("a", "192.0.2.2:2")
	s.wantPeers("the other", peers, "192.0.2.1:1", "[2001:db8::1]:1")
	_, peers = s.announce("a", "192.0.2.1:1", also("[2001:db8::1]:1"))
	s.wantPeers("itself", peers, "192.0.2.2:2")
	c, _ = s.announce("a", "192.0.2.1:1", also("[2001:db8::1]:1"), event(swarm.EventStopped))
	s.wantCounts("dual stop", c, swarm.Counts{Incomplete: 1, Downloaders: 1})
}

func oneEndpoint(_ *testing.T, s *story) {
	for range 100 {
		s.announce("a", "192.0.2.1:1", event(swarm.EventStarted))
	}
	s.wantCounts("scrape", s.scrape("a"), swarm.Counts{Incomplete: 1, Downloaders: 1})
}

func stopped(_ *testing.T, s *story) {
	s.announce("a", "192.0.2.1:1", seeder)
	s.announce("a", "192.0.2.2:2")
	c, peers := s.announce("a", "192.0.2.1:1", seeder, event(swarm.EventStopped))
	s.wantCounts("the seeder stops", c, swarm.Counts{Incomplete: 1, Downloaders: 1})
	s.wantPeers("the seeder stops", peers)
	_, peers = s.announce("a", "192.0.2.3:3")
	s.wantPeers("afterwards", peers, "192.0.2.2:2")
	c, _ = s.announce("a", "192.0.2.9:9", event(swarm.EventStopped))
	s.wantCounts("a stranger stops", c, swarm.Counts{Incomplete: 2, Downloaders: 2})
	s.announce("nobody", "192.0.2.9:9", event(swarm.EventStopped))
	s.wantCounts("a stop makes no swarm", s.scrape("nobody"), swarm.Counts{})
}

func completed(_ *testing.T, s *story) {
	s.announce("a", "192.0.2.1:1", event(swarm.EventStarted))
	c, _ := s.announce("a", "192.0.2.1:1", seeder, event(swarm.EventCompleted))
	s.wantCounts("completed", c, swarm.Counts{Complete: 1, Downloaded: 1})
	c, _ = s.announce("a", "192.0.2.1:1", seeder, event(swarm.EventCompleted))
	s.wantCounts("completed again", c, swarm.Counts{Complete: 1, Downloaded: 1})
	c, _ = s.announce("a", "192.0.2.2:2", seeder, event(swarm.EventCompleted))
	s.wantCounts("completed, unknown before", c, swarm.Counts{Complete: 2, Downloaded: 2})
	c, _ = s.announce("a", "192.0.2.3:3", event(swarm.EventCompleted))
	s.wantCounts("completed with something left", c, swarm.Counts{Complete: 2, Incomplete: 1, Downloaders: 1, Downloaded: 2})
	s.announce("a", "192.0.2.1:1", event(swarm.EventStopped))
	s.announce("a", "192.0.2.2:2", event(swarm.EventStopped))
	s.announce("a", "192.0.2.3:3", event(swarm.EventStopped))
	s.pass(time.Minute)
	s.wantCounts("everybody left", s.scrape("a"), swarm.Counts{Downloaded: 2})
}

func partialSeed(_ *testing.T, s *story) {
	s.announce("a", "192.0.2.1:1", event(swarm.EventPaused))
	c, _ := s.announce("a", "192.0.2.2:2")
	s.wantCounts("paused", c, swarm.Counts{Incomplete: 2, Downloaders: 1})
	c, _ = s.announce("a", "192.0.2.1:1")
	s.wantCounts("at it again", c, swarm.Counts{Incomplete: 2, Downloaders: 2})
	s.announce("a", "192.0.2.1:1", event(swarm.EventPaused))
	c, _ = s.announce("a", "192.0.2.1:1", event(swarm.EventStopped))
	s.wantCounts("paused, then stopped", c, swarm.Counts{Incomplete: 1, Downloaders: 1})
}

func unreachable(_ *testing.T, s *story) {
	s.announce("a", "192.0.2.1:1", seeder)
	c, peers := s.announce("a", "192.0.2.2:0", portZero)
	s.wantCounts("port 0", c, swarm.Counts{Complete: 1})
	s.wantPeers("port 0", peers, "192.0.2.1:1")
	s.announce("none", "192.0.2.2:0", portZero)
	s.wantCounts("port 0 makes no swarm", s.scrape("none"), swarm.Counts{})
}

func numWant(_ *testing.T, s *story) {
	for i := range 300 {
		s.announce("a", addr4(i))
	}
	for _, n := range []int{-1, 0, 1, 2, 50, 299, 300, 301} {
		_, peers := s.announce("a", "192.0.2.1:1", want(n))
		if got := len(peers); got != max(0, min(n, 300)) {
			s.Errorf("numwant %d: got %d peers", n, got)
		}
	}
}

func expiry(_ *testing.T, s *story) {
	s.announce("a", "192.0.2.1:1", seeder)
	s.announce("a", "[2001:db8::1]:1")
	s.pass(TTL - 2*swarm.Tick)
	s.wantCounts("just before", s.scrape("a"), swarm.Counts{Complete: 1, Incomplete: 1, Downloaders: 1})
	s.pass(4 * swarm.Tick)
	s.wantCounts("just after", s.scrape("a"), swarm.Counts{})
}

func renewal(_ *testing.T, s *story) {
	s.announce("a", "192.0.2.1:1", seeder)
	s.announce("a", "192.0.2.2:2", seeder)
	s.pass(TTL / 2)
	s.announce("a", "192.0.2.1:1", seeder)
	s.pass(TTL/2 + 2*swarm.Tick)
	_, peers := s.announce("a", "192.0.2.3:3")
	s.wantPeers("after the first one's time", peers, "192.0.2.1:1")
}

func unknownScrape(_ *testing.T, s *story) {
	s.announce("a", "192.0.2.1:1")
	got := s.store.Scrape([]swarm.InfoHash{Hash("x"), Hash("a"), Hash("y")}, nil)
	want := []swarm.Counts{{}, {Incomplete: 1, Downloaders: 1}, {}}
	if !slices.Equal(got, want) {
		s.Errorf("scrape: got %+v, want %+v", got, want)
	}
}

func webPeers(_ *testing.T, s *story) {
	web := func(id byte, opts ...option) (swarm.Counts, []byte) {
		a := swarm.Announce{InfoHash: Hash("a"), NumWant: 50, TTL: TTL, Web: swarm.EndpointWeb{id}, HasWeb: true}
		for _, o := range opts {
			o(&a)
		}
		var r swarm.Reply
		s.store.Announce(&a, s.now, &r)
		if len(r.Peers4)+len(r.Peers6) > 0 {
			s.Errorf("a WebSocket peer is told of addresses")
		}
		return r.Counts, r.PeersWeb
	}
	s.announce("a", "192.0.2.1:1", seeder)
	web(1)
	c, told := web(2, seeder)
	s.wantCounts("counted together", c, swarm.Counts{Complete: 2, Incomplete: 1, Downloaders: 1})
	if string(told) != string(make([]byte, 0, 8))+"\x01\x00\x00\x00\x00\x00\x00\x00" {
		s.Errorf("a WebSocket seeder is told %x, want the other WebSocket peer", told)
	}
	_, peers := s.announce("a", "192.0.2.2:2")
	s.wantPeers("over HTTP", peers, "192.0.2.1:1")
	c, _ = web(1, event(swarm.EventStopped))
	s.wantCounts("stopped", c, swarm.Counts{Complete: 2, Incomplete: 1, Downloaders: 1})
}

// fairSample draws often and holds every peer's share against the binomial distribution: five standard deviations, which
// chance passes by once in a million peers.
func fairSample(t *testing.T, s *story) {
	const peers, numWant, draws = 500, 50, 4000
	for i := range peers {
		s.announce("a", addr4(i), func(a *swarm.Announce) { a.Seeder = i%3 == 0 })
	}
	seen := map[string]int{}
	for range draws {
		_, got := s.announce("a", "192.0.2.1:1", want(numWant))
		for _, p := range got {
			seen[p]++
		}
	}
	const mean = float64(draws) * numWant / peers
	for i := range peers {
		got := float64(seen[addr4(i)])
		if d := got - mean; d*d > 25*mean {
			t.Errorf("%s is told %v times, want about %v", addr4(i), got, mean)
		}
	}
}

func preferredFamily(_ *testing.T, s *story) {
	for i := range 100 {
		s.announce("a", addr6(i))
	}
	for i := range 30 {
		s.announce("a", addr4(i))
	}
	count4 := func(peers []string) (n int) {
		for _, p := range peers {
			if netip.MustParseAddrPort(p).Addr().Is4() {
				n++
			}
		}
		return n
	}
	_, peers := s.announce("a", "192.0.2.1:1", want(40), prefer(swarm.Family4))
	if n4, n := count4(peers), len(peers); n4 != 20 || n != 40 {
		s.Errorf("IPv4 preferred: got %d of %d, want 20 of 40", n4, n)
	}
	_, peers = s.announce("a", "192.0.2.1:1", want(100), prefer(swarm.Family4))
	if n4, n := count4(peers), len(peers); n4 != 30 || n != 100 {
		s.Errorf("IPv4 preferred, few there: got %d of %d, want 30 of 100", n4, n)
	}
	_, peers = s.announce("a", "[2001:db8::ffff]:1", want(40), prefer(swarm.Family6))
	if n4, n := count4(peers), len(peers); n4 < 8 || n4 > 11 || n != 40 {
		s.Errorf("IPv6 preferred: got %d of %d IPv4 peers, want the fair 9 or so of 40", n4, n)
	}
}

func seederTurnsLeecher(_ *testing.T, s *story) {
	s.announce("a", "192.0.2.1:1", seeder)
	c, _ := s.announce("a", "192.0.2.1:1")
	s.wantCounts("files added", c, swarm.Counts{Incomplete: 1, Downloaders: 1})
	_, peers := s.announce("a", "192.0.2.2:2", seeder)
	s.wantPeers("a seeder asks", peers, "192.0.2.1:1")
}

func growAndShrink(t *testing.T, s *story) {
	const n = 3000
	for i := range n {
		s.announce("a", addr4(i), func(a *swarm.Announce) { a.Seeder = i%2 == 0 })
		s.announce("a", addr6(i))
	}
	s.wantCounts("grown", s.scrape("a"), swarm.Counts{Complete: n / 2, Incomplete: n * 3 / 2, Downloaders: n * 3 / 2})
	for i := range n {
		s.announce("a", addr4(i), event(swarm.EventStopped))
		s.announce("a", addr6(i), event(swarm.EventStopped))
		if c := s.scrape("a"); int(c.Complete+c.Incomplete) != 2*(n-i-1) {
			t.Fatalf("after %d stops of each family: got %+v", i+1, c)
		}
	}
}
