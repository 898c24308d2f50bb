package shared

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"

	"spillway/tracker/swarm"
)

// A view is what this node knows of one swarm as a whole: how many peers of each kind there are, and the peers themselves, or of
// a big swarm a fair sample of them. What is announced here is in it at once, what is announced elsewhere with the next
// fetch. The lane's lock guards it.
type view struct {
	hash       swarm.InfoHash
	lists      [lists][]byte // endpoint and meta, one peer after the other
	unseen     [lists]uint32 // peers of the list that the sample lacks
	paused     uint32
	downloaded uint32
	peersAt    int64 // Unix time in ns as of which peers and counts are known; 0: not yet
	countsAt   int64 // the same of the counts alone, which are never older
	usedAt     int64 // Unix time in ns of the last announce or scrape

	ops     ops       // not yet sent
	sent    ops       // on the way
	want    need      // what the next call shall bring
	asked   need      // what the call under way brings
	queued  bool      // in the lane's queue
	counted int       // bytes the lane has counted for it
	waiters []*waiter // told when a call has brought something, or failed
}

// need is what is wanted of Redis.
type need uint8

const (
	needNothing need = iota
	needCounts
	needPeers
)

// The lists of a swarm: for each family leechers, then seeders.
const lists = 2 * families

func listOf(family int, seeder bool) int {
	if seeder {
		return 2*family + 1
	}
	return 2 * family
}

// widthOf is the bytes of one peer of list l.
func widthOf(l int) int { return endBytes[l/2] + 2 }

// viewBytes is what a view takes without its peers and ops, its place in the map included.
const viewBytes = 560

func (v *view) bytes() int {
	n := viewBytes + v.ops.bytes() + v.sent.bytes()
	for l := range v.lists {
		n += cap(v.lists[l])
	}
	return n
}

// idle tells whether nothing would be lost with the view but what is known from Redis.
func (v *view) idle() bool {
	return !v.queued && v.want == needNothing && v.asked == needNothing && len(v.waiters) == 0 && v.ops.bytes() == 0 && v.sent.bytes() == 0
}

// find returns where in list l the endpoint's peer begins, or -1.
func (v *view) find(l int, end []byte) int {
	b, width := v.lists[l], len(end)+2
	if len(end) == len(swarm.Endpoint4{}) {
		// One 8-byte load and compare a peer, as swarm's own lists do.
		want := uint64(binary.LittleEndian.Uint32(end))<<16 | uint64(binary.LittleEndian.Uint16(end[4:]))<<48
		for at := 0; len(b) >= 8; at += 8 {
			if binary.LittleEndian.Uint64(b)<<16 == want {
				return at
			}
			b = b[8:]
		}
		return -1
	}
	for at := 0; at < len(b); at += width {
		if string(b[at:at+len(end)]) == string(end) {
			return at
		}
	}
	return -1
}

// remove takes out the peer at byte at of list l.
func (v *view) remove(l, at int) {
	b, width := v.lists[l], widthOf(l)
	if binary.LittleEndian.Uint16(b[at+width-2:])&metaPaused != 0 {
		v.paused--
	}
	copy(b[at:at+width], b[len(b)-width:])
	v.lists[l] = b[:len(b)-width]
}

// apply makes the view what Redis will be once the op is there, as far as can be known: a peer that the sample lacks is taken
// for a new one, until the next fetch. Of each list at most most peers are kept. It tells whether the peer was known.
func (v *view) apply(kind byte, end []byte, meta uint16, most int) (known bool) {
	l := listOf(int(kind&kindFamily), kind&kindSeeder != 0)
	other, width := l^1, len(end)+2
	if at := v.find(other, end); at >= 0 {
		v.remove(other, at)
		known = true
	}
	at := v.find(l, end)
	if kind&kindStopped != 0 {
		switch {
		case at >= 0:
			v.remove(l, at)
			known = true
		case !known && v.unseen[l] > 0:
			v.unseen[l]--
		}
		return known
	}
	if at >= 0 {
		if kind&kindRefill != 0 {
			return true
		}
		known = true
		b := v.lists[l][at+len(end):]
		if binary.LittleEndian.Uint16(b)&metaPaused != 0 {
			v.paused--
		}
		binary.LittleEndian.PutUint16(b, meta)
	} else {
		if kind&kindCompleted != 0 {
			v.downloaded++
		}
		if n := len(v.lists[l]) / width; n >= most {
			v.remove(l, rand.IntN(n)*width)
			v.unseen[l]++
		}
		v.lists[l] = append(v.lists[l], end...)
		v.lists[l] = binary.LittleEndian.AppendUint16(v.lists[l], meta)
	}
	if meta&metaPaused != 0 {
		v.paused++
	}
	return known
}

