//go:build e2e

package shared

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"spillway/internal/waittest"
	"spillway/tracker/swarm/swarmtest"
)

// startCluster makes three masters one cluster, as an operator does.
func startCluster(t testing.TB) (masters []*redisServer, addrs []string) {
	t.Helper()
	return startReplicated(t, 0)
}

// startReplicated is startCluster with so many replicas of each master.
func startReplicated(t testing.TB, replicas int) (masters []*redisServer, addrs []string) {
	t.Helper()
	argv := []string{"redis-cli", "--cluster", "create"}
	for range 3 + 3*replicas {
		m := startRedis(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no")
		masters, addrs = append(masters, m), append(addrs, m.addr)
	}
	argv = append(append(argv, addrs...), "--cluster-yes", "--cluster-replicas", fmt.Sprint(replicas))
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	for _, m := range masters {
		waittest.Until(t, 20*time.Second, "cluster_state:ok", func() bool {
			info, err := m.ClusterInfo(context.Background()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok")
		})

	}
	return masters[:3], addrs // redis-cli takes the first for masters
}

func TestSuiteOnCluster(t *testing.T) {
	t.Parallel()
	masters, addrs := startCluster(t)
	swarmtest.Run(t, func(t *testing.T) swarmtest.Store {
		r := &round{clock: new(clock)}
		for range 2 {
			r.nodes = append(r.nodes, startNode(t, strict(Config{Redis: at(addrs[0]), Prefix: t.Name() + ":", Now: r.clock.now})))
		}
		connected(t, r.nodes...)
		return r
	})
	for key, want := range map[string]uint16{"sw:abc": 0, "a{}foo": 0, "sw:{x}y": 0, "sw:}{": 0, "sw:a{b": 0} {
		got := masters[0].ClusterKeySlot(context.Background(), key).Val()
		if want = slotOf(key[:1], []byte(key[1:])); int64(want) != got {
			t.Errorf("slot of %q: got %d, redis says %d", key, want, got)
		}
	}
}

// TestMasterIsKilled under load: its swarms are answered from what nodes know, the others' as ever. It comes back empty, and is filled.
func TestMasterIsKilled(t *testing.T) {
	t.Parallel()
	masters, addrs := startCluster(t)
	cfg := Config{Redis: at(addrs...), Fresh: 50 * time.Millisecond}
	a, b := startNode(t, cfg), startNode(t, cfg)
	connected(t, a, b)
	c := startCrowd(t, 100*time.Millisecond, a, b)
	waittest.Until(t, 20*time.Second, "load", func() bool { return c.n.Load() > 3000 })
	masters[1].kill()
	part := func() float64 { d, _ := a.Degraded(); return d.Part }
	waittest.Until(t, 30*time.Second, "degraded in part", func() bool { p := part(); return p > 0.2 && p < 0.6 })
	before, sent := c.n.Load(), a.metrics.sent.Load()
	waittest.Until(t, 30*time.Second, "served meanwhile", func() bool { return c.n.Load() > before+2000 && a.metrics.sent.Load() > sent+200 })
	if p := part(); p > 0.6 {
		t.Errorf("degraded: got %.2f of the swarms, want a third or so", p)
	}
	masters[1].start()
	waittest.Until(t, 30*time.Second, "healed", func() bool { return !a.breakersOpen() && !b.breakersOpen() })
	c.stop()
	c.wantAll(t, 20*time.Second, cfg)
	t.Logf("%d announces, slowest %v, %d over the wait", c.n.Load(), time.Duration(c.slowest.Load()), c.over.Load())
	c.wantSoon(t)
}

// TestReplicaTakesOver: a master is killed for good, and its replica has its slots a moment later.
func TestReplicaTakesOver(t *testing.T) {
	t.Parallel()
	masters, addrs := startReplicated(t, 1)
	cfg := Config{Redis: at(addrs...), Fresh: 50 * time.Millisecond}
	a, b := startNode(t, cfg), startNode(t, cfg)
	connected(t, a, b)
	for _, m := range masters {
		waittest.Until(t, 20*time.Second, "a replica in step", func() bool {
			info, err := m.Info(context.Background(), "replication").Result()
			return err == nil && strings.Contains(info, "state=online")
		})

	}
	c := startCrowd(t, 100*time.Millisecond, a, b)
	waittest.Until(t, 20*time.Second, "load", func() bool { return c.n.Load() > 3000 })
	masters[2].kill()
	waittest.Until(t, 30*time.Second, "degraded", a.breakersOpen)
	waittest.Until(t, 30*time.Second, "healed", func() bool { return !a.breakersOpen() && !b.breakersOpen() })
	c.stop()
	c.wantAll(t, 20*time.Second, cfg)
	t.Logf("%d announces, slowest %v", c.n.Load(), time.Duration(c.slowest.Load()))
	c.wantSoon(t)
}

// TestReshard moves slots to another master while peers announce in them.
func TestReshard(t *testing.T) {
	t.Parallel()
	masters, addrs := startCluster(t)
	cfg := Config{Redis: at(addrs...), Fresh: 50 * time.Millisecond}
	a, b := startNode(t, cfg), startNode(t, cfg)
	connected(t, a, b)
	c := startCrowd(t, time.Second, a, b)
	waittest.Until(t, 20*time.Second, "load", func() bool { return c.n.Load() > 2000 })
	id := func(m *redisServer) string { return m.Do(context.Background(), "cluster", "myid").Val().(string) }
	out, err := exec.Command("redis-cli", "--cluster", "reshard", addrs[0], "--cluster-from", id(masters[0]), "--cluster-to", id(masters[2]),
		"--cluster-slots", "5000", "--cluster-yes", "--cluster-pipeline", "100").CombinedOutput()
	if err != nil {
		t.Fatalf("reshard: %v: %s", err, out[max(0, len(out)-1000):])
	}
	before := c.n.Load()
	waittest.Until(t, 30*time.Second, "load", func() bool { return c.n.Load() > before+2000 })
	c.stop()
	settle(t, a)
	settle(t, b)
	c.wantAll(t, 10*time.Second, cfg)
	if n := a.metrics.dropped.Load() + b.metrics.dropped.Load(); n > 0 {
		t.Errorf("dropped %d, want none", n)
	}
	if got := len(masters[0].Keys(context.Background(), "sw:*").Val()); got > crowdSwarms/2 {
		t.Errorf("the old master still has %d keys", got)
	}
}
