package swarm

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// Config bounds a Table. Zero means the default.
type Config struct {
	MaxBytes         int64 // memory for swarms, peers and their indexes; default 512 MiB, at least minBytes
	MaxSwarms        int   // default 2,000,000; rounded up to a whole number a shard
	MaxPeersPerSwarm int   // both families together; default 200,000
}

// Table is the store in memory. It is safe for concurrent use.
//
// Swarms are spread over shards by a keyed hash of the info hash. A shard's memory holds no pointers but those to its
// pages, so the garbage collector has nothing to scan however many peers there are.
type Table struct {
	cfg    Config
	epoch  time.Time // tick 0: long enough before the start that swarm.emptySince, read from a snapshot, is above it
	budget budget
	seed   maphash.Seed
	shards [shardCount]shard
	saving sync.Mutex // one Save at a time

	expired    atomic.Uint64
	fullSwarms atomic.Uint64
	fullPeers  atomic.Uint64
}

const (
	shardBits  = 6
	shardCount = 1 << shardBits
)

// shard is the swarms whose info hash falls to it.
type shard struct {
	mu     sync.Mutex // guards everything below
	arena  arena
	seed   maphash.Seed
	chunks []*[chunkSwarms]swarm // dense: swarm i is chunks[i/chunkSwarms][i%chunkSwarms]
	index  []uint32              // slot: place plus one, and a tag, as in list.go; nil before the first swarm
	n      int                   // swarms
	// Sums over the shard's swarms, all families.
	seeders, leechers        int
	peers4, peers6, peersWeb int
	_                        [64]byte // keeps neighbours' locks on other cache lines
}

const (
	chunkSwarms = 256
	chunkBytes  = chunkSwarms * 80
)

// swarm is 80 bytes without pointers.
type swarm struct {
	hash       InfoHash
	downloaded uint32
	v4, v6     list
	web        list
	paused     uint32 // partial seeds among the leechers
	emptySince uint32 // tick at which the last peer left; 0 while there are peers
}

// New makes an empty table.
func New(cfg Config) *Table {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 512 << 20
	}
	if cfg.MaxSwarms == 0 {
		cfg.MaxSwarms = 2_000_000
	}
	if cfg.MaxPeersPerSwarm == 0 {
		cfg.MaxPeersPerSwarm = 200_000
	}
	cfg.MaxPeersPerSwarm = min(cfg.MaxPeersPerSwarm, maxListPeers)
	t := &Table{cfg: cfg, epoch: time.Now().Add(-2 * keepEmpty * Tick), seed: maphash.MakeSeed()}
	t.budget.max = cfg.MaxBytes
	t.reset()
	return t
}

// reset forgets everything. The caller has the table to itself.
func (t *Table) reset() {
	t.budget.used.Store(0)
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		s.arena, s.seed = newArena(&t.budget), t.seed
		s.chunks, s.index, s.n = nil, nil, 0
		s.seeders, s.leechers, s.peers4, s.peers6, s.peersWeb = 0, 0, 0, 0, 0
		s.mu.Unlock()
	}
}

// tick is the time in ticks since the epoch.
func (t *Table) tick(now time.Time) uint32 { return uint32(max(now.Sub(t.epoch), 0) / Tick) }

