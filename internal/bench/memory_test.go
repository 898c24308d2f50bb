//go:build linux

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"spillway/internal/flood"
	"spillway/internal/sys"
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
	if out.Empty, err = residentBytes(os.Getpid()); err != nil {
		return err
	}
	var reply swarm.Reply
	now := time.Now()
	for i := range peers {
		a := peerAnnounce(i, swarms)
		table.Announce(&a, now, &reply)
	}
	if out.Full, err = residentBytes(os.Getpid()); err != nil {
		return err
	}
	debug.FreeOSMemory()
	if out.Collected, err = residentBytes(os.Getpid()); err != nil {
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
	a := swarm.Announce{InfoHash: flood.InfoHash(i % swarms), Has4: true, Seeder: i/swarms%3 == 2, NumWant: numWant, TTL: time.Hour}
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

// BenchmarkGC is measure 5: the garbage collector's share of the CPU of a server that holds 5 million peers and is
// loaded as far as it goes, with announces of all its swarms, on kept connections and on a connection each, which
// leaves the most garbage.
func BenchmarkGC(b *testing.B) {
	const peers, swarms = 5_000_000, 1_000_000
	client, _ := cores(b)
	dir := b.TempDir()
	for b.Loop() {
		f := fillTable(b, peers, swarms, filepath.Join(dir, snapshotName))
		s := startSpillway(b, "--data_dir="+dir)
		waitReady(b, s)
		resident, err := residentBytes(s.pid)
		if err != nil {
			b.Fatal(err)
		}
		b.Logf("server with %d peers: %.0f MiB resident, %.1f B a peer", f.Peers, float64(resident)/(1<<20), float64(resident)/peers)
		worst := 0.0
		for _, keepAlive := range []bool{true, false} {
			load := Load{NumWant: numWant, Torrents: swarms, Conns: 64, KeepAlive: keepAlive, Peers: smallSwarm, Core: client}
			u := underLoad(b, s, load, 3**turn)
			name := map[bool]string{true: "kept connections", false: "a connection each"}[keepAlive]
			b.Logf("%s: %.3f %% of %s CPU in %d collections; %.2f us an announce", name, 100*u.gcShare, u.cpu.Round(time.Millisecond), u.collections,
				micros(u.cpu)/float64(u.replies))
			worst = max(worst, u.gcShare)
		}
		b.ReportMetric(100*worst, "%GC")
		results.add(result{"GC share of CPU, 5M peers", fmt.Sprintf("%.2f %%", 100*worst), "", "", atMost(b, "GC share", 100*worst, 2, " %")})
		// Too few collections fall into a load of seconds to say what one costs, so here is one asked for.
		const asked = 3
		before, cpuBefore := gcSeconds(b, s), cpuTime(b, s)
		for range asked {
			adminGet(b, s, "/debug/pprof/heap?gc=1")
		}
		perCycle := time.Duration((gcSeconds(b, s) - before) / asked * 1e9)
		b.Logf("one collection: %s of GC CPU; %s of all CPU with the heap profile", perCycle, (cpuTime(b, s)-cpuBefore)/asked)
		b.ReportMetric(float64(perCycle)/1e6, "ms/GC")
	}
}

// snapshotName is the file in data_dir that serve starts from.
const snapshotName = "swarms.snapshot"

// use is what a server used under a load.
type use struct {
	cpu                  time.Duration
	gcShare              float64
	collections, replies int
}

// underLoad loads s for d.
func underLoad(tb testing.TB, s server, load Load, d time.Duration) use {
	tb.Helper()
	load.Addr = s.addr
	gc, collections, cpu := gcSeconds(tb, s), metric(tb, s, "go_gc_duration_seconds_count"), cpuTime(tb, s)
	n, err := load.For(d)
	if err != nil {
		tb.Fatalf("load: %v", err)
	}
	u := use{cpu: cpuTime(tb, s) - cpu, replies: n.Replies}
	u.gcShare = (gcSeconds(tb, s) - gc) / u.cpu.Seconds()
	u.collections = int(metric(tb, s, "go_gc_duration_seconds_count") - collections)
	if u.replies == 0 {
		tb.Fatal("load: no replies")
	}
	return u
}

func gcSeconds(tb testing.TB, s server) float64 { return metric(tb, s, "go_gc_cpu_seconds_total") }

func cpuTime(tb testing.TB, s server) time.Duration {
	tb.Helper()
	d, err := sys.ProcessCPU(s.pid)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// metric reads one value of the server's metrics.
func metric(tb testing.TB, s server, name string) float64 {
	tb.Helper()
	for line := range bytes.Lines(adminGet(tb, s, "/metrics")) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			v, err := strconv.ParseFloat(string(bytes.TrimSpace(rest)), 64)
			if err != nil {
				tb.Fatalf("metric %s: %v", name, err)
			}
			return v
		}
	}
	tb.Fatalf("no metric %s", name)
	return 0
}

func adminGet(tb testing.TB, s server, path string) []byte {
	tb.Helper()
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI("http://" + s.admin.String() + path)
	req.Header.Set("Authorization", "Bearer "+adminToken)
	if err := fasthttp.DoTimeout(req, resp, 30*time.Second); err != nil {
		tb.Fatalf("GET %s: %v", path, err)
	}
	if resp.StatusCode() != fasthttp.StatusOK {
		tb.Fatalf("GET %s: status %d: %s", path, resp.StatusCode(), resp.Body())
	}
	return bytes.Clone(resp.Body())
}
