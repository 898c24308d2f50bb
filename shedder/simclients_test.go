package shedder

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// clients are of one kind.
type clients struct {
	name    string
	timeout time.Duration
	retry   func(fails int) time.Duration
}

// What clients do after a failure: wire notes of each client's sources.
var (
	libtorrent = clients{"libtorrent", 30 * time.Second, func(n int) time.Duration {
		return min(time.Hour, time.Duration((5+12.5*float64(n*n))*float64(time.Second)))
	}}
	anacrolix = clients{"flat 60 s", 15 * time.Second, func(int) time.Duration { return time.Minute }}
	naive     = clients{"flat 10 s", 15 * time.Second, func(int) time.Duration { return 10 * time.Second }}
)

// A request waits for a connection of the pool for this long at most, and then is an error to its client: HAProxy's timeout queue.
const poolWait = 5 * time.Second

// synRetries are when a kernel sends a SYN again, since the first. At the fourth time a client has given up.
var synRetries = [...]time.Duration{time.Second, 3 * time.Second, 7 * time.Second}

const simInterval = 30 * time.Minute

// simQueue is first in, first out.
type simQueue struct {
	calls []*simCall
	head  int
}

func (q *simQueue) len() int { return len(q.calls) - q.head }

func (q *simQueue) push(c *simCall) {
	if q.head > 1024 && q.head > len(q.calls)/2 {
		q.calls = q.calls[:copy(q.calls, q.calls[q.head:])]
		q.head = 0
	}
	q.calls = append(q.calls, c)
}

func (q *simQueue) pop() *simCall {
	c := q.calls[q.head]
	q.calls[q.head] = nil
	q.head++
	return c
}

// never is for what did not happen in the length of a run.
const never = time.Duration(math.MaxInt64)

// recovered returns how long after the end of the trouble the last ten seconds ended in which more than a twentieth of what
// clients asked in them got no answer in time, and the same for what was not served.
func (s *simulation) recovered(end time.Duration) (answered, served time.Duration) {
	last := int((s.length - s.clients.timeout) / time.Second)
	for i := int(end / time.Second); i+10 <= last; i++ {
		sum, to := s.sum(i, i+10), time.Duration(i+10)*time.Second-end
		if i+10 == last {
			to = never
		}
		if float64(sum.answered) < 0.95*float64(sum.asked) {
			answered = to
		}
		if float64(sum.served) < 0.95*float64(sum.asked) {
			served = to
		}
	}
	return answered, served
}

// sum adds up the seconds from one up to another.
func (s *simulation) sum(from, to int) (sum simSecond) {
	for _, sec := range s.seconds[from:to] {
		sum.asked, sum.answered, sum.served = sum.asked+sec.asked, sum.answered+sec.answered, sum.served+sec.served
		sum.offered, sum.admitted, sum.refused = sum.offered+sec.offered, sum.admitted+sec.admitted, sum.refused+sec.refused
		sum.age, sum.oldest = max(sum.age, sec.age), max(sum.oldest, sec.oldest)
	}
	return sum
}

// gated is a Gate in a simulation, on its clock and with its dice.
type gated struct{ *Gate }

var simEpoch = time.Unix(1_700_000_000, 0)

// newGated makes a Gate at a time of the simulation.
func newGated(tb testing.TB, cfg Config, at time.Duration) gated {
	tb.Helper()
	cfg.MemoryMax, cfg.Interval, cfg.MaxInterval = 1<<50, simInterval, 3*simInterval
	return gated{New(cfg, nil, nil, simEpoch.Add(at))}
}

func (g gated) observe(age time.Duration, fresh bool) { g.Observe(age, fresh) }
func (g gated) spent(d time.Duration, shed bool)      { g.Spent(d, shed) }
func (g gated) step(now time.Duration)                { g.Step(simEpoch.Add(now)) }
func (g gated) wait() time.Duration                   { return time.Duration(g.Gate.wait.Load()) }
func (g gated) backlog() int                          { return g.Backlog() }

func (g gated) admit(c *simCall, now, age time.Duration, alone bool) Verdict {
	return g.Admit(&Request{Endpoint: Announce, Class: c.class, Source: c.source, Now: simEpoch.Add(now), Age: age, Alone: alone})
}

// told is as Told and ToldShed.
func (g gated) told(shed bool, rng *rand.Rand) time.Duration {
	told := time.Duration(g.Gate.told.Load()) * time.Second
	if shed {
		return min(told+time.Duration(rng.Int64N(int64(told))), time.Duration(g.most.Load())*time.Second)
	}
	jitter := float64(g.jitter.Load()) / 100
	return time.Duration(float64(told) * (1 - jitter + 2*jitter*rng.Float64()))
}

// skipIfSlow leaves a simulation out under the race detector: it has one goroutine, and would take ten times as long.
func skipIfSlow(t *testing.T) {
	if raceDetector {
		t.Skip("one goroutine: run it without -race")
	}
}

// homeOf is the address of a client.
func homeOf(peer int32) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(peer >> 16), byte(peer >> 8), byte(peer)})
}
