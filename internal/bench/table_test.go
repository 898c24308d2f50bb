//go:build linux

package bench

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"spillway/tracker/swarm"
)

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
		a.InfoHash, a.Seeder = InfoHash(torrent), false
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