// Announce records the peer's word and fills r with the swarm's counts and at most a.NumWant of its other peers, never
// the announcer. A peer for which there is no room is answered like any other and counted in Stats. A stopped peer gets
// counts and no peers.
func (t *Table) Announce(a *Announce, now time.Time, r *Reply) {
	r.Counts, r.Known = Counts{}, false
	r.Peers4, r.Peers6, r.PeersWeb = r.Peers4[:0], r.Peers6[:0], r.PeersWeb[:0]

	hash := maphash.Bytes(t.seed, a.InfoHash[:])
	s := &t.shards[hash>>(64-shardBits)]
	tick := t.tick(now)
	stored := !a.Unreachable && a.Event != EventStopped

	s.mu.Lock()
	defer s.mu.Unlock()
	sw := s.find(hash, &a.InfoHash)
	if sw == nil {
		if !stored {
			return
		}
		if sw = t.create(s, hash, &a.InfoHash); sw == nil {
			return
		}
		sw.emptySince = tick // until a peer is in: there may be no memory for one
	}
	self4, self6, selfWeb := -1, -1, -1
	p4, p6, web := s.open(&sw.v4, len(a.V4)), s.open(&sw.v6, len(a.V6)), s.open(&sw.web, len(a.Web))
	wasSeeder := false
	if a.Has4 {
		self4 = t.record(s, sw, &p4, a.V4[:], a, tick, r, &wasSeeder)
	}
	if a.Has6 {
		self6 = t.record(s, sw, &p6, a.V6[:], a, tick, r, &wasSeeder)
	}
	if a.HasWeb {
		selfWeb = t.record(s, sw, &web, a.Web[:], a, tick, r, &wasSeeder)
	}
	if a.Event == EventCompleted && a.Seeder && !wasSeeder && (self4 >= 0 || self6 >= 0 || selfWeb >= 0) {
		// A seeder that says again that it has completed has not downloaded it again.
		sw.downloaded++
	}
	if sw.peers() > 0 {
		sw.emptySince = 0
	} else if sw.emptySince == 0 {
		sw.emptySince = tick
	}
	r.Counts = sw.counts()
	if a.NumWant <= 0 || a.Event == EventStopped {
		return
	}
	d := newDice()
	if a.HasWeb {
		n := web.eligible(a.Seeder, selfWeb)
		r.PeersWeb = web.sample(r.PeersWeb, min(a.NumWant, n), n, selfWeb, &d)
		return
	}
	n4, n6 := p4.eligible(a.Seeder, self4), p6.eligible(a.Seeder, self6)
	if a.OneFamily {
		r.takeOne(a, &p4, &p6, n4, n6, self4, self6, &d)
		return
	}
	k4, k6 := share(a.NumWant, n4, n6, a.PreferFamily)
	r.Peers4 = p4.sample(r.Peers4, k4, n4, self4, &d)
	r.Peers6 = p6.sample(r.Peers6, k6, n6, self6, &d)
}

// takeOne samples one family alone.
func (r *Reply) takeOne(a *Announce, p4, p6 *peers, n4, n6, self4, self6 int, d *dice) {
	if a.PreferFamily == Family4 {
		r.Peers4 = p4.sample(r.Peers4, min(a.NumWant, n4), n4, self4, d)
	} else {
		r.Peers6 = p6.sample(r.Peers6, min(a.NumWant, n6), n6, self6, d)
	}
}

// record enters, moves or removes one endpoint of an announce and returns its place, or -1 when it is not in the list.
func (t *Table) record(s *shard, sw *swarm, p *peers, endpoint []byte, a *Announce, tick uint32, r *Reply, wasSeeder *bool) int {
	i := -1
	if p.n > 0 {
		i = p.find(endpoint)
	}
	if i >= 0 {
		r.Known = true
		*wasSeeder = *wasSeeder || p.isSeeder(i)
		s.uncount(sw, p, i)
	}
	if a.Event == EventStopped {
		if i >= 0 {
			p.remove(i)
		}
		return -1
	}
	if i < 0 {
		if a.Unreachable {
			return -1
		}
		if sw.peers() >= t.cfg.MaxPeersPerSwarm {
			t.fullPeers.Add(1)
			return -1
		}
	}
	meta := uint16(tick+ticks(a.TTL)) & metaTick
	if a.Event == EventPaused && !a.Seeder {
		meta |= metaPaused
	}
	if i < 0 {
		if i = p.insert(endpoint, a.Seeder, meta); i < 0 {
			return -1
		}
	} else {
		i = p.move(i, a.Seeder)
		p.setMeta(i, meta)
	}
	s.count(sw, p, i)
	return i
}

