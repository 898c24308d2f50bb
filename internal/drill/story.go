package drill

import (
	"context"
	"errors"
	"sync"
	"time"

	"spillway/internal/lab"
)

// phase is a part of the story.
type phase struct {
	name string
	text string
	last time.Duration
}

// The phases, in order. Their names are what reports call them.
const (
	calm   = "calm"
	attack = "attack"
	wsOff  = "ws off"
	gone   = "gone"
	back   = "back"
	after  = "calm again"
)

func planOf(calmFor, attackFor, offFor, goneFor, backFor, afterFor time.Duration) []phase {
	return []phase{
		{calm, "usual traffic: announces over HTTP, WebTorrent peers on WebSockets", calmFor},
		{attack, "a flood of announces and of WebSocket handshakes from 250 addresses", attackFor},
		{wsOff, "the operator switches WebSockets off; the flood goes on", offFor},
		{gone, "the backend is gone: packets to it vanish; the flood goes on", goneFor},
		{back, "the backend returns; the flood goes on, and all who failed come again", backFor},
		{after, "the flood is over; the operator switches WebSockets on again", afterFor},
	}
}

// Clients' own times are divided by the squeeze, so that a drill has as many of their repeats as an incident of that many times its length.
const (
	quickSqueeze = 5
	fullSqueeze  = 4
)

var (
	quickPlan = planOf(5*time.Second, 5*time.Second, 5*time.Second, 6*time.Second, 5*time.Second, 6*time.Second)
	fullPlan  = planOf(15*time.Second, 25*time.Second, 20*time.Second, 30*time.Second, 25*time.Second, 25*time.Second)
)

const (
	honestSide = 0
	attackSide = 50

	attackers      = 250
	patience       = 5 * time.Second // of a client, and of the CDN on its behalf
	attackPatience = 2 * time.Second
	comesEach      = 4.0  // seconds between two announces of one honest client
	upgradeShare   = 0.35 // of the attack
	webPeers       = 100
	switchWithin   = 8 * time.Second
)

// observed is all that was seen of a run.
type observed struct {
	phases     []span
	honest     *lab.Tally
	announce   *lab.Tally // the attack's
	upgrades   *lab.Tally
	web        lab.Attempts
	sockets    []int // open, each binWidth
	relay      lab.Samples
	probes     []lab.Probes
	machine    []lab.MachineSample
	deaths     []time.Time
	start      time.Time
	length     time.Duration
	returned   time.Duration // when the tracker accepted again
	switched   time.Duration // what it took; 0: it did not get through
	switchedOn time.Duration
}

// span is a phase as it was.
type span struct {
	phase
	from, to time.Duration
}

