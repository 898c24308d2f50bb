package swarm

import (
	"context"
	"time"
)

// keepEmpty is how long a swarm without peers is remembered for its downloaded counter, as opentracker does for a day.
const keepEmpty = 24 * time.Hour / Tick

// sweepBatch bounds what one hold of a shard's lock looks at: swarms, and entries beyond the first swarm.
const (
	sweepSwarms  = 128
	sweepEntries = 8192
)

// Run sweeps one shard a second until ctx ends, so that each is swept about once a minute.
func (t *Table) Run(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for i := 0; ; i = (i + 1) % shardCount {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			t.sweepShard(&t.shards[i], t.tick(now))
		}
	}
}

// Sweep removes every peer that has expired by now, and the swarms that are done with.
func (t *Table) Sweep(now time.Time) {
	for i := range t.shards {
		t.sweepShard(&t.shards[i], t.tick(now))
	}
}

// sweepShard goes from the last swarm to the first: the last one takes the place of a deleted one, and has been looked at.
// The lock is let go between batches, so announces wait for at most one batch or one swarm.
func (t *Table) sweepShard(s *shard, tick uint32) {
	s.mu.Lock()
	keep := uint32(keepEmpty)
	if s.n*10 > t.maxShardSwarms()*9 {
		keep = 0 // room for living swarms comes first
	}
	i := s.n - 1
	s.mu.Unlock()
	for i >= 0 {
		s.mu.Lock()
		i = min(i, s.n-1)
		entries := 0
		for swarms := 0; i >= 0 && swarms < sweepSwarms && entries < sweepEntries; i-- {
			sw := s.at(i)
			entries += sw.peers()
			swarms++
			t.sweepSwarm(s, sw, tick)
			if sw.emptySince != 0 && (sw.downloaded == 0 || tick-sw.emptySince >= keep) {
				s.delete(i)
			}
		}
		s.mu.Unlock()
	}
}

func (t *Table) sweepSwarm(s *shard, sw *swarm, tick uint32) {
	for _, p := range [...]peers{
		s.open(&sw.v4, len(Endpoint4{})), s.open(&sw.v6, len(Endpoint6{})), s.open(&sw.web, len(EndpointWeb{})),
	} {
		for i := int(p.n) - 1; i >= 0; i-- {
			// Removing swaps later entries in, which have been looked at.
			if expiredAt(p.meta(i), tick) {
				s.uncount(sw, &p, i)
				p.remove(i)
				t.expired.Add(1)
			}
		}
	}
	if sw.peers() == 0 && sw.emptySince == 0 {
		sw.emptySince = tick
	}
}
