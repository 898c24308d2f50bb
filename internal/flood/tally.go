package flood

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

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

// A quantile of a whole phase is right to 0.1 %, so that a ratio of two of them means something; one of a tenth of a second is for
// a plot, and right to 1 %, in a tenth of the memory.
const (
	phaseDigits = 3
	binDigits   = 2

	histUnit    = time.Microsecond
	histLongest = 2 * time.Minute // more than Config.Timeout and Config.Patience may be together; what is longer counts as this
)

// hist is an HdrHistogram (Gil Tene's, hdrhistogram.org) and, as that knows its largest value only to its precision, the largest
// value. To add allocates nothing (TestRequestsAllocateNothing).
type hist struct {
	h    *hdrhistogram.Histogram
	most time.Duration
}

func newHist(digits int) hist {
	return hist{h: hdrhistogram.New(int64(histUnit), int64(histLongest), digits)}
}

func (h *hist) add(d time.Duration) {
	h.most = max(h.most, d)
	if err := h.h.RecordValue(int64(min(max(d, 0), histLongest))); err != nil {
		panic("BUG: " + err.Error())
	}
}

func (h *hist) count() int64 { return h.h.TotalCount() }

// merge adds what o has counted, whose digits are the same.
func (h *hist) merge(o *hist) {
	h.most = max(h.most, o.most)
	h.h.Merge(o.h)
}

// at is quantile q, of 0 to 1; zero if nothing was counted.
func (h *hist) at(q float64) time.Duration {
	if q >= 1 {
		return h.most
	}
	return min(time.Duration(h.h.ValueAtQuantile(100*q)), h.most)
}

// curveQuantiles are those of a latency curve: each nine more is a tenth of the requests.
var curveQuantiles = []float64{0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.99975, 0.9999, 0.99995, 0.99999, 0.999999}

// curve is the quantiles of which there is a request above, and the largest.
func (h *hist) curve() (all []Quantile) {
	n := float64(h.count())
	for _, q := range curveQuantiles {
		if n*(1-q) >= 1 {
			all = append(all, Quantile{q, ms(h.at(q))})
		}
	}
	if n > 0 {
		all = append(all, Quantile{1, ms(h.most)})
	}
	return all
}

// encoded is the histogram as other programs for HdrHistograms read it, in nanoseconds; empty if nothing was counted.
func (h *hist) encoded() string {
	if h.count() == 0 {
		return ""
	}
	b, err := h.h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		panic("BUG: a histogram cannot be written: " + err.Error())
	}
	return string(b)
}
