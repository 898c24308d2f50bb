package drill

import (
	"fmt"
	"io"
	"strings"
)

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
