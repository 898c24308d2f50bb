//go:build e2e

package shared

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"spillway/internal/waittest"
	"spillway/tracker/swarm"
	"spillway/tracker/swarm/swarmtest"
)

// modelPeer is a peer of one map that stands for all nodes together.
type modelPeer struct {
	seeder, paused bool
	expires        time.Time
}

// TestNodesAreOneMap holds three nodes, each told another part, against one map. Swarms are large enough that buckets split and
// merge, and small enough that a view is all of one.
func TestNodesAreOneMap(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		clock := new(clock)
		now := time.Now()
		clock.set(now)
		var nodes []node
		for range 3 {
			nodes = append(nodes, startNode(t, strict(Config{Redis: at(server.addr), Prefix: fmt.Sprintf("m%d:", run), Now: clock.now, Sample: 1000})))
		}
		defer func() {
			for _, n := range nodes {
				n.stop()
			}
		}()
		connected(t, nodes...)
		model := map[string]modelPeer{}
		downloaded := uint32(0)
		hash := swarm.InfoHash{1}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"announce", "announce", "crowd", "leave", "pass", "look"}).Draw(rt, "what") {
			case "announce":
				p := rapid.IntRange(0, 400).Draw(rt, "peer")
				a := swarm.Announce{InfoHash: hash, NumWant: 1000, TTL: time.Duration(rapid.IntRange(1, 4).Draw(rt, "ttl")) * time.Hour}
				end := modelEnd(&a, p)
				a.Seeder = rapid.Bool().Draw(rt, "seeder")
				a.Event = rapid.SampledFrom([]swarm.Event{swarm.EventNone, swarm.EventStarted, swarm.EventStopped, swarm.EventCompleted, swarm.EventPaused}).Draw(rt, "event")
				was, known := model[end]
				if a.Event == swarm.EventStopped {
					delete(model, end)
				} else {
					if a.Event == swarm.EventCompleted && a.Seeder && !(known && was.seeder) {
						downloaded++
					}
					model[end] = modelPeer{a.Seeder, a.Event == swarm.EventPaused && !a.Seeder, now.Add(a.TTL)}
				}
				var r swarm.Reply
				nodes[rapid.IntRange(0, 2).Draw(rt, "node")].AnnounceWait(&a, now, &r)
				check(rt, "announce", model, downloaded, r.Counts)
				if a.Event != swarm.EventStopped {
					checkPeers(rt, model, end, a.Seeder, &r)
				}
			case "crowd", "leave": // many at once, over all nodes, not waited for one by one
				from, n := rapid.IntRange(0, 300).Draw(rt, "from"), rapid.IntRange(1, 300).Draw(rt, "n")
				leave := rapid.IntRange(0, 3).Draw(rt, "leave") == 0
				seeders := rapid.IntRange(1, 4).Draw(rt, "seeders")
				for i := range n {
					a := swarm.Announce{InfoHash: hash, TTL: 2 * time.Hour, Seeder: i%seeders == 0}
					end := modelEnd(&a, from+i)
					var r swarm.Reply
					if leave {
						a.Event = swarm.EventStopped
						delete(model, end)
					} else {
						model[end] = modelPeer{a.Seeder, false, now.Add(a.TTL)}
					}
					nodes[i%3].Announce(&a, now, &r)
				}
				for _, n := range nodes {
					settle(t, n)
				}
			case "pass":
				now = now.Add(time.Duration(rapid.IntRange(1, 90).Draw(rt, "minutes")) * time.Minute)
				clock.set(now)
				for end, p := range model {
					if now.Sub(p.expires) > -2*swarm.Tick {
						delete(model, end)
					}
				}
				now = now.Add(2 * swarm.Tick)
				clock.set(now)
				for _, n := range nodes {
					n.Store.Sweep(now)
				}
			case "look":
				// Counts of a big swarm may hold expired peers that nothing has touched; a look at all of it settles that.
				a := swarm.Announce{InfoHash: hash, NumWant: 1, TTL: time.Hour, Unreachable: true}
				var r swarm.Reply
				nodes[0].AnnounceWait(&a, now, &r)
				got := nodes[1].ScrapeWait([]swarm.InfoHash{hash}, nil)[0]
				check(rt, "scrape", model, downloaded, got)
			}
		}
		checkLayout(rt, server.Client, fmt.Sprintf("m%d:%s", run, hash[:]))
	})
}

