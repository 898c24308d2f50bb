package flood

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// engine is how a worker's requests travel.
type engine interface {
	dispatch(now int64)            // gives what is queued to whoever is free
	keepOpen(now int64)            // opens what should be open
	expire(now int64) (next int64) // gives up what takes too long; next is when there may be more
	ready(place int32, generation, events uint32, now int64)
	free() int // how many requests could be sent at once
	open() (n, want int)
	busy() bool       // a request has no outcome yet
	giveUp(now int64) // counts those as timed out
	shift(by int64)   // the clock is set back: the flood begins
	close()
}

// team is the workers of one flood.
type team struct {
	cfg        Config
	closedLoop bool
	workers    []*worker
	stop       atomic.Bool
	live       [liveCount]atomic.Uint64
}

// What is published while a flood runs.
const (
	liveOffered = iota
	liveSent
	liveGood
	liveLate
	liveShed
	liveFailed
	liveBehind
	liveCount
)

// worker is one thread.
type worker struct {
	*team
	id            int
	plan          schedule
	tally         tally
	poller        *sys.Poller
	engine        engine
	ws            *wsEngine // the engine, if it is that
	requests      requests
	key           []byte // Config.GoodKey
	rnd           random
	shares        []uint64 // of attack requests in each phase, of 2^32
	queues        [sides]ring[request]
	split         bool // the sides have connections of their own
	base          time.Time
	told          [liveCount]uint64
	toldAt        int64
	cpu           time.Duration
	opened        int        // connections, when the flood began
	dialErr       unix.Errno // the last
	upgradeStatus int        // of the last WebSocket handshake that was refused
	err           error
}

const (
	openWithin  = int64(15 * time.Second)
	refusedFor  = int64(2 * time.Second) // and it is clear that nobody listens
	publishEach = int64(100 * time.Millisecond)
	dueAtOnce   = 256 // requests looked at before the next poll
	longestWait = int64(20 * time.Millisecond)
	never       = int64(1) << 62
)

func newTeam(c Config, closedLoop bool) *team {
	t := &team{cfg: c, closedLoop: closedLoop}
	for i := range c.Threads {
		t.workers = append(t.workers, newWorker(t, i))
	}
	return t
}

func newWorker(t *team, id int) *worker {
	c := &t.cfg
	rate := c.Rate
	if t.closedLoop {
		rate = 0
	}
	w := &worker{team: t, id: id, plan: newSchedule(c.Profile, rate, id, c.Threads), tally: newTally(c.Profile), rnd: random(uint64(id)<<32 + 1), key: []byte(c.GoodKey)}
	for _, ph := range c.Profile {
		share := ph.Share
		if share < 0 {
			share = c.Share
		}
		if c.Attackers == 0 {
			share = 0
		}
		w.shares = append(w.shares, uint64(share*(1<<32)))
	}
	sources, _ := newAddresses(c.Bind, c.Honest+c.Attackers) // checked by complete
	w.requests = requests{
		path: c.Path, host: c.Target.String(), torrents: c.Torrents, randomIDs: c.RandomPeerIDs, close: c.Mode == Close,
		sources: sources, honest: c.Honest, rnd: &w.rnd, buf: make([]byte, 0, 2048+80*c.Hashes), scrapePath: scrapePath(c.Path), hashes: c.Hashes,
	}
	if w.requests.upgradePath = "/"; c.Mode == WSAnnounce {
		w.requests.upgradePath = c.Path
	}
	if c.Source == SourceHeader {
		w.requests.header = c.Header
	}
	// What is due within the patience, and no more.
	waiting := c.Profile.peak(c.Rate) / float64(c.Threads) * max(c.Patience, 0).Seconds()
	for i := range w.queues {
		w.queues[i] = newRing[request](min(int(waiting*1.25)+dueAtOnce, 1<<20))
	}
	return w
}

