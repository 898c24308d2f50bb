//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// BenchmarkGC is measure 5: the garbage collector's share of the CPU of a server that holds 5 million peers and is
// loaded as far as it goes, with announces of all its swarms, on kept connections and on a connection each, which
// leaves the most garbage.
func BenchmarkGC(b *testing.B) {
	const peers, swarms = 5_000_000, 1_000_000
	client, _ := cores(b)
	dir := b.TempDir()
	for b.Loop() {
		f := fillTable(b, peers, swarms, filepath.Join(dir, snapshotName))
		s := startSpillway(b, dir)
		waitReady(b, s)
		resident, err := ResidentBytes(s.pid)
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
func underLoad(tb testing.TB, s tracker, load Load, d time.Duration) use {
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

func gcSeconds(tb testing.TB, s tracker) float64 { return metric(tb, s, "go_gc_cpu_seconds_total") }

func cpuTime(tb testing.TB, s tracker) time.Duration {
	tb.Helper()
	d, err := CPUTime(s.pid)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// metric reads one value of the server's metrics.
func metric(tb testing.TB, s tracker, name string) float64 {
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

func adminGet(tb testing.TB, s tracker, path string) []byte {
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
