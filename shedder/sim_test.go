package shedder

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"time"
)

// A simulation of one core, the clients behind it and what is between: events on a fake clock, a millisecond a step, the same
// each run. The server reads requests in the order in which they came, serves one in 1/capacity and refuses one in a part
// of that. Between it and the clients are either kept connections (a CDN's pool: one request at a time each) or the kernel's
// queue of connections of one request each.
//
// It leaves out what would flatter us: a client that gives up does not take its request back, so the server serves it for
// nothing.

const simStep = time.Millisecond

// simulation is one run's.
type simulation struct {
	capacity float64       // requests a second served, if none is refused
	refuse   float64       // cost of refusing one, in costs of serving one
	length   time.Duration // of the run
	clients  clients
	load     func(time.Duration) float64 // of clients that ask for the first time, requests a second; for an interval
	leechers bool                        // all of them, but for those that come and go

	flood              float64 // requests a second, from clients that ask once
	floodFrom, floodTo time.Duration
	strangers          bool          // they say so of themselves; else they look as clients do
	downFrom, downTo   time.Duration // connections are refused

	pool int // kept connections; 0: one for each request

	shed  shedding // nil: nothing is refused
	reply reply
	park  bool

	source func(peer int32, rng *rand.Rand) netip.Addr // nil: none is known
	after  func(now time.Duration)                     // called each tick
	runs   func(now time.Duration) bool                // whether the server has the core; nil: always

	rng     *rand.Rand
	now     time.Duration
	free    time.Duration // when the core has done what it does
	ready   simQueue      // to be read by the server
	waiting simQueue      // for a connection of the pool
	syns    []*simCall    // that come in this step
	idle    int
	fails   []uint8 // in a row, of each client that was heard
	wheel   []int32 // first event of a millisecond
	events  []simEvent
	spare   int32
	read    int
	took    []time.Duration // what was served of the flood, since the client began

	seconds []simSecond
}

// shedding is what the server asks about each request.
type shedding interface {
	observe(age time.Duration, fresh bool)
	admit(call *simCall, now, age time.Duration, alone bool) Verdict
	spent(d time.Duration, shed bool)
	step(now time.Duration)
	wait() time.Duration
	told(shed bool, rng *rand.Rand) time.Duration
	backlog() int
}

// reply is what a client sees that is refused.
type reply uint8

const (
	polite  reply = iota // a success with a long interval
	failing              // an error
)

// simCall is a request.
type simCall struct {
	peer   int32 // -1: of the flood
	class  Class
	source netip.Addr
	syn    int8 // sent again so often
	over   bool // the client has its answer, or has given up
	start  time.Duration
	sent   time.Duration // when the server's kernel had it; 0: not yet
	answer Verdict
}

// simSecond is what happened in one, by when a client began to ask; the rest is the server's.
type simSecond struct {
	asked, answered, served    int // of clients
	offered, admitted, refused int
	age                        time.Duration // the greatest
	oldest                     time.Duration // the greatest of those served
}

type simEvent struct {
	next int32
	kind eventKind
	peer int32
	call *simCall
}

type eventKind uint8

const (
	peerDue eventKind = iota
	clientGivesUp
	poolGivesUp
	synAgain
	answered
)

func (s *simulation) run() *simulation {
	s.rng = rand.New(rand.NewPCG(1, 2))
	s.wheel = make([]int32, s.length/simStep+1)
	s.events = make([]simEvent, 1, 1<<16) // 0: none
	s.seconds = make([]simSecond, s.length/time.Second+1)
	s.idle = s.pool
	newPeers, strangers := 0.0, 0.0
	for s.now = 0; s.now < s.length; s.now += simStep {
		sec := &s.seconds[s.now/time.Second]
		if s.now < simInterval {
			for newPeers += s.poisson(s.load(s.now)); newPeers >= 1; newPeers-- {
				s.fails = append(s.fails, 0)
				s.ask(int32(len(s.fails) - 1))
			}
		}
		if s.now >= s.floodFrom && s.now < s.floodTo {
			for strangers += s.poisson(s.flood); strangers >= 1; strangers-- {
				s.ask(-1)
			}
		}
		for i := s.wheel[s.now/simStep]; i != 0; {
			e := s.events[i]
			s.events[i].next, s.events[i].call, s.spare = s.spare, nil, i
			s.happen(e)
			i = e.next
		}
		// Who is first finds room, and nobody is always first.
		s.rng.Shuffle(len(s.syns), func(i, j int) { s.syns[i], s.syns[j] = s.syns[j], s.syns[i] })
		for _, c := range s.syns {
			s.connect(c)
		}
		s.syns = s.syns[:0]
		if s.runs == nil || s.runs(s.now) {
			s.serve(sec)
		}
		if s.now%TickLength == TickLength-simStep {
			if s.shed != nil && !s.down() {
				s.shed.step(s.now + simStep)
			}
			if s.after != nil {
				s.after(s.now + simStep)
			}
		}
	}
	return s
}

func (s *simulation) poisson(rate float64) float64 {
	n, p, limit := 0.0, 1.0, math.Exp(-rate*simStep.Seconds())
	for {
		if p *= s.rng.Float64(); p <= limit {
			return n
		}
		n++
	}
}

func (s *simulation) down() bool { return s.now >= s.downFrom && s.now < s.downTo }