// count and uncount keep the sums as the entry at place i is entered or about to change.
func (s *shard) count(sw *swarm, p *peers, i int)   { s.adjust(sw, p, i, 1) }
func (s *shard) uncount(sw *swarm, p *peers, i int) { s.adjust(sw, p, i, -1) }

func (s *shard) adjust(sw *swarm, p *peers, i, by int) {
	if p.isSeeder(i) {
		s.seeders += by
	} else {
		s.leechers += by
	}
	switch p.end {
	case len(Endpoint4{}):
		s.peers4 += by
	case len(Endpoint6{}):
		s.peers6 += by
	default:
		s.peersWeb += by
	}
	if p.meta(i)&metaPaused != 0 {
		sw.paused += uint32(by) // wraps for -1
	}
}

// ticks is ttl in whole ticks, at least one, at most MaxTTL.
func ticks(ttl time.Duration) uint32 { return uint32(max(min(ttl, MaxTTL), Tick) / Tick) }

// Scrape appends the counts of each info hash to dst and returns it. An unknown one has zeros.
func (t *Table) Scrape(hashes []InfoHash, dst []Counts) []Counts {
	for i := range hashes {
		hash := maphash.Bytes(t.seed, hashes[i][:])
		dst = append(dst, t.shards[hash>>(64-shardBits)].scrape(hash, &hashes[i]))
	}
	return dst
}

// scrape gives its lock back whatever happens, as Announce does: a request that panics ends by itself, and must not take a
// shard with it.
func (s *shard) scrape(hash uint64, infoHash *InfoHash) (c Counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sw := s.find(hash, infoHash); sw != nil {
		c = sw.counts()
	}
	return c
}

// peers is how many there are, of all families.
func (sw *swarm) peers() int { return int(sw.v4.n + sw.v6.n + sw.web.n) }

func (sw *swarm) counts() Counts {
	leechers := sw.v4.leechers + sw.v6.leechers + sw.web.leechers
	return Counts{
		Complete:    uint32(sw.peers()) - leechers,
		Incomplete:  leechers,
		Downloaded:  sw.downloaded,
		Downloaders: leechers - sw.paused,
	}
}

// Stats is what a table holds and what it had to refuse. Bytes are what the budget counts.
type Stats struct {
	Swarms, MaxSwarms int
	Seeders, Leechers int
	Peers4, Peers6    int
	PeersWeb          int
	MaxPeersPerSwarm  int
	Bytes, MaxBytes   int64
	Expired           uint64 // peers that left without a word
	RefusedSwarms     uint64 // announces whose swarm was not made: MaxSwarms
	RefusedPeers      uint64 // announces whose peer was not stored: MaxPeersPerSwarm
	RefusedMemory     uint64 // the same: MaxBytes
}

// Stats sums up the shards, taking each lock in turn.
func (t *Table) Stats() Stats {
	st := Stats{
		MaxSwarms:        t.maxShardSwarms() * shardCount,
		MaxPeersPerSwarm: t.cfg.MaxPeersPerSwarm,
		Bytes:            t.budget.used.Load(),
		MaxBytes:         t.budget.max,
		Expired:          t.expired.Load(),
		RefusedSwarms:    t.fullSwarms.Load(),
		RefusedPeers:     t.fullPeers.Load(),
		RefusedMemory:    t.budget.refused.Load(),
	}
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		st.Swarms += s.n
		st.Seeders += s.seeders
		st.Leechers += s.leechers
		st.Peers4 += s.peers4
		st.Peers6 += s.peers6
		st.PeersWeb += s.peersWeb
		s.mu.Unlock()
	}
	return st
}

// The swarms of a shard: a dense array and an index over it, as a list's peers are.

func (s *shard) at(i int) *swarm { return &s.chunks[i/chunkSwarms][i%chunkSwarms] }