// trim takes out who has expired, of a view that has not been fetched for long.
func (v *view) trim(tick int64) {
	for l := range v.lists {
		width := widthOf(l)
		for at := len(v.lists[l]) - width; at >= 0; at -= width {
			if expired(binary.LittleEndian.Uint16(v.lists[l][at+width-2:]), tick) {
				v.remove(l, at)
			}
		}
	}
}

// total is how many peers list l has in the whole swarm.
func (v *view) total(l int) int { return len(v.lists[l])/widthOf(l) + int(v.unseen[l]) }

func (v *view) counts() (c swarm.Counts) {
	for l := 0; l < lists; l += 2 {
		c.Incomplete += uint32(v.total(l))
		c.Complete += uint32(v.total(l + 1))
	}
	c.Downloaded = v.downloaded
	c.Downloaders = c.Incomplete - min(v.paused, c.Incomplete)
	return c
}

var errReply = errors.New("the script's reply cannot be read")

// known tells, of any reply, whether the swarm was there before the call.
func known(reply string) (bool, error) {
	if len(reply) == 0 || reply[0] > 1 {
		return false, fmt.Errorf("%w: it begins with %.1q", errReply, reply)
	}
	return reply[0] == 1, nil
}

// fill takes over a reply that was asked for counts or peers: known, downloaded, partial seeds, then for each list how many peers
// it has, how many bytes follow, and so many bytes of peers; with counts alone those of WebSockets come all the same. On an error the
// view is as it was. Peers of nodes that are dead (nil: none is) are left out, and out of the counts.
func (v *view) fill(reply string, dead func(node [nodeBytes]byte) bool) error {
	if _, err := known(reply); err != nil {
		return err
	}
	b := reply[1:]
	number := func() (n uint32, ok bool) {
		if len(b) < 4 {
			return 0, false
		}
		n = uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
		b = b[4:]
		return n, true
	}
	downloaded, ok1 := number()
	paused, ok2 := number()
	if !ok1 || !ok2 {
		return fmt.Errorf("%w: %d bytes", errReply, len(reply))
	}
	var total [lists]uint32
	var told [lists]string
	for l := range lists {
		n, ok1 := number()
		size, ok2 := number()
		if !ok1 || !ok2 || uint64(size) > uint64(len(b)) || int(size)%widthOf(l) != 0 || size/uint32(widthOf(l)) > n {
			return fmt.Errorf("%w: list %d: %d peers, %d bytes of %d", errReply, l, n, size, len(b))
		}
		total[l], told[l], b = n, b[:size], b[size:]
	}
	if len(b) > 0 {
		return fmt.Errorf("%w: %d bytes too many", errReply, len(b))
	}
	v.downloaded, v.paused = downloaded, paused
	for l := range lists {
		if v.asked == needPeers || l/2 == familyWeb {
			v.lists[l] = append(v.lists[l][:0], told[l]...)
			if cap(v.lists[l]) > 4*len(v.lists[l])+64 {
				v.lists[l] = append([]byte(nil), told[l]...)
			}
		}
		// Counts alone may say that there are fewer than the sample holds: it is older.
		for have := len(v.lists[l]) / widthOf(l); have > int(total[l]); have-- {
			v.lists[l] = v.lists[l][:(have-1)*widthOf(l)]
		}
		v.unseen[l] = total[l] - uint32(len(v.lists[l])/widthOf(l))
		if l/2 == familyWeb && dead != nil {
			v.forget(l, dead)
		}
	}
	return nil
}

// forget takes those of dead nodes out of list l. Of peers it has not seen there are as many as among those it has.
func (v *view) forget(l int, dead func(node [nodeBytes]byte) bool) {
	width := widthOf(l)
	had := len(v.lists[l]) / width
	for at := len(v.lists[l]) - width; at >= 0; at -= width {
		if dead([nodeBytes]byte(v.lists[l][at:])) {
			v.remove(l, at)
		}
	}
	if have := len(v.lists[l]) / width; have < had {
		v.unseen[l] = uint32(uint64(v.unseen[l]) * uint64(have) / uint64(had))
	}
}
