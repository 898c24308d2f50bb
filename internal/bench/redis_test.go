//go:build linux

package bench

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/internal/flood"
	"spillway/internal/sys"
	"spillway/tracker/swarm"
	"spillway/tracker/swarm/shared"
	"spillway/tracker/swarm/shared/link"
)

// BenchmarkSharedHot is a node's CPU for an announce with swarms on Redis over that with swarms in memory, in one swarm that all
// peers of the load are in: answered from the node's memory, and told to Redis.
func BenchmarkSharedHot(b *testing.B) {
	benchmarkShared(b, "hot: one swarm of 20,000", Load{Torrent: 1, NumWant: numWant, Conns: 64, KeepAlive: true, Peers: 20_000})
}

// BenchmarkSharedMany is the same with a hundred thousand swarms in turn: a node has forgotten each when it comes again, so each
// announce is a fetch.
func BenchmarkSharedMany(b *testing.B) {
	const torrents = 100_000
	benchmarkShared(b, "many: 100,000 swarms in turn", Load{Torrent: 1, Torrents: torrents, NumWant: numWant, Conns: 256, KeepAlive: true, Peers: 2560})
}

func benchmarkShared(b *testing.B, what string, load Load) {
	client, _ := cores(b)
	load.Core = client
	for b.Loop() {
		r, ok := startRedis(b)
		if !ok {
			b.Skip("redis-server is not installed")
		}
		memory, onRedis := startSpillway(b), startSpillway(b, "--store.kind=redis", "--store.redis.addrs="+r.addr.String())
		onRedis.name = "on redis"
		for _, s := range []server{memory, onRedis} {
			warm := load
			warm.Addr = s.addr
			if _, err := warm.Once(); err != nil {
				b.Fatal(err)
			}
		}
		m := contest(b, load.at(memory), load.at(onRedis))
		redisBefore, err := sys.ProcessCPU(r.pid)
		if err != nil {
			b.Fatal(err)
		}
		load.Addr = onRedis.addr
		n, err := load.For(*turn)
		if err != nil {
			b.Fatal(err)
		}
		redisAfter, err := sys.ProcessCPU(r.pid)
		if err != nil {
			b.Fatal(err)
		}
		perRedis := (redisAfter - redisBefore) / time.Duration(n.Replies)
		ratio := m[0].ratios[1]
		b.ReportMetric(micros(m[0].perAnnounce), "us/memory")
		b.ReportMetric(micros(m[1].perAnnounce), "us/redis-node")
		b.ReportMetric(micros(perRedis), "us/redis-server")
		b.ReportMetric(ratio, "ratio")
		b.ReportMetric(m[1].rate, "announces/s")
		results.add(result{"shared swarms, " + what, m[1].String(), fmt.Sprintf("memory %v; redis itself %.2f us", m[0], micros(perRedis)),
			fmt.Sprintf("%.2f", ratio), atLeast(b, "announces of a node's core, on redis over memory", ratio, 0.35)})
	}
}

// BenchmarkRedisMemory is what a peer takes in Redis: of one big swarm, of swarms of fifty, and what a swarm of one takes.
func BenchmarkRedisMemory(b *testing.B) {
	for _, c := range []struct {
		name          string
		swarms, peers int
		most          float64 // bytes a peer
	}{
		{"one swarm of 200,000", 1, 200_000, 16},
		{"4,000 swarms of 50", 4000, 50, 24},
		{"100,000 swarms of 1", 100_000, 1, 260},
	} {
		b.Run(strings.ReplaceAll(c.name, " ", "-"), func(b *testing.B) {
			for b.Loop() {
				r, ok := startRedis(b)
				if !ok {
					b.Skip("redis-server is not installed")
				}
				per := float64(redisBytes(b, r, c.swarms, c.peers)) / float64(c.swarms*c.peers)
				b.ReportMetric(per, "B/peer")
				results.add(result{"bytes a peer in Redis, " + c.name, fmt.Sprintf("%.1f", per), "", "", atMost(b, "bytes a peer in Redis", per, c.most, " B")})
			}
		})
	}
}

// redisBytes is by how much INFO's used_memory grows with so many peers.
func redisBytes(b *testing.B, r server, swarms, peers int) int {
	client := redis.NewClient(&redis.Options{Addr: r.addr.String(), DisableIdentity: true})
	defer client.Close()
	used := func() (n int) {
		info, err := client.Info(context.Background(), "memory").Result()
		if err != nil {
			b.Fatal(err)
		}
		_, after, _ := strings.Cut(info, "used_memory:")
		if _, err := fmt.Sscan(after, &n); err != nil {
			b.Fatal(err)
		}
		return n
	}
	s := shared.New(shared.Config{Redis: link.Config{Addrs: []string{r.addr.String()}}}, swarm.New(swarm.Config{}), slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	defer running.Wait()
	defer stop()
	until := func(f func() bool) {
		for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				b.Fatal("not within a minute")
			}
		}
	}
	until(func() bool { _, bad := s.Degraded(); return !bad })
	var reply swarm.Reply
	said := 0
	say := func(torrent, peer int) {
		a := peerAnnounce(peer, 1)
		a.InfoHash = flood.InfoHash(torrent)
		s.Announce(&a, time.Now(), &reply)
		if said++; said%2000 == 0 {
			until(func() bool { return s.Buffered() == 0 })
		}
	}
	say(-1, 0) // scripts and markers are there
	until(func() bool { return s.Buffered() == 0 })
	before := used()
	for peer := range peers {
		for torrent := range swarms {
			say(torrent, peer)
		}
	}
	until(func() bool { return s.Buffered() == 0 })
	return used() - before
}
