package proxy

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	sourceSets = 16 << 10
	sourceWays = 4
)

// sources bounds how many connections one source opens a second. A source is an IPv4 address or an IPv6 /64. It is a table of a fixed
// size, 1 MiB: who is not in it may open as many as the bound, and takes the place of who has been quiet for longest. So a flood from
// more sources than fit gets less strict, and never larger.
type sources struct {
	gap     int64 // nanoseconds between two connections at the bound
	seed    maphash.Seed
	locks   [64]sync.Mutex // each guards the sets whose number ends in its own
	sets    [sourceSets][sourceWays]source
	refused atomic.Uint64
}

type source struct {
	key  uint64
	free int64 // when the source will have used up nothing of its bound
}

func newSources(perSecond int) *sources {
	return &sources{gap: max(int64(time.Second)/int64(perSecond), 1), seed: maphash.MakeSeed()}
}

// sourceKey is never 0, which is nobody.
func sourceKey(addr netip.Addr) uint64 {
	b := addr.As16()
	if addr.Is4() {
		return 1<<63 | uint64(binary.BigEndian.Uint32(b[12:])) // 8000::/32 is nobody's, so no /64 has this key
	}
	return max(binary.BigEndian.Uint64(b[:]), 1) // ::/64 has loopback in it
}

// allow tells whether addr may open one more, at the time now in nanoseconds: at most the bound at once, and as many a second.
func (s *sources) allow(addr netip.Addr, now int64) bool {
	key := sourceKey(addr)
	number := maphash.Comparable(s.seed, key) % sourceSets
	mu := &s.locks[number%uint64(len(s.locks))]
	mu.Lock()
	defer mu.Unlock()
	set := &s.sets[number]
	place := &set[0]
	for i := range set {
		if set[i].key == key {
			place = &set[i]
			break
		}
		if set[i].free < place.free {
			place = &set[i]
		}
	}
	if place.key != key {
		*place = source{key: key}
	}
	free := max(place.free, now)
	if free+s.gap > now+int64(time.Second) {
		s.refused.Add(1)
		return false
	}
	place.free = free + s.gap
	return true
}
