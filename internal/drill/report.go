package drill

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Report is a drill's. It is also the form of the JSON file.
type Report struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Machine string    `json:"machine"`
	Cores   int       `json:"cores"`
	Quick   bool      `json:"quick"`
	Squeeze float64   `json:"squeeze"` // clients' own times are divided by it
	CDN     bool      `json:"cdn"`

	// In a user namespace the kernel does not let the relay have a core for itself, so its cost is not known.
	Unsteered bool `json:"unsteered,omitempty"`

	Peak          float64 `json:"peak"` // announces a second the backend serves; 0: not measured
	Rate          float64 `json:"rate"` // of honest clients
	AttackRate    float64 `json:"attack_rate"`
	Attack        float64 `json:"attack"` // times Rate
	BackendShare  float64 `json:"backend_share"`
	BackendMemory int64   `json:"backend_memory_bytes"`

	Result   []string `json:"result"` // sentences; the first is the one to remember
	Warnings []string `json:"warnings,omitempty"`
	Runs     []*Run   `json:"runs"`
	Kept     string   `json:"kept,omitempty"` // directory of what the programs wrote
}

// find is a run, nil if there was none.
func (r *Report) find(name string) *Run {
	for _, run := range r.Runs {
		if run.Name == name {
			return run
		}
	}
	return nil
}

// attacked adds up the phases in which the backend lived and was attacked.
func (r *Run) attacked() Phase {
	var sum Phase
	for _, name := range []string{attack, wsOff} {
		if p := r.find(name); p != nil {
			sum.Offered, sum.InTime, sum.Shed, sum.Late, sum.Failed = sum.Offered+p.Offered, sum.InTime+p.InTime, sum.Shed+p.Shed, sum.Late+p.Late, sum.Failed+p.Failed
		}
	}
	return sum
}

// conclude finds the words, and what the reader has to be warned of.
func (r *Report) conclude() {
	with, without := r.find(Protected), r.find(Unprotected)
	switch {
	case with != nil && without != nil:
		a, b := with.attacked(), without.attacked()
		r.Result = append(r.Result, fmt.Sprintf("Under an attack of %.0f times the usual traffic, %s of 100 announces were answered in time with Spillway, and %s without.",
			r.Attack, ofHundred(&a), ofHundred(&b)))
		if g, h := with.find(gone), without.find(gone); g != nil && h != nil && g.Failed > 0 && h.Failed > 0 {
			r.Result = append(r.Result, fmt.Sprintf("With the backend gone, clients were told in %s with Spillway; without, half of them waited %s or more.", duration(g.FailP50), duration(h.FailP50)))
		}
		r.Result = append(r.Result, fmt.Sprintf("After its return, service was as usual %s with Spillway, and %s without it.", with.recoveryText(), without.recoveryText()))
	case with != nil || without != nil:
		run := r.Runs[0]
		a := run.attacked()
		how := map[string]string{Protected: "With Spillway", Unprotected: "Without Spillway"}[run.Name]
		r.Result = append(r.Result, fmt.Sprintf("%s, %s of 100 announces were answered in time under an attack of %.0f times the usual traffic.", how, ofHundred(&a), r.Attack))
		if g := run.find(gone); g != nil && g.Failed > 0 {
			r.Result = append(r.Result, fmt.Sprintf("With the backend gone, half of the clients were told within %s.", duration(g.FailP50)))
		}
		r.Result = append(r.Result, fmt.Sprintf("After its return, service was as usual %s.", run.recoveryText()))
	}
	if r.Unsteered {
		r.Warnings = append(r.Warnings, "not root: the relay has no core for itself, so what it costs is not measured; sudo spillway drill")
	}
	for _, run := range r.Runs {
		if run.Behind > 0.02 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: the load generator was over 20 ms late with %.0f %% of its requests: this machine had not enough time for it, so less was offered in time than is said; a lower --rate or --attack may help",
				run.Name, 100*run.Behind))
		}
		if run.Foreign > 0.1 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: other programs had %.0f %% of the relay's core: run the drill on a quiet machine", run.Name, 100*run.Foreign))
		}
		if run.Local > 0 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: %d honest clients found no socket on this machine and are not counted: raise the limit of open files (ulimit -n), or lower --rate",
				run.Name, run.Local))
		}
		if run.Deaths > 0 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: the tracker died %d times beside the time that is played, of more than %d MiB of memory or by itself", run.Name, run.Deaths, r.BackendMemory>>20))
		}
	}
	if r.Cores < 4 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("this machine has %d cores: clients, attack, CDN and backend share what the relay leaves, so figures swing from run to run", r.Cores))
	}
}

func ofHundred(p *Phase) string {
	share := 100 * p.share(p.InTime)
	switch {
	case share > 0 && share < 1:
		return "less than 1"
	case share > 99 && share < 100:
		return "more than 99"
	}
	return fmt.Sprintf("%.0f", share)
}

