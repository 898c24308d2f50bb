//go:build e2e

package shared

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/internal/waittest"
	"spillway/tracker/swarm"
	"spillway/tracker/swarm/shared/link"
)

// crowd announces peers of its own in many swarms, over and over, until stopped.
type crowd struct {
	accepted sync.Map // peer number: told to a node at least once
	n        atomic.Int64
	slowest  atomic.Int64
	over     atomic.Int64 // announces that took longer than wait
	late     atomic.Int64 // and those that took longer than 100 ms and slack
	stop     func()
}

const crowdSwarms, crowdPeers = 50, 2000

func crowdAnnounce(i int) swarm.Announce {
	a := swarm.Announce{InfoHash: crowdHash(i % crowdSwarms), TTL: time.Hour, NumWant: 50, Has4: true}
	a.V4 = swarm.Endpoint4{10, byte(i >> 16), byte(i >> 8), byte(i), 0, 1}
	return a
}

func crowdHash(i int) swarm.InfoHash { return swarm.InfoHash{byte(i * 5), byte(i), 0xcc} }

func startCrowd(t testing.TB, wait time.Duration, nodes ...node) *crowd {
	c := &crowd{}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			var r swarm.Reply
			for {
				select {
				case <-done:
					return
				default:
				}
				i := rand.IntN(crowdPeers)
				a := crowdAnnounce(i)
				began := time.Now()
				nodes[w%len(nodes)].AnnounceWait(&a, began, &r)
				took := int64(time.Since(began))
				for old := c.slowest.Load(); took > old && !c.slowest.CompareAndSwap(old, took); old = c.slowest.Load() {
				}
				if took > int64(wait) {
					c.over.Add(1)
				}
				if took > int64(100*time.Millisecond+slack) {
					c.late.Add(1)
				}
				c.accepted.Store(i, true)
				c.n.Add(1)
				time.Sleep(200 * time.Microsecond) // a load, not a race
			}
		})
	}
	c.stop = sync.OnceFunc(func() { close(done); wg.Wait() })
	t.Cleanup(c.stop)
	return c
}

// slack is what a busy machine of two cores may add to a wait, now and then.
const slack = 100 * time.Millisecond

// wantSoon: next to no announce took longer than 100 ms, and what the machine adds. One that stands still delays eight at a time.
func (c *crowd) wantSoon(t testing.TB) {
	t.Helper()
	if late, n := c.late.Load(), c.n.Load(); late > n/100 {
		t.Errorf("%d of %d announces took longer than 100 ms and what the machine adds, the slowest %v", late, n, time.Duration(c.slowest.Load()))
	}
}

// wantAll: a node that has heard nothing itself knows of every peer accepted.
func (c *crowd) wantAll(t testing.TB, within time.Duration, cfg Config) {
	t.Helper()
	fresh := startNode(t, strict(cfg))
	connected(t, fresh)
	want := [crowdSwarms]uint32{}
	c.accepted.Range(func(i, _ any) bool { want[i.(int)%crowdSwarms]++; return true })
	var hashes []swarm.InfoHash
	for i := range crowdSwarms {
		hashes = append(hashes, crowdHash(i))
	}
	var got []swarm.Counts
	waittest.Until(t, within, "every peer accepted is in redis", func() bool {
		got = fresh.ScrapeWait(hashes, got[:0])
		for i := range got {
			if got[i].Incomplete != want[i] {
				return false
			}
		}
		return true
	})

}

// TestRedisIsKilled under load, and started anew, empty.
func TestRedisIsKilled(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	cfg := Config{Redis: at(server.addr), Fresh: 50 * time.Millisecond}
	a, b := startNode(t, cfg), startNode(t, cfg)
	connected(t, a, b)
	c := startCrowd(t, 100*time.Millisecond, a, b)
	waittest.Until(t, 20*time.Second, "load", func() bool { return c.n.Load() > 3000 })
	server.kill()
	waittest.Until(t, 30*time.Second, "degraded", func() bool { _, bad := a.Degraded(); _, worse := b.Degraded(); return bad && worse })
	before := c.n.Load()
	waittest.Until(t, 30*time.Second, "served meanwhile", func() bool { return c.n.Load() > before+3000 })
	server.start()
	waittest.Until(t, 30*time.Second, "healed", func() bool { return !a.breakersOpen() && !b.breakersOpen() })
	c.stop()
	c.wantAll(t, 30*time.Second, cfg)
	t.Logf("%d announces, slowest %v, %d over the wait", c.n.Load(), time.Duration(c.slowest.Load()), c.over.Load())
	c.wantSoon(t)
	if n := a.metrics.dropped.Load() + b.metrics.dropped.Load(); n > 0 {
		t.Errorf("dropped %d, want none: the buffer was large enough", n)
	}
}

