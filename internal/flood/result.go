package flood

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
	"time"
)

// ResultVersion changes when a field of Result or Trial is renamed, removed, or means something else. New fields do not change it.
const ResultVersion = 1

// Result is what a flood found out. It is also the form of the JSON file.
type Result struct {
	Version int       `json:"version"` // ResultVersion
	Name    string    `json:"name"`
	Target  string    `json:"target"`
	Mode    Mode      `json:"mode"`
	Source  string    `json:"source"`
	Start   time.Time `json:"start"`
	Seconds float64   `json:"seconds"`

	Rate       float64 `json:"rate"` // requests a second where the profile says 1
	Peak       float64 `json:"peak"` // found before; 0: not asked for
	Profile    string  `json:"profile"`
	Conns      int     `json:"conns"`
	Torrents   int     `json:"torrents"`
	ConnsOpen  int     `json:"conns_open"` // kept ones, when the flood began
	Threads    int     `json:"threads"`
	Honest     int     `json:"honest_sources"`
	Attackers  int     `json:"attack_sources"`
	GoodMS     float64 `json:"good_within_ms"`
	PatienceMS float64 `json:"patience_ms"`
	TimeoutMS  float64 `json:"timeout_ms"`
	GoodKey    string  `json:"good_key"`

	// What the generator has to say about itself.
	Behind      uint64  `json:"generator_behind"`        // requests that left more than 5 ms late through its own fault
	BehindMost  float64 `json:"generator_behind_ms_max"` //
	CPU         float64 `json:"generator_cpu"`           // of its threads' time; it polls at high rates, so 1 is not a bad sign
	Reopened    uint64  `json:"reopened"`                // kept connections that ended
	LocalErrors uint64  `json:"local_errors"`            // sockets that could not be made
	LocalError  string  `json:"local_error,omitempty"`   // the first

	Phases  []PhaseResult `json:"phases"`
	Series  Series        `json:"series"`
	Sockets *Sockets      `json:"websockets,omitempty"`
}

// PhaseResult is one phase of the profile.
type PhaseResult struct {
	From     float64 `json:"from"` // seconds
	To       float64 `json:"to"`
	Multiple float64 `json:"multiple"`
	Honest   Side    `json:"honest"`
	Attack   Side    `json:"attack"`
}

// Side is what became of one side's requests. Offered is Good + Late + Shed + Failed, but for messages on WebSockets, which have no
// outcome once they are sent.
type Side struct {
	Offered uint64 `json:"offered"`
	Sent    uint64 `json:"sent"`
	Good    uint64 `json:"good"`
	Late    uint64 `json:"late"`
	Shed    uint64 `json:"shed"`
	Failed  uint64 `json:"failed"`

	ShedFailure uint64 `json:"shed_with_failure_reason"` // of Shed
	Status      uint64 `json:"failed_status"`            // of Failed
	Malformed   uint64 `json:"failed_malformed"`
	Refused     uint64 `json:"failed_refused"`
	Reset       uint64 `json:"failed_reset"`
	Timeout     uint64 `json:"failed_timeout"`
	Unsent      uint64 `json:"failed_unsent"`

	// Latency of the good, from when they were due, in milliseconds; of all that were served, the late ones too.
	P50        float64 `json:"good_p50_ms"`
	P90        float64 `json:"good_p90_ms"`
	P99        float64 `json:"good_p99_ms"`
	P999       float64 `json:"good_p999_ms"`
	Max        float64 `json:"good_max_ms"`
	ServedP50  float64 `json:"served_p50_ms"`
	ServedP90  float64 `json:"served_p90_ms"`
	ServedP99  float64 `json:"served_p99_ms"`
	ServedP999 float64 `json:"served_p999_ms"`
	ServedMax  float64 `json:"served_max_ms"`

	Latency []Quantile `json:"served_latency,omitempty"` // of all that were served
	HDR     string     `json:"served_hdr,omitempty"`     // the same as an HdrHistogram of nanoseconds: V2, compressed, base64
}

// Quantile is a point of a latency curve: a share Q of the requests took MS milliseconds or less.
type Quantile struct {
	Q  float64 `json:"q"`
	MS float64 `json:"ms"`
}

func (s Side) String() string {
	return fmt.Sprintf("%d offered, %d good, %d late, %d shed, %d failed (%d refused, %d reset, %d timed out, %d not 200, %d malformed, %d unsent)",
		s.Offered, s.Good, s.Late, s.Shed, s.Failed, s.Refused, s.Reset, s.Timeout, s.Status, s.Malformed, s.Unsent)
}

