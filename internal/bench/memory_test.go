//go:build linux

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"spillway/tracker/swarm"
)

// filled is what a process found out about a table it filled.
type filled struct {
	Empty     int64 // resident bytes before the first peer
	Full      int64 // with all of them, as announces left it
	Collected int64 // and after a garbage collection that gives back what it can
	Budget    int64 // what the table thinks it uses
	Peers     int
	Swarms    int
}

// fillRole fills a table with FILL_PEERS peers in FILL_SWARMS swarms, the way announces come: each to another swarm
// than the one before.
func fillRole() error {
	peers, err := strconv.Atoi(os.Getenv("FILL_PEERS"))
	if err != nil {
		return err
	}
	swarms, err := strconv.Atoi(os.Getenv("FILL_SWARMS"))
	if err != nil {
		return err
	}
	table := swarm.New(swarm.Config{MaxBytes: 2 << 30})
	var out filled
	if out.Empty, err = ResidentBytes(os.Getpid()); err != nil {
		return err
	}
	var reply swarm.Reply
	now := time.Now()
	for i := range peers {
		a := peerAnnounce(i, swarms)
		table.Announce(&a, now, &reply)
	}
	if out.Full, err = ResidentBytes(os.Getpid()); err != nil {
		return err
	}
	debug.FreeOSMemory()
	if out.Collected, err = ResidentBytes(os.Getpid()); err != nil {
		return err
	}
	stats := table.Stats()
	out.Budget, out.Peers, out.Swarms = stats.Bytes, stats.Seeders+stats.Leechers, stats.Swarms
	if path := os.Getenv("FILL_SNAPSHOT"); path != "" {
		if _, err := table.Save(path, now); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// peerAnnounce is the announce of peer i; every third is a seeder.
func peerAnnounce(i, swarms int) swarm.Announce {
	a := swarm.Announce{InfoHash: InfoHash(i % swarms), Has4: true, Seeder: i/swarms%3 == 2, NumWant: numWant, TTL: time.Hour}
	port := uint16(minPort + i%50_000)
	a.V4 = swarm.Endpoint4{11, byte(i >> 16), byte(i >> 8), byte(i), byte(port >> 8), byte(port)}
	return a
}

// fillTable fills a table in a process of its own, and saves it to snapshot unless that is empty.
func fillTable(tb testing.TB, peers, swarms int, snapshot string) filled {
	tb.Helper()
	cmd := role(tb, "fill")
	cmd.Env = append(cmd.Env, fmt.Sprintf("FILL_PEERS=%d", peers), fmt.Sprintf("FILL_SWARMS=%d", swarms), "FILL_SNAPSHOT="+snapshot)
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("fill a table: %v", err)
	}
	var f filled
	if err := json.Unmarshal(out, &f); err != nil {
		tb.Fatalf("fill a table: %v: %q", err, out)
	}
	if f.Peers != peers || f.Swarms != swarms {
		tb.Fatalf("filled: got %d peers in %d swarms, want %d in %d", f.Peers, f.Swarms, peers, swarms)
	}
	return f
}

// BenchmarkMemory is measure 3: resident bytes a peer, the whole process counted, in big swarms and in small ones.
func BenchmarkMemory(b *testing.B) {
	for _, c := range []struct {
		name          string
		peers, swarms int
		most          float64
	}{
		{"1M peers in 10,000 swarms", 1_000_000, 10_000, 32},
		{"3M peers in 1M swarms", 3_000_000, 1_000_000, 100},
	} {
		b.Run(fmt.Sprintf("peers=%d/swarms=%d", c.peers, c.swarms), func(b *testing.B) {
			for b.Loop() {
				f := fillTable(b, c.peers, c.swarms, "")
				each := func(n int64) float64 { return float64(n) / float64(c.peers) }
				b.Logf("resident bytes a peer: %.1f in all, %.1f less the empty process's %.1f MiB; after a collection %.1f and %.1f; by the table's own count %.1f",
					each(f.Full), each(f.Full-f.Empty), float64(f.Empty)/(1<<20), each(f.Collected), each(f.Collected-f.Empty), each(f.Budget))
				b.ReportMetric(each(f.Full), "B/peer")
				b.ReportMetric(each(f.Full-f.Empty), "B/peer-net")
				results.add(result{"memory, " + c.name, fmt.Sprintf("%.1f B/peer", each(f.Full)), fmt.Sprintf("%.1f net", each(f.Full-f.Empty)), "",
					atMost(b, "resident memory a peer", each(f.Full), c.most, " B")})
			}
		})
	}
}
