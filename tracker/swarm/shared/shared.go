// Package shared is a store of swarms that several nodes share through Redis.
//
// A node answers from its own memory. It has two things there: a swarm.Table of the peers that announced to it, and views, what
// it knows of whole swarms. Redis is told what was announced here, and asked what was announced elsewhere, in one call a
// swarm, many swarms a round trip.
//
// An announce passes through, in order:
//
//	Table.Announce   the node's own peers, as with store.kind memory
//	lane.mu          the only other lock
//	view.apply       the view of the swarm, at once
//	ops.add          what Redis is to be told
//	view.reply       counts and peers of the whole swarm
//
// and returns if the view is fresh. If not, a fetch is under way; AnnounceWait waits for it, Announce does not. Beside that path
// senders (sender.go) take what waits from the lanes and call the script (script.lua), which is where swarms are changed
// and sampled. When Redis is slow or gone, nobody waits: breaker.go.
//
// docs/redis.md has the layout, the bounds and what happens when; docs/adr/0008-swarms-in-redis.md has why.
package shared

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"spillway/tracker/swarm"
	"spillway/tracker/swarm/shared/link"
)

// Config says where Redis is and how much may be waited for it. Zero means the default.
type Config struct {
	Redis  link.Config // its Name is this node's
	Prefix string      // of keys; default "sw:"

	// Wait is how long an announce waits for a swarm that is not known here; default 100 ms. A call that takes longer than
	// five times that has failed.
	Wait time.Duration
	// Fresh is how old the view of a big swarm may be before it is fetched again, while it is used; default 2 s. Up to three times
	// that announces are answered from it meanwhile, above they wait. Of small swarms less: freshFor.
	Fresh time.Duration
	// Sample is how many peers of one list (leechers, seeders; IPv4, IPv6) a view holds; default 400.
	Sample int
	// MaxPeersPerSwarm bounds a swarm in Redis; default 200,000.
	MaxPeersPerSwarm int

	MaxViewBytes   int64 // memory for views; default 256 MiB
	MaxBufferBytes int64 // memory for what Redis is still to be told; default 64 MiB
	MaxWaiting     int   // announces that wait at once; default 4,096
	RefillRate     int   // peers a second that are announced again after Redis lost them; default 20,000

	// NodeID names this node's WebSocket peers among all nodes'; zero: one of chance. Alive tells whether a peer of another node can
	// be reached: the others are told to nobody. Nil: none can. Dead tells whether that node is known to be gone for good: its peers are
	// not counted either. Nil: none is. Both are called under a lane's lock, and must not wait.
	NodeID [nodeBytes]byte
	Alive  func(node [nodeBytes]byte) bool
	Dead   func(node [nodeBytes]byte) bool

	// Now is the clock, for tests that turn it. Nil means time.Now.
	Now func() time.Time
}