// Series is both sides over time, a value for each bin, of what was due in it.
type Series struct {
	BinSeconds float64 `json:"bin_seconds"`
	Honest     Lines   `json:"honest"`
	Attack     Lines   `json:"attack"`
}

// Lines are rates a second, and latencies of the good in milliseconds, 0 where there were none.
type Lines struct {
	Offered []float64 `json:"offered"`
	Sent    []float64 `json:"sent"`
	Good    []float64 `json:"good"`
	Late    []float64 `json:"late"`
	Shed    []float64 `json:"shed"`
	Failed  []float64 `json:"failed"`
	P50     []float64 `json:"p50_ms"`
	P99     []float64 `json:"p99_ms"`
}

// ms rounds to microseconds.
func ms(d time.Duration) float64 { return float64(d.Round(time.Microsecond)) / 1e6 }

func (s *sum) side() Side {
	o := Side{
		Offered: s.offered, Sent: s.sent, Good: s.by[good], Late: s.by[late], Shed: s.by[shed] + s.by[shedFailure], ShedFailure: s.by[shedFailure],
		Status: s.by[badStatus], Malformed: s.by[malformed], Refused: s.by[refused], Reset: s.by[reset], Timeout: s.by[timedOut], Unsent: s.by[unsent],
		P50: ms(s.good.at(0.5)), P90: ms(s.good.at(0.9)), P99: ms(s.good.at(0.99)), P999: ms(s.good.at(0.999)), Max: ms(s.good.most),
		ServedP50: ms(s.answered.at(0.5)), ServedP90: ms(s.answered.at(0.9)), ServedP99: ms(s.answered.at(0.99)), ServedP999: ms(s.answered.at(0.999)),
		ServedMax: ms(s.answered.most), Latency: s.answered.curve(), HDR: s.answered.encoded(),
	}
	o.Failed = o.Status + o.Malformed + o.Refused + o.Reset + o.Timeout + o.Unsent
	return o
}

// result adds up what the workers counted.
func (t *team) result(start time.Time, took time.Duration) *Result {
	c := &t.cfg
	r := &Result{
		Version: ResultVersion, Name: c.Name, Target: c.Target.String(), Mode: c.Mode, Source: c.Source, Start: start, Seconds: math.Round(took.Seconds()*1e3) / 1e3,
		Rate: c.Rate, Profile: c.Profile.String(), Conns: c.Conns, Torrents: c.Torrents, Threads: c.Threads, Honest: c.Honest, Attackers: c.Attackers,
		GoodMS: ms(c.Good), PatienceMS: ms(max(c.Patience, 0)), TimeoutMS: ms(c.Timeout), GoodKey: c.GoodKey,
	}
	all := newTally(c.Profile)
	for _, w := range t.workers {
		all.merge(&w.tally)
		r.CPU += w.cpu.Seconds() / took.Seconds() / float64(c.Threads)
		r.ConnsOpen += w.opened
		if w.ws != nil {
			if r.Sockets == nil {
				r.Sockets = new(Sockets)
			}
			r.Sockets.merge(&w.ws.Sockets)
		}
	}
	r.CPU = math.Round(r.CPU*1e3) / 1e3
	r.Behind, r.BehindMost, r.Reopened, r.LocalErrors = all.behind, ms(time.Duration(all.lagMost)), all.reopened, all.localErrs
	if all.localErr != nil {
		r.LocalError = all.localErr.Error()
	}
	var at time.Duration
	for i, ph := range c.Profile {
		r.Phases = append(r.Phases, PhaseResult{
			From: at.Seconds(), To: (at + ph.Duration).Seconds(), Multiple: ph.Multiple,
			Honest: all.phases[i][honest].side(), Attack: all.phases[i][attack].side(),
		})
		at += ph.Duration
	}
	seconds := time.Duration(all.width).Seconds()
	r.Series.BinSeconds = seconds
	for side, lines := range []*Lines{&r.Series.Honest, &r.Series.Attack} {
		for i := range all.bins {
			b := &all.bins[i][side]
			for _, p := range []struct {
				to *[]float64
				n  uint32
			}{{&lines.Offered, b.offered}, {&lines.Sent, b.sent}, {&lines.Good, b.good}, {&lines.Late, b.late}, {&lines.Shed, b.shed}, {&lines.Failed, b.failed}} {
				*p.to = append(*p.to, math.Round(float64(p.n)/seconds))
			}
			lines.P50 = append(lines.P50, ms(b.latency.at(0.5)))
			lines.P99 = append(lines.P99, ms(b.latency.at(0.99)))
		}
	}
	return r
}

