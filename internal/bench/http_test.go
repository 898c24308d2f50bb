//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spillway/internal/flood"
	"spillway/tracker/swarm"
)

// The swarm of the first two measures: 200 leechers, of whom each reply names 50.
const (
	smallSwarm = 200
	numWant    = 50
)

// BenchmarkKeepAlive is measure 1: the CPU of an announce on a kept connection, over that of a constant reply of the
// same size.
func BenchmarkKeepAlive(b *testing.B) {
	client, _ := cores(b)
	load := Load{NumWant: numWant, Conns: 64, KeepAlive: true, Peers: smallSwarm, Core: client}
	for b.Loop() {
		spillway := startSpillway(b)
		reply := fill(b, load, spillway)
		floor := startFloor(b, reply)
		m := contest(b, load.at(spillway), load.at(floor))
		ratio := m[0].ratios[1]
		b.ReportMetric(micros(m[0].perAnnounce), "us/announce")
		b.ReportMetric(micros(m[1].perAnnounce), "us/floor")
		b.ReportMetric(ratio, "ratio")
		results.add(result{"CPU, keep-alive, 50 peers", m[0].String(), "floor " + m[1].String(), fmt.Sprintf("%.2f", ratio),
			atMost(b, "announce over floor", ratio, 1.4, "")})
	}
}

// BenchmarkConnPerRequest is measure 2: the same with a connection for each announce, and opentracker's cost beside it.
func BenchmarkConnPerRequest(b *testing.B) {
	client, _ := cores(b)
	load := closeLoad(client)
	for b.Loop() {
		spillway := startSpillway(b)
		reply := fill(b, load, spillway)
		all := []entrant{load.at(spillway), load.at(startFloor(b, reply))}
		oracle, ok := startOpentracker(b, load.Torrent+1)
		if ok {
			fill(b, load, oracle)
			all = append(all, load.at(oracle))
		} else {
			b.Log("opentracker is not installed: it is left out")
		}
		start(b, role(b, "spin"))
		m := contest(b, all...)
		ratio := m[0].ratios[1]
		b.ReportMetric(micros(m[0].perAnnounce), "us/announce")
		b.ReportMetric(micros(m[1].perAnnounce), "us/floor")
		b.ReportMetric(ratio, "ratio")
		results.add(result{"CPU, a connection each, 50 peers", m[0].String(), "floor " + m[1].String(), fmt.Sprintf("%.2f", ratio),
			atMost(b, "announce over floor", ratio, 1.15, "")})
		if ok {
			b.ReportMetric(micros(m[2].perAnnounce), "us/opentracker")
			results.add(result{"the same, beside opentracker", m[0].String(), "opentracker " + m[2].String(), fmt.Sprintf("%.2f", m[0].ratios[2]),
				fmt.Sprintf("aim; opentracker is %.2f of the floor", m[2].ratios[1])})
		}
	}
}

// closeLoad is a connection for each announce. As many are open as keep a server busy for the spinner's turns of the core,
// and no more than opentracker's queue of 128 holds: a connection too many would wait a second for its SYN to be sent again.
func closeLoad(core int) Load {
	return Load{NumWant: numWant, Conns: 120, Peers: smallSwarm, Core: core}
}

// BenchmarkSwarmSize is measure 4: the cost of an announce, by HTTP and whole, in a big swarm over that in a small one.
// All peers of each announce in turn, so that the big one's do not stay in the caches.
func BenchmarkSwarmSize(b *testing.B) {
	const small, big = 100, 100_000
	client, _ := cores(b)
	smallLoad := Load{Torrent: 1, NumWant: numWant, Conns: 64, KeepAlive: true, Peers: small, Core: client}
	bigLoad := smallLoad
	bigLoad.Torrent, bigLoad.Peers = 2, big
	for b.Loop() {
		spillway := startSpillway(b)
		fill(b, smallLoad, spillway)
		fill(b, bigLoad, spillway)
		m := contest(b, bigLoad.at(spillway), smallLoad.at(spillway))
		ratio := m[0].ratios[1]
		b.ReportMetric(micros(m[0].perAnnounce), "us/big")
		b.ReportMetric(micros(m[1].perAnnounce), "us/small")
		b.ReportMetric(ratio, "ratio")
		results.add(result{"CPU in a swarm of 100,000", m[0].String(), "swarm of 100 " + m[1].String(), fmt.Sprintf("%.2f", ratio),
			atMost(b, "announce in a big swarm over a small one", ratio, 1.3, "")})
	}
}

