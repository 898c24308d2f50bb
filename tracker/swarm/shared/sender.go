package shared

import (
	"context"
	_ "embed"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed script.lua
var scriptSource string

var script = redis.NewScript(scriptSource)

// A job is one swarm of a call: what Redis is told and asked.
type job struct {
	lane *lane
	view *view
	want need
	ops  []byte
}

// A sender takes what waits in its lanes and makes one round trip of it. While that is under way more comes together: the busier
// the node, the more swarms a round trip.
type sender struct {
	woken chan struct{} // holds one
	now   chan struct{} // the same, and somebody waits
}

func (s *sender) init() { s.woken, s.now = make(chan struct{}, 1), make(chan struct{}, 1) }

const (
	// gather is how long what nobody waits for may wait for company.
	gather = 3 * time.Millisecond
	// maxTrip and maxCall are the swarms of a round trip, and of one call of the script: Redis does nothing else meanwhile.
	maxTrip = 512
	maxCall = 32
	// soloSenders is how many round trips one Redis has under way at a time from one node.
	soloSenders = 2
)

// wake tells the lane's sender that there is something in its queue.
func (s *Store) wake(l *lane, urgent bool) {
	to := &s.senders[l.number%int(s.active.Load())]
	c := to.woken
	if urgent {
		c = to.now
	}
	select {
	case c <- struct{}{}:
	default: // it knows
	}
}

// wakeAll is for when Redis is there again.
func (s *Store) wakeAll() {
	for i := range int(s.active.Load()) {
		select {
		case s.senders[i].now <- struct{}{}:
		default:
		}
	}
}

// send is sender number n.
func (s *Store) send(ctx context.Context, n int) {
	me := &s.senders[n]
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var jobs []job
	for {
		urgent := false
		select {
		case <-ctx.Done():
			s.sendLast(n)
			return
		case <-me.now:
			urgent = true
		case <-me.woken:
		case <-timer.C: // an open breaker may be tried again
		}
		if !urgent {
			timer.Reset(gather)
			select {
			case <-ctx.Done():
			case <-me.now:
			case <-timer.C:
			}
		}
		for ctx.Err() == nil {
			jobs = s.collect(n, jobs[:0], false)
			if len(jobs) == 0 {
				break
			}
			s.trip(ctx, jobs)
			full := len(jobs) == maxTrip
			clear(jobs)
			if !full {
				break // what has come together meanwhile has woken us again
			}
		}
		timer.Reset(s.nextTry(n))
	}
}

// sendLast tells Redis what there is still to tell, when the node stops.
func (s *Store) sendLast(n int) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*s.cfg.Wait)
	defer cancel()
	for ctx.Err() == nil {
		jobs := s.collect(n, nil, true)
		if len(jobs) == 0 || !s.trip(ctx, jobs) {
			return
		}
	}
}

// collect takes jobs of the lanes that are sender n's and may be tried.
func (s *Store) collect(n int, jobs []job, last bool) []job {
	now := time.Now().UnixNano()
	active := int(s.active.Load())
	if s.redis.Client() == nil || n >= active {
		return jobs
	}
	for i := n; i < laneCount && len(jobs) < maxTrip; i += active {
		l := &s.lanes[i]
		b := s.breaker(l)
		if b.down() && (last || b.retryAt.Load() > now) {
			continue
		}
		most := maxTrip - len(jobs)
		if b.down() {
			most = 1 // a try
		}
		jobs = l.take(most, jobs)
	}
	return jobs
}

// nextTry is how long sender n may sleep if nobody wakes it.
func (s *Store) nextTry(n int) time.Duration {
	next := time.Hour
	active := int(s.active.Load())
	for i := n; i < laneCount && n < active; i += active {
		if b := s.breaker(&s.lanes[i]); b.down() {
			next = min(next, max(time.Until(time.Unix(0, b.retryAt.Load())), time.Millisecond))
		}
	}
	return next
}

// trip makes one round trip, and tells whether all of it came back.
func (s *Store) trip(ctx context.Context, jobs []job) (ok bool) {
	client := s.redis.Client()
	clustered := s.redis.Clustered()
	ctx, cancel := context.WithTimeout(ctx, 5*s.cfg.Wait)
	defer cancel()
	began := time.Now()
	for i := range jobs {
		b := s.breaker(jobs[i].lane)
		b.callAt.Store(began.UnixNano())
		defer b.callAt.Store(0)
		if !clustered {
			break
		}
	}
	tick := tickOf(s.clock())
	calls := s.calls(ctx, jobs, tick, clustered)
	if len(calls) > 1 {
		pipe := client.Pipeline()
		for _, c := range calls {
			_ = pipe.Process(ctx, c.cmd)
		}
		_, _ = pipe.Exec(ctx) // each command has its own error
	} else {
		_ = client.Process(ctx, calls[0].cmd)
	}
	s.metrics.trips.Add(1)
	s.metrics.calls.Add(uint64(len(calls)))
	s.metrics.seconds.observe(time.Since(began))
	ok = true
	for _, c := range calls {
		err := c.cmd.Err()
		if isNoScript(err) { // Redis was started anew, or told to forget
			s.metrics.noScript.Add(1)
			c.cmd = s.command(ctx, "eval", scriptSource, c.jobs, tick)
			_ = client.Process(ctx, c.cmd)
			err = c.cmd.Err()
		}
		ok = s.settle(c, err, began, tick) && ok
	}
	return ok
}