// play is one run.
func (d *drill) play(ctx context.Context, name string) (run *Run, err error) {
	d.Note(name + ": building namespaces, backend, relay and CDN")
	s, err := d.build(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	d.unsteered = s.lab.Unsteered
	o, err := d.run(ctx, s, name)
	if err != nil {
		return nil, err
	}
	return judge(name, o), nil
}

// loads are who comes.
type loads struct {
	honest, announce, upgrades *lab.Load
	web                        *lab.WebPeers
	started                    []*lab.Load
}

// start has honest clients come, and the attackers wait.
func (d *drill) start(s *stage) (*loads, error) {
	honest := &clientele{target: s.target, many: uint32(max(d.rate*comesEach, 1)), squeeze: d.squeeze, side: honestSide}
	bad := &clientele{target: s.target, many: attackers, squeeze: d.squeeze, side: attackSide}
	l := &loads{
		honest:   &lab.Load{Target: s.target, Rate: d.rate, Timeout: patience, Request: honest.announce, Judge: judgeAnnounce, Retry: honest.retry},
		announce: &lab.Load{Target: s.target, Timeout: attackPatience, Tries: -1, MaxOpen: 10_000, Request: bad.announce, Judge: judgeAnnounce},
		upgrades: &lab.Load{Target: s.target, Timeout: attackPatience, Tries: -1, MaxOpen: 6000, Request: bad.upgrade, Judge: lab.JudgeUpgrade},
	}
	for _, load := range []*lab.Load{l.announce, l.upgrades, l.honest} {
		if err := s.lab.Load(load); err != nil {
			return nil, errors.Join(err, l.abandon())
		}
		l.started = append(l.started, load)
	}
	l.web = &lab.WebPeers{Target: s.target, N: webPeers, Every: time.Duration(float64(webAnnounceEvery) / d.squeeze / 4), Timeout: patience,
		Header: func(who int) string {
			return "X-Forwarded-For: " + honest.address(mix(uint64(who)+1<<40)).String() + "\r\n"
		},
		Message: webPeer,
		Retry: func(who, fails int) time.Duration {
			draw := float64(mix(uint64(who)<<16|uint64(fails))>>11) / (1 << 53)
			formula := trysteroRetry
			if who%2 == 0 {
				formula = webTorrentRetry
			}
			return time.Duration(float64(formula(fails, draw)) / d.squeeze)
		}}
	s.lab.WebPeers(l.web, time.Now().Add(-l.honest.Since()))
	return l, nil
}

// abandon ends those that were started.
func (l *loads) abandon() error {
	var err error
	for _, load := range l.started {
		_, stopErr := load.Stop(0)
		err = errors.Join(err, stopErr)
	}
	if l.web != nil {
		l.web.Stop()
	}
	return err
}

// run is the story itself.
func (d *drill) run(ctx context.Context, s *stage, name string) (*observed, error) {
	o := &observed{}
	l, err := d.start(s)
	if err != nil {
		return nil, err
	}
	watch := s.lab.Watch(s.relay, false)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	told := make(chan struct{})
	t := newTeller(d, s, l, o, name)
	go func() { defer close(told); t.tell(ctx) }()

	var turns sync.WaitGroup // the story does not wait for a switch that does not get through
	begin := map[string]func() error{
		attack: func() error { l.attack(d.attack); return nil },
		wsOff:  func() error { turns.Go(func() { o.switched = d.turn(s, "off") }); return nil },
		gone:   s.machine.Vanish,
		back:   func() error { err := s.machine.Return(); o.returned = l.honest.Since(); return err },
		after: func() error {
			l.attack(0)
			turns.Go(func() { o.switchedOn = d.turn(s, "on") })
			return nil
		},
	}
	var end time.Duration
	for _, p := range d.plan {
		from := l.honest.Since()
		if end += p.last; len(o.phases) > 0 {
			o.phases[len(o.phases)-1].to = from
		}
		o.phases = append(o.phases, span{phase: p, from: from})
		t.enter(p, from)
		if f := begin[p.name]; f != nil {
			if err = f(); err != nil {
				break
			}
		}
		if err = wait(ctx, end-l.honest.Since()); err != nil {
			break
		}
	}
	o.length = l.honest.Since()
	o.phases[len(o.phases)-1].to = o.length
	cancel(errors.New("over"))
	<-told
	turns.Wait()
	var watchErr error
	o.relay, o.probes, watchErr = watch.Stop()
	if err = errors.Join(err, watchErr); err != nil {
		return nil, errors.Join(err, l.abandon())
	}
	return o, errors.Join(l.end(o), s.end(o))
}

// end writes down what became of all.
func (l *loads) end(o *observed) (err error) {
	// Those under way may still be answered.
	for _, x := range []struct {
		load *lab.Load
		to   **lab.Tally
	}{{l.announce, &o.announce}, {l.upgrades, &o.upgrades}, {l.honest, &o.honest}} {
		t, stopErr := x.load.Stop(time.Second)
		*x.to, err = t, errors.Join(err, stopErr)
	}
	o.web = l.web.Stop()
	if err == nil {
		o.start = o.honest.Start
	}
	return err
}

func (s *stage) end(o *observed) (err error) {
	m := s.machine
	s.machine = nil
	o.machine, o.deaths, err = m.Stop()
	return err
}

// attack is so many requests a second.
func (l *loads) attack(rate float64) {
	l.announce.SetRate(rate * (1 - upgradeShare))
	l.upgrades.SetRate(rate * upgradeShare)
}

// turn throws the switch for WebSockets as ctl does, and tells how long that took; 0: it did not get through.
func (d *drill) turn(s *stage, mode string) time.Duration {
	start := time.Now()
	for time.Since(start) < switchWithin {
		err := s.machine.Ask("PUT", "/api/v1/switches/ws", `{"mode":"`+mode+`","reason":"drill"}`, switchWithin-time.Since(start))
		if err == nil {
			return time.Since(start)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return 0
}

// binWidth is the step of plots.
const binWidth = 250 * time.Millisecond

// teller tells what goes on, once a second.
type teller struct {
	*drill
	stage *stage
	loads *loads
	seen  *observed
	run   string
	total time.Duration

	mu  sync.Mutex // guards now
	now phase
}

func newTeller(d *drill, s *stage, l *loads, o *observed, run string) *teller {
	t := &teller{drill: d, stage: s, loads: l, seen: o, run: run}
	for _, p := range d.plan {
		t.total += p.last
	}
	return t
}

// enter says that a phase begins.
func (t *teller) enter(p phase, at time.Duration) {
	t.mu.Lock()
	t.now = p
	t.mu.Unlock()
	t.Progress(Progress{Run: t.run, Phase: p.name, Text: p.text, At: at, Of: t.total})
}

// tell goes on until ctx ends. It counts the open sockets too.
func (t *teller) tell(ctx context.Context) {
	tick := time.NewTicker(binWidth)
	defer tick.Stop()
	meter := t.stage.lab.NewMeter()
	begun, ended := t.loads.honest.Begun(), t.loads.honest.Ended()
	last := time.Now()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		open := t.loads.web.Open()
		t.seen.sockets = append(t.seen.sockets, open)
		if n%int(time.Second/binWidth) != 0 {
			continue
		}
		nowBegun, nowEnded, seconds := t.loads.honest.Begun(), t.loads.honest.Ended(), time.Since(last).Seconds()
		rate := func(of ...lab.Outcome) (sum float64) {
			for _, o := range of {
				sum += float64(nowEnded[o]-ended[o]) / seconds
			}
			return sum
		}
		t.mu.Lock()
		p := Progress{Run: t.run, Phase: t.now.name, At: t.loads.honest.Since(), Of: t.total, Offered: float64(nowBegun-begun) / seconds, Served: rate(lab.OK), Shed: rate(lab.Shed),
			Failed: rate(lab.Refused, lab.Reset, lab.Timeout, lab.Bad), RelayCPU: meter.Relay(), Sockets: open}
		t.mu.Unlock()
		t.Progress(p)
		begun, ended, last = nowBegun, nowEnded, time.Now()
	}
}