// fill has every peer of the load announce, and returns the reply to one of them, which must name as many peers as were
// asked for.
func fill(tb testing.TB, load Load, s server) []byte {
	tb.Helper()
	load.Addr, load.Event = s.addr, "started"
	if _, err := load.Once(); err != nil {
		tb.Fatalf("fill %s: %v", s.name, err)
	}
	one := load
	one.Event, one.Peers = "", 1
	n, err := one.Once()
	if err != nil {
		tb.Fatalf("fill %s: %v", s.name, err)
	}
	// aquatic_http does not count who asks.
	counts := bytes.Contains(n.Body, fmt.Appendf(nil, "10:incompletei%de", load.Peers)) || bytes.Contains(n.Body, fmt.Appendf(nil, "10:incompletei%de", load.Peers-1))
	if !counts || !bytes.Contains(n.Body, fmt.Appendf(nil, "5:peers%d:", 6*numWant)) {
		tb.Fatalf("fill %s: the reply should have %d peers of %d: %q", s.name, numWant, load.Peers, n.Body)
	}
	return n.Body
}

// BenchmarkTable is the part of measure 4 that is not HTTP: the bare Table.Announce in a swarm of 100,000, where every
// peer looked at is a miss in the nearer caches, over one in a swarm of 100. It has no target: it says what the whole
// announce's ratio is made of.
func BenchmarkTable(b *testing.B) {
	const small, big = 100, 100_000
	table := swarm.New(swarm.Config{})
	var reply swarm.Reply
	now := time.Now()
	announce := func(torrent, peer int) {
		a := peerAnnounce(peer, 1)
		a.InfoHash, a.Seeder = flood.InfoHash(torrent), false
		table.Announce(&a, now, &reply)
	}
	for i := range big {
		announce(1, i)
	}
	for i := range small {
		announce(2, i)
	}
	const announces = 500_000
	round := func(torrent, peers int) time.Duration {
		start := time.Now()
		for i := range announces {
			announce(torrent, i*7919%peers)
		}
		return time.Since(start) / announces
	}
	for b.Loop() {
		var bigs, smalls []time.Duration
		for range max(*rounds, 1) {
			bigs = append(bigs, round(1, big))
			smalls = append(smalls, round(2, small))
		}
		slices.Sort(bigs)
		slices.Sort(smalls)
		inBig, inSmall := bigs[len(bigs)/2], smalls[len(smalls)/2]
		ratio := float64(inBig) / float64(inSmall)
		b.ReportMetric(float64(inBig), "ns/big")
		b.ReportMetric(float64(inSmall), "ns/small")
		b.ReportMetric(ratio, "ratio")
		results.add(result{"Table.Announce in a swarm of 100,000", inBig.String(), "swarm of 100 " + inSmall.String(), fmt.Sprintf("%.2f", ratio),
			"none"})
	}
}

// BenchmarkSyscalls counts the system calls of an announce with a connection of its own, per server: what the distance
// between them is made of. strace slows the server many times over, so only the numbers of calls mean anything, not the
// times.
func BenchmarkSyscalls(b *testing.B) {
	if _, err := exec.LookPath("strace"); err != nil {
		b.Skip("strace is not installed")
	}
	client, _ := cores(b)
	load := closeLoad(client)
	for b.Loop() {
		spillway := startSpillway(b)
		reply := fill(b, load, spillway)
		servers := []server{spillway, startFloor(b, reply)}
		if oracle, ok := startOpentracker(b, load.Torrent+1); ok {
			fill(b, load, oracle)
			servers = append(servers, oracle)
		}
		for _, s := range servers {
			b.Logf("%-12s %s", s.name, callsPerAnnounce(b, s, load))
		}
	}
}

// callsPerAnnounce traces s under load and renders the calls it made, most first.
func callsPerAnnounce(tb testing.TB, s server, load Load) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), "calls")
	trace := exec.Command("strace", "-f", "-c", "-U", "name,calls", "-o", out, "-p", strconv.Itoa(s.pid))
	stderr, err := trace.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := trace.Start(); err != nil {
		tb.Fatal(err)
	}
	// It says so once it is attached to all threads.
	if line, err := bufio.NewReader(stderr).ReadString('\n'); err != nil || !strings.Contains(line, "attached") {
		tb.Fatalf("strace: %q, %v", line, err)
	}
	load.Addr = s.addr
	n, err := load.For(time.Second)
	if err != nil {
		tb.Fatalf("%s: %v", s.name, err)
	}
	if err := trace.Process.Signal(syscall.SIGINT); err != nil {
		tb.Fatal(err)
	}
	_ = trace.Wait() // ends by the signal
	table, err := os.ReadFile(out)
	if err != nil {
		tb.Fatal(err)
	}
	calls := map[string]int{}
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) != 2 || f[0] == "total" {
			continue
		}
		if count, err := strconv.Atoi(f[1]); err == nil {
			calls[f[0]] = count
		}
	}
	var parts []string
	total := 0
	for _, name := range slices.SortedFunc(maps.Keys(calls), func(a, b string) int { return cmp.Compare(calls[b], calls[a]) }) {
		total += calls[name]
		if each := float64(calls[name]) / float64(n.Replies); each >= 0.05 {
			parts = append(parts, fmt.Sprintf("%s %.2f", name, each))
		}
	}
	return fmt.Sprintf("%.2f calls: %s", float64(total)/float64(n.Replies), strings.Join(parts, ", "))
}
