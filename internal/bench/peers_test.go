//go:build linux

package bench

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Other trackers are measured only when it is said where to put what is found:
//
//	make bench-peers
//	go test -run='^$' -bench='^BenchmarkPeers$/^speed-udp$' -benchtime=1x ./internal/bench -peers.out=/tmp/peers -turn=1s
var (
	peersOut    = flag.String("peers.out", "", "directory for the table of other trackers, peers.md and peers.json; empty: they are not measured")
	peersOnly   = flag.String("peers.only", "", "names of the trackers to measure beside spillway, with commas; empty: all that are installed")
	peersFloods = flag.Int("peers.floods", 2, "times each tracker is flooded")
	peersFlood  = flag.Duration("peers.flood", 3*time.Second, "length of each flood")
)

// protocol is a way to announce.
type protocol string

const (
	httpKept  protocol = "HTTP, kept connections"
	httpClose protocol = "HTTP, a connection each"
	overUDP   protocol = "UDP"
	overWS    protocol = "WebSocket, 5 offers"
)

// peer is a tracker that can be measured: ours, or somebody else's.
type peer struct {
	name    string
	speaks  []protocol
	goodKey string // of a reply over HTTP that is served and no refusal
	most    int    // peers it is filled with; 0: as many as any
	// version is what is installed; "" where it is not.
	version func() string
	// start runs it on the server's core, for one protocol. Flags are for ours only.
	start func(tb testing.TB, over protocol, flags ...string) server
}

// BenchmarkPeers is other trackers beside ours, on one core each, loaded in turn: announces a core second, memory a peer, and what is
// still answered in time when more is asked for. What is not installed is left out (.ci/install-peers).
func BenchmarkPeers(b *testing.B) {
	if *peersOut == "" {
		b.Skip("other trackers take minutes; give -peers.out=DIR, or make bench-peers")
	}
	peers := installedPeers(b)
	for _, m := range []struct {
		name string
		over protocol
		run  func(*testing.B, protocol, []peer)
	}{
		{"speed-http-kept", httpKept, peersSpeed}, {"speed-http-close", httpClose, peersSpeed}, {"speed-udp", overUDP, peersSpeed}, {"speed-ws", overWS, peersSpeed},
		{"memory-http", httpKept, peersMemory}, {"memory-udp", overUDP, peersMemory}, {"memory-ws", overWS, peersSocketMemory},
		{"flood-http", httpClose, peersFlooded}, {"flood-udp", overUDP, peersFlooded},
	} {
		b.Run(m.name, func(b *testing.B) {
			var speaking []peer
			for _, p := range peers {
				if slices.Contains(p.speaks, m.over) && !(strings.HasPrefix(m.name, "flood-http") && p.goodKey == "") {
					speaking = append(speaking, p)
				}
			}
			peersTable.say("%s: %s", m.name, strings.Join(names(speaking), ", "))
			for b.Loop() {
				m.run(b, m.over, speaking)
			}
			peersTable.write(b)
		})
	}
	fmt.Printf("\n%s\n", peersTable.markdown())
}

// installedPeers are ours, then the others that are there.
func installedPeers(tb testing.TB) (there []peer) {
	tb.Helper()
	wanted := strings.FieldsFunc(*peersOnly, func(r rune) bool { return r == ',' })
	all := allPeers()
	for _, name := range wanted {
		if !slices.Contains(names(all), name) {
			tb.Fatalf("-peers.only: %q is not known; there are %s", name, strings.Join(names(all), ", "))
		}
	}
	for _, p := range all {
		if len(wanted) > 0 && p.name != "spillway" && !slices.Contains(wanted, p.name) {
			continue
		}
		v := p.version()
		if v == "" {
			peersTable.say("%s is not installed and left out; .ci/install-peers installs what can be had", p.name)
			continue
		}
		peersTable.version(p.name, v)
		there = append(there, p)
	}
	return there
}

func names(peers []peer) (all []string) {
	for _, p := range peers {
		all = append(all, p.name)
	}
	return all
}

