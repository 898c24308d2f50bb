package shared

import (
	"encoding/binary"
	"time"

	"spillway/tracker/swarm"
)

// An op is one endpoint's word, packed as the script reads it: kind, endpoint, meta. Meta is as a peer's in Redis: the lower
// 15 bits of the tick at which it expires, and above them whether it is a partial seed.
//
// The lower two bits of kind are the family.
const (
	family4 = iota
	family6
	familyWeb
	families
)

const (
	kindFamily    = 3
	kindSeeder    = 1 << 2
	kindCompleted = 1 << 5
	kindRefill    = 1 << 6 // said again of itself by a node: never newer than what a peer has said since
	kindStopped   = 1 << 7

	metaPaused = 1 << 15
	metaTick   = metaPaused - 1
)

// endBytes are the bytes of an endpoint by family. A WebSocket peer is known by its node and its name there.
var endBytes = [families]int{len(swarm.Endpoint4{}), len(swarm.Endpoint6{}), nodeBytes + len(swarm.EndpointWeb{})}

const (
	nodeBytes = 4
	maxEnd    = 18
	tickSec   = int64(swarm.Tick / time.Second)
)

// opBytes is the length of an op of family f.
func opBytes(f int) int { return 1 + endBytes[f] + 2 }

// ops are packed ops by family, in the order in which they came, one an endpoint wherever one says all.
type ops [families][]byte

func (o *ops) bytes() int { return len(o[0]) + len(o[1]) + len(o[2]) }

func (o *ops) count() (n int) {
	for f := range o {
		n += len(o[f]) / opBytes(f)
	}
	return n
}

// add puts an op in, over the endpoint's earlier one if that has nothing more to say, and returns by how many bytes that made
// it longer.
func (o *ops) add(kind byte, end []byte, meta uint16) int {
	f := int(kind & kindFamily)
	if at := o.find(f, end); at >= 0 {
		old := o[f][at]
		switch {
		case kind&kindRefill != 0:
			return 0
		case old&kindCompleted != 0 && kind&kindStopped == 0 && kind&kindSeeder != 0:
			kind |= kindCompleted // and is still to be counted
			fallthrough
		case old&kindCompleted == 0:
			o[f][at] = kind
			binary.LittleEndian.PutUint16(o[f][at+1+len(end):], meta)
			return 0
		}
	}
	o[f] = append(o[f], kind)
	o[f] = append(o[f], end...)
	o[f] = binary.LittleEndian.AppendUint16(o[f], meta)
	return opBytes(f)
}

// find returns where the last op of the endpoint begins, or -1.
func (o *ops) find(f int, end []byte) int {
	b, width := o[f], opBytes(f)
	for at := len(b) - width; at >= 0; at -= width {
		if string(b[at+1:at+1+len(end)]) == string(end) {
			return at
		}
	}
	return -1
}

// each calls fn with every op.
func (o *ops) each(fn func(kind byte, end []byte, meta uint16)) {
	for f := range o {
		width := opBytes(f)
		for b := o[f]; len(b) >= width; b = b[width:] {
			fn(b[0], b[1:width-2], binary.LittleEndian.Uint16(b[width-2:]))
		}
	}
}

// take moves at most n ops out of o.
func (o *ops) take(n int) (taken ops) {
	for f := range o {
		cut := min(len(o[f])/opBytes(f), n)
		n -= cut
		cut *= opBytes(f)
		if cut == len(o[f]) {
			taken[f], o[f] = o[f], nil
			continue
		}
		taken[f] = append([]byte(nil), o[f][:cut]...)
		o[f] = append([]byte(nil), o[f][cut:]...)
	}
	return taken
}

// putBack makes o what it would be had sent, which came before it, never been taken. It returns by how many bytes that made
// both together shorter.
func (o *ops) putBack(sent ops) (saved int) {
	before := o.bytes() + sent.bytes()
	later := *o
	*o = sent
	later.each(func(kind byte, end []byte, meta uint16) { o.add(kind, end, meta) })
	return before - o.bytes()
}

// append appends all ops to dst, as the script reads them.
func (o *ops) append(dst []byte) []byte {
	for f := range o {
		dst = append(dst, o[f]...)
	}
	return dst
}

// tickOf is the tick of a time: the script's clock.
func tickOf(now time.Time) int64 { return now.Unix() / tickSec }

// metaOf is the meta of a peer that is believed alive for ttl from now on.
func metaOf(now time.Time, ttl time.Duration, paused bool) uint16 {
	ttl = max(min(ttl, swarm.MaxTTL), swarm.Tick)
	meta := uint16(tickOf(now)+int64(ttl/swarm.Tick)) & metaTick
	if paused {
		meta |= metaPaused
	}
	return meta
}

// expired tells whether a meta's tick has come.
func expired(meta uint16, tick int64) bool {
	return (uint16(tick)-meta)&metaTick < (metaTick+1)/2
}