// modelEnd makes peer number p the announcer and returns its endpoint: four of five have IPv4.
func modelEnd(a *swarm.Announce, p int) string {
	if p%5 == 0 {
		a.Has6, a.V6 = true, swarm.Endpoint6{0x20, 1, byte(p), byte(p >> 8), 17: 1}
		return string(a.V6[:])
	}
	a.Has4, a.V4 = true, swarm.Endpoint4{10, 0, byte(p >> 8), byte(p), 0, 1}
	return string(a.V4[:])
}

func check(t *rapid.T, what string, model map[string]modelPeer, downloaded uint32, got swarm.Counts) {
	t.Helper()
	want := swarm.Counts{Downloaded: downloaded}
	for _, p := range model {
		if p.seeder {
			want.Complete++
			continue
		}
		want.Incomplete++
		if !p.paused {
			want.Downloaders++
		}
	}
	if got != want {
		t.Fatalf("%s: got %+v, want %+v", what, got, want)
	}
}

// checkPeers: everybody the announcer has a use for, once.
func checkPeers(t *rapid.T, model map[string]modelPeer, self string, seeder bool, r *swarm.Reply) {
	t.Helper()
	var got, want []string
	for p := range slices.Chunk(r.Peers4, 6) {
		got = append(got, string(p))
	}
	for p := range slices.Chunk(r.Peers6, 18) {
		got = append(got, string(p))
	}
	for end, p := range model {
		if end != self && !(seeder && p.seeder) {
			want = append(want, end)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("peers: got %d, want %d: %x, %x", len(got), len(want), got, want)
	}
}

// settle waits until the node has nothing to say any more.
func settle(t testing.TB, n node) {
	t.Helper()
	waittest.Until(t, 30*time.Second, "all is said", func() bool { return n.buffered.Load() == 0 })
}

// checkLayout reads a swarm as it lies in Redis and holds its head against its buckets.
func checkLayout(t *rapid.T, c *redis.Client, key string) {
	t.Helper()
	fields, err := c.HGetAll(context.Background(), key).Result()
	if err != nil || len(fields) == 0 {
		return
	}
	if ttl := c.TTL(context.Background(), key).Val(); ttl <= 0 {
		t.Fatalf("the key does not expire: TTL %v", ttl)
	}
	head := []byte(fields["m"])
	mask, lists := head[18], head[19:]
	for l := range 6 {
		n, b := 0, 0
		if mask>>l&1 == 1 {
			n = int(lists[0]) | int(lists[1])<<8 | int(lists[2])<<16
			b = int(lists[3]) | int(lists[4])<<8
			lists = lists[5:]
		}
		have, width := 0, widthOf(l)
		for f, v := range fields {
			if f[0] != 'a'+byte(l) {
				continue
			}
			place := 0
			if len(f) == 3 {
				place = int(f[1]) | int(f[2])<<8
			}
			if place >= b {
				t.Fatalf("list %d: bucket %d of %d", l, place, b)
			}
			if (len(v)-2)%width != 0 || len(v) == 2 {
				t.Fatalf("list %d: a bucket of %d bytes", l, len(v))
			}
			have += (len(v) - 2) / width
		}
		if have != n {
			t.Fatalf("list %d: the head says %d peers, there are %d", l, n, have)
		}
	}
}

// TestBigSwarm: buckets by the hundred, of which each fetch is told a few. Everybody is as likely as anybody, and counts are exact.
func TestBigSwarm(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	n := startNode(t, Config{Redis: at(server.addr)})
	connected(t, n)
	const leechers, seeders = 9000, 1000 // of which a view has some 400 each
	var r swarm.Reply
	for i := range leechers + seeders {
		a := swarm.Announce{InfoHash: swarm.InfoHash{7}, TTL: time.Hour, Has4: true, Seeder: i >= leechers, V4: swarm.Endpoint4{10, 0, byte(i >> 8), byte(i), 0, 1}}
		n.Announce(&a, time.Now(), &r)
		if i%2000 == 0 {
			settle(t, n)
		}
	}
	settle(t, n)
	other := startNode(t, strict(Config{Redis: at(server.addr)}))
	connected(t, other)
	seen := map[string]int{}
	const draws, numWant = 5000, 50
	a := swarm.Announce{InfoHash: swarm.InfoHash{7}, TTL: time.Hour, Has4: true, V4: swarm.Endpoint4{10, 1, 0, 0, 0, 1}, Unreachable: true, NumWant: numWant}
	for range draws {
		other.AnnounceWait(&a, time.Now(), &r)
		if r.Complete != seeders || r.Incomplete != leechers || len(r.Peers4) != 6*numWant {
			t.Fatalf("got %+v and %d peers", r.Counts, len(r.Peers4)/6)
		}
		for _, p := range swarmtest.Peers(t, &r) {
			seen[p]++
		}
	}
	const mean = float64(draws) * numWant / (leechers + seeders)
	if len(seen) != leechers+seeders {
		t.Errorf("told of %d peers in all, want %d: chance leaves none out", len(seen), leechers+seeders)
	}
	chi := 0.0
	for p, got := range seen {
		d := float64(got) - mean
		if d*d > 36*mean {
			t.Errorf("%s is told %d times, want about %.0f", p, got, mean)
		}
		chi += d * d / mean / float64(len(seen))
	}
	// One if it is chance. Buckets of unequal fill add some hundredths; peers that are told twice as often as others would make it 3.
	if t.Logf("chi square a peer: %.3f", chi); chi > 1.25 {
		t.Errorf("chi square a peer: got %.3f, want about 1", chi)
	}
}

// TestNeighboursAreSpread: whatever a swarm's secret is, peers whose addresses follow one another share no bucket more than others do.
func TestNeighboursAreSpread(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	n := startNode(t, Config{Redis: at(server.addr)})
	connected(t, n)
	const swarms, peers, most = 60, 1024, 160 // 32 a bucket on average
	hash := func(i int) swarm.InfoHash { return swarm.InfoHash{8, byte(i)} }
	var r swarm.Reply
	for i := range swarms {
		for j := range peers {
			a := swarm.Announce{InfoHash: hash(i), TTL: time.Hour, Has4: true, V4: swarm.Endpoint4{10, 0, byte(j >> 8), byte(j), 0, 1}}
			n.Announce(&a, time.Now(), &r)
		}
		settle(t, n)
	}
	for i := range swarms {
		h := hash(i)
		buckets, err := server.HGetAll(context.Background(), "sw:"+string(h[:])).Result()
		if err != nil || len(buckets) < peers/most {
			t.Errorf("swarm %d: got %d peers in %d fields, %v", i, peers, len(buckets), err)
		}
		for f, v := range buckets {
			if f != "m" && len(v) > 2+most*widthOf(0) {
				t.Errorf("swarm %d: a bucket has %d peers of %d, want %d at most", i, (len(v)-2)/widthOf(0), peers, most)
			}
		}
	}
}

// TestBigSwarmDies: nearly all of a big swarm falls silent. Calls stay cheap while that is found out, and the counts become right.
func TestBigSwarmDies(t *testing.T) {
	t.Parallel()
	server := startRedis(t, "--slowlog-log-slower-than", "20000")
	clock := new(clock)
	now := time.Now()
	clock.set(now)
	n := startNode(t, strict(Config{Redis: at(server.addr), Now: clock.now}))
	connected(t, n)
	const peers, alive = 30_000, 10
	var r swarm.Reply
	for i := range peers {
		a := swarm.Announce{InfoHash: swarm.InfoHash{7}, TTL: time.Hour, Has4: true, V4: swarm.Endpoint4{10, 0, byte(i >> 8), byte(i), 0, 1}}
		if i < alive {
			a.TTL = 10 * time.Hour
		}
		n.Announce(&a, now, &r)
		if i%2000 == 0 {
			settle(t, n)
		}
	}
	settle(t, n)
	server.Do(context.Background(), "slowlog", "reset")
	now = now.Add(2 * time.Hour)
	clock.set(now)
	calls := 0
	for ; calls < 500; calls++ {
		a := swarm.Announce{InfoHash: swarm.InfoHash{7}, TTL: 10 * time.Hour, Has4: true, NumWant: 50, V4: swarm.Endpoint4{10, 0, 0, byte(calls % alive), 0, 1}}
		n.AnnounceWait(&a, now, &r)
		if r.Incomplete == alive && len(r.Peers4) == 6*(alive-1) {
			break
		}
	}
	t.Logf("right after %d calls", calls)
	if calls == 500 {
		t.Errorf("after %d calls: got %+v and %d peers, want %d", calls, r.Counts, len(r.Peers4)/6, alive)
	}
	if fields := server.HLen(context.Background(), "sw:"+string([]byte{7, 19: 0})).Val(); fields > 20 {
		t.Errorf("fields: got %d, want a few buckets", fields)
	}
	if slow, _ := server.Do(context.Background(), "slowlog", "len").Int(); slow > 0 {
		t.Errorf("%d calls took longer than 20 ms", slow)
	}
}

// A swarm the script cannot deal with takes no other down with it.
func TestDamagedSwarm(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	n := startNode(t, Config{Redis: at(server.addr)})
	connected(t, n)
	bad, good := swarm.InfoHash{1}, swarm.InfoHash{2}
	if err := server.HSet(context.Background(), "sw:"+string(bad[:]), "m", "cut short").Err(); err != nil {
		t.Fatal(err)
	}
	var r swarm.Reply
	for i := range 20 {
		for _, hash := range []swarm.InfoHash{bad, good} {
			a := swarm.Announce{InfoHash: hash, TTL: time.Hour, Has4: true, NumWant: 50, V4: swarm.Endpoint4{10, 0, 0, byte(i), 0, 1}}
			n.Announce(&a, time.Now(), &r)
		}
	}
	settle(t, n)
	other := startNode(t, strict(Config{Redis: at(server.addr)}))
	connected(t, other)
	if got := other.ScrapeWait([]swarm.InfoHash{good}, nil)[0]; got.Incomplete != 20 {
		t.Errorf("the good one: got %+v", got)
	}
	if _, degraded := n.Degraded(); degraded || n.metrics.unreadable.Load() == 0 || n.metrics.dropped.Load() == 0 {
		t.Errorf("degraded %v, unreadable %d, dropped %d", degraded, n.metrics.unreadable.Load(), n.metrics.dropped.Load())
	}
}

// A key that is somebody else's is left alone, and said.
func TestForeignKey(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	hash := swarm.InfoHash{9}
	if err := server.Set(context.Background(), "sw:"+string(hash[:]), "mine", 0).Err(); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, Config{Redis: at(server.addr)})
	connected(t, n)
	var r swarm.Reply
	a := swarm.Announce{InfoHash: hash, TTL: time.Hour, Has4: true, V4: swarm.Endpoint4{1, 2, 3, 4, 5, 6}}
	n.AnnounceWait(&a, time.Now(), &r)
	if r.Incomplete != 1 {
		t.Errorf("got %+v, want the node's own view", r.Counts)
	}
	settle(t, n)
	if n.metrics.unreadable.Load() == 0 {
		t.Error("not counted")
	}
	if _, bad := n.Degraded(); bad {
		t.Error("one foreign key degrades the node")
	}
	if got := server.Get(context.Background(), "sw:"+string(hash[:])).Val(); !bytes.Equal([]byte(got), []byte("mine")) {
		t.Errorf("the key now holds %q", got)
	}
}

