package shared

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync/atomic"
	"time"

	"spillway/tracker/swarm"
)

// A refill announces this node's own peers to Redis again, at a bounded rate, when Redis has lost them or was never told: it was
// started anew and empty, it was another that took its place, the buffer had been full.
type refill struct {
	needed atomic.Bool
	woken  chan struct{} // holds one
}

func (r *refill) init() { r.woken = make(chan struct{}, 1) }

func (r *refill) need() {
	if r.needed.Swap(true) {
		return
	}
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// refillStep is how often the refill goes on.
const refillStep = 50 * time.Millisecond

func (s *Store) runRefill(ctx context.Context) {
	ticker := time.NewTicker(refillStep)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.refill.woken:
		}
		// Not while nobody listens: what would be said would be in the way of what is said anew.
		for s.breakersOpen() {
			if !wait(ctx, ticker) {
				return
			}
		}
		s.refill.needed.Store(false)
		select {
		case <-s.refill.woken:
		default:
		}
		began, n := time.Now(), 0
		for batch := range s.own.Walk(s.cfg.Now) {
			for _, p := range batch {
				s.again(&p)
			}
			n += len(batch)
			// Paced, and behind what clients say.
			for due := began.Add(time.Duration(n) * time.Second / time.Duration(s.cfg.RefillRate)); time.Now().Before(due) || s.buffered.Load() > s.cfg.MaxBufferBytes/2; {
				if !wait(ctx, ticker) {
					return
				}
			}
		}
		s.metrics.refills.Add(1)
		if n > 0 {
			s.log.Info("this node's peers announced to redis again", "peers", n, "took", time.Since(began).Round(time.Millisecond))
		}
	}
}

func wait(ctx context.Context, ticker *time.Ticker) bool {
	select {
	case <-ctx.Done():
		return false
	case <-ticker.C:
		return true
	}
}

func (s *Store) breakersOpen() bool {
	_, open := s.Degraded()
	return open
}

// again buffers one of this node's own peers.
func (s *Store) again(p *swarm.Peer) {
	kind := byte(kindRefill)
	if p.Seeder {
		kind |= kindSeeder
	}
	now := s.cfg.Now()
	meta := metaOf(s.clock(), p.Left, p.Paused)
	end := p.Endpoint()
	switch len(end) {
	case endBytes[family4]:
		kind |= family4
	case endBytes[family6]:
		kind |= family6
	default:
		kind |= familyWeb
		end = s.webEnd(swarm.EndpointWeb(end))
	}
	l := s.lane(&p.InfoHash)
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.views[p.InfoHash]
	if v == nil {
		if v = l.view(p.InfoHash, now); v == nil {
			return // no memory: the peer's own next announce tells it
		}
		v.usedAt = 0
	}
	s.buffer(l, v, kind, end, meta)
	s.metrics.refilled.Add(1)
	if v.ops.bytes() > 0 {
		l.push(v)
	}
}

func rand64() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