// GoodRate is the good replies a second of one side in a phase.
func (p PhaseResult) GoodRate(side Side) float64 { return float64(side.Good) / (p.To - p.From) }

// hasAttack tells whether there was a second side.
func (r *Result) hasAttack() bool {
	for _, p := range r.Phases {
		if p.Attack.Offered > 0 {
			return true
		}
	}
	return false
}

// Print writes the result as a table, and what a reader should not believe of it.
func (r *Result) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s flood of %s: %s of %.0f requests/s, %d connections, good within %g ms\n", r.Mode, r.Target, r.Profile, r.Rate, r.Conns, r.GoodMS)
	if r.Peak > 0 {
		fmt.Fprintf(w, "peak, closed loop: %.0f requests/s\n", r.Peak)
	}
	fmt.Fprintln(w)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tab, "phase\tside\toffered/s\tsent/s\tgood/s\tlate/s\tshed/s\tfailed/s\tgood\tp50 ms\tp90 ms\tp99 ms\tp99.9 ms\tmax ms\t")
	for _, p := range r.Phases {
		line := func(name string, s Side) {
			per := func(n uint64) float64 { return float64(n) / (p.To - p.From) }
			if r.Sockets != nil { // messages have no outcome
				fmt.Fprintf(tab, "%g-%g s, x%g\t%s\t%.0f\t%.0f\t\t\t\t%.0f\t\t\t\t\t\t\t\n", p.From, p.To, p.Multiple, name, per(s.Offered), per(s.Sent), per(s.Failed))
				return
			}
			fmt.Fprintf(tab, "%g-%g s, x%g\t%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f %%\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", p.From, p.To, p.Multiple, name,
				per(s.Offered), per(s.Sent), per(s.Good), per(s.Late), per(s.Shed), per(s.Failed), 100*float64(s.Good)/float64(max(s.Offered, 1)),
				s.P50, s.P90, s.P99, s.P999, s.Max)
		}
		if p.Honest.Offered > 0 || p.Attack.Offered == 0 {
			line("honest", p.Honest)
		}
		if p.Attack.Offered > 0 {
			line("attack", p.Attack)
		}
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	for _, p := range r.Phases {
		for i, s := range []Side{p.Honest, p.Attack} {
			if s.Failed > 0 {
				fmt.Fprintf(w, "failed, %g-%g s, %s: %d refused, %d reset, %d timed out, %d not 200, %d malformed, %d unsent\n", p.From, p.To,
					sideNames[i], s.Refused, s.Reset, s.Timeout, s.Status, s.Malformed, s.Unsent)
			}
		}
	}
	if s := r.Sockets; s != nil {
		fmt.Fprintf(w, "WebSockets: %d of %d open at the end, %d opened, %d refused, %d closed by the server; %d frames and %d bytes came, %d bytes went\n",
			s.OpenAtEnd, s.Wanted, s.Opened, s.Refused, s.ClosedByIt, s.FramesIn, s.BytesIn, s.BytesOut)
	}
	if r.Reopened > 0 {
		fmt.Fprintf(w, "kept connections that ended and were opened again: %d\n", r.Reopened)
	}
	if (r.Mode.kept() || r.Mode.overUDP()) && r.ConnsOpen < r.Conns {
		fmt.Fprintf(w, "only %d of %d connections could be opened before the flood\n", r.ConnsOpen, r.Conns)
	}
	for _, warning := range r.Warnings() {
		fmt.Fprintf(w, "WARNING: %s\n", warning)
	}
	return nil
}

var sideNames = [sides]string{"honest", "attack"}

// Warnings say why the result may be about the generator.
func (r *Result) Warnings() (all []string) {
	if text, _ := r.wasBehind(); text != "" {
		all = append(all, "the generator was behind: "+text+"; "+remedyBehind)
	}
	if r.LocalErrors > 0 {
		all = append(all, r.localTrouble())
	}
	return all
}

const remedyBehind = "lower the rate, add threads, or stop what else runs here"

// wasBehind says how late the generator was, and in which share of the requests; nothing if that was one in a thousand at most.
func (r *Result) wasBehind() (text string, share float64) {
	offered := uint64(0)
	for _, p := range r.Phases {
		offered += p.Honest.Offered + p.Attack.Offered
	}
	if r.Behind*1000 <= offered {
		return "", 0
	}
	return fmt.Sprintf("%d of %d requests left more than 5 ms late, up to %.0f ms", r.Behind, offered, r.BehindMost), float64(r.Behind) / float64(max(offered, 1))
}

func (r *Result) localTrouble() string {
	return fmt.Sprintf("%d sockets could not be made here: %s", r.LocalErrors, r.LocalError)
}
