package wsserver

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// socketTable is the places of open sockets, and how many each source has.
type socketTable struct {
	places []atomic.Pointer[socket] // nil: free

	mu      sync.Mutex // guards what follows
	free    []uint32
	made    int // places that were ever given; those above are free too
	used    int
	peak    int
	sources map[netip.Addr]int32
	closed  bool // no place is given any more

	adopting sync.WaitGroup // handshakes under way; added to under mu, and not once closed
}

func (t *socketTable) init(maxConns int) {
	t.places = make([]atomic.Pointer[socket], maxConns)
	t.sources = make(map[netip.Addr]int32)
}

func (t *socketTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used
}

// room tells whether reserve would find a place now.
func (t *socketTable) room(addr netip.Addr, most, perIP int) refusal {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.roomLocked(addr, most, perIP)
}

func (t *socketTable) roomLocked(addr netip.Addr, most, perIP int) refusal {
	switch {
	case t.closed:
		return refusedSwitch
	case t.used >= min(most, len(t.places)):
		return refusedFull
	case addr.IsValid() && int(t.sources[source(addr)]) >= perIP:
		return refusedSource
	}
	return refusedNot
}

// reserve gives out a place, and counts an adoption, which is the caller's to end; release takes the place back.
func (t *socketTable) reserve(addr netip.Addr, most, perIP int) (place uint32, why refusal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if why = t.roomLocked(addr, most, perIP); why != refusedNot {
		return 0, why
	}
	if n := len(t.free); n > 0 {
		place, t.free = t.free[n-1], t.free[:n-1]
	} else {
		place = uint32(t.made)
		t.made++
	}
	t.adopting.Add(1)
	t.used++
	t.peak = max(t.peak, t.used)
	if addr.IsValid() {
		t.sources[source(addr)]++
	}
	return place, refusedNot
}

func (t *socketTable) release(place uint32, addr netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.places[place].Store(nil)
	t.free = append(t.free, place)
	t.used--
	if addr.IsValid() {
		if n := t.sources[source(addr)]; n > 1 {
			t.sources[source(addr)] = n - 1
		} else {
			delete(t.sources, source(addr))
		}
	}
}

// given is how many places were ever given.
func (t *socketTable) given() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.made
}

// most is how many sockets there were at once.
func (t *socketTable) most() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peak
}

// close gives no place any more.
func (t *socketTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// each calls f with the open sockets of places from to to, and returns the first place behind all that were ever given.
func (t *socketTable) each(from, to int, f func(*socket)) (made int) {
	t.mu.Lock()
	made = t.made
	t.mu.Unlock()
	for i := from; i < min(to, made); i++ {
		if s := t.places[i].Load(); s != nil {
			f(s)
		}
	}
	return made
}