// find returns the swarm, or nil. The pointer is valid until a swarm is created or deleted.
func (s *shard) find(hash uint64, ih *InfoHash) *swarm {
	if s.index == nil {
		return nil
	}
	tag, mask := shardTag(hash), len(s.index)-1
	for i := int(hash) & mask; ; i = (i + 1) & mask {
		v := s.index[i]
		if v == 0 {
			return nil
		}
		if v&^placeMask == tag {
			if sw := s.at(int(v&placeMask) - 1); sw.hash == *ih {
				return sw
			}
		}
	}
}

// shardTag takes other bits than the ones that chose the shard and the slot.
func shardTag(hash uint64) uint32 { return uint32(hash>>(64-shardBits-8)) << placeBits }

// maxShardSwarms is a shard's part of MaxSwarms. Chance fills shards unevenly, so some refuse swarms while a few per cent
// of the whole are still free.
func (t *Table) maxShardSwarms() int {
	per := (t.cfg.MaxSwarms + shardCount - 1) / shardCount
	return min(per, placeMask-1)
}

// create makes the swarm, or returns nil when MaxSwarms or the memory is reached.
func (t *Table) create(s *shard, hash uint64, ih *InfoHash) *swarm {
	if s.n >= t.maxShardSwarms() {
		t.fullSwarms.Add(1)
		return nil
	}
	if s.n+1 > len(s.index)/4*3 && !s.growIndex() {
		return nil
	}
	if s.n == len(s.chunks)*chunkSwarms {
		if !s.arena.budget.take(chunkBytes) {
			return nil
		}
		s.chunks = append(s.chunks, new([chunkSwarms]swarm))
	}
	sw := s.at(s.n)
	*sw = swarm{hash: *ih}
	s.n++
	s.link(hash, s.n)
	return sw
}

func (s *shard) link(hash uint64, place int) {
	mask := len(s.index) - 1
	i := int(hash) & mask
	for s.index[i] != 0 {
		i = (i + 1) & mask
	}
	s.index[i] = shardTag(hash) | uint32(place)
}

func (s *shard) growIndex() bool {
	slots := max(16, 2*len(s.index))
	if !s.arena.budget.take(4 * (slots - len(s.index))) {
		return false
	}
	s.index = make([]uint32, slots)
	for i := range s.n {
		s.link(maphash.Bytes(s.seed, s.at(i).hash[:]), i+1)
	}
	return true
}

// slotOf returns the index slot that names the swarm at place i.
func (s *shard) slotOf(i int) int {
	mask := len(s.index) - 1
	slot := int(maphash.Bytes(s.seed, s.at(i).hash[:])) & mask
	for s.index[slot]&placeMask != uint32(i+1) {
		slot = (slot + 1) & mask
	}
	return slot
}

// delete takes out the swarm at place i, which has no peers; the last swarm takes its place.
func (s *shard) delete(i int) {
	mask := len(s.index) - 1
	hole := s.slotOf(i)
	for j := (hole + 1) & mask; s.index[j] != 0; j = (j + 1) & mask {
		v := s.index[j]
		home := int(maphash.Bytes(s.seed, s.at(int(v&placeMask) - 1).hash[:])) & mask
		if (j-home)&mask >= (j-hole)&mask {
			s.index[hole] = v
			hole = j
		}
	}
	s.index[hole] = 0
	last := s.n - 1
	if i != last {
		slot := s.slotOf(last)
		s.index[slot] = s.index[slot]&^placeMask | uint32(i+1)
		*s.at(i) = *s.at(last)
	}
	s.n--
	// A chunk is kept in hand so that one swarm that comes and goes does not make and drop it.
	if spare := len(s.chunks)*chunkSwarms - s.n; spare >= 2*chunkSwarms {
		s.chunks[len(s.chunks)-1] = nil
		s.chunks = s.chunks[:len(s.chunks)-1]
		s.arena.budget.give(chunkBytes)
	}
}

// expiredAt tells whether a meta's tick has come. Ticks wrap; MaxTTL keeps the comparison unambiguous.
func expiredAt(meta uint16, tick uint32) bool {
	return (uint16(tick)-meta)&metaTick < (metaTick+1)/2
}
