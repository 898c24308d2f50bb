//go:build linux

package bench

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"
)

// The swarms of the first WebSocket measure.
const (
	wsSockets = 1000
	wsSwarms  = wsSockets / 10
	wsOffers  = 5
)

// BenchmarkWebSocketAnnounce is the CPU of an announce with five offers, delivered to five of the nine other peers of the
// swarm, over that of bittorrent-tracker. The messages are the same.
func BenchmarkWebSocketAnnounce(b *testing.B) {
	client, _ := cores(b)
	for b.Loop() {
		// Each socket is far above what ws.rate allows: a thousand have to keep a core busy.
		servers := []server{startWebSockets(b, 1, "--ws.rate=1000000", "--ws.burst=1000000").server}
		if s, ok := startNPMTracker(b); ok {
			servers = append(servers, s)
		}
		var loads []*wsLoad
		for _, s := range servers {
			l := &wsLoad{addr: s.addr, sockets: wsSockets, torrent: 1, swarms: wsSwarms, offers: wsOffers, core: client}
			defer l.close()
			if err := l.open(); err != nil {
				b.Fatal(err)
			}
			l.mustAnnounce(b, 0) // the swarms fill
			loads = append(loads, l)
		}
		m := wsContest(b, loads, servers)
		b.ReportMetric(micros(m[0].perAnnounce), "us/announce")
		r := result{what: "CPU, WebSocket, 5 offers", spillway: m[0].String(), beside: npmTracker + " is not there"}
		if len(servers) > 1 {
			ratio := m[0].ratios[1]
			b.ReportMetric(micros(m[1].perAnnounce), "us/bittorrent-tracker")
			b.ReportMetric(ratio, "ratio")
			r.beside, r.ratio = "bittorrent-tracker "+m[1].String(), fmt.Sprintf("%.2f", ratio)
			r.verdict = atMost(b, "announce over bittorrent-tracker", ratio, 0.5, "")
		}
		results.add(r)
	}
}

// wsContest is contest over WebSockets.
func wsContest(tb testing.TB, loads []*wsLoad, servers []server) []outcome {
	tb.Helper()
	turns := make([][]sample, len(servers))
	for range *rounds {
		for i, s := range servers {
			turns[i] = append(turns[i], wsMeasure(tb, loads[i], s, *turn))
		}
	}
	return wsOutcomes(tb, turns, servers)
}

// wsOutcomes finds the median turn of each server, and the ratios.
func wsOutcomes(tb testing.TB, turns [][]sample, servers []server) []outcome {
	tb.Helper()
	outcomes := make([]outcome, len(servers))
	for i := range servers {
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
		tb.Logf("%-18s %s (%s to %s), %.0f/s, %.2f sleeps, the client had %.0f %% of its core", servers[i].name, m, t[0], t[len(t)-1],
			m.rate, m.sleeps, 100*m.client)
	}
	return outcomes
}

// wsMeasure loads s for one turn.
func wsMeasure(tb testing.TB, load *wsLoad, s server, d time.Duration) sample {
	tb.Helper()
	before, sleptBefore := usage(tb, s)
	n := load.mustAnnounce(tb, d)
	after, slept := usage(tb, s)
	if got, want := n.delivered, n.replies*load.offers; got < want*99/100 || n.replies == 0 {
		tb.Fatalf("%s: offers delivered of %d announces: got %d, want %d", s.name, n.replies, got, want)
	}
	return sample{
		perAnnounce: (after - before) / time.Duration(n.replies),
		rate:        float64(n.replies) / n.elapsed.Seconds(),
		sleeps:      float64(slept-sleptBefore) / float64(n.replies),
		client:      float64(n.cpu) / float64(n.elapsed),
	}
}