// run starts the workers, has them begin at the same time, and adds up what they counted.
func (t *team) run(ctx context.Context) (*Result, error) {
	defer context.AfterFunc(ctx, func() { t.stop.Store(true) })()
	var opened, ended sync.WaitGroup
	begin := make(chan time.Time)
	for _, w := range t.workers {
		opened.Add(1)
		ended.Go(func() { w.run(&opened, begin) })
	}
	opened.Wait()
	start := time.Now().Add(time.Millisecond)
	for range t.workers {
		begin <- start
	}
	over := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		t.watch(start, over)
	}()
	ended.Wait()
	close(over)
	<-watched
	for _, w := range t.workers {
		if w.err != nil {
			return nil, fmt.Errorf("flood: %w", w.err)
		}
	}
	return t.result(start, time.Since(start)), nil
}

// run is the worker's thread. It takes part in the beginning even if it has failed.
func (w *worker) run(opened *sync.WaitGroup, begin <-chan time.Time) {
	w.err = w.prepare()
	opened.Done()
	start := <-begin
	if w.engine != nil {
		defer w.engine.close()
		w.engine.shift(int64(start.Sub(w.base)))
	}
	w.base = start
	if w.err == nil {
		cpu := sys.ThreadCPU()
		w.err = w.loop()
		w.cpu = sys.ThreadCPU() - cpu
		w.publish()
	}
	if w.err != nil {
		w.stop.Store(true)
	}
}

// prepare opens all connections.
func (w *worker) prepare() (err error) {
	if err := enterThread(&w.cfg, w.id); err != nil {
		return err
	}
	if w.poller, err = sys.NewPoller(); err != nil {
		return err
	}
	switch {
	case w.cfg.Mode.onSockets():
		w.ws = newWSEngine(w)
		w.engine = w.ws
	case w.cfg.Mode.overUDP():
		w.engine = newUDPEngine(w)
	default:
		w.engine = newHTTPEngine(w)
	}
	w.base = time.Now()
	for {
		now := w.now()
		n, want := w.engine.open()
		if w.opened = n; n == want || w.stop.Load() {
			return nil
		}
		if n == 0 && (now > openWithin || now > refusedFor && (w.dialErr != 0 || w.upgradeStatus != 0)) {
			return w.noneOpened(want, time.Duration(now).Round(time.Second))
		}
		if now > openWithin {
			return nil // a target that takes no more is worth a flood too
		}
		w.engine.keepOpen(now)
		if err := w.poll(min(w.engine.expire(now)-now, longestWait)); err != nil {
			return err
		}
	}
}

// noneOpened says why there is nothing to flood.
func (w *worker) noneOpened(want int, in time.Duration) error {
	switch {
	case w.upgradeStatus != 0:
		return fmt.Errorf("connect to %s: none of %d WebSockets was opened in %s: handshakes are answered with status %d", w.cfg.Target, want, in, w.upgradeStatus)
	case w.dialErr == 0:
		return fmt.Errorf("connect to %s: none of %d connections was answered in %s", w.cfg.Target, want, in)
	}
	return fmt.Errorf("connect to %s: none of %d connections was opened in %s: %w", w.cfg.Target, want, in, w.dialErr)
}

func (w *worker) now() int64 { return int64(time.Since(w.base)) }

// loop is the flood.
func (w *worker) loop() error {
	end := w.plan.end()
	for {
		now := w.now()
		over := w.closedLoop && now >= end
		if w.stop.Load() {
			end, over = min(end, now), true
			w.plan.at = len(w.plan.spans)
		}
		next, more := never, false
		if w.closedLoop {
			more = !over
			if w.askAgain(now, over); more {
				next = end
			}
		} else {
			next, more = w.dueNow(now)
		}
		w.engine.keepOpen(now)
		if w.cfg.Patience > 0 {
			w.expireQueues(now) // after a time without the core, all that is due may be too old
		}
		w.engine.dispatch(now)
		next = min(next, w.expireQueues(now), w.engine.expire(now), w.toldAt+publishEach)
		if now-w.toldAt >= publishEach {
			w.publish()
			w.toldAt = now
		}
		if !more && now >= end && !w.engine.busy() && w.queues[honest].n+w.queues[attack].n == 0 {
			return nil
		}
		if !more && now > end+int64(w.cfg.Timeout+max(w.cfg.Patience, 0)) || w.stop.Load() && now > end+int64(w.cfg.Good) {
			w.engine.giveUp(now)
			return nil
		}
		if err := w.poll(min(max(next-now, 0), longestWait)); err != nil {
			return err
		}
	}
}

