package flood

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

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

// Progress is how a flood stands.
type Progress struct {
	At, Total time.Duration
	Phase     Phase
	// Rates a second, since the last time.
	Offered, Sent, Good, Late, Shed, Failed float64
	Behind                                  uint64 // so far
}

func (p Progress) String() string {
	behind := ""
	if p.Behind > 0 {
		behind = fmt.Sprintf(", generator behind %d", p.Behind)
	}
	return fmt.Sprintf("%3.0f of %.0f s, x%g: offered %.0f/s, good %.0f, late %.0f, shed %.0f, failed %.0f%s", p.At.Seconds(), p.Total.Seconds(),
		p.Phase.Multiple, p.Offered, p.Good, p.Late, p.Shed, p.Failed, behind)
}

// watch tells Config.Progress once a second, until over is closed.
func (t *team) watch(start time.Time, over <-chan struct{}) {
	if t.cfg.Progress == nil {
		return
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var last [liveCount]uint64
	lastAt := start
	for {
		var now time.Time
		select {
		case <-over:
			return
		case now = <-ticker.C:
		}
		p := Progress{At: now.Sub(start), Total: t.cfg.Profile.Total(), Behind: t.live[liveBehind].Load()}
		left := p.At
		for _, ph := range t.cfg.Profile {
			p.Phase = ph
			if left -= ph.Duration; left < 0 {
				break
			}
		}
		for i, to := range []*float64{&p.Offered, &p.Sent, &p.Good, &p.Late, &p.Shed, &p.Failed} {
			n := t.live[i].Load()
			*to = float64(n-last[i]) / now.Sub(lastAt).Seconds()
			last[i] = n
		}
		lastAt = now
		t.cfg.Progress(p)
	}
}
