package shedder

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// asked is one request as the talkers see it.
type asked struct {
	src       netip.Addr
	userAgent string
	peerID    [20]byte
	infoHash  [20]byte
}

// publicMix is what a tracker sees on a usual day: many addresses, a few clients of unequal popularity, many torrents.
func publicMix(rng *rand.Rand) asked {
	r := asked{src: netip.AddrFrom4([4]byte{byte(1 + rng.IntN(9)), byte(rng.IntN(256)), byte(rng.IntN(256)), byte(rng.IntN(256))})}
	if rng.IntN(5) == 0 {
		b := [16]byte{0x20, 0x01}
		binary.BigEndian.PutUint64(b[2:], rng.Uint64())
		r.src = netip.AddrFrom16(b)
	}
	client := ""
	switch n := rng.IntN(100); {
	case n < 40:
		client, r.userAgent = "-qB4500-", "qBittorrent/4.5.0"
	case n < 60:
		client, r.userAgent = "-TR4000-", "Transmission/4.0.0"
	case n < 75:
		client, r.userAgent = "-UT355W-", "uTorrent/3.5.5"
	default:
		client = fmt.Sprintf("-X%c%04d-", 'A'+rng.IntN(26), rng.IntN(50))
		r.userAgent = "x/" + client
	}
	fillRandom(rng, r.peerID[:])
	copy(r.peerID[:], client)
	binary.BigEndian.PutUint64(r.infoHash[:], rng.Uint64N(100_000))
	return r
}