// TestRedisIsFrozen: it takes connections and bytes, and answers nothing.
func TestRedisIsFrozen(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	cfg := Config{Redis: at(server.addr), Fresh: 50 * time.Millisecond}
	a, b := startNode(t, cfg), startNode(t, cfg)
	connected(t, a, b)
	c := startCrowd(t, 90*time.Millisecond, a, b)
	waittest.Until(t, 20*time.Second, "load", func() bool { return c.n.Load() > 2000 })
	over := c.over.Load()
	server.signal(syscall.SIGSTOP)
	waittest.Until(t, 30*time.Second, "degraded", func() bool { _, bad := a.Degraded(); _, worse := b.Degraded(); return bad && worse })
	before := c.n.Load()
	waittest.Until(t, 30*time.Second, "served meanwhile", func() bool { return c.n.Load() > before+2000 })
	waited := c.over.Load() - over
	server.signal(syscall.SIGCONT)
	waittest.Until(t, 30*time.Second, "healed", func() bool { return !a.breakersOpen() && !b.breakersOpen() })
	c.stop()
	c.wantAll(t, 30*time.Second, cfg)
	t.Logf("%d announces, slowest %v, %d waited in vain", c.n.Load(), time.Duration(c.slowest.Load()), waited)
	c.wantSoon(t)
	// Eight at a time, once or twice before it is known; not each of the thousands.
	if waited > 100 {
		t.Errorf("%d announces waited for a frozen redis, want a few", waited)
	}
}

