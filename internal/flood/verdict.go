package flood

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
)

// apart tells whether every round has B on the same side of A, by a hundredth at least. Fewer rounds than enoughRounds say nothing.
func (t *Trial) apart(s *Spread) bool {
	return t.Rounds >= enoughRounds && (s.Min >= 1.01 || s.Max <= 0.99)
}

const enoughRounds = 3

// text is 1.31x (1.25-1.38).
func (s *Spread) text() string { return fmt.Sprintf("%.2fx (%.2f-%.2f)", s.Median, s.Min, s.Max) }

// judge says in words what came of a trial.
func (t *Trial) judge() []string {
	if t.B == nil {
		return t.judgeOne()
	}
	var all []string
	good := t.metric("good_per_second")
	asked := t.RunsA[0].Phases[0]
	offered := asked.GoodRate(Side{Good: asked.Honest.Offered})
	answered := t.metric("good_percent")
	against := fmt.Sprintf("%s against %s a second of %s asked", count(good.B.Median), count(good.A.Median), count(offered))
	switch {
	case good.Ratio == nil:
		all = append(all, fmt.Sprintf("A answered no %s in time in some round; B: %s a second.", t.What, count(good.B.Median)))
	case t.apart(good.Ratio):
		all = append(all, fmt.Sprintf("B answers %s of A's %s in time: %s.", good.Ratio.text(), t.What, against))
	case answered.A.Median >= 99.9 && answered.B.Median >= 99.9:
		all = append(all, fmt.Sprintf("A and B answer all %s that are asked in time, %s a second; a higher --rate shows which gives way first.", t.What, count(offered)))
	default:
		all = append(all, fmt.Sprintf("The rounds do not tell A and B apart by what they answer in time: B has %s of A's %s, %s.", good.Ratio.text(), t.What, against))
	}
	late := t.worstBehind()
	for _, p := range []struct {
		name string
		rest float64 // of the requests, which are above it
	}{{"p99_ms", 0.01}, {"p50_ms", 0.5}} {
		m, label := t.metric(p.name), strings.TrimSuffix(p.name, "_ms")
		switch {
		case m.Ratio == nil:
		case late > p.rest/2:
			all = append(all, fmt.Sprintf("Of the %s nothing can be said: the generator was late with up to %.2g %% of a round's requests.", label, 100*late))
		case t.apart(m.Ratio):
			all = append(all, fmt.Sprintf("B's %s is %s of A's: %s against %s.", label, m.Ratio.text(), latency(m.B.Median), latency(m.A.Median)))
		default:
			all = append(all, fmt.Sprintf("B's %s is not told apart from A's: %s, %s against %s.", label, m.Ratio.text(), latency(m.B.Median), latency(m.A.Median)))
		}
	}
	for i, runs := range [][]*Result{t.RunsA, t.RunsB} {
		if s := lost(runs); s != "" {
			all = append(all, t.name(i)+": "+s)
		}
	}
	return all
}

// worstBehind is the largest share of a round's requests with which the generator was late.
func (t *Trial) worstBehind() (worst float64) {
	for _, runs := range [][]*Result{t.RunsA, t.RunsB} {
		for _, r := range runs {
			_, share := r.wasBehind()
			worst = max(worst, share)
		}
	}
	return worst
}

func (t *Trial) judgeOne() []string {
	p := t.RunsA[0].Phases[0]
	offered := p.GoodRate(Side{Good: p.Honest.Offered})
	good := t.metric("good_per_second").A
	share := t.metric("good_percent").A.Median
	all := []string{fmt.Sprintf("It answers %s of %s %s a second in time (%.1f %%); half of them within %s, 99 %% within %s, 99.9 %% within %s, all within %s.",
		count(good.Median), count(offered), t.What, share, latency(t.metric("p50_ms").A.Median), latency(t.metric("p99_ms").A.Median),
		latency(t.metric("p999_ms").A.Median), latency(t.metric("max_ms").A.Median))}
	if s := lost(t.RunsA); s != "" {
		all = append(all, s)
	}
	if t.Rounds > 1 {
		s := t.metric("p99_ms").A
		all = append(all, fmt.Sprintf("Over %d rounds the p99 was from %s to %s.", t.Rounds, latency(s.Min), latency(s.Max)))
	}
	return all
}

// lost says what became of honest requests that were not good; empty if that is less than one in a thousand.
func lost(runs []*Result) string {
	var s Side
	for _, r := range runs {
		for _, p := range r.Phases {
			s.add(&p.Honest)
		}
	}
	if (s.Offered-min(s.Good, s.Offered))*1000 < max(s.Offered, 1) {
		return ""
	}
	var parts []string
	for _, p := range []struct {
		n    uint64
		what string
	}{
		{s.Late, "late"}, {s.Shed, "shed"}, {s.Refused, "refused"}, {s.Reset, "reset"}, {s.Timeout, "timed out"}, {s.Status, "not 200"},
		{s.Malformed, "malformed"}, {s.Unsent, "unsent for want of a connection"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%.2g %% %s", s.percent(p.n), p.what))
		}
	}
	return "of all that was asked, " + strings.Join(parts, ", ") + "."
}