func fillRandom(rng *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

// story plays minutes of calm and then an overload to new talkers.
type story struct {
	t   *Talkers
	rng *rand.Rand
	now time.Time
}

func newStory() *story {
	s := &story{t: NewTalkers(), rng: rand.New(rand.NewPCG(3, 4)), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s.t.Step(s.now, false)
	return s
}

// play asks n times, evenly over d, and steps each second.
func (s *story) play(d time.Duration, n int, overloaded bool, ask func(*rand.Rand) asked) {
	seconds := int(d / time.Second)
	for i := range seconds {
		for range (i+1)*n/seconds - i*n/seconds {
			r := ask(s.rng)
			s.t.Note(r.src, []byte(r.userAgent), &r.peerID, &r.infoHash)
		}
		s.now = s.now.Add(time.Second)
		s.t.Step(s.now, overloaded)
	}
}

func (s *story) calm(minutes int) {
	s.play(time.Duration(minutes)*time.Minute, minutes*1000, false, publicMix)
}

func TestProposals(t *testing.T) {
	t.Parallel()
	flood := func(share float64, change func(rng *rand.Rand, r *asked)) func(*rand.Rand) asked {
		return func(rng *rand.Rand) asked {
			r := publicMix(rng)
			if rng.Float64() < share {
				change(rng, &r)
			}
			return r
		}
	}
	for _, c := range []struct {
		name  string
		flood func(*rand.Rand) asked
		local bool
		want  []string // kind and value, in order
	}{
		{name: "nothing but more of the usual", flood: publicMix},
		{name: "one user agent", flood: flood(0.6, func(rng *rand.Rand, r *asked) { r.userAgent = "Go-http-client/1.1" }),
			want: []string{"user-agent Go-http-client/1.1"}},
		{name: "a user agent no header should have", flood: flood(0.6, func(rng *rand.Rand, r *asked) { r.userAgent = "\x00\xff 100%" + strings.Repeat("x", 100) }),
			want: []string{"user-agent %00%FF 100%25" + strings.Repeat("x", 57)}},
		{name: "no user agent", flood: flood(0.9, func(rng *rand.Rand, r *asked) { r.userAgent = "" })},
		{name: "a user agent that half the public's begin with", flood: flood(0.6, func(rng *rand.Rand, r *asked) { r.userAgent = "qB" })},
		{name: "one address", flood: flood(0.6, func(rng *rand.Rand, r *asked) { r.src = netip.MustParseAddr("192.0.2.7") }),
			want: []string{"source 192.0.2.7"}},
		{name: "one IPv6 host, which has a /64", flood: flood(0.6, func(rng *rand.Rand, r *asked) {
			b := netip.MustParseAddr("2001:db8:1:2::").As16()
			fillRandom(rng, b[8:])
			r.src = netip.AddrFrom16(b)
		}), want: []string{"source 2001:db8:1:2::/64"}},
		{name: "one /24", flood: flood(0.6, func(rng *rand.Rand, r *asked) { r.src = netip.AddrFrom4([4]byte{192, 0, 2, byte(rng.IntN(256))}) }),
			want: []string{"source 192.0.2.0/24"}},
		{name: "one address, and the rest of its /24 as much", flood: flood(0.8, func(rng *rand.Rand, r *asked) {
			r.src = netip.AddrFrom4([4]byte{192, 0, 2, byte(rng.IntN(256))})
			if rng.IntN(2) == 0 {
				r.src = netip.MustParseAddr("192.0.2.7")
			}
		}), want: []string{"source 192.0.2.7", "source 192.0.2.0/24"}},
		{name: "one address with all else the same", flood: flood(0.6, func(rng *rand.Rand, r *asked) {
			*r = asked{src: netip.MustParseAddr("192.0.2.7"), userAgent: "flood/1"}
			copy(r.peerID[:], "-ZZ0001-")
		}), want: []string{"source 192.0.2.7"}}, // what it explains is not proposed beside it
		{name: "one's own proxy", flood: flood(0.9, func(rng *rand.Rand, r *asked) { r.src = netip.MustParseAddr("10.0.0.1") })},
		{name: "a carrier's NAT", flood: flood(0.9, func(rng *rand.Rand, r *asked) { r.src = netip.MustParseAddr("100.64.3.1") })},
		{name: "loopback, allowed", local: true, flood: flood(0.9, func(rng *rand.Rand, r *asked) { r.src = netip.MustParseAddr("127.0.0.1") }),
			want: []string{"source 127.0.0.1"}},
		{name: "random peer ids", flood: flood(0.6, func(rng *rand.Rand, r *asked) { fillRandom(rng, r.peerID[:]) }),
			want: []string{"peer-id random"}},
		{name: "one client's peer ids", flood: flood(0.6, func(rng *rand.Rand, r *asked) { copy(r.peerID[:], "-XL0019-") }),
			want: []string{"peer-id -XL0019-"}},
		{name: "peer ids of another form, of which no rule can be made", flood: flood(0.9, func(rng *rand.Rand, r *asked) { copy(r.peerID[:], "tracker-test") })},
		{name: "a popular client's new wave", flood: flood(0.6, func(rng *rand.Rand, r *asked) {
			r.userAgent = "qBittorrent/4.5.0"
			copy(r.peerID[:], "-qB4500-")
		})},
		{name: "a popular torrent", flood: flood(0.6, func(rng *rand.Rand, r *asked) { r.infoHash = [20]byte{1, 2, 3} }),
			want: []string{"info-hash 0102030000000000000000000000000000000000"}},
		{name: "all at once", flood: flood(0.9, func(rng *rand.Rand, r *asked) {
			r.userAgent, r.infoHash = "flood/1", [20]byte{1}
			fillRandom(rng, r.peerID[:])
		}), want: []string{"peer-id random", "user-agent flood/1", "info-hash 0100000000000000000000000000000000000000"}},
		{name: "too small a share", flood: flood(0.28, func(rng *rand.Rand, r *asked) { r.userAgent = "flood/1" })},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStory()
			s.t.ProposeLocal = c.local
			s.calm(5)
			if got := s.t.Proposals(); got != nil {
				t.Errorf("in calm: got %+v", got)
			}
			s.t.Step(s.now, true)
			s.play(2*time.Second, 150, true, c.flood)
			if got := s.t.Proposals(); got != nil {
				t.Errorf("of 150 samples: got %+v", got)
			}
			s.play(8*time.Second, 2000, true, c.flood)
			check := func(when string) {
				t.Helper()
				var got []string
				rules := openRules(t, "")
				for _, p := range s.t.Proposals() {
					got = append(got, p.Kind.String()+" "+p.Value)
					rule, err := rules.Add(p.Kind, p.Value, time.Hour, p.Why, "spillway")
					if err != nil || rule.Value != p.Value || !strings.Contains(p.Why, "%") {
						t.Errorf("%s: is no rule as it stands: %+v: %v", when, p, err)
					}
					if mayBePopular := strings.Contains(p.Why, "popular torrent"); mayBePopular != (p.Kind == RuleInfoHash) {
						t.Errorf("%s: why: got %q", when, p.Why)
					}
					if p.Share < 0.3 || p.Share > 1 || p.Usual > 0.1 {
						t.Errorf("%s: shares: got %+v", when, p)
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("%s: got %q, want %q", when, got, c.want)
				}
			}
			check("after 10 s")
			// It goes on for twenty minutes and does not become usual by that.
			s.play(20*time.Minute, 6000, true, c.flood)
			check("after twenty minutes")
			s.t.Step(s.now, false)
			if got := s.t.Proposals(); got != nil {
				t.Errorf("when it is over: got %+v", got)
			}
		})
	}
}

func TestNothingIsProposedByANewcomer(t *testing.T) {
	t.Parallel()
	s := newStory()
	ask := func(*rand.Rand) asked { return asked{src: netip.MustParseAddr("192.0.2.7"), userAgent: "x"} }
	s.t.Step(s.now, true)
	s.play(time.Hour, 10_000, true, ask)
	if got := s.t.Proposals(); got != nil {
		t.Errorf("an overload from the first second: got %+v; nothing is known to be unusual", got)
	}
	s.play(time.Minute, 2000, false, publicMix) // the window of the overload ends
	s.calm(2)
	s.t.Step(s.now, true)
	s.play(5*time.Second, 1000, true, ask)
	if got := s.t.Proposals(); got != nil {
		t.Errorf("after two minutes of calm: got %+v", got)
	}
	s.play(time.Minute, 2000, false, publicMix)
	s.calm(1)
	s.t.Step(s.now, true)
	s.play(5*time.Second, 1000, true, ask)
	if got := s.t.Proposals(); len(got) == 0 || got[0].Value != "192.0.2.7" {
		t.Errorf("after three: got %+v, want the source", got)
	}
}

func TestRenewForgetsWhatIsBlocked(t *testing.T) {
	t.Parallel()
	s := newStory()
	s.calm(5)
	s.t.Step(s.now, true)
	s.play(10*time.Second, 2000, true, func(rng *rand.Rand) asked {
		r := publicMix(rng)
		r.src = netip.MustParseAddr("192.0.2.7")
		return r
	})
	if got := s.t.Proposals(); len(got) != 1 {
		t.Fatalf("got %+v, want the source", got)
	}
	s.t.Renew() // it is blocked
	s.play(10*time.Second, 2000, true, publicMix)
	if got := s.t.Proposals(); got != nil {
		t.Errorf("after it was blocked: got %+v", got)
	}
	s.play(2*time.Minute, 4000, true, publicMix)
	if got := s.t.Proposals(); got != nil {
		t.Errorf("two minutes later: got %+v", got)
	}
}

func TestTopTalkers(t *testing.T) {
	t.Parallel()
	s := newStory()
	if got := s.t.Top(10); got.Samples != 0 || got.Seconds != 0 || got.Sources != nil {
		t.Errorf("before anything: got %+v", got)
	}
	s.calm(5)
	s.play(30*time.Second, 500, false, func(rng *rand.Rand) asked {
		r := publicMix(rng)
		r.src, r.userAgent = netip.MustParseAddr("::ffff:192.0.2.7"), ""
		copy(r.peerID[:], "tracker-test")
		return r
	})
	got := s.t.Top(3)
	if got.Seconds != 90 || got.Samples != 1500 || got.Missed != 0 || got.Overloaded {
		t.Errorf("got %d s, %d samples, %d missed, overloaded %v; want this half minute and the minute before", got.Seconds, got.Samples, got.Missed, got.Overloaded)
	}
	near := func(what string, got []Talker, i int, value string, share, usual float64) {
		t.Helper()
		if len(got) != 3 || got[i].Value != value || got[i].Share > share+0.02 || got[i].Share < share-0.04 || got[i].Usual > usual+0.02 || got[i].Usual < usual-0.04 {
			t.Errorf("%s: got %+v, want %q at %d with about %v, usually %v", what, got, value, i, share, usual)
		}
	}
	near("sources", got.Sources, 0, "192.0.2.7", 1./3, 0)
	near("prefixes", got.Prefixes, 0, "192.0.2.0/24", 1./3, 0)
	near("user agents", got.UserAgents, 0, "", 1./3, 0)
	near("user agents", got.UserAgents, 1, "qBittorrent/4.5.0", 0.4*2/3, 0.4)
	near("peer ids", got.PeerIDs, 0, "other", 1./3, 0)
	near("peer ids", got.PeerIDs, 1, "-qB4500-", 0.4*2/3, 0.4)
	if len(got.InfoHashes) != 3 || len(got.InfoHashes[0].Value) != 40 || got.InfoHashes[0].Share > 0.05 {
		t.Errorf("info hashes: got %+v", got.InfoHashes)
	}
	s.play(3*time.Minute, 300, false, publicMix)
	if got := s.t.Top(3); got.Sources[0].Value == "192.0.2.7" {
		t.Errorf("three minutes later: got %+v, want it forgotten", got.Sources)
	}
}

// A night with few requests does not wipe out what the day has taught.
func TestQuietWindowsTeachLittle(t *testing.T) {
	t.Parallel()
	s := newStory()
	s.calm(10)
	s.play(30*time.Minute, 30, false, func(rng *rand.Rand) asked { return asked{userAgent: "probe"} })
	s.play(time.Second, 100, false, publicMix) // so that Top shows it
	for _, x := range s.t.Top(64).UserAgents {
		if x.Value == "qBittorrent/4.5.0" && (x.Usual < 0.3 || x.Usual > 0.42) {
			t.Errorf("after the night: got %v usually, want about as by day, 0.4", x.Usual)
		}
	}
}

// Space-Saving's promise, against an exact count: never too low, never too high by more than err, and err within N/64.
func TestSketchAgainstExactCount(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		keys := rapid.IntRange(1, 500).Draw(t, "keys")
		skew := rapid.Float64Range(0.2, 3).Draw(t, "skew")
		n := rapid.IntRange(0, 5000).Draw(t, "n")
		hashes := rapid.SampledFrom([]uint64{1, 7, 1 << 20}).Draw(t, "hashes") // few: they collide
		exact := map[string]uint64{}
		var s sketch
		var key talkerKey
		for range n {
			x := uint64(float64(keys) * pow(rng.Float64(), skew))
			key.set(0, binary.BigEndian.AppendUint64(nil, x))
			exact[string(key.bytes())]++
			s.add(x%hashes, &key)
		}
		kept, sum := map[string]bool{}, uint64(0)
		for i := range s.n {
			k := string(s.keys[i].bytes())
			count, low := s.counts[i], s.counts[i]-s.errs[i]
			if kept[k] || exact[k] > count || exact[k] < low || s.errs[i] > s.total/talkerCounters {
				t.Fatalf("%x: counted %d to %d, was %d, of %d, twice %v", k, low, count, exact[k], s.total, kept[k])
			}
			kept[k] = true
			sum += count
		}
		if s.total != uint64(n) || sum != s.total {
			t.Fatalf("total: got %d, sum %d, want %d", s.total, sum, n)
		}
		for k, count := range exact {
			if count > s.total/talkerCounters && !kept[k] {
				t.Fatalf("%x: came %d times of %d and is not kept", k, count, s.total)
			}
		}
	})
}

