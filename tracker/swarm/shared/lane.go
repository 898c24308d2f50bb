package shared

import (
	"sync"
	"time"

	"spillway/tracker/swarm"
)

// A lane is the swarms of 1,024 neighbouring slots of a Redis Cluster. A master's slots are neighbours, nearly always, so a
// master that is down stops its lanes and no others. With one Redis lanes only keep locks apart.
const (
	laneBits  = 4
	laneCount = 1 << laneBits
	slotBits  = 14
)

type lane struct {
	store  *Store
	number int

	mu    sync.Mutex // guards everything below, and the views
	views map[swarm.InfoHash]*view
	queue []*view // those with something to send or to fetch, oldest first
	bytes int64   // of the views
}

func (l *lane) init(s *Store, number int) {
	l.store, l.number, l.views = s, number, make(map[swarm.InfoHash]*view)
}

// lane is the one of an info hash.
func (s *Store) lane(hash *swarm.InfoHash) *lane {
	return &s.lanes[slotOf(s.cfg.Prefix, hash[:])>>(slotBits-laneBits)]
}

// view returns the swarm's view, made if need be, or nil when there is no memory for one. The lane's lock is held.
func (l *lane) view(hash swarm.InfoHash, now time.Time) *view {
	v := l.views[hash]
	if v == nil {
		// Views grow after they are made, so one may not be enough; a few are as fast as anybody can make new ones.
		most := l.store.cfg.MaxViewBytes / laneCount
		for tries := 0; l.bytes+viewBytes > most; tries++ {
			if tries == 4 || !l.makeRoom() {
				return nil
			}
		}
		v = &view{hash: hash}
		l.views[hash] = v
		l.count(v)
	}
	v.usedAt = now.UnixNano()
	return v
}

// makeRoom drops one of a few views taken by chance: the one unused for longest of those that hold nothing but what Redis has.
func (l *lane) makeRoom() bool {
	var oldest *view
	looked := 0
	for _, v := range l.views { // in Go's random order
		if v.idle() && (oldest == nil || v.usedAt < oldest.usedAt) {
			oldest = v
		}
		if looked++; looked == 8 {
			break
		}
	}
	if oldest == nil {
		return false
	}
	l.store.metrics.evicted.Add(1)
	l.drop(oldest)
	return true
}

// count brings the lane's bytes up to date with the view's.
func (l *lane) count(v *view) {
	n := v.bytes()
	l.bytes += int64(n - v.counted)
	v.counted = n
}

func (l *lane) drop(v *view) {
	l.bytes -= int64(v.counted)
	delete(l.views, v.hash)
}

// push puts a view in the queue, unless it is there or a call for it is under way: it is put there again when that ends. The lane's
// lock is held.
func (l *lane) push(v *view) {
	if v.queued || v.asked != needNothing || v.sent.bytes() > 0 {
		return
	}
	v.queued = true
	l.queue = append(l.queue, v)
	l.store.wake(l, len(v.waiters) > 0)
}

// maxCallOps bounds what one call of the script does for one swarm: some milliseconds of Redis's time.
const maxCallOps = 512

// take moves at most n views with all they have to send out of the queue.
func (l *lane) take(n int, dst []job) []job {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(n, len(l.queue))
	for _, v := range l.queue[:n] {
		v.queued = false
		v.sent, v.asked, v.want = v.ops.take(maxCallOps), v.want, needNothing
		if v.asked == needNothing && v.sent.bytes() == 0 {
			continue
		}
		dst = append(dst, job{lane: l, view: v, want: v.asked, ops: v.sent.append(nil)})
		if v.asked != needNothing {
			l.store.metrics.fetches.Add(1)
		}
	}
	left := copy(l.queue, l.queue[n:])
	clear(l.queue[left:])
	l.queue = l.queue[:left]
	return dst
}

// done takes over what a call has brought. at is when it was made.
func (l *lane) done(v *view, reply string, at time.Time, tick int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if reply == "" {
		err = errForeign
	} else if v.asked == needNothing {
		_, err = known(reply)
	} else if err = v.fill(reply, l.store.cfg.Dead); err == nil {
		v.countsAt = at.UnixNano()
		if v.asked == needPeers {
			v.peersAt = v.countsAt
		}
		if !l.store.old(v, v.peersAt, at) {
			v.want = needNothing // asked for while this call was under way
		}
		// What was announced since the call was made.
		v.ops.each(func(kind byte, end []byte, meta uint16) { v.apply(kind, end, meta, 2*l.store.cfg.Sample) })
	}
	l.store.metrics.sent.Add(uint64(v.sent.count()))
	l.store.buffered.Add(-int64(v.sent.bytes()))
	v.sent, v.asked = ops{}, needNothing
	l.end(v, v.want == needNothing)
	return err
}

// failed puts back what a call has not brought to Redis, as far as is known. To say it twice does no harm.
func (l *lane) failed(v *view) {
	l.mu.Lock()
	defer l.mu.Unlock()
	saved := v.ops.putBack(v.sent)
	v.sent = ops{}
	l.store.buffered.Add(-int64(saved))
	v.want, v.asked = max(v.want, v.asked), needNothing
	l.end(v, true)
}

// end is what both have in common: nothing is under way any more.
func (l *lane) end(v *view, tell bool) {
	if tell {
		for _, w := range v.waiters {
			w.tell()
		}
		v.waiters = nil
	}
	l.count(v)
	if v.ops.bytes() > 0 || v.want != needNothing {
		l.push(v)
	} else if v.peersAt == 0 && v.countsAt == 0 {
		l.drop(v) // it was here for what was to be sent only
	}
}

// keepIdle is how long a view is kept that nobody asks for, if there is memory for it. Long: it is all there is to tell of other nodes'
// peers when Redis is down, and to those that cannot wait.
const keepIdle = 30 * time.Minute

// sweep drops views that are no longer used.
func (l *lane) sweep(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.store.breaker(l).down() {
		return
	}
	for _, v := range l.views {
		if now.UnixNano()-v.usedAt > int64(keepIdle) && v.idle() {
			l.drop(v)
		}
	}
}

// slotOf is the slot of a key in a Redis Cluster: CRC-16/XMODEM of the key, or of what stands in its first braces, if that is not
// empty.
func slotOf(prefix string, hash []byte) uint16 {
	var key [64]byte
	k := append(append(key[:0], prefix...), hash...) // a longer prefix only costs an allocation
	for i, c := range k {
		if c != '{' {
			continue
		}
		for j := i + 1; j < len(k); j++ {
			if k[j] == '}' {
				if j > i+1 {
					k = k[i+1 : j]
				}
				break
			}
		}
		break
	}
	crc := uint16(0)
	for _, c := range k {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^c]
	}
	return crc & (1<<slotBits - 1)
}

var crcTable = func() (t [256]uint16) {
	for i := range t {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		t[i] = crc
	}
	return t
}()
