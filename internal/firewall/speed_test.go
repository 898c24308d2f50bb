//go:build e2e

package firewall

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
)

// many are n sources that differ, from the first on.
func many(first, n int) map[netip.Prefix]time.Duration {
	batch := make(map[netip.Prefix]time.Duration, n)
	for i := first; i < first+n; i++ {
		batch[netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i)}), 32)] = time.Hour
	}
	return batch
}

// A botnet is dropped in one go, and stays so over a restart of ours and over somebody's nft flush ruleset.
func TestManySourcesAreQuick(t *testing.T) {
	// Each takes 30 ms to a second on a quiet machine; under load the kernel's own work takes longer.
	const most = 15 * time.Second
	f, s := open(t, Config{AllowLoopback: true})
	timed := func(what string, do func()) {
		t.Helper()
		start := time.Now()
		do()
		took := time.Since(start)
		t.Logf("%s: %v", what, took)
		if took > most {
			t.Errorf("%s took %v; want less than %v", what, took, most)
		}
	}
	timed("10,000 sources", func() { f.applyQueued(many(0, 10_000)) })
	longer := many(0, 10_000)
	for p := range longer {
		longer[p] = 2 * time.Hour
	}
	timed("10,000 sources for longer", func() { f.applyQueued(longer) })
	timed("as many as fit", func() { f.applyQueued(many(10_000, f.max-10_000)) })
	f.applyQueued(many(f.max, 7))
	if got := metric(f, `spillway_firewall_refused_total{reason="full"}`); got != "7" {
		t.Errorf("refused: got %s, want 7", got)
	}
	timed("a list of them", func() {
		if list, err := f.List(); err != nil || len(list) != f.max {
			t.Errorf("list: %d, %v; want %d", len(list), err, f.max)
		}
	})
	s.passes(t, "127.0.0.2")
	timed("taking them over", func() {
		g, err := Open(Config{AllowLoopback: true, Ports: []uint16{s.port}, TableName: f.table.Name})
		must(t, err)
		if len(g.held) != f.max {
			t.Errorf("taken over: %d, want %d", len(g.held), f.max)
		}
		f = g
	})
	timed("making the table again", func() {
		must(t, transact(func(c *nftables.Conn) error { c.DelTable(f.table.Table); return nil }))
		f.check()
		if list, err := f.List(); err != nil || len(list) != f.max {
			t.Errorf("list: %d, %v; want %d", len(list), err, f.max)
		}
	})
	timed("Close", func() { must(t, f.Close()) })
}

// BenchmarkAdd is what a source costs, by itself and as one of a batch.
func BenchmarkAdd(b *testing.B) {
	for _, batch := range []int{1, 1000} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			f, _ := open(b, Config{MaxElements: mostElements})
			i := 0
			for b.Loop() {
				f.applyQueued(many(i, batch))
				i += batch
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(i), "ns/source")
		})
	}
}

// BenchmarkPacket is what the rules cost a datagram to our port, by how many lengths of prefix are in use. Without a table: lengths=-1.
// The server's part is in it, on whichever processor; the differences count.
func BenchmarkPacket(b *testing.B) {
	for _, lengths := range []int{-1, 0, 1, 4, 25} {
		b.Run(fmt.Sprintf("lengths=%d", lengths), func(b *testing.B) {
			f, s := open(b, Config{AllowLoopback: true})
			for i := range max(lengths, 0) {
				must(b, f.Add(netip.PrefixFrom(netip.MustParseAddr("198.18.0.1"), 32-i), time.Hour))
			}
			if lengths < 0 {
				must(b, f.Close())
			}
			send(b, s)
		})
	}
	b.Run("dropped", func(b *testing.B) {
		f, s := open(b, Config{AllowLoopback: true})
		must(b, f.Add(prefix("127.0.0.1"), time.Hour))
		send(b, s)
	})
}

func send(b *testing.B, s *server) {
	b.Helper()
	c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", s.port))
	must(b, err)
	defer c.Close()
	for b.Loop() {
		if _, err := c.Write([]byte("ping")); err != nil {
			b.Fatal(err)
		}
	}
}