// peersSpeed is announces a core second: all servers are there, and are loaded in turn.
func peersSpeed(b *testing.B, over protocol, peers []peer) {
	client, _ := cores(b)
	var all []entrant
	for _, p := range peers {
		// All comes from few addresses, far above what one is meant to ask for: on a busy machine ours would refuse it. Deciding costs 54 ns.
		s := p.start(b, over, "--shedder.enabled=false", "--ws.rate=1000000", "--ws.burst=1000000")
		defer s.stop()
		switch over {
		case httpKept, httpClose:
			load := closeLoad(client)
			if over == httpKept {
				load = Load{NumWant: numWant, Conns: 64, KeepAlive: true, Peers: smallSwarm, Core: client}
			}
			fill(b, load, s)
			all = append(all, load.at(s))
		case overUDP:
			load := udpLoad{NumWant: numWant, Window: 128, Peers: smallSwarm, Core: client}
			fillUDP(b, load, s)
			all = append(all, load.at(s))
		case overWS:
			load := &wsLoad{sockets: wsSockets, torrent: 1, swarms: wsSwarms, offers: wsOffers, core: client}
			fillWS(b, load, s)
			all = append(all, load.at(s))
		}
	}
	if over == httpClose {
		defer start(b, role(b, "spin"))()
	}
	peersTable.say("%s: %d rounds of %s", over, *rounds, *turn)
	turns := inTurn(b, all)
	for i, p := range peers {
		r := peerSpeed{Protocol: over, Peer: p.name, Rounds: *rounds}
		var each, ratios, sleeps []float64
		for round, t := range turns[i] {
			each = append(each, float64(time.Second)/float64(t.perAnnounce))
			ratios = append(ratios, float64(t.perAnnounce)/float64(turns[0][round].perAnnounce))
			sleeps = append(sleeps, t.sleeps)
		}
		r.PerCoreSecond, r.Ratio, r.Sleeps = spreadOf(each), spreadOf(ratios), spreadOf(sleeps).Median
		peersTable.addSpeed(r)
		b.ReportMetric(r.PerCoreSecond.Median, p.name+"/core-s")
	}
}

// peersMemory is resident memory with many peers, in swarms of ten and of a hundred. Each number has a process of its own.
func peersMemory(b *testing.B, over protocol, peers []peer) {
	const torrents = peerTorrents
	client, _ := cores(b)
	for _, p := range peers {
		if over == httpKept && slices.Contains(p.speaks, overUDP) {
			continue // what it keeps is the same however it was told, and UDP is quicker
		}
		for _, n := range []int{100_000, 1_000_000} {
			if p.most > 0 && n > p.most {
				peersTable.say("%s is not filled with %d peers: it would take a minute", p.name, n)
				continue
			}
			func() {
				s := p.start(b, over, "--shedder.enabled=false") // who is refused is not kept
				defer s.stop()
				empty := resident(b, s)
				started := time.Now()
				var err error
				if over == overUDP {
					var f *udpFlooder
					if f, err = newUDPFlooder(s.addr, client); err == nil {
						err = f.fill(n, torrents)
						f.close()
					}
				} else {
					_, err = Load{Addr: s.addr, Event: "started", Torrents: torrents, Conns: 64, KeepAlive: true, Peers: n, Core: client}.Once()
				}
				full := resident(b, s)
				if err == nil {
					err = knows(b, over, s, n/torrents)
				}
				if err != nil { // the others are worth having
					b.Errorf("fill %s with %d peers: %v", p.name, n, err)
					return
				}
				r := peerMemory{Protocol: over, Peer: p.name, What: "peer", Count: n, Resident: full, BytesEach: float64(full-empty) / float64(n)}
				peersTable.addMemory(r)
				peersTable.say("%s: %d peers in %.1f s, %.1f B a peer", p.name, n, time.Since(started).Seconds(), r.BytesEach)
			}()
		}
	}
}

// peersSocketMemory is resident memory with idle WebSockets that have announced.
func peersSocketMemory(b *testing.B, over protocol, peers []peer) {
	sockets := min(10_000, wsMostSockets(b))
	for _, p := range peers {
		func() {
			s := p.start(b, over)
			defer s.stop()
			each := wsBytesASocket(b, s, sockets)
			peersTable.addMemory(peerMemory{Protocol: over, Peer: p.name, What: "socket", Count: sockets, Resident: resident(b, s), BytesEach: each})
			peersTable.say("%s: %d WebSockets, %.0f B a socket", p.name, sockets, each)
		}()
	}
}

// knows fails unless the first torrent has as many leechers as it was told of: one that forgets them is not smaller.
func knows(tb testing.TB, over protocol, s server, leechers int) error {
	tb.Helper()
	client, _ := cores(tb)
	var n Count
	var err error
	var got bool
	if over == overUDP {
		// One more, from an address that it has not heard of; aquatic_udp does not count who asks.
		n, err = udpLoad{Addr: s.addr, Event: 2, Window: udpBatchSize, Peers: 1, Core: client}.Once()
		if len(n.Body) >= 20 {
			count := int(binary.BigEndian.Uint32(n.Body[12:]))
			got = count == leechers+1 || count == leechers
		}
	} else {
		n, err = Load{Addr: s.addr, Event: "stopped", Conns: 1, KeepAlive: true, Peers: 1, Core: client}.Once()
		for _, count := range []int{leechers, leechers - 1} { // the one that stops may be of them
			got = got || bytes.Contains(n.Body, fmt.Appendf(nil, "10:incompletei%de", count))
		}
	}
	if err == nil && !got {
		err = fmt.Errorf("it should know %d leechers of its first torrent: %q", leechers, n.Body)
	}
	return err
}

func resident(tb testing.TB, s server) int64 {
	tb.Helper()
	n, err := residentBytes(s.pid)
	if err != nil {
		tb.Fatalf("%s: %v", s.name, err)
	}
	return n
}
