package shared

import (
	"sync"
	"time"

	"spillway/tracker/swarm"
)

// A waiter is a request that waits for a view. It is told once.
type waiter struct {
	once  sync.Once
	store *Store
	ch    chan struct{} // closed, or
	done  func()        // called
}

// tell tells it, and whether it had not been told before.
func (w *waiter) tell() (first bool) {
	w.once.Do(func() {
		first = true
		w.store.waiting.Add(-1)
		if w.ch != nil {
			close(w.ch)
		} else {
			w.done()
		}
	})
	return first
}

// mayWait registers a waiter for the next thing a call brings to v, or returns nil: when Redis is slow or down, or when too many
// wait. The lane's lock is held.
func (s *Store) mayWait(l *lane, v *view) *waiter {
	if !s.breaker(l).healthy(s.cfg.Wait) {
		s.metrics.waitSkipped.Add(1)
		return nil
	}
	if int(s.waiting.Add(1)) > s.cfg.MaxWaiting {
		s.waiting.Add(-1)
		s.metrics.waitRefused.Add(1)
		return nil
	}
	s.metrics.waits.Add(1)
	w := &waiter{store: s, ch: make(chan struct{})}
	v.waiters = append(v.waiters, w)
	return w
}

// await waits until all have been told, at most Config.Wait.
func (s *Store) await(waiters ...*waiter) {
	began := time.Now()
	timer := time.NewTimer(s.cfg.Wait)
	defer timer.Stop()
	late := false
	for _, w := range waiters {
		if late {
			w.tell()
			continue
		}
		select {
		case <-w.ch:
		case <-timer.C:
			late = true
			s.metrics.waitTimeouts.Add(1)
			w.tell()
		}
	}
	s.metrics.waited.observe(time.Since(began))
}

// Ask tells whether this node can answer an announce or a scrape of the swarm as well as it ever will: what it knows is fresh, or
// Redis is not to be waited for. If not, a fetch is under way, and done is called once, from another goroutine, when it has
// come or Config.Wait is over. It is for loops that must not block: put the request aside, and announce when called. done
// must not block either.
func (s *Store) Ask(infoHash *swarm.InfoHash, now time.Time, done func()) bool {
	l := s.lane(infoHash)
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.view(*infoHash, now)
	if v == nil || !s.cold(v, v.peersAt, now) {
		return true
	}
	v.want = needPeers
	w := s.mayWait(l, v)
	l.push(v)
	if w == nil {
		return true
	}
	// Nobody can tell w before the lock is given back.
	w.ch, w.done = nil, done
	time.AfterFunc(s.cfg.Wait, func() {
		if w.tell() {
			s.metrics.waitTimeouts.Add(1)
		}
	})
	return false
}

// freshFor is how long what is known of v is as good as new. In a small swarm each newcomer matters, and few come; in a big one a
// sample is a sample, and many ask: 20 ms a peer, Config.Fresh at most.
func (s *Store) freshFor(v *view) time.Duration {
	n := 0
	for l := range lists {
		if v.unseen[l] > 0 && len(v.lists[l])/widthOf(l) < s.cfg.Sample/2 {
			return min(freshPerPeer, s.cfg.Fresh) // a scrape has told of more than the announce before it
		}
		n += v.total(l)
	}
	return min(time.Duration(1+n)*freshPerPeer, s.cfg.Fresh)
}

// freshPerPeer: peers that announce every half an hour are one in 1,800 s/n, so that in a swarm of n the next announce finds less
// than n*n*20 ms/1,800 s newcomers unknown: one in ten times for a hundred peers.
const freshPerPeer = 20 * time.Millisecond

// staleTimes is how many times freshFor an answer from memory may be old, if it is fetched anew for the next.
const staleTimes = 3

// old tells whether what is known of v as of at, Unix ns, should be fetched again; cold, whether that is worth a wait. A clock
// that was set back makes everything old.
func (s *Store) old(v *view, at int64, now time.Time) bool {
	age := time.Duration(now.UnixNano() - at)
	fresh := s.freshFor(v)
	return at == 0 || age > fresh || age < -staleTimes*fresh
}

func (s *Store) cold(v *view, at int64, now time.Time) bool {
	age := time.Duration(now.UnixNano() - at)
	stale := staleTimes * s.freshFor(v)
	return at == 0 || age > stale || age < -stale
}