// settle gives a call's replies to the lanes.
func (s *Store) settle(c call, err error, at time.Time, tick int64) bool {
	var replies []any
	if err == nil {
		if replies, err = c.cmd.Slice(); err == nil && len(replies) != len(c.jobs) {
			err = errReply
		}
	}
	b := s.breaker(c.jobs[0].lane)
	if isBug(err) {
		return s.single(c, at, tick)
	}
	if err != nil {
		s.metrics.failed.Add(1)
		s.opened(b, err)
		for i := range c.jobs {
			c.jobs[i].lane.failed(c.jobs[i].view)
		}
		return false
	}
	s.healed(b)
	for i := range c.jobs {
		reply, _ := replies[i].(string)
		if err := c.jobs[i].lane.done(c.jobs[i].view, reply, at, tick); err != nil {
			s.metrics.unreadable.Add(1)
			s.log.Warn("a swarm in redis cannot be read", "key", s.cfg.Prefix+hexOf(&c.jobs[i].view.hash), "err", err)
		}
	}
	return true
}

// isBug tells an error in the script from one that Redis has with a command of it, as OOM.
func isBug(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && strings.HasPrefix(err.Error(), "ERR user_script:")
}

// single finds the swarm that the script cannot deal with, so that the others of its call do not suffer for it. What that swarm's
// peers have said is dropped: it would stand in the way for ever.
func (s *Store) single(c call, at time.Time, tick int64) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*s.cfg.Wait)
	defer cancel()
	ok := true
	for i := range c.jobs {
		one := call{jobs: c.jobs[i : i+1]}
		one.cmd = s.command(ctx, "eval", scriptSource, one.jobs, tick)
		_ = s.redis.Client().Process(ctx, one.cmd)
		err := one.cmd.Err()
		if !isBug(err) {
			ok = s.settle(one, err, at, tick) && ok
			continue
		}
		v := one.jobs[0].view
		s.metrics.unreadable.Add(1)
		s.metrics.dropped.Add(uint64(len(one.jobs[0].ops) / opBytes(family4)))
		_ = one.jobs[0].lane.done(v, "", at, tick)
		s.log.Warn("BUG: the script cannot deal with a swarm; delete its key", "key", s.cfg.Prefix+hexOf(&v.hash), "err", err)
	}
	return ok
}

// A call is the script for some swarms.
type call struct {
	cmd  *redis.Cmd
	jobs []job
}

// calls makes them: with one Redis many swarms a call, in a cluster one, as its nodes want it.
func (s *Store) calls(ctx context.Context, jobs []job, tick int64, clustered bool) (calls []call) {
	most := maxCall
	if clustered {
		most = 1
	}
	for len(jobs) > 0 {
		n := min(most, len(jobs))
		calls = append(calls, call{s.command(ctx, "evalsha", script.Hash(), jobs[:n], tick), jobs[:n]})
		jobs = jobs[n:]
	}
	return calls
}

func (s *Store) command(ctx context.Context, name, what string, jobs []job, tick int64) *redis.Cmd {
	args := make([]any, 0, 6+3*len(jobs))
	args = append(args, name, what, len(jobs))
	keys := make([]byte, 0, len(jobs)*(len(s.cfg.Prefix)+len(jobs[0].view.hash)))
	for i := range jobs {
		from := len(keys)
		keys = append(append(keys, s.cfg.Prefix...), jobs[i].view.hash[:]...)
		args = append(args, keys[from:])
	}
	args = append(args, tick, s.cfg.MaxPeersPerSwarm, int(rand.Uint32()>>1))
	for i := range jobs {
		want := "0"
		switch jobs[i].want {
		case needPeers:
			want = s.sample
		case needCounts:
			want = "-" + s.sample
		}
		args = append(args, want, jobs[i].ops)
	}
	return redis.NewCmd(ctx, args...)
}

func isNoScript(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }

var errForeign = errors.New("the key holds something else; give this tracker a database of its own (store.redis.db)")