// spinBelow is a wait that is not worth sleeping for: a server that wakes its client pays for that.
const spinBelow = int64(100 * time.Microsecond)

func (w *worker) poll(d int64) error {
	if d < spinBelow {
		d = 0
	}
	events, errno := w.poller.Wait(time.Duration(d))
	if errno != 0 {
		return fmt.Errorf("poll: %w", errno)
	}
	for i := range events {
		e := &events[i]
		w.engine.ready(e.Fd, uint32(e.Pad), e.Events, w.now())
	}
	return nil
}

// dueNow queues the requests that are due, and says when the next one is.
func (w *worker) dueNow(now int64) (next int64, more bool) {
	for range dueAtOnce {
		due, phase, ok := w.plan.next()
		if !ok {
			return never, false
		}
		if due > now {
			return due, true
		}
		w.plan.taken()
		if lag := now - due; lag > behindAfter {
			w.tally.behind++
			w.tally.lagMost = max(w.tally.lagMost, lag)
		}
		w.enqueue(request{due: due, phase: uint8(phase)}, now)
	}
	return now, true
}

// askAgain is dueNow of a closed loop: whoever is free asks.
func (w *worker) askAgain(now int64, over bool) {
	if over {
		return
	}
	phase := uint8(0)
	for int(phase) < len(w.plan.spans)-1 && now >= w.plan.spans[phase].to {
		phase++
	}
	for range min(w.engine.free(), dueAtOnce) {
		w.enqueue(request{due: now, phase: phase}, now)
	}
}

func (w *worker) enqueue(r request, now int64) {
	if share := w.shares[r.phase]; share > 0 && w.rnd.next()>>32 < share {
		r.side = attack
	}
	w.tally.offer(r)
	if !w.queues[w.line(r.side)].push(r) {
		w.record(r, unsent, now)
	}
}

// line is the queue of a side, and of the connections that serve it.
func (w *worker) line(side uint8) int {
	if w.split {
		return int(side)
	}
	return 0
}

// expireQueues gives up what has waited too long.
func (w *worker) expireQueues(now int64) (next int64) {
	next = never
	for i := range w.queues {
		q := &w.queues[i]
		for q.n > 0 {
			// With no patience, what dispatch has just left over.
			if at := q.first().due + int64(w.cfg.Patience); at > now && w.cfg.Patience > 0 {
				next = min(next, at)
				break
			}
			w.record(q.pop(), unsent, now)
		}
	}
	return next
}

func (w *worker) record(r request, o outcome, now int64) {
	w.tally.record(r, o, time.Duration(now-r.due), w.cfg.Good)
}

// local counts a socket that this machine could not make, for which the server is not to blame.
func (w *worker) local(err error) {
	w.tally.localErrs++
	if w.tally.localErr == nil {
		w.tally.localErr = err
	}
}

// publish adds to the team's live counters what was counted since the last time.
func (w *worker) publish() {
	var n [liveCount]uint64
	for i := range w.tally.phases {
		for side := range sides {
			s := &w.tally.phases[i][side]
			n[liveOffered] += s.offered
			n[liveSent] += s.sent
			n[liveGood] += s.by[good]
			n[liveLate] += s.by[late]
			n[liveShed] += s.by[shed] + s.by[shedFailure]
			for o := badStatus; o < outcomeCount; o++ {
				n[liveFailed] += s.by[o]
			}
		}
	}
	n[liveBehind] = w.tally.behind
	for i := range n {
		w.live[i].Add(n[i] - w.told[i])
	}
	w.told = n
}

// enterThread gives the calling goroutine a thread of its own, as the configuration says.
func enterThread(c *Config, worker int) error {
	sys.LockThread()
	if len(c.Cores) > 0 {
		if err := sys.PinThread(c.Cores[worker]); err != nil {
			return err
		}
	}
	if c.First {
		return sys.SetPolicy(unix.SCHED_FIFO)
	}
	return nil
}