func (s *Side) add(o *Side) {
	s.Offered += o.Offered
	s.Sent += o.Sent
	s.Good += o.Good
	s.Late += o.Late
	s.Shed += o.Shed
	s.ShedFailure += o.ShedFailure
	s.Failed += o.Failed
	s.Status += o.Status
	s.Malformed += o.Malformed
	s.Refused += o.Refused
	s.Reset += o.Reset
	s.Timeout += o.Timeout
	s.Unsent += o.Unsent
}

// warn says why the figures may be about the generator, or about this machine.
func (t *Trial) warn() []string {
	all := []string{}
	late, runs, worst, worstOf := 0, 0, "", 0.0
	for i, side := range [][]*Result{t.RunsA, t.RunsB} {
		for round, r := range side {
			runs++
			name := strings.TrimSpace(fmt.Sprintf("%s round %d", t.name(i), round+1))
			if text, share := r.wasBehind(); text != "" {
				if late++; share > worstOf {
					worst, worstOf = name+": "+text, share
				}
			}
			if r.LocalErrors > 0 {
				all = append(all, name+": "+r.localTrouble())
			}
			if open := r.ConnsOpen; (r.Mode.kept() || r.Mode.overUDP()) && open < r.Conns {
				all = append(all, fmt.Sprintf("%s: only %d of %d connections were open when it began", name, open, r.Conns))
			}
		}
	}
	if late > 0 {
		all = append(all, fmt.Sprintf("the generator was late in %d of %d rounds, so the higher percentiles are partly its own; worst in %s; %s", late, runs, worst, remedyBehind))
	}
	r := t.RunsA[0]
	if each := r.Rate / float64(r.Conns); r.Mode == WSAnnounce && each > wsEachAtMost {
		all = append(all, fmt.Sprintf("each WebSocket announces %.0f times a second; Spillway drops what is above ws.rate (10): raise --connections to %.0f", each,
			math.Ceil(r.Rate/wsEachAtMost)))
	}
	if t.B != nil && t.Rounds < enoughRounds {
		all = append(all, fmt.Sprintf("too few rounds to tell A and B apart (%d of each): raise --rounds to %d or more", t.Rounds, enoughRounds))
	}
	return all
}

// wsEachAtMost is somewhat below what a tracker takes of one WebSocket.
const wsEachAtMost = 8

// count writes 12345.6 as 12,346.
func count(v float64) string {
	s := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// latency writes milliseconds to three digits.
func latency(ms float64) string {
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.2f s", ms/1000)
}

// figure writes a metric's value in its own unit.
func (m *Metric) figure(v float64) string {
	switch {
	case strings.HasSuffix(m.Name, "_ms") && v >= 100:
		return count(v)
	case strings.HasSuffix(m.Name, "_ms"):
		return fmt.Sprintf("%.3g", v)
	case strings.HasSuffix(m.Name, "_percent"):
		return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
	}
	return count(v)
}

// label is a metric's name as people read it.
func (m *Metric) label() string {
	switch m.Name {
	case "good_per_second":
		return "good/s"
	case "attack_good_per_second":
		return "attack good/s"
	case "p999_ms":
		return "p99.9, ms"
	}
	name, unit, _ := strings.Cut(m.Name, "_")
	if unit == "percent" {
		unit = "%"
	}
	return name + ", " + unit
}

// Print writes the trial as a table, and then the verdict.
func (t *Trial) Print(w io.Writer) error {
	r := t.RunsA[0]
	fmt.Fprintf(w, "%s: %s a second for %s, %d connections, %d torrents, good within %g ms; medians of %d rounds (least to most)\n", t.Command, count(r.Rate),
		strings.TrimSuffix(r.Profile, "@1"), r.Conns, r.Torrents, r.GoodMS, t.Rounds)
	if t.B != nil {
		fmt.Fprintf(w, "A: %s\nB: %s\n", t.A.URL, t.B.URL)
	} else {
		fmt.Fprintf(w, "%s\n", t.A.URL)
	}
	fmt.Fprintln(w)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	if t.B != nil {
		fmt.Fprintln(tab, "\tA\t\tB\t\tB/A\t\t")
	}
	for i := range t.Metrics {
		m := &t.Metrics[i]
		cell := func(s *Spread) string {
			if s == nil {
				return "\t"
			}
			return fmt.Sprintf("%s\t(%s to %s)", m.figure(s.Median), m.figure(s.Min), m.figure(s.Max))
		}
		line := m.label() + "\t" + cell(&m.A)
		if t.B != nil {
			ratio := "\t"
			if m.Ratio != nil {
				ratio = fmt.Sprintf("%.2f\t(%.2f to %.2f)", m.Ratio.Median, m.Ratio.Min, m.Ratio.Max)
			}
			line += "\t" + cell(m.B) + "\t" + ratio
		}
		fmt.Fprintln(tab, line+"\t")
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, warning := range t.Warnings {
		fmt.Fprintf(w, "WARNING: %s\n", warning)
	}
	for _, v := range t.Verdict {
		fmt.Fprintln(w, v)
	}
	return nil
}