// TestRedisForgets: all keys and scripts are gone, and Redis is there as ever.
func TestRedisForgets(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	cfg := Config{Redis: at(server.addr)}
	a, b := startNode(t, cfg), startNode(t, cfg)
	connected(t, a, b)
	c := startCrowd(t, time.Second, a, b)
	waittest.Until(t, 20*time.Second, "load", func() bool { return c.n.Load() > 3000 })
	c.stop() // from here on nobody announces: what comes back the nodes bring
	settle(t, a)
	settle(t, b)
	c.wantAll(t, 30*time.Second, cfg)
	ctx := context.Background()
	if err := server.ScriptFlush(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if err := server.FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	c.wantAll(t, 30*time.Second, cfg)
	if a.metrics.lost.Load() == 0 {
		t.Error("the loss is not counted")
	}
	if server.swarms() != crowdSwarms {
		t.Errorf("keys: got %d swarms, want %d", server.swarms(), crowdSwarms)
	}
}

// TestNodeStops: what a node has accepted before it ends in order is told, and its WebSocket peers leave.
func TestNodeStops(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	cfg := Config{Redis: at(server.addr)}
	a, b := startNode(t, cfg), startNode(t, strict(cfg))
	connected(t, a, b)
	var r swarm.Reply
	for i := range 1000 {
		an := crowdAnnounce(i)
		a.Announce(&an, time.Now(), &r)
	}
	web := swarm.Announce{InfoHash: crowdHash(0), HasWeb: true, Web: swarm.EndpointWeb{1}, TTL: time.Hour}
	a.Announce(&web, time.Now(), &r)
	settle(t, a)
	hash := []swarm.InfoHash{crowdHash(0)}
	if got := b.ScrapeWait(hash, nil)[0].Incomplete; got != 21 {
		t.Errorf("before: got %d peers, want 20 and one of a WebSocket", got)
	}
	an := crowdAnnounce(100_000)
	an.InfoHash = crowdHash(0)
	a.Announce(&an, time.Now(), &r)
	web.Event = swarm.EventStopped
	a.Announce(&web, time.Now(), &r)
	a.stop()
	if got := b.ScrapeWait(hash, nil)[0].Incomplete; got != 21 {
		t.Errorf("after: got %d peers, want 21: one has come, one has gone", got)
	}
}

// TestAsk is how a loop that must not block gets an answer as good as anybody's.
func TestAsk(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	cfg := Config{Redis: at(server.addr)}
	a, b := startNode(t, cfg), startNode(t, cfg)
	connected(t, a, b)
	var r swarm.Reply
	for i := range 10 {
		an := crowdAnnounce(i * crowdSwarms)
		a.Announce(&an, time.Now(), &r)
	}
	settle(t, a)
	called := make(chan struct{}, 2)
	hash := crowdHash(0)
	if b.Ask(&hash, time.Now(), func() { called <- struct{}{} }) {
		t.Fatal("a swarm never heard of is answered from memory")
	}
	<-called
	if !b.Ask(&hash, time.Now(), func() { t.Error("called, though it was told true") }) {
		t.Error("a swarm just fetched is fetched again")
	}
	an := crowdAnnounce(10 * crowdSwarms)
	b.Announce(&an, time.Now(), &r)
	if r.Incomplete != 11 || len(r.Peers4) != 60 {
		t.Errorf("got %+v, %d peers", r.Counts, len(r.Peers4)/6)
	}
	server.signal(syscall.SIGSTOP)
	hash = crowdHash(1)
	began := time.Now()
	if b.Ask(&hash, began, func() { called <- struct{}{} }) {
		t.Fatal("nobody knows yet that redis is frozen")
	}
	<-called
	if took := time.Since(began); took > 450*time.Millisecond { // a call fails after 500 ms
		t.Errorf("called after %v, want some 100 ms", took)
	}
	server.signal(syscall.SIGCONT)
	if n := b.waiting.Load(); n != 0 {
		t.Errorf("waiting: got %d, want none", n)
	}
}

// TestAllStartAnew: Redis, empty, and two nodes with their snapshots, one of which finds it empty and the other not. An old Redis knows
// better than a snapshot.
func TestAllStartAnew(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	cfg := Config{Redis: at(server.addr)}
	snapshot := func(peer int) *swarm.Table {
		table := swarm.New(swarm.Config{})
		var r swarm.Reply
		a := crowdAnnounce(peer * crowdSwarms)
		table.Announce(&a, time.Now(), &r)
		return table
	}
	startNodeWith(t, cfg, snapshot(1))
	fresh := startNode(t, strict(cfg))
	connected(t, fresh)
	has := func(n uint32) func() bool {
		return func() bool { return fresh.ScrapeWait([]swarm.InfoHash{crowdHash(0)}, nil)[0].Incomplete == n }
	}
	waittest.Until(t, 30*time.Second, "the first one's peer", has(1))
	startNodeWith(t, cfg, snapshot(2))
	waittest.Until(t, 30*time.Second, "the second one's peer", has(2))

	ctx := context.Background()
	for _, key := range server.Keys(ctx, "sw:marker:*").Val() {
		server.Set(ctx, key, fmt.Sprintf("%d-old", time.Now().Add(-3*time.Hour).Unix()), 0)
	}
	third := startNodeWith(t, cfg, snapshot(3))
	connected(t, third)
	third.stop()
	if third.metrics.refilled.Load() != 0 || !has(2)() {
		t.Errorf("a node that starts beside an old redis told it of %d peers of its snapshot", third.metrics.refilled.Load())
	}
}

// TestOldViews: what a node has heard of the others' peers it tells while Redis is dead, for as long as they would have been listed.
func TestOldViews(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	clock := new(clock)
	now := time.Now()
	clock.set(now)
	cfg := Config{Redis: at(server.addr), Now: clock.now}
	a, b := startNode(t, cfg), startNode(t, cfg)
	connected(t, a, b)
	var r swarm.Reply
	for i := range 10 {
		an := crowdAnnounce(i * crowdSwarms)
		a.Announce(&an, now, &r)
	}
	settle(t, a)
	an := crowdAnnounce(10 * crowdSwarms)
	an.TTL = 3 * time.Hour
	b.AnnounceWait(&an, now, &r)
	server.kill()
	waittest.Until(t, 30*time.Second, "degraded", func() bool { b.AnnounceWait(&an, clock.now(), &r); return b.breakersOpen() })
	for _, c := range []struct {
		after time.Duration
		told  int
	}{{20 * time.Minute, 10}, {55 * time.Minute, 10}, {65 * time.Minute, 0}} {
		clock.set(now.Add(c.after))
		b.Store.Sweep(clock.now())
		b.Announce(&an, clock.now(), &r)
		if len(r.Peers4) != 6*c.told || int(r.Incomplete) != c.told+1 {
			t.Errorf("after %v: got %d peers, %+v, want %d", c.after, len(r.Peers4)/6, r.Counts, c.told)
		}
	}
}

// TestSwarmIsBounded: a swarm in Redis takes no more peers than it may have.
func TestSwarmIsBounded(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	cfg := strict(Config{Redis: at(server.addr), MaxPeersPerSwarm: 100})
	n := startNode(t, cfg)
	connected(t, n)
	var r swarm.Reply
	for i := range 200 {
		a := crowdAnnounce(i * crowdSwarms)
		n.AnnounceWait(&a, time.Now(), &r)
	}
	if got := n.ScrapeWait([]swarm.InfoHash{crowdHash(0)}, nil)[0]; got.Incomplete != 100 {
		t.Errorf("got %s", fmt.Sprint(got))
	}
}

// TestRedisRefuses: what an operator has to turn is in Degraded, and turning it heals.
func TestRedisRefuses(t *testing.T) {
	t.Parallel()
	why := func(n node, want string) {
		t.Helper()
		waittest.Until(t, 30*time.Second, "degraded: "+want, func() bool {
			d, bad := n.Degraded()
			return bad && strings.Contains(d.Why, want)
		})

	}
	ctx := context.Background()
	server := startRedis(t, "--requirepass", "right")
	n := startNode(t, Config{Redis: link.Config{Addrs: []string{server.addr}, Password: "wrong"}})
	announceTo := func(n node, i int) {
		var r swarm.Reply
		a := crowdAnnounce(i)
		n.AnnounceWait(&a, time.Now(), &r)
	}
	why(n, "store.redis.password")
	good := startNode(t, Config{Redis: link.Config{Addrs: []string{server.addr}, Password: "right"}})
	connected(t, good)

	authed := redis.NewClient(&redis.Options{Addr: server.addr, Password: "right", DisableIdentity: true})
	defer authed.Close()
	authed.ConfigSet(ctx, "maxmemory", "1")
	announceTo(good, 1)
	why(good, "maxmemory")
	authed.ConfigSet(ctx, "maxmemory", "0")
	connected(t, good)
	settle(t, good)

	authed.ConfigSet(ctx, "requirepass", "wrong")
	connected(t, n)
	announceTo(n, 2)
	if got := n.ScrapeWait([]swarm.InfoHash{crowdHash(1), crowdHash(2)}, nil); got[0].Incomplete != 1 || got[1].Incomplete != 1 {
		t.Errorf("afterwards: got %+v", got)
	}
}

// TestRights: what docs/redis.md says is enough is enough.
func TestRights(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(docs), "## Rights")
	var rules []any
	for _, quoted := range strings.Split(section, "`")[1:] {
		for _, r := range strings.Fields(quoted) {
			if strings.HasPrefix(r, "+") {
				rules = append(rules, r)
			}
		}
	}
	if len(rules) < 10 {
		t.Fatalf("rules in docs/redis.md: got %v", rules)
	}
	ctx := context.Background()
	user := append([]any{"acl", "setuser", "tracker", "on", ">secret", "~sw:*", "-@all"}, rules...)
	play := func(t *testing.T, addrs []string) {
		n := startNode(t, strict(Config{Redis: link.Config{Addrs: addrs, Username: "tracker", Password: "secret", Name: "a node"}}))
		connected(t, n)
		for i := range 40 {
			var r swarm.Reply
			a := crowdAnnounce(i)
			n.AnnounceWait(&a, time.Now(), &r)
			a.Event = swarm.EventStopped
			if i%2 == 0 {
				n.AnnounceWait(&a, time.Now(), &r)
			}
		}
		if d, bad := n.Degraded(); bad || n.metrics.failed.Load() > 0 {
			t.Errorf("%d calls failed, %s", n.metrics.failed.Load(), d.Why)
		}
		if c := n.ScrapeWait([]swarm.InfoHash{crowdHash(1), crowdHash(2)}, nil); c[0].Incomplete != 1 || c[1].Incomplete != 0 {
			t.Errorf("got %+v", c)
		}
	}
	t.Run("one", func(t *testing.T) {
		server := startRedis(t)
		if err := server.Do(ctx, user...).Err(); err != nil {
			t.Fatal(err)
		}
		play(t, []string{server.addr})
	})
	t.Run("cluster", func(t *testing.T) {
		masters, addrs := startCluster(t)
		for _, m := range masters {
			if err := m.Do(ctx, user...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		play(t, addrs)
	})
}
