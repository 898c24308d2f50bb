package flood

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"
)

// Subject is who is asked in a trial.
type Subject struct {
	URL    string         `json:"url"`
	Target netip.AddrPort `json:"-"`
	Path   string         `json:"-"`
}

// Plan is a trial: the same load at one target for some rounds, or at two in turn, A B A B, so that whatever else the machine does
// meets both.
type Plan struct {
	Command string        // of spillway bench, for reports
	What    string        // what is asked for, in the plural: announces
	A, B    Subject       // without a target for B there is none
	Load    Config        // its Target, Path, Name and Profile are the plan's
	Rounds  int           // of each; 3
	Length  time.Duration // of a round; 10 s
	Warmup  time.Duration // of each before the first round, which fills its torrents and is not counted. 0: none

	Progress func(TrialProgress) // as Config.Progress
}

// TrialProgress is how a trial stands.
type TrialProgress struct {
	Progress
	Subject       string // A or B; empty if there is one
	Round, Rounds int    // round 0 is the warm-up
	Done, Whole   time.Duration
}

// Trial is what a plan found out. It is also the form of its JSON file.
type Trial struct {
	Version  int       `json:"version"` // ResultVersion
	Command  string    `json:"command"`
	What     string    `json:"what"`
	Start    time.Time `json:"start"`
	A        Subject   `json:"a"`
	B        *Subject  `json:"b,omitempty"`
	Rounds   int       `json:"rounds"` // that were finished
	CPUs     int       `json:"cpus"`   // of this machine, which the generator and its targets share
	Verdict  []string  `json:"verdict"`
	Warnings []string  `json:"warnings"`
	Metrics  []Metric  `json:"metrics"`
	RunsA    []*Result `json:"runs_a"`
	RunsB    []*Result `json:"runs_b,omitempty"`
}

const maxRounds = 50

// targets is both subjects, or the one there is.
func (p *Plan) subjects() []Subject {
	if p.B.Target.IsValid() {
		return []Subject{p.A, p.B}
	}
	return []Subject{p.A}
}

// config is the load for a subject.
func (p *Plan) config(s Subject, length time.Duration) Config {
	c := p.Load
	c.Name, c.Target, c.Path, c.Progress = s.URL, s.Target, s.Path, nil
	c.Profile = Profile{{Duration: length, Multiple: 1, Share: -1}}
	return c
}

// warmup is what fills a subject's torrents: for scrapes these are announces, enough for nearly all torrents to have one.
func (p *Plan) warmup(s Subject) Config {
	c := p.config(s, p.Warmup)
	c.Attackers, c.Share, c.Scrapes = 0, 0, 0
	if c.Mode == Scrape {
		c.Mode, c.GoodKey = KeepAlive, "complete"
		c.Rate = min(max(c.Rate, 3*float64(c.Torrents)/p.Warmup.Seconds()), maxRate)
	}
	return c
}

