package swarm_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spillway/tracker/swarm"
	"spillway/tracker/swarm/swarmtest"
)

func TestTableConforms(t *testing.T) {
	t.Parallel()
	swarmtest.Run(t, func(*testing.T) swarmtest.Store { return swarm.New(swarm.Config{}) })
}

// plainPeer and plainSwarm are the table as anybody would write it first.
type plainPeer struct {
	seeder, paused bool
	until          time.Time
}

type plainSwarm struct {
	peers      map[netip.AddrPort]plainPeer
	downloaded uint32
}

func (p *plainSwarm) counts() (c swarm.Counts) {
	c.Downloaded = p.downloaded
	for _, peer := range p.peers {
		switch {
		case peer.seeder:
			c.Complete++
		case peer.paused:
			c.Incomplete++
		default:
			c.Incomplete++
			c.Downloaders++
		}
	}
	return c
}

// TestTableIsAMap drives the table and a plain map with the same announces, sweeps and snapshots.
func TestTableIsAMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		table := swarm.New(swarm.Config{})
		now := time.Now()
		model := map[string]*plainSwarm{}
		hashes := rapid.IntRange(1, 300).Draw(t, "hashes")
		ports := rapid.IntRange(1, 600).Draw(t, "ports")
		steps := rapid.IntRange(1, 3000).Draw(t, "steps")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		blur := swarm.Tick // a lifetime is whole ticks, and a load may turn the clock's phase by one
		end := now.Add(20 * time.Hour)
		for range steps {
			switch r := rng.IntN(1000); {
			case r < 5 && now.Before(end):
				now = now.Add(time.Duration(rng.IntN(int(time.Hour))))
				table.Sweep(now)
				for name, s := range model {
					for addr, p := range s.peers {
						if d := p.until.Sub(now); d <= blur {
							delete(s.peers, addr)
							if d >= -blur { // here or not: make it not
								stop(table, name, addr, now)
							}
						}
					}
				}
			case r < 7:
				blur += swarm.Tick
				path := fmt.Sprintf("%s/%d", dir, rng.Uint64())
				if _, err := table.Save(path, now); err != nil {
					t.Fatal(err)
				}
				table = swarm.New(swarm.Config{})
				if l, err := table.Load(path, now); err != nil || l.Dropped > 0 {
					t.Fatalf("load: %+v, %v", l, err)
				}
			default:
				step(t, table, model, rng, now, hashes, ports)
			}
		}
		for name, s := range model {
			if got := table.Scrape([]swarm.InfoHash{swarmtest.Hash(name)}, nil)[0]; got != s.counts() {
				t.Fatalf("swarm %s: got %+v, want %+v", name, got, s.counts())
			}
		}
		var peers int
		for _, s := range model {
			peers += len(s.peers)
		}
		if st := table.Stats(); st.Seeders+st.Leechers != peers || st.Peers4+st.Peers6 != peers {
			t.Fatalf("stats: got %+v, want %d peers", st, peers)
		}
	})
}

func stop(table *swarm.Table, name string, addr netip.AddrPort, now time.Time) {
	a := swarm.Announce{InfoHash: swarmtest.Hash(name), Event: swarm.EventStopped}
	a.SetEndpoint(addr.Addr(), addr.Port())
	table.Announce(&a, now, &swarm.Reply{})
}

