//go:build !race

package swarm_test

import (
	"testing"
	"time"

	"spillway/tracker/swarm"
)

func TestAnnounceAllocatesNothing(t *testing.T) {
	table := swarm.New(swarm.Config{})
	now := time.Now()
	r := swarm.Reply{Peers4: make([]byte, 0, 1200), Peers6: make([]byte, 0, 3600)}
	for j := range 300 {
		a := announce4(1, j)
		table.Announce(&a, now, &r)
	}
	a := announce4(1, 5)
	n := 0
	if got := testing.AllocsPerRun(1000, func() {
		n++
		a.Seeder = n%2 == 0
		table.Announce(&a, now, &r)
	}); got != 0 {
		t.Errorf("got %v allocations an announce, want 0", got)
	}
	hashes, counts := []swarm.InfoHash{a.InfoHash, {}}, make([]swarm.Counts, 0, 2)
	if got := testing.AllocsPerRun(1000, func() { counts = table.Scrape(hashes, counts[:0]) }); got != 0 {
		t.Errorf("got %v allocations a scrape, want 0", got)
	}
}
