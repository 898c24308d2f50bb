//go:build e2e

package shared

import (
	"fmt"
	"testing"
	"time"

	"spillway/tracker/swarm"
	"spillway/tracker/swarm/swarmtest"
)

// strict makes every answer that of Redis: nothing is fresh, and nobody gives up.
func strict(cfg Config) Config {
	cfg.Fresh, cfg.Wait = 1, 10*time.Second
	return cfg
}

// round is a store whose every call goes to the next node: what one was told the others know.
type round struct {
	nodes []node
	clock *clock
	next  int
}

func (r *round) node() node {
	r.next++
	return r.nodes[r.next%len(r.nodes)]
}

func (r *round) Announce(a *swarm.Announce, now time.Time, reply *swarm.Reply) {
	r.clock.set(now)
	n := r.node()
	if a.HasWeb {
		n = r.nodes[0] // whose sockets they are: those of other nodes are counted, and not told of
	}
	n.AnnounceWait(a, now, reply)
}

func (r *round) Scrape(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts {
	return r.node().ScrapeWait(hashes, dst)
}

func (r *round) Sweep(now time.Time) {
	r.clock.set(now)
	for _, n := range r.nodes {
		n.Store.Sweep(now)
	}
}

// TestSuite runs the behaviour every store has, on one node, two and three, of which each announce meets another.
func TestSuite(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	for _, n := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("nodes=%d", n), func(t *testing.T) {
			swarmtest.Run(t, func(t *testing.T) swarmtest.Store {
				r := &round{clock: new(clock)}
				for range n {
					r.nodes = append(r.nodes, startNode(t, strict(Config{
						Redis: at(server.addr), Prefix: fmt.Sprintf("%s:", t.Name()), Now: r.clock.now,
					})))
				}
				connected(t, r.nodes...)
				return r
			})
		})
	}
}
