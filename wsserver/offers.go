package wsserver

import (
	"hash/maphash"
	"sync"
	"time"

	"spillway/tracker/swarm"
)

// maxOfferAge bounds how long an answer may take: between half of it and all of it. WebTorrent gives an offer up after
// 50 seconds. As aquatic does (max_offer_age), answers nobody waits for are not relayed: they are the way to send
// anything to anybody.
const maxOfferAge = 120 * time.Second

// minOfferSlots is the size of an empty generation.
const minOfferSlots = 1 << 8

// maxOfferSlots bounds a generation: 24 MiB, and 700,000 offers a minute.
const maxOfferSlots = 1 << 20

// expected is an answer somebody waits for.
type expected struct {
	key uint64 // of offerTable.key; 0 is an empty slot
	who waiting
}

// waiting is who waits for an answer.
type waiting struct {
	offerer swarm.EndpointWeb // zero once it has come
	node    [nodeBytes]byte   // zero: this one
}

// offerTable remembers who waits for which answer of whom, in two generations: the young one takes offers, the old one
// is forgotten whole when it has had its time. Nothing is ever deleted from either.
type offerTable struct {
	seed maphash.Seed

	mu         sync.Mutex // guards what follows
	young, old []expected // open addressing; powers of two
	n          int        // in young
}

func (t *offerTable) init() {
	t.seed = maphash.MakeSeed()
	t.young, t.old = make([]expected, minOfferSlots), make([]expected, minOfferSlots)
}

// appendOfferKey writes what an offer and its answer have in common; an offer's name in quotes, however it was escaped.
func appendOfferKey(dst []byte, infoHash *swarm.InfoHash, offerer *[20]byte, answerer, offerID []byte) []byte {
	dst = append(dst, infoHash[:]...)
	dst = append(dst, offerer[:]...)
	dst = append(dst, answerer...)
	return appendText(dst, offerID)
}

func (t *offerTable) key(b []byte) uint64 { return max(maphash.Bytes(t.seed, b), 1) }

// expect notes who waits for an answer. False means that there is no room: then the offer is not worth sending.
func (t *offerTable) expect(key uint64, who waiting) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n >= len(t.young)/4*3 {
		if len(t.young) == maxOfferSlots {
			return false
		}
		grown := make([]expected, 2*len(t.young))
		for _, e := range t.young {
			if e.key != 0 {
				grown[slotOf(grown, e.key)] = e
			}
		}
		t.young = grown
	}
	e := &t.young[slotOf(t.young, key)]
	if e.key == 0 {
		t.n++
	}
	*e = expected{key, who}
	return true
}

// claim returns who waits for the answer, once.
func (t *offerTable) claim(key uint64) (who waiting, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, slots := range [...][]expected{t.young, t.old} {
		e := &slots[slotOf(slots, key)]
		if e.key == key && e.who.offerer != (swarm.EndpointWeb{}) {
			who, e.who = e.who, waiting{}
			return who, true
		}
	}
	return who, false
}

// slotOf is where key is, or the empty slot where it belongs.
func slotOf(slots []expected, key uint64) int {
	mask := len(slots) - 1
	i := int(key) & mask
	for slots[i].key != 0 && slots[i].key != key {
		i = (i + 1) & mask
	}
	return i
}

// rotate forgets the old generation and begins a new one, of a size that would have suited the last.
func (t *offerTable) rotate() {
	t.mu.Lock()
	defer t.mu.Unlock()
	size := minOfferSlots
	for size/4*3 <= t.n && size < maxOfferSlots {
		size *= 2
	}
	next := t.old
	if len(next) != size {
		next = make([]expected, size)
	} else {
		clear(next)
	}
	t.young, t.old, t.n = next, t.young, 0
}

func (t *offerTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}