func (s *simulation) at(t time.Duration, e simEvent) {
	slot := max(int(t/simStep), int(s.now/simStep)+1)
	if slot >= len(s.wheel) {
		return
	}
	i := s.spare
	if i == 0 {
		s.events = append(s.events, simEvent{})
		i = int32(len(s.events) - 1)
	} else {
		s.spare = s.events[i].next
	}
	e.next = s.wheel[slot]
	s.events[i], s.wheel[slot] = e, i
}

// ask begins a request.
func (s *simulation) ask(peer int32) {
	c := &simCall{peer: peer, start: s.now}
	who := s.rng.IntN(20)
	if peer >= 0 {
		who = int(peer) % 20
		s.seconds[s.now/time.Second].asked++
		s.at(s.now+s.clients.timeout, simEvent{kind: clientGivesUp, call: c})
	}
	switch {
	case peer < 0 && s.strangers:
		c.class = Unknown
	case who == 0:
		c.class = Unknown
	case who == 1:
		c.class = Leaving
	case who < 11 || s.leechers:
		c.class = KnownLeecher
	default:
		c.class = KnownSeeder
	}
	if s.source != nil {
		c.source = s.source(peer, s.rng)
	}
	switch {
	case s.down():
		s.fail(c)
	case s.pool == 0:
		s.syns = append(s.syns, c)
	case s.idle > 0:
		s.idle--
		s.send(c)
	default:
		s.waiting.push(c)
		s.at(s.now+poolWait, simEvent{kind: poolGivesUp, call: c})
	}
}

func (s *simulation) send(c *simCall) {
	c.sent = s.now
	s.ready.push(c)
}

// connect sends a SYN, which the kernel drops if too many connections wait to be accepted.
func (s *simulation) connect(c *simCall) {
	most := math.MaxInt // fasthttp's default is nearly that
	if s.shed != nil {
		most = s.shed.backlog()
	}
	switch {
	case s.down():
		s.fail(c)
	case s.ready.len() < most:
		s.send(c)
	case int(c.syn) < len(synRetries):
		s.at(c.start+synRetries[c.syn], simEvent{kind: synAgain, call: c})
		c.syn++
	}
}

func (s *simulation) happen(e simEvent) {
	switch c := e.call; e.kind {
	case peerDue:
		s.ask(e.peer)
	case clientGivesUp:
		s.fail(c)
	case poolGivesUp:
		if c.sent == 0 {
			s.fail(c)
		}
	case synAgain:
		if !c.over {
			s.syns = append(s.syns, c)
		}
	case answered:
		s.answered(c)
	}
}

// fail is an error, or no answer, to a client.
func (s *simulation) fail(c *simCall) {
	if c.over {
		return
	}
	if c.over = true; c.peer < 0 {
		return
	}
	n := min(s.fails[c.peer]+1, 100)
	s.fails[c.peer] = n
	s.at(s.now+s.clients.retry(int(n)), simEvent{kind: peerDue, peer: c.peer})
}

// serve has the core work for a millisecond.
func (s *simulation) serve(sec *simSecond) {
	end, one := s.now+simStep, time.Duration(float64(time.Second)/s.capacity)
	for s.ready.len() > 0 && s.free < end {
		s.free = max(s.free, s.now)
		c := s.ready.pop()
		if s.down() {
			s.answer(c, s.now)
			continue
		}
		sec.offered++
		spent, age := one, max(s.free-c.sent, 0)
		if s.shed != nil {
			sec.age = max(sec.age, age)
			s.shed.observe(age, s.pool == 0)
			if c.answer = s.shed.admit(c, s.free, age, s.pool == 0); c.answer > Trim {
				spent = time.Duration(float64(one) * s.refuse)
			}
			if s.read++; s.read%16 == 0 {
				s.shed.spent(spent, c.answer > Trim)
			}
		}
		s.free += spent
		if c.answer <= Trim {
			sec.admitted++
			sec.oldest = max(sec.oldest, age)
			s.answer(c, s.free)
			continue
		}
		sec.refused++
		wait := time.Duration(0)
		if s.park && s.pool > 0 {
			if w := s.shed.wait(); w > 0 {
				wait = w*2/3 + time.Duration(s.rng.Int64N(int64(w*2/3))) // as Gate.Park
			}
		}
		s.answer(c, s.free+wait)
	}
}

func (s *simulation) answer(c *simCall, at time.Duration) {
	s.at(at, simEvent{kind: answered, call: c})
}

// answered has an answer come to its client, and the connection be free.
func (s *simulation) answered(c *simCall) {
	if s.pool > 0 {
		s.idle++
		for s.waiting.len() > 0 {
			if next := s.waiting.pop(); !next.over {
				s.idle--
				s.send(next)
				break
			}
		}
	}
	if s.down() || c.answer > Trim && s.reply == failing {
		s.fail(c)
		return
	}
	if c.over {
		return
	}
	c.over = true
	if c.peer < 0 {
		if c.answer <= Trim {
			s.took = append(s.took, s.now-c.start)
		}
		return
	}
	s.fails[c.peer] = 0
	sec := &s.seconds[c.start/time.Second]
	sec.answered++
	if c.answer <= Trim {
		sec.served++
	}
	next := time.Duration(float64(simInterval) * (0.8 + 0.4*s.rng.Float64()))
	if s.shed != nil {
		next = s.shed.told(c.answer > Trim, s.rng)
	}
	s.at(s.now+next, simEvent{kind: peerDue, peer: c.peer})
}