func step(t *rapid.T, table *swarm.Table, model map[string]*plainSwarm, rng *rand.Rand, now time.Time, hashes, ports int) {
	name := fmt.Sprint(rng.IntN(hashes))
	addr := netip.AddrFrom4([4]byte{192, 0, 2, 1})
	if rng.IntN(3) == 0 {
		addr = netip.MustParseAddr("2001:db8::1")
	}
	ap := netip.AddrPortFrom(addr, uint16(1+rng.IntN(ports)))
	a := swarm.Announce{
		InfoHash: swarmtest.Hash(name),
		Event:    swarm.Event(rng.IntN(5)),
		Seeder:   rng.IntN(2) == 0,
		NumWant:  rng.IntN(60),
		TTL:      swarmtest.TTL,
	}
	a.SetEndpoint(ap.Addr(), ap.Port())
	s := model[name]
	if s == nil {
		s = &plainSwarm{peers: map[netip.AddrPort]plainPeer{}}
		model[name] = s
	}
	before, known := s.peers[ap]
	if a.Event == swarm.EventStopped {
		delete(s.peers, ap)
	} else {
		if a.Event == swarm.EventCompleted && a.Seeder && !before.seeder {
			s.downloaded++
		}
		s.peers[ap] = plainPeer{seeder: a.Seeder, paused: a.Event == swarm.EventPaused && !a.Seeder, until: now.Add(a.TTL)}
	}
	var r swarm.Reply
	table.Announce(&a, now, &r)
	if r.Counts != s.counts() {
		t.Fatalf("%+v: got %+v, want %+v", a, r.Counts, s.counts())
	}
	if r.Known != known {
		t.Fatalf("%+v: known: got %v, want %v", a, r.Known, known)
	}
	told := tellable(s, ap, a.Seeder)
	wantPeers := min(a.NumWant, len(told))
	if a.Event == swarm.EventStopped {
		wantPeers = 0
	}
	if got := (len(r.Peers4))/6 + len(r.Peers6)/18; got != wantPeers {
		t.Fatalf("%+v: got %d peers, want %d", a, got, wantPeers)
	}
	for p := range slices.Chunk(r.Peers4, 6) {
		ip, _ := netip.AddrFromSlice(p[:4])
		if ap := netip.AddrPortFrom(ip, uint16(p[4])<<8|uint16(p[5])); !told[ap] {
			t.Fatalf("%+v: told of %v", a, ap)
		} else {
			delete(told, ap) // told once
		}
	}
	for p := range slices.Chunk(r.Peers6, 18) {
		ip, _ := netip.AddrFromSlice(p[:16])
		if ap := netip.AddrPortFrom(ip, uint16(p[16])<<8|uint16(p[17])); !told[ap] {
			t.Fatalf("%+v: told of %v", a, ap)
		} else {
			delete(told, ap)
		}
	}
}

func tellable(s *plainSwarm, self netip.AddrPort, seeder bool) map[netip.AddrPort]bool {
	told := map[netip.AddrPort]bool{}
	for ap, p := range s.peers {
		if ap != self && !(seeder && p.seeder) {
			told[ap] = true
		}
	}
	return told
}

func TestSwarmsAreBounded(t *testing.T) {
	t.Parallel()
	table := swarm.New(swarm.Config{MaxSwarms: 6400})
	var r swarm.Reply
	for i := range 20000 {
		a := announce4(i, i)
		table.Announce(&a, time.Now(), &r)
	}
	st := table.Stats()
	if st.Swarms > 6400 || st.Swarms < 6000 {
		t.Errorf("swarms: got %d, want 6400 at most", st.Swarms)
	}
	if got := int(st.RefusedSwarms) + st.Swarms; got != 20000 {
		t.Errorf("swarms and refusals: got %d, want 20000", got)
	}
}

func TestPeersOfASwarmAreBounded(t *testing.T) {
	t.Parallel()
	table := swarm.New(swarm.Config{MaxPeersPerSwarm: 1000})
	var r swarm.Reply
	for i := range 1500 {
		a := announce4(0, i)
		table.Announce(&a, time.Now(), &r)
		if want := min(50, i); len(r.Peers4)/6 != want {
			t.Fatalf("announce %d: got %d peers, want %d: a full swarm still answers", i, len(r.Peers4)/6, want)
		}
	}
	if st := table.Stats(); st.Leechers != 1000 || st.RefusedPeers != 500 {
		t.Errorf("got %d peers and %d refusals, want 1000 and 500", st.Leechers, st.RefusedPeers)
	}
	a := announce4(0, 7)
	a.Seeder = true
	table.Announce(&a, time.Now(), &r)
	if r.Complete != 1 {
		t.Errorf("a known peer of a full swarm: got %d seeders, want 1", r.Complete)
	}
}

// TestMemoryIsBounded fills a small budget from many directions, and then sees all of it given back.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const limit = 8 << 20
	table := swarm.New(swarm.Config{MaxBytes: limit})
	now := time.Now()
	var r swarm.Reply
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500_000 {
		a := announce4(int(rng.ExpFloat64()*2000), rng.IntN(30000))
		if rng.IntN(4) == 0 {
			a.Has4 = false
			a.SetEndpoint(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(rng.IntN(256))}), uint16(1+rng.IntN(60000)))
		}
		table.Announce(&a, now, &r)
		if used := table.Stats().Bytes; used > limit {
			t.Fatalf("memory: %d bytes used, the limit is %d", used, limit)
		}
	}
	st := table.Stats()
	if st.RefusedMemory == 0 || st.Bytes < limit/2 {
		t.Fatalf("the test never reached the limit: %+v", st)
	}
	now = now.Add(time.Hour + time.Minute)
	table.Sweep(now)
	after := table.Stats()
	if after.Leechers+after.Seeders+after.Swarms != 0 {
		t.Errorf("after everybody's time: %+v", after)
	}
	// A page and a chunk a shard stay in hand, and the swarms' index.
	if after.Bytes > limit/4 {
		t.Errorf("after everybody's time: %d bytes of %d still used", after.Bytes, st.Bytes)
	}
}

