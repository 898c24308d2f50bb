package shedder

import (
	"math/rand/v2"
	"net/netip"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what an operator sets. The names in brackets are the configuration's keys. Zero means the default.
type Config struct {
	Disabled  bool          // no request is ever shed; switches and rules hold (shedder.enabled)
	Target    time.Duration // median age of requests above which there is overload (shedder.target); 50 ms
	PerSource Budget        // of an IPv4 address or an IPv6 /64, in overload (shedder.per_source); zero: none
	PerPrefix Budget        // of an IPv4 /24 or an IPv6 /48 (shedder.per_prefix); zero: none
	MemoryMax int64         // bytes (shedder.memory_max); 0: MemoryLimit()
	AutoRules time.Duration // how long a rule the talkers propose is in force by itself (shedder.auto_rules); 0: never

	Interval    time.Duration // what clients are told at no load (tracker.interval)
	MaxInterval time.Duration // and at most (tracker.max_interval)

	Capacity float64 // requests a second that could be served before the restart; 0: not known
	Cores    int     // that serve

	// Offender, if not nil, is told of a source that asks far above its budget in an overload and whose address is the
	// connection's own. It must not wait.
	Offender func(netip.Addr)
}

func (c Config) withDefaults() Config {
	if c.Target <= 0 {
		c.Target = 50 * time.Millisecond
	}
	if c.MemoryMax <= 0 {
		c.MemoryMax = MemoryLimit()
	}
	if c.Interval <= 0 {
		c.Interval = 30 * time.Minute
	}
	c.MaxInterval = max(c.MaxInterval, c.Interval)
	c.Cores = max(c.Cores, 1)
	return c
}

// TickLength is the time between two calls of Gate.Step.
const TickLength = 50 * time.Millisecond

// burst is how far what is admitted may be ahead of the rate. In time, so that it holds for any rate.
const burst = 2 * TickLength

// Gate decides about requests. Make one with New and have Run, or Step, called; all else is safe for concurrent use.
type Gate struct {
	Switches *Switches
	Rules    *Rules
	Talkers  *Talkers

	cfg     Config
	started time.Time
	sources sources

	kept, fresh ages
	ping        atomic.Int64 // nanoseconds: the longest a wake-up took since the last tick
	serveCost   cost
	shedCost    cost
	counts      [EndpointCount][verdictCount]atomic.Uint64

	// What Step has decided, for those that ask.
	limited  atomic.Bool
	spacing  atomic.Int64 // nanoseconds between two requests admitted, during the ramp; 0: no bound
	due      atomic.Int64 // when the rate is used up to (GCRA), nanoseconds since started
	brownout atomic.Int32
	memory   atomic.Int32
	backlog  atomic.Int32
	mostWait atomic.Int32  // the operator's bound of backlog
	wait     atomic.Int64  // nanoseconds
	age      atomic.Int64  // nanoseconds: the median of the last tick
	late     atomic.Uint64 // announces that were refused because they had waited too long
	parked   atomic.Int64
	told     atomic.Int64 // seconds
	most     atomic.Int64 // seconds
	jitter   atomic.Int64 // per cent
	state    atomic.Int32
	level    atomic.Int32 // per cent of what is offered that is shed
	faults   [EndpointCount]faults
	freed    time.Time // when memory was given back last; keep's

	mu       sync.Mutex // guards what follows; Step's, and of those that look
	law      law
	ladder   ladder
	interval interval
	since    time.Time // of the state
	pressed  time.Time // the last tick in which requests waited too long
	last     time.Time // Step
	seconds  time.Time // of the last look at what changes slowly
	tens     time.Time
	budgets  budgets                             // how tight those of sources are
	seen     [EndpointCount][verdictCount]uint64 // at the last tick
	lateSeen uint64
	history  [rateSeconds + 1][EndpointCount]counts // a second each, the newest first
	median   time.Duration
	freshMed time.Duration
	freshN   float64 // a second, averaged
	used     int64   // bytes
	samples  []metrics.Sample
}

type counts [verdictCount]uint64

// rateSeconds is what rates are averaged over.
const rateSeconds = 3

// MaxBacklog and MinBacklog bound the connections that wait to be accepted: where each carries one request, that is the queue.
const (
	MaxBacklog = 4096
	MinBacklog = 64
)

// backlogTime is how long a connection may wait to be accepted in an overload.
const backlogTime = 20 * time.Millisecond

// calmBacklogTime is the same while there is none, as far as what can be served is known: what waits longer than that would be
// refused anyway, and a flood that begins fills the queue before a tick has seen it. calmBacklogLeast is for what it is wrong about.
const (
	calmBacklogTime  = 80 * time.Millisecond
	calmBacklogLeast = 256
)

// freshTarget is to the first requests of connections what Config.Target is to others.
const freshTarget = backlogTime * 3 / 4

// New makes a gate. The caller may turn the switches and rules; nil are some that are kept nowhere.
func New(cfg Config, switches *Switches, rules *Rules, now time.Time) *Gate {
	cfg = cfg.withDefaults()
	if switches == nil {
		switches, _ = OpenSwitches("") // without a file there is nothing to go wrong
	}
	if rules == nil {
		rules, _ = OpenRules("")
	}
	g := &Gate{Switches: switches, Rules: rules, Talkers: NewTalkers(), cfg: cfg, started: now, last: now, since: now, seconds: now, tens: now}
	g.sources.init(cfg.PerSource, cfg.PerPrefix)
	g.law.target = cfg.Target
	g.samples = memorySamples()
	g.mostWait.Store(MaxBacklog)
	g.SetIntervals(cfg.Interval, cfg.MaxInterval)
	if cfg.Capacity > 0 && !cfg.Disabled {
		// Not the first start: clients were turned away while the tracker was down, and come back now.
		g.law.start(cfg.Capacity)
		g.interval.wide = cfg.Interval
	}
	g.publish()
	return g
}

// SetIntervals changes what clients are told at no load, and at most.
func (g *Gate) SetIntervals(base, most time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cfg.Interval, g.cfg.MaxInterval = base, max(base, most)
	g.interval.told = base
	g.publish()
}

// Observe counts how old a request was when it was read. Fresh says that it is the first of its connection.
func (g *Gate) Observe(age time.Duration, fresh bool) {
	if fresh {
		g.fresh.observe(age)
	} else {
		g.kept.observe(age)
	}
}

// Admit decides about a request, and counts what it decided.
func (g *Gate) Admit(r *Request) Verdict {
	v := g.admit(r)
	g.counts[r.Endpoint][v].Add(1)
	return v
}

func (g *Gate) admit(r *Request) Verdict {
	if mode := g.Switches.Mode(r.Endpoint); mode != On && r.refusedBy(mode) {
		return Refuse
	}
	if g.cfg.Disabled {
		return Serve
	}
	now := int64(r.Now.Sub(g.started))
	if r.Endpoint == UDP {
		return g.admitPacket(r, now)
	}
	limited, class := g.limited.Load(), r.Class
	if r.Source.IsValid() {
		key := g.sources.key(r.Source)
		over := g.sources.charge(key, now)
		switch {
		case !limited:
			// Nobody is refused for nothing: budgets are for when there is not enough for all.
			g.sources.remember(key)
		case over:
			g.offend(r, key, now)
			return OverBudget
		case class <= Unknown:
			class = g.classOf(class, key)
		}
	}
	step := g.brownout.Load()
	if limited && !r.Alone && (g.tooOld(class, r.Age, step) || !g.take(class, now)) {
		if class <= Unknown {
			g.late.Add(1)
		}
		return Shed
	}
	switch {
	case r.Class == Upgrade && (step >= BrownUpgrades || g.memory.Load() >= memoryTight):
		return Shed
	case r.Class == Scrapes && step >= BrownScrapes:
		return Shed
	case r.Class == Offers && step >= BrownOffers, r.Endpoint == Announce && step >= BrownNumWant:
		return Trim
	}
	return Serve
}

// admitPacket decides about a request that is a packet. None is refused for its age or for the ramp's rate: a refusal costs what
// serving does, so what was read is served, and the kernel drops what finds no room, for a tenth of that. Nor is one refused for
// its source's budget: that would take from those who keep to theirs no more than it gives.
func (g *Gate) admitPacket(r *Request, now int64) Verdict {
	if r.Source.IsValid() {
		key := g.sources.key(r.Source)
		// Not the halved rates: they would make offenders of two thousand sources of which each asks little.
		over := g.sources.host.charge(&g.sources.hosts[key.host%sourceCells], now, 0)
		switch {
		case !r.Crowded && !g.limited.Load():
			g.sources.remember(key)
		case over && r.Crowded:
			r.Offends = g.sources.strike(key, now)
		}
	}
	if r.Class == Scrapes && g.brownout.Load() >= BrownScrapes {
		return Shed
	}
	return Serve
}

// Lose counts packets that the kernel dropped because there was no room for them.
func (g *Gate) Lose(e Endpoint, n int) { g.counts[e][Lost].Add(uint64(n)) }

// refusedBy tells what a switch that is not on lets through: with reject-new what is known to the tracker already, and on
// WebSockets that are open everything until they are closed.
func (r *Request) refusedBy(m Mode) bool {
	switch {
	case m == Off:
		return true
	case r.Endpoint == WS:
		return r.Class == Upgrade
	case m == RejectNew && r.Endpoint != Scrape:
		return r.Class == Unknown
	}
	return true
}

// classOf corrects what an announce says of itself by whether its source was served before the overload.
func (g *Gate) classOf(class Class, key sourceKey) Class {
	known := g.sources.isKnown(key)
	switch {
	case !known:
		return Unknown // also what leaves: a stranger's leaving is worth nothing
	case class == Unknown:
		return KnownLeecher
	}
	return class
}

// tooOld tells whether a request has waited longer than its class may in an overload.
func (g *Gate) tooOld(class Class, age time.Duration, step int32) bool {
	if age < 0 {
		age = time.Duration(g.age.Load())
	}
	if class == KnownSeeder && step >= BrownSeeders {
		class = Upgrade
	}
	return age > patience[class]*g.cfg.Target/4
}

// take spends a place at the rate of the ramp, if there is one for the class.
func (g *Gate) take(class Class, now int64) bool {
	spacing := g.spacing.Load()
	if spacing == 0 {
		return true
	}
	ahead := int64(float64(burst) * (1 - reserves[class]))
	for {
		old := g.due.Load()
		due := max(old, now)
		if due-now > ahead {
			return false
		}
		if g.due.CompareAndSwap(old, due+spacing) {
			return true
		}
	}
}

// offend tells of a source whose refusals are many.
func (g *Gate) offend(r *Request, key sourceKey, now int64) {
	if g.cfg.Offender != nil && r.Direct && g.sources.strike(key, now) {
		g.cfg.Offender(r.Source)
	}
}

// Limited tells whether anything but the switches and rules may refuse a request now.
func (g *Gate) Limited() bool { return g.limited.Load() || g.brownout.Load() > 0 }

// Closed tells whether the endpoint's switch is not on.
func (g *Gate) Closed(e Endpoint) bool { return g.Switches.Mode(e) != On }

// Unwelcome tells, for a connection just accepted, whether its address has used up its budget in an overload: then to read
// what it wants costs twice what it costs to close it.
func (g *Gate) Unwelcome(addr netip.Addr, now time.Time) bool {
	if !g.limited.Load() || !addr.IsValid() {
		return false
	}
	key, ns := g.sources.key(addr), int64(now.Sub(g.started))
	if !g.sources.over(key, ns) {
		return false
	}
	g.counts[Announce][OverBudget].Add(1)
	g.offend(&Request{Source: addr, Direct: true}, key, ns)
	return true
}

// Full tells whether memory is so short that no connection is to be accepted.
func (g *Gate) Full() bool { return g.memory.Load() >= memoryFull }

// Backlog is how many connections may wait to be accepted.
func (g *Gate) Backlog() int { return int(g.backlog.Load()) }

// SetMaxBacklog bounds Backlog, between MinBacklog and MaxBacklog.
func (g *Gate) SetMaxBacklog(n int) { g.mostWait.Store(int32(min(max(n, MinBacklog), MaxBacklog))) }

// BacklogLimit is that bound.
func (g *Gate) BacklogLimit() int { return int(g.mostWait.Load()) }

// Pressure is the state, and the share of what is offered that is not served for want of time, in per cent: for whoever stands
// in front, who can send less. What a switch or a rule refuses does not count.
func (g *Gate) Pressure() (State, int) { return State(g.state.Load()), int(g.level.Load()) }

// Sample picks one request of sixteen.
func (g *Gate) Sample() bool { return rand.Uint32()%16 == 0 }

// Park keeps the caller, who has refused a request of a kept connection, for as long as its client is to wait for the answer.
// A client that is answered at once asks again at once; one that waits costs nothing meanwhile, and there are no more of them
// than connections. Every client waits for ten seconds at the least.
func (g *Gate) Park() {
	wait := time.Duration(g.wait.Load())
	if wait == 0 {
		return
	}
	g.parked.Add(1)
	time.Sleep(wait*2/3 + rand.N(wait*2/3)) // so that those that wait do not come back together
	g.parked.Add(-1)
}

// Spent tells how long a sampled request took from being read to the next read, and whether it was shed.
func (g *Gate) Spent(d time.Duration, shed bool) {
	if shed {
		g.shedCost.sample(d)
	} else {
		g.serveCost.sample(d)
	}
}

// Trims tells whether replies are to have few peers.
func (g *Gate) Trims() bool { return g.brownout.Load() >= BrownNumWant }

// Interval is what clients are told before the jitter, in seconds.
func (g *Gate) Interval() int { return int(g.told.Load()) }

// Told is what a client that is served is told, in seconds: the interval in force, with its jitter.
func (g *Gate) Told() int {
	told, jitter := g.told.Load(), g.jitter.Load()
	return int(told - told*jitter/100 + rand.Int64N(2*told*jitter/100+1))
}

// ToldShed is what a client that is not served is told, in seconds: from the interval in force to twice that. Longer, and it
// would be forgotten before it is back; and they must not come back together.
func (g *Gate) ToldShed() int {
	told := g.told.Load()
	return int(min(told+rand.Int64N(told+1), g.most.Load()))
}

// ToldOff is what a client is told that is refused by a switch or a rule, in seconds: the longest interval, less up to a
// third.
func (g *Gate) ToldOff() int {
	most := g.most.Load()
	return int(most - rand.Int64N(most/3+1))
}