func (r *Run) recoveryText() string {
	if r.Recovery < 0 {
		return "not before the drill ended"
	}
	if r.Recovery < 0.3 {
		return "at once"
	}
	return fmt.Sprintf("after %.1f s", r.Recovery)
}

// duration writes milliseconds for people.
func duration(ms float64) string {
	switch {
	case ms <= 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}

// column is a figure of the table.
type column struct {
	head string
	text func(r *Report, p *Phase) string
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

// The table's columns, in the terminal and on the page.
var columns = []column{
	{"offered/s", func(_ *Report, p *Phase) string { return fmt.Sprintf("%.0f", float64(p.Offered)/p.seconds()) }},
	{"in 200 ms", func(_ *Report, p *Phase) string { return percent(p.share(p.InTime)) }},
	{"late", func(_ *Report, p *Phase) string { return percent(p.share(p.Late)) }},
	{"shed", func(_ *Report, p *Phase) string { return percent(p.share(p.Shed)) }},
	{"failed", func(_ *Report, p *Phase) string { return percent(p.share(p.Failed)) }},
	{"p99", func(_ *Report, p *Phase) string { return duration(p.P99) }},
	{"to failure", func(_ *Report, p *Phase) string { return duration(p.FailP50) }},
	{"conntrack", func(_ *Report, p *Phase) string { return fmt.Sprintf("%d", p.Conntrack) }},
	{"relay", func(r *Report, p *Phase) string {
		if r.Unsteered {
			return "-"
		}
		return percent(p.RelayCPU)
	}},
	{"backend", func(r *Report, p *Phase) string { return percent(p.BackendCPU / r.BackendShare) }},
	{"memory", func(_ *Report, p *Phase) string { return fmt.Sprintf("%d M", p.Memory>>20) }},
}

// Print writes the report for a terminal.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	for _, s := range r.Result {
		fmt.Fprintln(&b, s)
	}
	fmt.Fprintf(&b, "\n%-26s", "")
	for _, c := range columns {
		fmt.Fprintf(&b, " %10s", c.head)
	}
	b.WriteByte('\n')
	if len(r.Runs) > 0 {
		for i := range r.Runs[0].Phases {
			for j, run := range r.Runs {
				name := ""
				if j == 0 {
					name = run.Phases[i].Name
				}
				fmt.Fprintf(&b, "%-13s%-13s", name, run.Name)
				for _, c := range columns {
					fmt.Fprintf(&b, " %10s", c.text(r, &run.Phases[i]))
				}
				b.WriteByte('\n')
			}
		}
	}
	b.WriteByte('\n')
	for _, run := range r.Runs {
		fmt.Fprintf(&b, "%-13s%s\n", run.Name, strings.Join(run.facts(), "; "))
	}
	fmt.Fprintf(&b, "\n%s\n", r.setting())
	for _, s := range r.Warnings {
		fmt.Fprintf(&b, "note: %s\n", s)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// facts are of a run as a whole.
func (r *Run) facts() []string {
	s := []string{"as usual " + r.recoveryText()}
	if r.Switch > 0 {
		s = append(s, "`ws off` took "+duration(1000*r.Switch))
	} else {
		s = append(s, "`ws off` did not get through")
	}
	s = append(s, fmt.Sprintf("%d connections tracked at most", r.PeakConntrack))
	if r.Probes > 0 {
		s = append(s, fmt.Sprintf("%d of %d requests to the relay's own port failed", r.ProbesFailed, r.Probes))
	}
	if r.Deaths > 0 {
		s = append(s, fmt.Sprintf("the tracker died %d times by itself", r.Deaths))
	}
	return s
}

// setting says what was played, and on what.
func (r *Report) setting() string {
	peak := ""
	if r.Peak > 0 {
		peak = fmt.Sprintf(" (%.0f is the most it serves here)", r.Peak)
	}
	cdn := "through nginx as a CDN"
	if !r.CDN {
		cdn = "without a CDN"
	}
	return fmt.Sprintf("%s. Backend: %.0f %% of a core%s, %d MiB. %.0f announces/s of honest clients, %d WebTorrent peers, an attack of %.0f requests/s from %d addresses, %s. "+
		"Clients wait 5 s, and try again by their own formulas (%d in 10 libtorrent's, 2 every 60 s, 1 every 10 s; WebTorrent's and trystero's on WebSockets), their times divided by %.0f. "+
		"Shares are of honest announces, repeats among them; late is answered after 200 ms; backend is of its quota. %s UTC.",
		r.Machine, 100*r.BackendShare, peak, r.BackendMemory>>20, r.Rate, webPeers, r.AttackRate, attackers, cdn, kinds[0].share, r.Squeeze, r.Started.Format("2006-01-02 15:04"))
}
