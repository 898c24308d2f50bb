package drill

import (
	"time"

	"spillway/internal/lab"
)

// Run is one of the two.
type Run struct {
	Name   string  `json:"name"`
	Phases []Phase `json:"phases"`
	Series Series  `json:"series"`

	Recovery      float64 `json:"recovery_seconds"` // from the tracker's return on, until announces are answered in time as before; negative: not in this run
	Boot          float64 `json:"boot_seconds"`     // which the tracker took until it accepted
	Switch        float64 `json:"switch_seconds"`   // which `ws off` took; 0: it did not get through
	Deaths        int     `json:"deaths"`           // of the tracker, beside the one that is played
	PeakConntrack int     `json:"peak_conntrack"`
	PeakMemory    int64   `json:"peak_memory_bytes"`
	ProbesFailed  int     `json:"probes_failed"` // requests to the relay's own port
	Probes        int     `json:"probes"`

	Behind  float64 `json:"behind"`  // share of attempts the crowd was late with
	Foreign float64 `json:"foreign"` // share of the relay's core that others on the machine had
	Local   int     `json:"local"`   // attempts for which this machine had no socket
}

// Phase is what became of honest announces that began in it, and what it cost.
type Phase struct {
	Name    string  `json:"name"`
	Text    string  `json:"text"`
	From    float64 `json:"from"`
	To      float64 `json:"to"`
	Offered int     `json:"offered"` // with those who come again
	Attack  int     `json:"attack"`  // requests of the attack

	InTime int `json:"in_time"` // answered with peers in 200 ms
	Late   int `json:"late"`    // later
	Shed   int `json:"shed"`    // told politely to come back later
	Failed int `json:"failed"`

	P50     float64 `json:"p50_ms"` // of those answered, late ones too
	P99     float64 `json:"p99_ms"`
	FailP50 float64 `json:"fail_p50_ms"`
	FailP99 float64 `json:"fail_p99_ms"`

	Conntrack  int     `json:"conntrack"` // the most
	RelayCPU   float64 `json:"relay_cpu"` // of its core
	BackendCPU float64 `json:"backend_cpu"`
	Memory     int64   `json:"memory_bytes"` // the most
	Sockets    int     `json:"sockets"`      // open at its end
	WebInTime  int     `json:"web_in_time"`  // announces on WebSockets
	Web        int     `json:"web"`
}

func (p *Phase) seconds() float64 { return max(p.To-p.From, 0.001) }

func (p *Phase) share(n int) float64 { return float64(n) / float64(max(p.Offered, 1)) }

