package swarm

import "sync/atomic"

// An arena hands out small blocks of bytes by handle instead of by pointer, so that millions of swarms leave the garbage
// collector a few thousand pages to look at and nothing to scan. Each shard has one; the shard's lock guards it.
//
// A page holds blocks of one size class and goes back to the runtime when its last block is freed, so memory taken by an
// attack is given back after it. A block over maxClassBytes has a page of its own, of its own length.
type arena struct {
	pages   []page
	spare   []byte   // one empty page in hand: a swarm of one that comes and goes does not make and drop it each time
	free    []uint32 // slots of pages that are gone, for reuse
	partial [len(classBytes)]uint32
	budget  *budget
}

type page struct {
	mem        []byte
	next, prev uint32 // neighbours in the class's list of pages with room; 0 ends it
	used       uint16 // blocks in use
	fresh      uint16 // blocks never handed out start here
	freed      uint16 // first freed block plus one; each freed block holds the next in its first two bytes
	class      uint8  // index into classBytes, or ownPage
	listed     bool   // in the partial list
}

// handle names a block: the page's slot above blockBits, the block within the page below. 0 is no block.
type handle uint32

const (
	blockBits     = 9 // 2^23 pages of 8 KiB: 64 GiB a shard, which no budget reaches
	pageBytes     = 8 << 10
	maxClassBytes = 2048
	ownPage       = 255
)

// classBytes are the block sizes. The steps of a third to a half bound what rounding up wastes; 16 bytes times 2^blockBits
// is a page.
var classBytes = [...]int{16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, maxClassBytes}

// classOf maps a size in units of 16 bytes, rounded up, to its class.
var classOf = func() (of [maxClassBytes/16 + 1]uint8) {
	class := 0
	for units := range of {
		if units*16 > classBytes[class] {
			class++
		}
		of[units] = uint8(class)
	}
	return of
}()

// A budget is the memory all shards may take together.
type budget struct {
	max     int64
	used    atomic.Int64
	refused atomic.Uint64
}

func (b *budget) take(n int) bool {
	if b.used.Add(int64(n)) > b.max {
		b.used.Add(-int64(n))
		b.refused.Add(1)
		return false
	}
	return true
}

func (b *budget) give(n int) { b.used.Add(-int64(n)) }

func newArena(b *budget) arena {
	return arena{pages: make([]page, 1), budget: b} // slot 0 stays unused: handle 0 is no block
}

// alloc returns a block of at least n bytes, or false when the budget is spent. Its contents are undefined.
func (a *arena) alloc(n int) (handle, bool) {
	if n > maxClassBytes {
		slot, ok := a.newPage(n, ownPage)
		if ok {
			a.pages[slot].used = 1
		}
		return handle(slot << blockBits), ok
	}
	class := classOf[(n+15)/16]
	slot := a.partial[class]
	if slot == 0 {
		var ok bool
		if slot, ok = a.newPage(pageBytes, class); !ok {
			return 0, false
		}
		a.list(slot)
	}
	p := &a.pages[slot]
	size := classBytes[class]
	block := p.fresh
	if p.freed != 0 {
		block = p.freed - 1
		off := int(block) * size
		p.freed = uint16(p.mem[off]) | uint16(p.mem[off+1])<<8
	} else {
		p.fresh++
	}
	p.used++
	if p.freed == 0 && int(p.fresh) == pageBytes/size {
		a.unlist(slot)
	}
	return handle(slot<<blockBits | uint32(block)), true
}

// release gives a block back. Releasing handle 0 does nothing.
func (a *arena) release(h handle) {
	if h == 0 {
		return
	}
	slot, block := uint32(h)>>blockBits, uint16(h&(1<<blockBits-1))
	p := &a.pages[slot]
	p.used--
	if p.class == ownPage {
		a.dropPage(slot)
		return
	}
	off := int(block) * classBytes[p.class]
	p.mem[off], p.mem[off+1] = byte(p.freed), byte(p.freed>>8)
	p.freed = block + 1
	if !p.listed {
		a.list(slot)
	}
	if p.used == 0 {
		a.unlist(slot)
		a.dropPage(slot)
	}
}

// bytes returns the block, its full class size long. It is valid until the block is released.
func (a *arena) bytes(h handle) []byte {
	p := &a.pages[h>>blockBits]
	if p.class == ownPage {
		return p.mem
	}
	size := classBytes[p.class]
	off := int(h&(1<<blockBits-1)) * size
	return p.mem[off : off+size : off+size]
}

func (a *arena) newPage(n int, class uint8) (slot uint32, ok bool) {
	mem := a.spare
	if class == ownPage || mem == nil {
		if !a.budget.take(n) {
			return 0, false
		}
		mem = make([]byte, n)
	} else {
		a.spare = nil
	}
	if last := len(a.free) - 1; last >= 0 {
		slot = a.free[last]
		a.free = a.free[:last]
	} else {
		slot = uint32(len(a.pages))
		a.pages = append(a.pages, page{})
	}
	a.pages[slot] = page{mem: mem, class: class}
	return slot, true
}

func (a *arena) dropPage(slot uint32) {
	if p := &a.pages[slot]; p.class != ownPage && a.spare == nil {
		a.spare = p.mem
	} else {
		a.budget.give(len(p.mem))
	}
	a.pages[slot] = page{}
	a.free = append(a.free, slot)
}

func (a *arena) list(slot uint32) {
	p := &a.pages[slot]
	p.prev, p.next, p.listed = 0, a.partial[p.class], true
	if p.next != 0 {
		a.pages[p.next].prev = slot
	}
	a.partial[p.class] = slot
}

func (a *arena) unlist(slot uint32) {
	p := &a.pages[slot]
	if p.prev != 0 {
		a.pages[p.prev].next = p.next
	} else {
		a.partial[p.class] = p.next
	}
	if p.next != 0 {
		a.pages[p.next].prev = p.prev
	}
	p.prev, p.next, p.listed = 0, 0, false
}