// pow is x to the y, near enough, for a skewed distribution.
func pow(x, y float64) float64 {
	for ; y >= 1; y-- {
		x *= x
	}
	return x * (1 - y + x*y)
}

func TestTalkersOfMany(t *testing.T) {
	t.Parallel()
	talkers := NewTalkers()
	start := time.Now()
	var wg sync.WaitGroup
	const each = 2000
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range each {
				r := publicMix(rng)
				talkers.Note(r.src, []byte(r.userAgent), &r.peerID, &r.infoHash)
				if i%100 == 0 {
					talkers.Step(start.Add(time.Duration(i)*time.Millisecond), i > each/2)
					talkers.Top(3)
					talkers.Proposals()
				}
			}
		})
	}
	wg.Wait()
	// Nothing waits, so some samples may be missed; all are accounted for.
	got := talkers.Top(1)
	if got.Samples+got.Missed != 4*each {
		t.Errorf("got %d samples and %d missed, want %d together", got.Samples, got.Missed, 4*each)
	}
}

func BenchmarkTalkersNote(b *testing.B) {
	for _, shape := range []struct {
		name string
		ask  func(*rand.Rand) asked
	}{
		{"public", publicMix},
		{"hostile", func(rng *rand.Rand) asked { // nothing comes twice
			r := publicMix(rng)
			fillRandom(rng, r.peerID[:])
			fillRandom(rng, r.infoHash[:])
			r.userAgent = fmt.Sprint(rng.Uint64(), strings.Repeat("x", 60))
			return r
		}},
	} {
		b.Run(shape.name, func(b *testing.B) {
			rng := rand.New(rand.NewPCG(5, 6))
			var requests [4096]asked
			var agents [4096][]byte
			for i := range requests {
				requests[i] = shape.ask(rng)
				agents[i] = []byte(requests[i].userAgent)
			}
			talkers := NewTalkers()
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				r := &requests[i&4095]
				talkers.Note(r.src, agents[i&4095], &r.peerID, &r.infoHash)
				i++
			}
		})
	}
}

// How long Note's samples are dropped each time somebody looks.
func BenchmarkTalkersProposals(b *testing.B) {
	s := newStory()
	s.calm(12)
	s.t.Step(s.now, true)
	s.play(70*time.Second, 2000, true, publicMix)
	for b.Loop() {
		s.t.Proposals()
	}
}
