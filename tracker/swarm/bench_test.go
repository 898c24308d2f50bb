package swarm_test

import (
	"fmt"
	"testing"
	"time"

	"spillway/tracker/swarm"
)

// BenchmarkAnnounce is an announce of a known peer that wants 50 others.
func BenchmarkAnnounce(b *testing.B) {
	for _, peers := range []int{3, 100, 1000, 100_000} {
		b.Run(fmt.Sprintf("peers=%d", peers), func(b *testing.B) {
			table := swarm.New(swarm.Config{})
			now := time.Now()
			var r swarm.Reply
			announces := make([]swarm.Announce, peers)
			for j := range announces {
				announces[j] = announce4(1, j)
				table.Announce(&announces[j], now, &r)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				table.Announce(&announces[i*7919%peers], now, &r)
			}
		})
	}
}