// announce4 is a leecher's announce: the i-th swarm, the j-th peer.
func announce4(i, j int) swarm.Announce {
	a := swarm.Announce{NumWant: 50, TTL: time.Hour}
	a.InfoHash = swarmtest.Hash(fmt.Sprint(i))
	a.SetEndpoint(netip.AddrFrom4([4]byte{10, byte(j >> 16), byte(j >> 8), byte(j)}), 6881)
	return a
}

func TestEmptySwarmsKeepTheirCounterForADay(t *testing.T) {
	t.Parallel()
	table := swarm.New(swarm.Config{})
	now := time.Now()
	a := announce4(1, 1)
	a.Seeder, a.Event = true, swarm.EventCompleted
	table.Announce(&a, now, &swarm.Reply{})
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{2 * time.Hour, 1}, {20 * time.Hour, 1}, {5 * time.Hour, 0}} {
		now = now.Add(c.after)
		table.Sweep(now)
		if got := table.Stats().Swarms; got != c.want {
			t.Errorf("%v later: got %d swarms, want %d", c.after, got, c.want)
		}
	}
}

// TestAnnounceSweepSaveTogether is for the race detector.
func TestAnnounceSweepSaveTogether(t *testing.T) {
	t.Parallel()
	table := swarm.New(swarm.Config{MaxBytes: 32 << 20})
	path := t.TempDir() + "/swarms"
	start := time.Now()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 0))
			var r swarm.Reply
			for i := range 20000 {
				a := announce4(rng.IntN(500), rng.IntN(5000))
				a.Event, a.Seeder = swarm.Event(rng.IntN(5)), rng.IntN(2) == 0
				table.Announce(&a, start.Add(time.Duration(i)*time.Second), &r)
			}
		})
	}
	for range 5 {
		wg.Go(func() {
			if _, err := table.Save(path, start); err != nil {
				t.Error(err)
			}
			table.Sweep(start.Add(time.Hour))
			table.Stats()
		})
	}
	wg.Wait()
	if _, err := swarm.New(swarm.Config{}).Load(path, start); err != nil {
		t.Errorf("a snapshot written under load: %v", err)
	}
}

// A reply with room for one family is filled with it, though the other has as many.
func TestOneFamily(t *testing.T) {
	t.Parallel()
	table := swarm.New(swarm.Config{})
	now := time.Now()
	var r swarm.Reply
	ask := func(a swarm.Announce) {
		a.InfoHash, a.TTL = swarm.InfoHash{1}, time.Hour
		table.Announce(&a, now, &r)
	}
	for i := range 100 {
		var a swarm.Announce
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		if i >= 60 {
			addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i)})
		}
		a.SetEndpoint(addr, 6881)
		a.Seeder = i%2 == 0
		ask(a)
	}
	for _, f := range []struct {
		family           swarm.Family
		seeder           bool
		want, got4, got6 int
	}{
		{swarm.Family4, false, 50, 50, 0}, {swarm.Family4, false, 200, 59, 0}, {swarm.Family6, false, 30, 0, 30},
		{swarm.Family6, false, 200, 0, 40}, {swarm.Family4, true, 200, 30, 0}, {swarm.Family6, true, 10, 0, 10}, {swarm.Family6, true, 0, 0, 0},
	} {
		a := swarm.Announce{NumWant: f.want, OneFamily: true, PreferFamily: f.family, Seeder: f.seeder}
		a.SetEndpoint(netip.AddrFrom4([4]byte{192, 0, 2, 0}), 6881) // one of them, who is not told of itself
		ask(a)
		if got4, got6 := len(r.Peers4)/6, len(r.Peers6)/18; got4 != f.got4 || got6 != f.got6 {
			t.Errorf("%+v: got %d and %d", f, got4, got6)
		}
	}
}
