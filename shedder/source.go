package shedder

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// Budget is what one source may ask for in the long run and at once.
type Budget struct {
	Rate  float64 // requests a second; 0: no bound
	Burst int     // requests at once
}

// sources hold what each source has asked for lately, without a list of them: a source is hashed to a cell, and sources that
// meet in one share its budget. So it fails closed, a flood of addresses never seen costs nothing, and nothing can be filled.
type sources struct {
	seed            maphash.Seed
	hosts, prefixes []atomic.Uint64 // when the budget is used up to (GCRA), in nanoseconds of the Gate's clock
	host, prefix    limit
	tight           atomic.Int32    // how often the rates are halved; below zero, doubled
	strikes         []atomic.Uint64 // a window of time, and how many were refused in it

	known       [2][]atomic.Uint64 // bits: two generations
	young       atomic.Uint32      // which of them is written to
	youngSince  time.Time          // Gate.Step's
	remembering atomic.Bool        // a source served now becomes known
}

const (
	sourceCells = 1 << 18 // 2 MiB each; 2,000 attackers take 0.8 % of the others with them
	strikeCells = 1 << 16
	knownBits   = 1 << 22 // half a MiB a generation; of 200,000 known, one stranger in 120 passes for one

	// knownFor is how long a source is known after it was served: at least half of it, and an interval is within that.
	knownFor = 4 * time.Hour

	// strikesOut are refusals within strikeTime that make an offender of a source: its burst is used up by then, and a client
	// that is told to come back in half an hour does not ask again and again.
	strikesOut = 6
	strikeTime = int64(10 * time.Second)
)

// mostTight bounds how often the rates are halved while an overload lasts: 20 a second becomes one in 1.6 s, of a network no less
// than an eighth. Two thousand sources that keep to 20 a second each are more than small machines serve; no client asks for as
// much as one. With the rates doubled mostLoose times there is no budget.
const (
	mostTight       = 5
	mostTightPrefix = 3
	mostLoose       = 20
)

// limit is a Budget in nanoseconds.
type limit struct{ spacing, allowed int64 }

func newLimit(b Budget) limit {
	if b.Rate <= 0 {
		return limit{}
	}
	spacing := max(int64(float64(time.Second)/b.Rate), 1)
	return limit{spacing: spacing, allowed: spacing * int64(max(b.Burst-1, 0))}
}

func (s *sources) init(host, prefix Budget) {
	s.seed = maphash.MakeSeed()
	s.hosts = make([]atomic.Uint64, sourceCells)
	s.prefixes = make([]atomic.Uint64, sourceCells)
	s.strikes = make([]atomic.Uint64, strikeCells)
	for i := range s.known {
		s.known[i] = make([]atomic.Uint64, knownBits/64)
	}
	s.host, s.prefix = newLimit(host), newLimit(prefix)
	s.remembering.Store(true)
}

// sourceKey is a source's hashes: of the host a budget is for, an IPv4 address or an IPv6 /64, and of its network, /24 or /48.
type sourceKey struct{ host, prefix uint64 }

func (s *sources) key(addr netip.Addr) sourceKey {
	b := addr.As16()
	if addr.Is4() {
		return sourceKey{maphash.Bytes(s.seed, b[10:]), maphash.Bytes(s.seed, b[10:15])}
	}
	return sourceKey{maphash.Bytes(s.seed, b[:8]), maphash.Bytes(s.seed, b[:6])}
}

// charge counts a request at now against the budgets of its host and its network, and tells whether one was used up. Who is
// over is not charged: a source may come back as soon as it keeps to its rate. Nor is its network, whose other hosts are not
// to pay for one that is cut already.
func (s *sources) charge(k sourceKey, now int64) (over bool) {
	tight := s.tight.Load()
	return s.host.charge(&s.hosts[k.host%sourceCells], now, tight) ||
		s.prefix.charge(&s.prefixes[k.prefix%sourceCells], now, min(tight, mostTightPrefix))
}

// charge takes a request's time off the budget. With the rate halved, the time that may be ahead stays, and so the burst is
// halved too.
func (l limit) charge(cell *atomic.Uint64, now int64, tight int32) (over bool) {
	if l.spacing == 0 {
		return false
	}
	spacing := l.spacing << max(tight, 0) >> max(-tight, 0)
	for {
		old := cell.Load()
		due := max(int64(old), now)
		if due-now > l.allowed {
			return true
		}
		if cell.CompareAndSwap(old, uint64(due+spacing)) {
			return false
		}
	}
}

// over tells whether charge would, without charging.
func (s *sources) over(k sourceKey, now int64) bool {
	due := int64(s.hosts[k.host%sourceCells].Load())
	return s.host.spacing > 0 && due-now > s.host.allowed
}

// strike counts a refusal, and tells whether it is the one that makes its source an offender.
func (s *sources) strike(k sourceKey, now int64) bool {
	cell := &s.strikes[k.host%strikeCells]
	window := uint64(now/strikeTime) << 16
	for {
		old := cell.Load()
		next := old + 1
		if old>>16 != window>>16 {
			next = window + 1
		}
		if next&0xffff == 0 {
			return false
		}
		if cell.CompareAndSwap(old, next) {
			return next&0xffff == strikesOut
		}
	}
}

// remember makes a source that is served a known one, while there is no overload: in one, attackers are served too.
func (s *sources) remember(k sourceKey) {
	if !s.remembering.Load() {
		return
	}
	young := s.known[s.young.Load()]
	for _, bit := range k.bits() {
		if word := &young[bit/64]; word.Load()&(1<<(bit%64)) == 0 {
			word.Or(1 << (bit % 64))
		}
	}
}

// isKnown tells whether a source was served in the last hours.
func (s *sources) isKnown(k sourceKey) bool {
	for i := range s.known {
		all := true
		for _, bit := range k.bits() {
			all = all && s.known[i][bit/64].Load()&(1<<(bit%64)) != 0
		}
		if all {
			return true
		}
	}
	return false
}

func (k sourceKey) bits() [2]uint64 {
	return [2]uint64{k.host >> 32 % knownBits, k.host >> 8 % knownBits}
}

// rotate forgets the old generation when the young one has had its time. It does not while strangers are not remembered.
func (s *sources) rotate(now time.Time) {
	if s.youngSince.IsZero() {
		s.youngSince = now
	}
	if !s.remembering.Load() || now.Sub(s.youngSince) < knownFor/2 {
		return
	}
	s.youngSince = now
	next := 1 - s.young.Load()
	for i := range s.known[next] {
		s.known[next][i].Store(0)
	}
	s.young.Store(next)
}