// TestViewsAreBounded: whatever is announced and fetched, views stay within their memory, and answers are right.
func TestViewsAreBounded(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	const bound = 1 << 20
	a, b := startNode(t, Config{Redis: at(server.addr)}), startNode(t, Config{Redis: at(server.addr), MaxViewBytes: bound})
	connected(t, a, b)
	var r swarm.Reply
	const swarms, each = 3000, 20
	announceTo := func(n node, torrent, peer int) {
		an := swarm.Announce{InfoHash: swarm.InfoHash{byte(torrent * 7), byte(torrent), byte(torrent >> 8)}, TTL: time.Hour, NumWant: 50, Has4: true}
		an.V4 = swarm.Endpoint4{10, 0, 0, byte(peer), 0, 1}
		n.Announce(&an, time.Now(), &r)
	}
	for torrent := range swarms {
		for peer := range each {
			announceTo(a, torrent, peer)
		}
		if torrent%100 == 0 {
			settle(t, a)
		}
	}
	settle(t, a)
	for torrent := range swarms {
		an := swarm.Announce{InfoHash: swarm.InfoHash{byte(torrent * 7), byte(torrent), byte(torrent >> 8)}, TTL: time.Hour, NumWant: 50, Has4: true}
		an.V4 = swarm.Endpoint4{10, 0, 1, 0, 0, 1}
		b.AnnounceWait(&an, time.Now(), &r)
		if r.Incomplete != each+1 || len(r.Peers4) != 6*each {
			t.Fatalf("swarm %d: got %+v and %d peers", torrent, r.Counts, len(r.Peers4)/6)
		}
		if views, bytes := b.views(); bytes > bound || bytes < 0 {
			t.Fatalf("swarm %d: %d views take %d bytes, want %d at most", torrent, views, bytes, bound)
		}
	}
	if b.metrics.evicted.Load() == 0 {
		t.Error("none was evicted: the test proves nothing")
	}
	total := int64(0)
	for i := range b.lanes {
		l := &b.lanes[i]
		l.mu.Lock()
		for _, v := range l.views {
			total += int64(v.bytes())
		}
		l.mu.Unlock()
	}
	if _, bytes := b.views(); bytes != total {
		t.Errorf("bytes counted: got %d, want %d", bytes, total)
	}
}
