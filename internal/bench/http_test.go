//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"testing"
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
		spillway := startSpillway(b, "").server
		reply := fill(b, load, spillway)
		floor := startFloor(b, reply)
		m := contest(b, []Load{load, load}, []server{spillway, floor})
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
		spillway := startSpillway(b, "").server
		reply := fill(b, load, spillway)
		servers := []server{spillway, startFloor(b, reply)}
		oracle, ok := startOpentracker(b, load.Torrent)
		if ok {
			fill(b, load, oracle)
			servers = append(servers, oracle)
		} else {
			b.Log("opentracker is not installed: it is left out")
		}
		start(b, role(b, "spin"))
		m := contest(b, []Load{load, load, load}, servers)
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
		spillway := startSpillway(b, "").server
		fill(b, smallLoad, spillway)
		fill(b, bigLoad, spillway)
		m := contest(b, []Load{bigLoad, smallLoad}, []server{spillway, spillway})
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