func (p *Plan) complete() error {
	if p.Rounds == 0 {
		p.Rounds = 3
	}
	if p.Length == 0 {
		p.Length = 10 * time.Second
	}
	switch whole := p.whole(); {
	case p.Rounds < 1 || p.Rounds > maxRounds:
		return fmt.Errorf("flood: rounds %d: must be from 1 to %d", p.Rounds, maxRounds)
	case p.Warmup < 0:
		return fmt.Errorf("flood: warm-up %s: must be 0 or more", p.Warmup)
	case whole > time.Hour:
		return fmt.Errorf("flood: %d rounds of %s take %s; must be within an hour: fewer or shorter ones", p.Rounds, p.Length, whole)
	case p.Load.Rate == 0:
		return errors.New("flood: rate is 0; give one")
	}
	for _, s := range p.subjects() {
		c := p.config(s, p.Length)
		if err := c.complete(); err != nil {
			return err
		}
		if p.Load.Torrents == 0 {
			p.Load.Torrents = c.Torrents
		}
		if p.Warmup > 0 {
			w := p.warmup(s)
			if err := w.complete(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Plan) whole() time.Duration {
	return time.Duration(len(p.subjects())) * (p.Warmup + time.Duration(p.Rounds)*p.Length)
}

// RunTrial runs a plan. When ctx ends early, the rounds that were finished count; if there is none, the error says so.
func RunTrial(ctx context.Context, p Plan) (*Trial, error) {
	if err := p.complete(); err != nil {
		return nil, err
	}
	subjects := p.subjects()
	t := &Trial{Version: ResultVersion, Command: p.Command, What: p.What, Start: time.Now(), A: p.A, CPUs: runtime.NumCPU()}
	if len(subjects) == 2 {
		t.B = &p.B
	}
	var done time.Duration
	run := func(i, round int, c Config) (*Result, error) {
		if p.Progress != nil {
			c.Progress = func(now Progress) {
				p.Progress(TrialProgress{
					Progress: now, Subject: t.name(i), Round: round, Rounds: p.Rounds, Done: done + min(now.At, now.Total), Whole: p.whole(),
				})
			}
		}
		r, err := Run(ctx, c)
		if err != nil && len(subjects) == 2 {
			err = fmt.Errorf("%s: %w", t.name(i), err)
		}
		done += c.Profile.Total()
		return r, err
	}
	if p.Warmup > 0 {
		for i, s := range subjects {
			r, err := run(i, 0, p.warmup(s))
			if err != nil {
				return nil, err
			}
			if h := r.Phases[0].Honest; h.Good+h.Late == 0 && ctx.Err() == nil {
				return nil, fmt.Errorf("flood: %s served nothing in the warm-up: %s%s", s.URL, h, hintOf(h, r))
			}
		}
	}
	for round := range p.Rounds {
		var both []*Result
		for i, s := range subjects {
			if ctx.Err() != nil {
				break
			}
			r, err := run(i, round+1, p.config(s, p.Length))
			if err != nil {
				return nil, err
			}
			both = append(both, r)
		}
		if ctx.Err() != nil || len(both) < len(subjects) {
			break
		}
		t.Rounds++
		t.RunsA = append(t.RunsA, both[0])
		if len(both) == 2 {
			t.RunsB = append(t.RunsB, both[1])
		}
	}
	if t.Rounds == 0 {
		return nil, errors.New("flood: interrupted before the first round was over: there is nothing to report")
	}
	t.conclude()
	return t, nil
}

// hintOf says what is most likely wrong where nothing is served.
func hintOf(h Side, r *Result) string {
	switch {
	case h.Refused > 0:
		return "; nobody listens there"
	case h.Shed > 0 && h.Shed > h.ShedFailure && r.GoodKey != "" && !r.Mode.overUDP():
		return fmt.Sprintf("; it sheds all, or its replies have no key %q: see --good-key", r.GoodKey)
	case h.Status > 0:
		return "; is the path right?"
	case h.Timeout == h.Offered:
		return "; is the port right?"
	}
	return ""
}

// name is A, B, or nothing where there is no other.
func (t *Trial) name(i int) string {
	if t.B == nil {
		return ""
	}
	return []string{"A", "B"}[i]
}

// Spread is a figure of several rounds.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spreadOf must not be asked of nothing.
func spreadOf(all []float64) Spread {
	s := slices.Sorted(slices.Values(all))
	n := len(s)
	return Spread{(s[(n-1)/2] + s[n/2]) / 2, s[0], s[n-1]}
}

// Metric is one figure of all rounds. Ratio is of B over A, a round of one over that of the other before it; it is not there where A
// had nothing in some round.
type Metric struct {
	Name   string  `json:"name"`
	Higher bool    `json:"higher_is_better"`
	A      Spread  `json:"a"`
	B      *Spread `json:"b,omitempty"`
	Ratio  *Spread `json:"ratio,omitempty"`
}

// metrics are of the honest side, unless their names say otherwise.
var metrics = []struct {
	name   string
	higher bool
	of     func(p *PhaseResult) float64
}{
	{"good_per_second", true, func(p *PhaseResult) float64 { return p.GoodRate(p.Honest) }},
	{"good_percent", true, func(p *PhaseResult) float64 { return p.Honest.percent(p.Honest.Good) }},
	{"p50_ms", false, func(p *PhaseResult) float64 { return p.Honest.ServedP50 }},
	{"p90_ms", false, func(p *PhaseResult) float64 { return p.Honest.ServedP90 }},
	{"p99_ms", false, func(p *PhaseResult) float64 { return p.Honest.ServedP99 }},
	{"p999_ms", false, func(p *PhaseResult) float64 { return p.Honest.ServedP999 }},
	{"max_ms", false, func(p *PhaseResult) float64 { return p.Honest.ServedMax }},
	{"late_percent", false, func(p *PhaseResult) float64 { return p.Honest.percent(p.Honest.Late) }},
	{"shed_percent", false, func(p *PhaseResult) float64 { return p.Honest.percent(p.Honest.Shed) }},
	{"failed_percent", false, func(p *PhaseResult) float64 { return p.Honest.percent(p.Honest.Failed) }},
	{"attack_good_per_second", false, func(p *PhaseResult) float64 { return p.GoodRate(p.Attack) }},
}

func (s *Side) percent(n uint64) float64 { return 100 * float64(n) / float64(max(s.Offered, 1)) }

// conclude fills in all that follows from the runs.
func (t *Trial) conclude() {
	values := func(runs []*Result, of func(*PhaseResult) float64) (all []float64) {
		for _, r := range runs {
			all = append(all, of(&r.Phases[0]))
		}
		return all
	}
	t.Metrics = nil
	for _, m := range metrics {
		if m.name == "attack_good_per_second" && !t.RunsA[0].hasAttack() {
			continue
		}
		a := values(t.RunsA, m.of)
		out := Metric{Name: m.name, Higher: m.higher, A: spreadOf(a)}
		if t.B != nil {
			b := values(t.RunsB, m.of)
			s := spreadOf(b)
			out.B, out.Ratio = &s, ratioOf(a, b)
		}
		t.Metrics = append(t.Metrics, out)
	}
	t.Warnings = t.warn()
	t.Verdict = t.judge()
}

// ratioOf is b over a, round by round; nil where that has no value.
func ratioOf(a, b []float64) *Spread {
	var all []float64
	for i := range a {
		if a[i] <= 0 {
			return nil
		}
		all = append(all, b[i]/a[i])
	}
	s := spreadOf(all)
	return &s
}

func (t *Trial) metric(name string) *Metric {
	for i := range t.Metrics {
		if t.Metrics[i].Name == name {
			return &t.Metrics[i]
		}
	}
	panic("BUG: no metric " + name)
}

// typical is the run that stands for a target: the median by p99.
func typical(runs []*Result) *Result {
	s := slices.Clone(runs)
	slices.SortStableFunc(s, func(a, b *Result) int {
		x, y := a.Phases[0].Honest.ServedP99, b.Phases[0].Honest.ServedP99
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return s[(len(s)-1)/2]
}