// Series is a run over time: rates a second of what began in a step.
type Series struct {
	Step       float64   `json:"step_seconds"`
	Offered    []float64 `json:"offered"`
	InTime     []float64 `json:"in_time"`
	Late       []float64 `json:"late"`
	Shed       []float64 `json:"shed"`
	Failed     []float64 `json:"failed"`
	Attack     []float64 `json:"attack"`
	FailP50    []float64 `json:"fail_p50_ms"` // 0: nobody failed
	FailP99    []float64 `json:"fail_p99_ms"`
	Conntrack  []float64 `json:"conntrack"`
	RelayCPU   []float64 `json:"relay_cpu"`
	BackendCPU []float64 `json:"backend_cpu"`
	Memory     []float64 `json:"memory_mb"`
	Sockets    []float64 `json:"sockets"`
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// judge works out the figures.
func judge(name string, o *observed) *Run {
	r := &Run{Name: name, Series: newSeries(o), Switch: o.switched.Seconds(), Deaths: len(o.deaths)}
	all := o.honest.Attempts
	for _, s := range o.phases {
		p := Phase{Name: s.name, Text: s.text, From: s.from.Seconds(), To: s.to.Seconds()}
		p.count(all.Between(s.from, s.to))
		p.Attack = len(o.announce.Attempts.Between(s.from, s.to)) + len(o.upgrades.Attempts.Between(s.from, s.to))
		for _, w := range o.web.Between(s.from, s.to) {
			if p.Web++; w.Outcome == lab.OK && w.Took <= inTime {
				p.WebInTime++
			}
		}
		from, to := o.start.Add(s.from), o.start.Add(s.to)
		p.Conntrack, _ = o.relay.Peak(from, to)
		p.RelayCPU = o.relay.Use(from, to).Relay
		p.BackendCPU, p.Memory = machineUse(o.machine, from, to)
		if i := int(s.to/binWidth) - 1; i >= 0 && len(o.sockets) > 0 {
			p.Sockets = o.sockets[min(i, len(o.sockets)-1)]
		}
		r.PeakConntrack, r.PeakMemory = max(r.PeakConntrack, p.Conntrack), max(r.PeakMemory, p.Memory)
		if s.name == back {
			r.Boot = (o.returned - s.from).Seconds()
		}
		r.Phases = append(r.Phases, p)
	}
	r.Recovery = r.recovery(o.returned.Seconds())
	for _, p := range o.probes {
		r.ProbesFailed, r.Probes = r.ProbesFailed+p.Failed, r.Probes+p.N
	}
	behind, came := 0, 0
	for _, t := range []*lab.Tally{o.honest, o.announce, o.upgrades} {
		behind, came = behind+t.Behind, came+len(t.Attempts)
	}
	r.Local = all.Count(lab.Local)
	r.Behind = float64(behind) / float64(max(came, 1))
	r.Foreign = o.relay.Use(o.start, o.start.Add(o.length)).Foreign
	return r
}

func (p *Phase) count(all lab.Attempts) {
	var answered lab.Attempts
	for _, a := range all {
		switch {
		case a.Outcome == lab.Local:
			continue // nobody's fault but this machine's
		case a.Outcome == lab.OK:
			if answered = append(answered, a); a.Took <= inTime {
				p.InTime++
			} else {
				p.Late++
			}
		case a.Outcome == lab.Shed:
			p.Shed++
		default:
			p.Failed++
		}
		p.Offered++
	}
	failed := all.Failed()
	p.P50, p.P99 = ms(answered.Quantile(0.5)), ms(answered.Quantile(0.99))
	p.FailP50, p.FailP99 = ms(failed.Quantile(0.5)), ms(failed.Quantile(0.99))
}

// machineUse is the tracker's share of a core, and its most memory.
func machineUse(all []lab.MachineSample, from, to time.Time) (cpu float64, memory int64) {
	var first, last *lab.MachineSample
	for i := range all {
		s := &all[i]
		if s.At.Before(from) || s.At.After(to) {
			continue
		}
		if first == nil {
			first = s
		}
		last = s
		memory = max(memory, s.Memory)
	}
	if first == nil || !last.At.After(first.At) {
		return 0, memory
	}
	return max(float64(last.CPU-first.CPU)/float64(last.At.Sub(first.At)), 0), memory
}

// newSeries sorts what was written down into steps.
func newSeries(o *observed) Series {
	n := int(o.length / binWidth)
	perSecond := 1 / binWidth.Seconds()
	s := Series{Step: binWidth.Seconds()}
	for _, y := range []*[]float64{&s.Offered, &s.InTime, &s.Late, &s.Shed, &s.Failed, &s.Attack, &s.FailP50, &s.FailP99, &s.Conntrack, &s.RelayCPU, &s.BackendCPU, &s.Memory, &s.Sockets} {
		*y = make([]float64, n)
	}
	failed := make([]lab.Attempts, n)
	for _, a := range o.honest.Attempts {
		i := int(a.At / binWidth)
		if i >= n || a.Outcome == lab.Local {
			continue
		}
		s.Offered[i] += perSecond
		switch {
		case a.Outcome == lab.OK && a.Took <= inTime:
			s.InTime[i] += perSecond
		case a.Outcome == lab.OK:
			s.Late[i] += perSecond
		case a.Outcome == lab.Shed:
			s.Shed[i] += perSecond
		default:
			s.Failed[i] += perSecond
			failed[i] = append(failed[i], a)
		}
	}
	for _, t := range []*lab.Tally{o.announce, o.upgrades} {
		for _, a := range t.Attempts {
			if i := int(a.At / binWidth); i < n {
				s.Attack[i] += perSecond
			}
		}
	}
	for i, f := range failed {
		s.FailP50[i], s.FailP99[i] = ms(f.Quantile(0.5)), ms(f.Quantile(0.99))
		from := o.start.Add(time.Duration(i) * binWidth)
		to := from.Add(binWidth)
		// A look that was late leaves what was seen last.
		if conntrack, _ := o.relay.Peak(from, to); conntrack > 0 || i == 0 {
			s.Conntrack[i] = float64(conntrack)
		} else {
			s.Conntrack[i] = s.Conntrack[i-1]
		}
		// The kernel counts a core's time in steps of 10 ms: half a second is smooth enough.
		s.RelayCPU[i] = 100 * o.relay.Use(from.Add(-binWidth), to).Relay
		cpu, memory := machineUse(o.machine, from.Add(-binWidth), to)
		s.BackendCPU[i], s.Memory[i] = 100*cpu, float64(memory)/(1<<20)
		if len(o.sockets) > 0 {
			s.Sockets[i] = float64(o.sockets[min(i, len(o.sockets)-1)])
		}
	}
	return s
}

// recovered is the share of the usual rate of announces answered in time that has to be there again.
const recovered = 0.9

// recovery is when, since the tracker's return, a second began in which as many were answered in time as before it all; and on average
// also in all that came after: a good second among bad ones is luck.
func (r *Run) recovery(returned float64) float64 {
	if len(r.Phases) == 0 {
		return -1
	}
	before := &r.Phases[0]
	want := recovered * float64(before.InTime) / before.seconds()
	s := &r.Series
	second := int(1 / s.Step)
	mean := func(y []float64) (m float64) {
		for _, v := range y {
			m += v / float64(len(y))
		}
		return m
	}
	for i := int(returned / s.Step); want > 0 && i >= 0 && i+second <= len(s.InTime); i++ {
		if mean(s.InTime[i:i+second]) >= want && mean(s.InTime[i:]) >= want {
			return max(float64(i)*s.Step-returned, 0)
		}
	}
	return -1
}

// find is a phase, nil if there was none.
func (r *Run) find(name string) *Phase {
	for i := range r.Phases {
		if r.Phases[i].Name == name {
			return &r.Phases[i]
		}
	}
	return nil
}
