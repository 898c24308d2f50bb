package swarm

import (
	"encoding/binary"
	"hash/maphash"
)

// A list holds one family's peers of one swarm: leechers first, then seeders, so that a seeder is offered leechers only
// without looking at anybody else.
//
// An entry is the endpoint as it goes on the wire and two bytes of meta: the tick at which it expires, and a flag. Up to
// scanPeers entries are searched in a line; above that an index maps the endpoint's hash to its place.
type list struct {
	block    handle // the entries
	index    handle // the index, or 0
	n        uint32 // peers
	leechers uint32 // peers[:leechers] are leechers
}

// scanPeers is the longest list that is searched without an index: 128 IPv4 entries are 16 cache lines.
const scanPeers = 128

// An index slot is 0 when empty, else the entry's place plus one below placeBits and a tag from its hash above, which
// spares most looks at entries that only share a slot.
const (
	placeBits = 24
	placeMask = 1<<placeBits - 1
)

// maxListPeers is what an index slot can name.
const maxListPeers = placeMask - 1

const (
	metaPaused = 1 << 15
	metaTick   = metaPaused - 1
)

// peers is a list opened for work: the arena and widths that its methods need. It is made on the stack, under the shard's lock.
type peers struct {
	*list
	a     *arena
	seed  maphash.Seed
	block []byte // the entries' bytes
	slots []byte // the index's bytes, or nil
	end   int    // bytes of an endpoint: 6, 18 or 8
	width int    // bytes of an entry: end and meta
}

func (s *shard) open(l *list, end int) peers {
	p := peers{list: l, a: &s.arena, seed: s.seed, end: end, width: end + 2}
	if l.block != 0 {
		p.block = s.arena.bytes(l.block)
	}
	if l.index != 0 {
		p.slots = s.arena.bytes(l.index)
	}
	return p
}

func (p *peers) endpoint(i int) []byte { return p.block[i*p.width:][:p.end:p.end] }

func (p *peers) meta(i int) uint16 { return binary.LittleEndian.Uint16(p.block[i*p.width+p.end:]) }

func (p *peers) setMeta(i int, m uint16) {
	binary.LittleEndian.PutUint16(p.block[i*p.width+p.end:], m)
}

func (p *peers) isSeeder(i int) bool { return i >= int(p.leechers) }

// find returns the place of the endpoint, or -1.
func (p *peers) find(endpoint []byte) int {
	if p.slots != nil {
		_, i := p.lookup(endpoint)
		return i
	}
	n := int(p.n)
	if p.end == 6 {
		// One 8-byte load and compare an entry: the endpoint's six bytes, the meta shifted away.
		want := uint64(binary.LittleEndian.Uint32(endpoint))<<16 | uint64(binary.LittleEndian.Uint16(endpoint[4:6]))<<48
		b := p.block[:n*8]
		for i := 0; len(b) >= 8; i++ {
			if binary.LittleEndian.Uint64(b)<<16 == want {
				return i
			}
			b = b[8:]
		}
		return -1
	}
	for i := range n {
		if string(p.endpoint(i)) == string(endpoint) {
			return i
		}
	}
	return -1
}

// insert adds an endpoint that is not in the list and returns its place, or -1 when there is no memory for it.
func (p *peers) insert(endpoint []byte, seeder bool, meta uint16) int {
	if int(p.n) == maxListPeers || !p.reserve(int(p.n)+1) {
		return -1
	}
	at := int(p.n)
	p.n++
	if !seeder {
		// The first seeder makes room behind the last leecher.
		if first := int(p.leechers); first != at {
			p.relocate(first, at)
			at = first
		}
		p.leechers++
	}
	copy(p.endpoint(at), endpoint)
	p.setMeta(at, meta)
	if p.slots != nil {
		p.link(at)
	}
	return at
}

// remove takes the peer at place i out. The places of others change.
func (p *peers) remove(i int) {
	if p.slots != nil {
		p.unlink(i)
	}
	if !p.isSeeder(i) {
		p.leechers--
		if last := int(p.leechers); last != i {
			p.relocate(last, i)
		}
		i = int(p.leechers)
	}
	p.n--
	if last := int(p.n); last != i {
		p.relocate(last, i)
	}
	p.trim()
}

// move makes the peer at place i a seeder or a leecher and returns its new place.
func (p *peers) move(i int, seeder bool) int {
	if p.isSeeder(i) == seeder {
		return i
	}
	var to int
	if seeder {
		p.leechers--
		to = int(p.leechers)
	} else {
		to = int(p.leechers)
		p.leechers++
	}
	p.swap(i, to)
	return to
}

// relocate copies the entry at from over the one at to, which is free, and tells the index.
func (p *peers) relocate(from, to int) {
	if p.slots != nil {
		p.relink(from, to)
	}
	copy(p.block[to*p.width:][:p.width], p.block[from*p.width:][:p.width])
}