func (c *Config) defaults() {
	if c.Prefix == "" {
		c.Prefix = "sw:"
	}
	if c.Wait == 0 {
		c.Wait = 100 * time.Millisecond
	}
	if c.Fresh == 0 {
		c.Fresh = 2 * time.Second
	}
	if c.Sample == 0 {
		c.Sample = 400
	}
	if c.MaxPeersPerSwarm == 0 {
		c.MaxPeersPerSwarm = 200_000
	}
	if c.MaxViewBytes == 0 {
		c.MaxViewBytes = 256 << 20
	}
	if c.MaxBufferBytes == 0 {
		c.MaxBufferBytes = 64 << 20
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = 4096
	}
	if c.RefillRate == 0 {
		c.RefillRate = 20_000
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Store is the store. It is safe for concurrent use.
type Store struct {
	cfg  Config
	own  *swarm.Table
	log  *slog.Logger
	node [nodeBytes]byte // names this process's WebSocket peers among all nodes'

	lanes   [laneCount]lane
	senders [laneCount]sender
	active  atomic.Int32 // senders that have lanes: few with one Redis, all with a cluster
	redis   redisLink
	refill  refill

	buffered atomic.Int64 // bytes of ops not yet acknowledged
	waiting  atomic.Int32 // announces that wait
	metrics  counters
	sample   string // Config.Sample, as the script takes it
}

// New makes a store over a table of this node's own peers, which the caller goes on to save, load and sweep. It connects when
// Run does; until then it is degraded.
func New(cfg Config, own *swarm.Table, log *slog.Logger) *Store {
	cfg.defaults()
	s := &Store{cfg: cfg, own: own, log: log, node: cfg.NodeID}
	if s.node == ([nodeBytes]byte{}) {
		_, _ = rand.Read(s.node[:])
	}
	for i := range s.lanes {
		s.lanes[i].init(s, i)
		s.senders[i].init()
	}
	s.active.Store(1)
	s.redis.init(&s.cfg)
	s.refill.init()
	s.markLanes()
	s.sample = strconv.Itoa(cfg.Sample)
	return s
}

// Run talks to Redis until ctx ends. What waits to be sent then is sent, if Redis takes it in time.
func (s *Store) Run(ctx context.Context) {
	var tasks sync.WaitGroup
	for i := range s.senders {
		tasks.Go(func() { s.send(ctx, i) })
	}
	tasks.Go(func() { s.watchRedis(ctx) })
	tasks.Go(func() { s.runRefill(ctx) })
	tasks.Go(func() { s.runSweep(ctx) })
	tasks.Wait()
	s.redis.Close()
}

// Announce records the peer's word, and fills r from what this node knows: it never waits. If that is not fresh, a fetch is under
// way when it returns. WebSocket peers are told WebSocket peers of this
// node and of those that Config.Alive says are there.
func (s *Store) Announce(a *swarm.Announce, now time.Time, r *swarm.Reply) {
	s.announce(a, now, r, false)
}

// AnnounceWait is Announce, but waits for the swarm if this node does not know it or has not for a while: at most Config.Wait, and
// not at all while Redis is slow or down. For callers that may block.
func (s *Store) AnnounceWait(a *swarm.Announce, now time.Time, r *swarm.Reply) {
	s.announce(a, now, r, true)
}

func (s *Store) announce(a *swarm.Announce, now time.Time, r *swarm.Reply, wait bool) {
	numWant := a.NumWant
	if !a.HasWeb {
		a.NumWant = 0 // peers come from the view
	}
	s.own.Announce(a, now, r)
	r.FarWeb = r.FarWeb[:0]
	a.NumWant = numWant
	stopped := a.Event == swarm.EventStopped
	stored := !a.Unreachable && !stopped
	// A peer for which the table had no room is no business of Redis's either, or a flood of info hashes would fill it.
	refused := stored && r.Complete+r.Incomplete == 0
	wasKnown := r.Known

	l := s.lane(&a.InfoHash)
	l.mu.Lock()
	v := l.view(a.InfoHash, now)
	if v == nil { // no room
		l.mu.Unlock()
		s.metrics.noView.Add(1)
		if (stored || stopped) && !refused {
			s.overflow(stopped, a.Event == swarm.EventCompleted)
		}
		s.ownReply(a, now, r, wasKnown)
		return
	}
	if (stored || stopped) && !refused {
		wasKnown = s.record(l, v, a, now) || wasKnown
	}
	var w *waiter
	if s.old(v, v.peersAt, now) {
		v.want = needPeers
		if wait && s.cold(v, v.peersAt, now) {
			w = s.mayWait(l, v)
		}
	}
	if v.want != needNothing || v.ops.bytes() > 0 {
		l.push(v)
	}
	if w != nil {
		l.mu.Unlock()
		s.await(w)
		l.mu.Lock()
		if v = l.views[a.InfoHash]; v == nil {
			l.mu.Unlock()
			s.ownReply(a, now, r, wasKnown)
			return
		}
	}
	if v.peersAt == 0 {
		l.mu.Unlock()
		s.ownReply(a, now, r, wasKnown)
		return
	}
	if s.cold(v, v.peersAt, now) { // neither fetched nor waited for: Redis is down, or the caller cannot wait
		v.trim(tickOf(now.Add(s.skew())))
	}
	r.Counts, r.Known = v.counts(), wasKnown
	v.reply(a, r)
	if a.HasWeb && s.cfg.Alive != nil {
		s.webReply(v, a, r)
	}
	l.mu.Unlock()
}

// ownReply answers from this node's own peers: all there is to know of a swarm that Redis was not, or could not be, asked about.
func (s *Store) ownReply(a *swarm.Announce, now time.Time, r *swarm.Reply, wasKnown bool) {
	s.metrics.ownReplies.Add(1)
	if !a.HasWeb && a.NumWant > 0 && a.Event != swarm.EventStopped {
		s.own.Announce(a, now, r) // once more, for its peers
	}
	r.Known = wasKnown
}

// record enters an announce into the view and among what Redis is to be told. The lane's lock is held.
func (s *Store) record(l *lane, v *view, a *swarm.Announce, now time.Time) (known bool) {
	var kind byte
	if a.Seeder {
		kind |= kindSeeder
	}
	switch a.Event {
	case swarm.EventStopped:
		kind |= kindStopped
	case swarm.EventCompleted:
		if a.Seeder {
			kind |= kindCompleted
		}
	}
	meta := metaOf(now.Add(s.skew()), a.TTL, a.Event == swarm.EventPaused && !a.Seeder)
	one := func(kind byte, end []byte) {
		known = v.apply(kind, end, meta, 2*s.cfg.Sample) || known
		s.buffer(l, v, kind, end, meta)
	}
	if a.Has4 {
		one(kind, a.V4[:])     // family4 is 0
		kind &^= kindCompleted // one peer on two families has downloaded once
	}
	if a.Has6 {
		one(kind|family6, a.V6[:])
		kind &^= kindCompleted
	}
	if a.HasWeb {
		one(kind|familyWeb, s.webEnd(a.Web))
	}
	return known
}

func (s *Store) webEnd(e swarm.EndpointWeb) []byte {
	var end [nodeBytes + len(e)]byte
	copy(end[:], s.node[:])
	copy(end[nodeBytes:], e[:])
	return end[:]
}

// maxViewOps bounds what one swarm's peers may have waiting: a longer row costs too much to search for the peer's last word.
const maxViewOps = 4096

// buffer adds an op to what is to be sent. What does not fit is counted: peers that live are announced again by the refill, the
// last word of those that left or have completed is lost.
func (s *Store) buffer(l *lane, v *view, kind byte, end []byte, meta uint16) {
	if s.buffered.Load() > s.cfg.MaxBufferBytes || v.ops.bytes() > maxViewOps*opBytes(int(kind&kindFamily)) {
		if v.ops.find(int(kind&kindFamily), end) < 0 {
			s.overflow(kind&kindStopped != 0, kind&kindCompleted != 0)
			return
		}
	}
	n := v.ops.add(kind, end, meta)
	if n == 0 {
		s.metrics.coalesced.Add(1)
	}
	s.buffered.Add(int64(n))
	l.count(v)
}

// overflow counts what Redis is not told.
func (s *Store) overflow(stopped, completed bool) {
	if stopped || completed {
		s.metrics.dropped.Add(1)
	} else {
		s.metrics.deferred.Add(1)
	}
	if !stopped {
		s.refill.need()
	}
}

// Scrape appends the counts of each info hash to dst, as far as this node knows, and returns it. It never waits.
func (s *Store) Scrape(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts {
	return s.scrape(hashes, dst, false)
}

// ScrapeWait is Scrape, but waits for the swarms that this node does not know, as AnnounceWait does; once for all of them.
func (s *Store) ScrapeWait(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts {
	return s.scrape(hashes, dst, true)
}

func (s *Store) scrape(hashes []swarm.InfoHash, dst []swarm.Counts, wait bool) []swarm.Counts {
	now := s.cfg.Now()
	from := len(dst)
	var cold []int
	var waiters []*waiter
	for i := range hashes {
		c, w := s.scrapeOne(&hashes[i], now, wait)
		dst = append(dst, c)
		if w != nil {
			cold, waiters = append(cold, i), append(waiters, w)
		}
	}
	if len(waiters) > 0 {
		s.await(waiters...)
		for _, i := range cold {
			dst[from+i], _ = s.scrapeOne(&hashes[i], now, false)
		}
	}
	return dst
}

func (s *Store) scrapeOne(hash *swarm.InfoHash, now time.Time, wait bool) (c swarm.Counts, w *waiter) {
	l := s.lane(hash)
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.view(*hash, now)
	if v == nil {
		s.metrics.noView.Add(1)
		return s.own.Scrape([]swarm.InfoHash{*hash}, nil)[0], nil
	}
	if s.old(v, v.countsAt, now) {
		v.want = max(v.want, needCounts)
		if wait && s.cold(v, v.countsAt, now) {
			w = s.mayWait(l, v)
		}
		l.push(v)
	}
	if v.countsAt == 0 {
		return s.own.Scrape([]swarm.InfoHash{*hash}, nil)[0], w
	}
	if s.cold(v, v.countsAt, now) {
		v.trim(tickOf(now.Add(s.skew())))
	}
	return v.counts(), w
}

// Stats is what this node holds of its own.
func (s *Store) Stats() swarm.Stats { return s.own.Stats() }

// Buffered is how many bytes Redis is still to be told.
func (s *Store) Buffered() int64 { return s.buffered.Load() }

// Sweep removes what has expired by now from this node's memory.
func (s *Store) Sweep(now time.Time) {
	s.own.Sweep(now)
	for i := range s.lanes {
		s.lanes[i].sweep(now)
	}
}

// runSweep looks after one lane a second.
func (s *Store) runSweep(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for i := 0; ; i = (i + 1) % laneCount {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.lanes[i].sweep(s.cfg.Now())
		}
	}
}
