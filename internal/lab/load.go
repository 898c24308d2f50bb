package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// Load is a crowd: so many new connections a second with one announce each, due at times fixed in advance whatever becomes of the
// earlier ones. Who fails tries again, as impatient clients do, so that a fault brings more than there was before.
type Load struct {
	Target  netip.AddrPort
	Rate    float64       // new connections a second; SetRate changes it
	AtOnce  int           // not 0: a closed loop of so many connections, whatever the rate
	Sources int           // addresses they come from; 200
	Hold    time.Duration // a connection waits so long before it asks
	Timeout time.Duration // 5 s
	Again   time.Duration // after which a failed attempt is repeated; 1 s
	Tries   int           // repeats of one; 3. Negative: none

	Kept    int           // connections that are opened first and then kept
	KeptAsk time.Duration // each asks once in it; 0: they are idle

	MaxOpen int // open at once; 15,000. What does not fit is counted as local

	// Clients of different kinds, numbered as they come. The functions are called on the crowd's threads; nil: all are alike.
	Request func(dst []byte, who uint32) []byte       // appends what client who says
	Judge   func(reply []byte) Outcome                // of a reply
	Retry   func(who uint32, fails int) time.Duration // after which who, who has failed so many times, tries again; for ever

	came   atomic.Uint64 // clients
	begun  atomic.Uint64 // attempts
	rate   atomic.Uint64 // a thousandth of a connection a second
	wait   atomic.Int64  // of Stop
	stop   atomic.Bool
	start  time.Time
	ended  [outcomes]atomic.Uint64
	crowds []*crowd
	done   []<-chan error
}

// Tally is what a load has written down.
type Tally struct {
	Attempts Attempts
	Ends     []End         // of kept connections
	Kept     int           // that were open at the start
	Replies  int           // to kept connections' requests
	Behind   int           // attempts that began over 20 ms late through the crowd's own fault
	CPU      time.Duration // of the crowd itself
	Start    time.Time
}

const (
	behindAfter = 20 * time.Millisecond
	maxAttempts = 4 << 20 // of a crowd, which ends there
	maxSources  = 20_000
	maxCrowds   = 3
	spareFiles  = 1000
	keptWithin  = 5 * time.Second
)

// Load starts l in the edge, and returns when its kept connections are open. Stop ends it.
func (lab *Lab) Load(l *Load) error {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&l.Sources, 200)
	def(&l.Tries, 3)
	def(&l.MaxOpen, 15_000)
	if l.Timeout == 0 {
		l.Timeout = 5 * time.Second
	}
	if l.Again == 0 {
		l.Again = time.Second
	}
	if l.Sources < 1 || l.Sources > maxSources || l.Kept > l.MaxOpen/2 || l.MaxOpen > wantFiles/2 {
		return errors.New("lab: load: sources, kept or max open out of range")
	}
	l.SetRate(l.Rate)
	// A thread has its own table of open files, so a crowd that is larger than the limit takes several.
	n := (l.MaxOpen + lab.files - spareFiles - 1) / (lab.files - spareFiles)
	if n > maxCrowds {
		return fmt.Errorf("lab: load: %d connections at once, of %d open files; lower the first or raise the limit (ulimit -n)", l.MaxOpen, lab.files)
	}
	ready, begin := make(chan error, n), make(chan struct{})
	for i := range n {
		c := newCrowd(l, i, n)
		l.crowds = append(l.crowds, c)
		l.done = append(l.done, lab.Edge.Go(lab.Cores.Edge, func() error { return c.live(ready, begin) }))
	}
	var err error
	for range n {
		err = errors.Join(err, <-ready)
	}
	l.start = time.Now()
	if err != nil {
		l.stop.Store(true)
	}
	close(begin)
	if err != nil {
		_, stopErr := l.Stop(0)
		return fmt.Errorf("lab: load: %w", errors.Join(err, stopErr))
	}
	return nil
}

// SetRate is new connections a second from now on.
func (l *Load) SetRate(perSecond float64) { l.rate.Store(uint64(perSecond * 1000)) }

// Since is the load's clock, by which attempts are dated.
func (l *Load) Since() time.Duration { return time.Since(l.start) }

// Ended counts the attempts by outcome so far.
func (l *Load) Ended() (n [outcomes]uint64) {
	for o := range n {
		n[o] = l.ended[o].Load()
	}
	return n
}

// Begun counts the attempts so far.
func (l *Load) Begun() uint64 { return l.begun.Load() }

// Stop begins no more, gives those under way some time, and returns what was written down. What has no outcome even then has timed
// out, after the time it had.
func (l *Load) Stop(wait time.Duration) (*Tally, error) {
	l.wait.Store(int64(wait))
	l.stop.Store(true)
	all := &Tally{Start: l.start}
	var err error
	for i, d := range l.done {
		err = errors.Join(err, <-d)
		t := &l.crowds[i].tally
		all.Attempts = append(all.Attempts, t.Attempts...)
		all.Ends = append(all.Ends, t.Ends...)
		all.Kept += t.Kept
		all.Replies += t.Replies
		all.Behind += t.Behind
		all.CPU += t.CPU
	}
	if err != nil {
		return nil, fmt.Errorf("lab: load: %w", err)
	}
	return all, nil
}
