//go:build linux

package bench

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// BenchmarkUDP is the CPU of an announce over UDP, over opentracker's in the same run: 200 leechers, 50 of them in a reply, one
// core each, always as many requests on the way as keep a server busy.
func BenchmarkUDP(b *testing.B) {
	client, _ := cores(b)
	load := udpLoad{NumWant: numWant, Window: 512, Peers: smallSwarm, Core: client}
	for b.Loop() {
		// All of it comes from one address, and far above a source's budget, which is asked for when others have had the core for
		// a tenth of a second.
		spillway := startSpillway(b, "--shedder.target=2s")
		fillUDP(b, load, spillway)
		oracle, ok := startOpentracker(b, load.Torrent+1)
		if !ok {
			b.Skip("opentracker is not installed")
		}
		fillUDP(b, load, oracle)
		m := contest(b, load.at(spillway), load.at(oracle))
		ratio := m[1].ratios[0]
		b.ReportMetric(micros(m[0].perAnnounce), "us/announce")
		b.ReportMetric(micros(m[1].perAnnounce), "us/opentracker")
		b.ReportMetric(ratio, "ratio")
		results.add(result{"CPU, UDP, 50 peers", m[0].String(), "opentracker " + m[1].String(), fmt.Sprintf("%.2f", ratio),
			atMost(b, "announce over opentracker's", m[0].ratios[1], 1, "")})
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
