//go:build linux

package bench

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkUDP is the CPU of an announce over UDP, over opentracker's in the same run: 200 leechers, 50 of them in a reply, one
// core each, always as many requests on the way as keep a server busy.
func BenchmarkUDP(b *testing.B) {
	client, _ := cores(b)
	load := udpLoad{NumWant: numWant, Window: 512, Peers: smallSwarm, Core: client}
	for b.Loop() {
		// All of it comes from one address, and far above a source's budget, which is asked for when others have had the core for
		// a tenth of a second.
		spillway := startSpillway(b, "", "--shedder.target=2s").server
		fillUDP(b, load, spillway)
		oracle, ok := startUDPOpentracker(b, load)
		if !ok {
			b.Skip("opentracker is not installed")
		}
		fillUDP(b, load, oracle)
		m := contestUDP(b, load, []server{spillway, oracle})
		ratio := m[1].ratios[0]
		b.ReportMetric(micros(m[0].perAnnounce), "us/announce")
		b.ReportMetric(micros(m[1].perAnnounce), "us/opentracker")
		b.ReportMetric(ratio, "ratio")
		results.add(result{"CPU, UDP, 50 peers", m[0].String(), "opentracker " + m[1].String(), fmt.Sprintf("%.2f", ratio),
			atMost(b, "announce over opentracker's", m[0].ratios[1], 1, "")})
	}
}

// contestUDP is contest over UDP.
func contestUDP(tb testing.TB, load udpLoad, servers []server) []outcome {
	tb.Helper()
	turns := make([][]sample, len(servers))
	for range *rounds {
		for i, s := range servers {
			turns[i] = append(turns[i], measureUDP(tb, load, s))
		}
	}
	outcomes := make([]outcome, len(servers))
	for i := range outcomes {
		for j := range servers {
			var ratios []float64
			for round := range turns[i] {
				ratios = append(ratios, float64(turns[i][round].perAnnounce)/float64(turns[j][round].perAnnounce))
			}
			outcomes[i].ratios = append(outcomes[i].ratios, median(ratios))
		}
	}
	for i, t := range turns {
		slices.SortFunc(t, func(a, b sample) int { return cmp.Compare(a.perAnnounce, b.perAnnounce) })
		m := t[len(t)/2]
		outcomes[i].sample = m
		tb.Logf("%-12s %s (%s to %s), %.0f/s, %.0f a core, %.3f sleeps, the client had %.0f %% of its core", servers[i].name, m, t[0], t[len(t)-1], m.rate,
			float64(time.Second)/float64(m.perAnnounce), m.sleeps, 100*m.client)
	}
	return outcomes
}

func measureUDP(tb testing.TB, load udpLoad, s server) sample {
	tb.Helper()
	load.Addr = s.addr
	before, sleptBefore := usage(tb, s)
	n, err := load.For(*turn)
	if err != nil {
		tb.Fatalf("%s: %v", s.name, err)
	}
	after, slept := usage(tb, s)
	if n.Replies == 0 {
		tb.Fatalf("%s: no replies in %s", s.name, *turn)
	}
	return sample{
		perAnnounce: (after - before) / time.Duration(n.Replies),
		rate:        float64(n.Replies) / n.Elapsed.Seconds(),
		sleeps:      float64(slept-sleptBefore) / float64(n.Replies),
		client:      float64(n.CPU) / float64(n.Elapsed),
	}
}

// fillUDP has every peer announce, and looks at a reply: it must name as many peers as were asked for.
func fillUDP(tb testing.TB, load udpLoad, s server) {
	tb.Helper()
	load.Addr, load.Event = s.addr, 2
	if _, err := load.Once(); err != nil {
		tb.Fatalf("fill %s: %v", s.name, err)
	}
	load.Event, load.Peers = 0, 1
	n, err := load.Once()
	if err != nil {
		tb.Fatalf("fill %s: %v", s.name, err)
	}
	// aquatic_udp does not count who asks.
	if len(n.Body) != 20+6*numWant || smallSwarm-binary.BigEndian.Uint32(n.Body[12:]) > 1 {
		tb.Fatalf("fill %s: got %d bytes, %d leechers", s.name, len(n.Body), binary.BigEndian.Uint32(n.Body[12:]))
	}
}

// startUDPOpentracker is startOpentracker over UDP; ok is false where it is not installed.
func startUDPOpentracker(tb testing.TB, load udpLoad) (s server, ok bool) {
	tb.Helper()
	program, err := exec.LookPath("opentracker")
	if err != nil {
		return server{}, false
	}
	dir := tb.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // it drops to nobody
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "whitelist"), fmt.Appendf(nil, "%x\n", InfoHash(load.Torrent)), 0o644); err != nil {
		tb.Fatal(err)
	}
	addr := freeAddr(tb)
	port := fmt.Sprint(addr.Port())
	cmd := exec.Command(program, "-i", "127.0.0.1", "-p", port, "-P", port, "-d", dir, "-w", "whitelist")
	start(tb, cmd)
	waitListening(tb, addr)
	waitWhitelist(tb, addr, load.Torrent)
	return server{name: "opentracker", addr: addr, pid: cmd.Process.Pid}, true
}
