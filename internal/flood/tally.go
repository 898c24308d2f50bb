package flood

import "time"

// request is one that is due.
type request struct {
	due   int64 // nanoseconds since the start
	phase uint8
	side  uint8
}

// The sides.
const (
	honest = iota
	attack
	sides
)

// sum is what became of the requests of one side in one phase.
type sum struct {
	offered, sent  uint64
	by             [outcomeCount]uint64
	good, answered hist // answered: good and late
}

func newSum() sum { return sum{good: newHist(phaseDigits), answered: newHist(phaseDigits)} }

// bin is what became of the requests of one side that were due in one bin of time.
type bin struct {
	offered, sent, good, late, shed, failed uint32
	latency                                 hist // of the good ones
}

// tally is what one worker counts; the thread of the worker alone touches it until that has ended.
type tally struct {
	width  int64 // of a bin
	phases [][sides]sum
	bins   [][sides]bin

	behind    uint64 // requests that left more than behindAfter late, through the generator's own fault
	lagMost   int64
	reopened  uint64 // kept connections
	localErrs uint64 // sockets that could not be made here
	localErr  error  // the first
}

// behindAfter is what a due request may be late in being looked at.
const behindAfter = int64(5 * time.Millisecond)

func newTally(p Profile) tally {
	t := tally{width: int64(100 * time.Millisecond), phases: make([][sides]sum, len(p))}
	if p.Total() > time.Minute {
		t.width = int64(time.Second)
	}
	for i := range t.phases {
		t.phases[i] = [sides]sum{newSum(), newSum()}
	}
	t.bins = make([][sides]bin, (int64(p.Total())+t.width-1)/t.width)
	for i := range t.bins {
		t.bins[i][honest].latency, t.bins[i][attack].latency = newHist(binDigits), newHist(binDigits)
	}
	return t
}

func (t *tally) bin(r request) *bin {
	return &t.bins[min(r.due/t.width, int64(len(t.bins)-1))][r.side]
}

func (t *tally) offer(r request) {
	t.phases[r.phase][r.side].offered++
	t.bin(r).offered++
}

func (t *tally) leave(r request) {
	t.phases[r.phase][r.side].sent++
	t.bin(r).sent++
}

// record counts what became of r; took counts from when it was due.
func (t *tally) record(r request, o outcome, took, within time.Duration) outcome {
	if o == good && took > within {
		o = late
	}
	s, b := &t.phases[r.phase][r.side], t.bin(r)
	s.by[o]++
	switch o {
	case good:
		b.good++
		s.good.add(took)
		s.answered.add(took)
		b.latency.add(took)
	case late:
		b.late++
		s.answered.add(took)
	case shed, shedFailure:
		b.shed++
	default:
		b.failed++
	}
	return o
}

func (s *sum) merge(o *sum) {
	s.offered += o.offered
	s.sent += o.sent
	for i, n := range o.by {
		s.by[i] += n
	}
	s.good.merge(&o.good)
	s.answered.merge(&o.answered)
}

func (t *tally) merge(o *tally) {
	for i := range o.phases {
		for side := range sides {
			t.phases[i][side].merge(&o.phases[i][side])
		}
	}
	for i := range o.bins {
		for side := range sides {
			b, c := &t.bins[i][side], &o.bins[i][side]
			b.offered += c.offered
			b.sent += c.sent
			b.good += c.good
			b.late += c.late
			b.shed += c.shed
			b.failed += c.failed
			b.latency.merge(&c.latency)
		}
	}
	t.behind += o.behind
	t.lagMost = max(t.lagMost, o.lagMost)
	t.reopened += o.reopened
	t.localErrs += o.localErrs
	if t.localErr == nil {
		t.localErr = o.localErr
	}
}

// ring is a queue of a fixed capacity.
type ring[T any] struct {
	items   []T
	head, n int
}

func newRing[T any](capacity int) ring[T] { return ring[T]{items: make([]T, capacity)} }

func (r *ring[T]) push(v T) bool {
	if r.n == len(r.items) {
		return false
	}
	i := r.head + r.n
	if i >= len(r.items) {
		i -= len(r.items)
	}
	r.items[i] = v
	r.n++
	return true
}

// first must not be asked of an empty ring.
func (r *ring[T]) first() T { return r.items[r.head] }

func (r *ring[T]) pop() T {
	v := r.items[r.head]
	if r.head++; r.head == len(r.items) {
		r.head = 0
	}
	r.n--
	return v
}
