package swarm

import (
	"iter"
	"time"
)

// A Peer is one peer of a table, as Walk shows it.
type Peer struct {
	InfoHash InfoHash
	endpoint [18]byte
	length   uint8
	Seeder   bool
	Paused   bool          // a partial seed
	Left     time.Duration // until it expires, unless it announces
}

// Endpoint is an Endpoint4, an Endpoint6 or an EndpointWeb, by its length: 6, 18 or 8 bytes.
func (p *Peer) Endpoint() []byte { return p.endpoint[:p.length] }

// Walk yields all peers that live, in batches that are used again, while announces go on: what they change may or may not be seen,
// and a peer may be seen twice. No lock is held while a batch is looked at; clock is asked before each.
func (t *Table) Walk(clock func() time.Time) iter.Seq[[]Peer] {
	return func(yield func([]Peer) bool) {
		var batch []Peer
		for i := range t.shards {
			s := &t.shards[i]
			s.mu.Lock()
			at := s.n - 1
			s.mu.Unlock()
			// Backwards, as sweepShard does and for the same reason.
			for at >= 0 {
				batch = batch[:0]
				tick := t.tick(clock())
				s.mu.Lock()
				at = min(at, s.n-1)
				for swarms := 0; at >= 0 && swarms < sweepSwarms && len(batch) < sweepEntries; at-- {
					batch = s.appendPeers(batch, s.at(at), tick)
					swarms++
				}
				s.mu.Unlock()
				if len(batch) > 0 && !yield(batch) {
					return
				}
			}
		}
	}
}

func (s *shard) appendPeers(dst []Peer, sw *swarm, tick uint32) []Peer {
	for _, p := range [...]peers{
		s.open(&sw.v4, len(Endpoint4{})), s.open(&sw.v6, len(Endpoint6{})), s.open(&sw.web, len(EndpointWeb{})),
	} {
		for i := range int(p.n) {
			m := p.meta(i)
			if expiredAt(m, tick) {
				continue
			}
			one := Peer{
				InfoHash: sw.hash, length: uint8(p.end), Seeder: p.isSeeder(i), Paused: m&metaPaused != 0,
				Left: time.Duration((m-uint16(tick))&metaTick) * Tick,
			}
			copy(one.endpoint[:], p.endpoint(i))
			dst = append(dst, one)
		}
	}
	return dst
}
