package shedder

import (
	"fmt"
	"io"
	"math/bits"
	"sync/atomic"
	"time"
)

// Ages are buckets of 2^n microseconds, each cut into four: a median is right to a fifth of itself.
const (
	ageSteps   = 4
	ageBuckets = 22 * ageSteps // up to 4 s; what is older is in the last
)

// ages counts how old requests were when they were read: the time since the kernel had them. It is the one signal of overload
// that cannot lie: it holds the time in the socket, in the kernel's list of ready sockets and in Go's run queue, where the
// runtime's own metrics and a sleeping canary miss most of it.
type ages struct {
	now   [ageBuckets]atomic.Uint32 // since the last drain
	total [ageBuckets]atomic.Uint64 // drained, for ever
	sumNs atomic.Uint64
}

// observe counts one. It is two atomic additions.
func (a *ages) observe(age time.Duration) {
	a.now[ageBucket(age)].Add(1)
	a.sumNs.Add(uint64(max(age, 0)))
}

func ageBucket(age time.Duration) int {
	us := uint64(max(age, 0)) / 1000
	if us < ageSteps {
		return int(us) // 0 to 3 us have a bucket each
	}
	n := bits.Len64(us) // 3 or more
	return min((n-2)*ageSteps+int(us>>(n-3)&(ageSteps-1)), ageBuckets-1)
}

// ageBound is the upper end of a bucket.
func ageBound(bucket int) time.Duration {
	if bucket < ageSteps {
		return time.Duration(bucket+1) * time.Microsecond
	}
	n := bucket/ageSteps + 2
	return time.Duration(ageSteps+bucket%ageSteps+1) << (n - 3) * time.Microsecond
}

// drain returns how many were counted since the last drain, and their median.
func (a *ages) drain() (n int, median time.Duration) {
	var counts [ageBuckets]uint32
	for i := range a.now {
		if counts[i] = a.now[i].Swap(0); counts[i] > 0 {
			a.total[i].Add(uint64(counts[i]))
			n += int(counts[i])
		}
	}
	left := (n + 1) / 2
	for i, c := range counts {
		if left -= int(c); left <= 0 && n > 0 {
			return n, ageBound(i)
		}
	}
	return n, 0
}

// writeAges writes several as one histogram, from 128 us up, an octave a bucket: what drain has seen, which is nearly all.
func writeAges(w io.Writer, name string, all ...*ages) {
	fmt.Fprintf(w, "# TYPE %s histogram\n", name)
	total, sum := uint64(0), uint64(0)
	for i := range ageBuckets {
		for _, a := range all {
			total += a.total[i].Load()
		}
		if i%ageSteps == ageSteps-1 && i/ageSteps >= 5 && i < ageBuckets-1 {
			fmt.Fprintf(w, "%s_bucket{le=\"%g\"} %d\n", name, ageBound(i).Seconds(), total)
		}
	}
	for _, a := range all {
		sum += a.sumNs.Load()
	}
	fmt.Fprintf(w, "%s_bucket{le=\"+Inf\"} %d\n", name, total)
	fmt.Fprintf(w, "%s_sum %g\n", name, time.Duration(sum).Seconds())
	fmt.Fprintf(w, "%s_count %d\n", name, total)
}