func (p *peers) swap(i, j int) {
	if i == j {
		return
	}
	if p.slots != nil {
		// Found before either is changed: afterwards both would claim one place.
		si, _ := p.lookup(p.endpoint(i))
		sj, _ := p.lookup(p.endpoint(j))
		p.setSlot(si, p.slot(si)&^placeMask|uint32(j+1))
		p.setSlot(sj, p.slot(sj)&^placeMask|uint32(i+1))
	}
	var tmp [20]byte
	x, y := p.block[i*p.width:][:p.width], p.block[j*p.width:][:p.width]
	copy(tmp[:], x)
	copy(x, y)
	copy(y, tmp[:p.width])
}

// reserve makes room for n peers and for their index. False leaves the list as it was.
func (p *peers) reserve(n int) bool {
	if need := n * p.width; need > len(p.block) {
		size := need
		if need > maxClassBytes {
			size = need + need/4 // pages of their own grow by a quarter
		}
		h, ok := p.a.alloc(size)
		if !ok {
			return false
		}
		p.adopt(h)
	}
	if n > scanPeers && n > len(p.slots)/4/5*4 {
		return p.reindex(n)
	}
	return true
}

// adopt moves the entries to block h.
func (p *peers) adopt(h handle) {
	b := p.a.bytes(h)
	copy(b, p.block[:int(p.n)*p.width])
	p.a.release(p.list.block)
	p.list.block, p.block = h, b
}

// trim gives memory back when less than a quarter of it is in use. A quarter, not half, so that a list that breathes does
// not copy itself each time.
func (p *peers) trim() {
	if p.n == 0 {
		p.a.release(p.list.block)
		p.a.release(p.list.index)
		p.list.block, p.list.index, p.block, p.slots = 0, 0, nil, nil
		return
	}
	if p.slots != nil && p.n < scanPeers/2 {
		p.a.release(p.list.index)
		p.list.index, p.slots = 0, nil
	} else if p.slots != nil && int(p.n) < len(p.slots)/4/8 {
		p.reindex(int(p.n)) // without memory the larger index stays
	}
	if need := int(p.n) * p.width; len(p.block) > classBytes[0] && need < len(p.block)/4 {
		if h, ok := p.a.alloc(need * 2); ok {
			p.adopt(h)
		}
	}
}

// The index: open addressing with linear probing and backward-shift deletion. Its hash is keyed, so that nobody outside
// can choose endpoints that collide.

func (p *peers) hash(endpoint []byte) uint64 { return maphash.Bytes(p.seed, endpoint) }

func (p *peers) slot(i int) uint32 { return binary.LittleEndian.Uint32(p.slots[i*4:]) }

func (p *peers) setSlot(i int, v uint32) { binary.LittleEndian.PutUint32(p.slots[i*4:], v) }

// mask is the number of slots less one. Index blocks are powers of two.
func (p *peers) mask() int { return len(p.slots)/4 - 1 }

func tagOf(hash uint64) uint32 { return uint32(hash>>56) << placeBits }

// lookup returns the slot that names the endpoint and its place, or the empty slot where it belongs and -1.
func (p *peers) lookup(endpoint []byte) (slot, place int) {
	h := p.hash(endpoint)
	tag, mask := tagOf(h), p.mask()
	for i := int(h) & mask; ; i = (i + 1) & mask {
		v := p.slot(i)
		if v == 0 {
			return i, -1
		}
		if v&^placeMask == tag {
			if at := int(v&placeMask) - 1; string(p.endpoint(at)) == string(endpoint) {
				return i, at
			}
		}
	}
}

// link names the entry at place i, which no slot names yet.
func (p *peers) link(i int) {
	h := p.hash(p.endpoint(i))
	mask := p.mask()
	s := int(h) & mask
	for p.slot(s) != 0 {
		s = (s + 1) & mask
	}
	p.setSlot(s, tagOf(h)|uint32(i+1))
}

// relink makes the slot that names place from name place to.
func (p *peers) relink(from, to int) {
	h := p.hash(p.endpoint(from))
	mask := p.mask()
	for s := int(h) & mask; ; s = (s + 1) & mask {
		if p.slot(s)&placeMask == uint32(from+1) {
			p.setSlot(s, tagOf(h)|uint32(to+1))
			return
		}
	}
}

// unlink empties the slot that names place i and closes the gap behind it.
func (p *peers) unlink(i int) {
	mask := p.mask()
	hole := int(p.hash(p.endpoint(i))) & mask
	for p.slot(hole)&placeMask != uint32(i+1) {
		hole = (hole + 1) & mask
	}
	for s := (hole + 1) & mask; ; s = (s + 1) & mask {
		v := p.slot(s)
		if v == 0 {
			break
		}
		home := int(p.hash(p.endpoint(int(v&placeMask)-1))) & mask
		if (s-home)&mask >= (s-hole)&mask {
			p.setSlot(hole, v)
			hole = s
		}
	}
	p.setSlot(hole, 0)
}

// reindex builds an index for n peers: at most four fifths full.
func (p *peers) reindex(n int) bool {
	slots := 2 * scanPeers
	for slots/5*4 <= n {
		slots *= 2
	}
	h, ok := p.a.alloc(slots * 4)
	if !ok {
		return false
	}
	p.a.release(p.list.index)
	p.list.index, p.slots = h, p.a.bytes(h)[:slots*4]
	clear(p.slots)
	for i := range int(p.n) {
		p.link(i)
	}
	return true
}
