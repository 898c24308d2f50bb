package wsserver

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/yield"
)

// turn is how a loop that always has work lets others go first: requests over HTTP above all. How, goes by the number of
// processors that Go has.
//
// With several, the loop's thread has nice 10, so that HTTP's threads take its core when they wake up, and a turn is 50 us.
//
// With one, no other thread gets to run Go's code while the loop does, so the loop waits for Go's poller. What is ready by then goes
// before it. That may be as much as 128 requests, so that the loop then takes as long as it was away, a millisecond at the most: else a
// flood over HTTP would leave it so little that sockets that have ended stayed unseen until ws.max_conns was reached.
type turn struct {
	length time.Duration
	writes int         // sockets written to before it is looked whether the turn is over
	wait   *yield.Turn // nil with several processors
}

const (
	turnOfSeveral = 50 * time.Microsecond
	leastTurn     = 100 * time.Microsecond // with one processor
	mostTurn      = time.Millisecond
)

func newTurn(processors int) (*turn, error) {
	if processors > 1 {
		return &turn{length: turnOfSeveral, writes: maxDirty}, nil
	}
	wait, err := yield.New()
	return &turn{length: leastTurn, writes: 8, wait: wait}, err
}

// loopNice is how much a loop's thread gives way to others of this program and machine: a thread of nice 10 has a ninth of
// the claim on a core that one of nice 0 has, and loses it to any of those that wakes up.
const loopNice = 10

// begin is called by the loop's goroutine, once. A flood of messages keeps a loop running, and without nice a request over HTTP
// whose thread wakes up on the loop's core waits for the end of its slice: p99 3.7 ms and more, with it 0.3 to 1.3
// (go test -run='^$' -bench=UnderWebSocketFlood/rate=2000 ./internal/bench).
func (t *turn) begin() {
	if t.wait == nil {
		runtime.LockOSThread()
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, loopNice) // the calling thread's; lowering one's own is always allowed
	}
}

// give lets others go first.
func (t *turn) give() {
	if t.wait == nil {
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // other threads first, those too that woke up with no claim left
		runtime.Gosched()
		return
	}
	since := time.Now()
	t.wait.Give()
	t.length = turnAfter(time.Since(since))
}

// turnAfter is how long the next turn is, with one processor, after the others have had theirs.
func turnAfter(away time.Duration) time.Duration { return min(max(away, leastTurn), mostTurn) }

func (t *turn) end() {
	if t.wait != nil {
		t.wait.Close()
	}
}
