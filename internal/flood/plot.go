package flood

import (
	"fmt"

	"spillway/internal/plot"
)

// outcomeStyle has the colours of outcomes, Okabe and Ito's, which the colour-blind tell apart; offered is what everything is measured
// by, so it is grey.
const outcomeStyle = `svg{--offered:#8a929c;--good:#0072b2;--late:#e69f00;--shed:#009e73;--failed:#d55e00}
@media(prefers-color-scheme:dark){svg{--offered:#79828c;--good:#56b4e9;--late:#f0c14b;--shed:#2fc79a;--failed:#ff7f50}}
.offered{stroke:var(--offered);stroke-dasharray:5 3}.good{stroke:var(--good)}.late{stroke:var(--late)}.shed{stroke:var(--shed)}.failed{stroke:var(--failed)}
.p50{stroke:var(--good)}.p99{stroke:var(--failed)}
`

// SVG draws runs side by side, on the same scales: rates, of the attack too if there was one, and latencies over time. Phases above
// the usual rate are shaded.
func SVG(runs ...*Result) []byte {
	f := figureOf(runs)
	return f.SVG()
}

func figureOf(runs []*Result) *plot.Figure {
	f := &plot.Figure{Style: outcomeStyle}
	attacked, messages := false, 0
	for _, r := range runs {
		attacked = attacked || r.hasAttack()
		if r.Sockets != nil {
			messages++
		}
	}
	for _, class := range []string{"offered", "good", "late", "shed", "failed", "p50", "p99"} {
		name := class
		if class == "good" && messages > 0 { // messages have no outcome
			name = "good; messages: sent"
		}
		f.Legend = append(f.Legend, plot.Curve{Name: name, Class: class})
	}
	if len(runs) == 1 && messages == 1 {
		f.Legend = []plot.Curve{{Name: "offered", Class: "offered"}, {Name: "sent", Class: "good"}, {Name: "failed", Class: "failed"}}
	}
	for _, r := range runs {
		f.Columns = append(f.Columns, r.column(attacked))
	}
	return f
}

// column is a run as drawn; attacked says that some run beside it was.
func (r *Result) column(attacked bool) plot.Column {
	c := plot.Column{Name: r.title(), Step: r.Series.BinSeconds}
	for _, p := range r.Phases {
		s := plot.Span{From: p.From, To: p.To, Shaded: p.Multiple > 1}
		if len(r.Phases) > 1 {
			s.Name = fmt.Sprintf("x%g", p.Multiple)
		}
		c.Spans, c.Seconds = append(c.Spans, s), p.To
	}
	rates := func(title string, l *Lines) {
		curves := []plot.Curve{{Class: "offered", Y: l.Offered}, {Class: "failed", Y: l.Failed}, {Class: "shed", Y: l.Shed}, {Class: "late", Y: l.Late}, {Class: "good", Y: l.Good}}
		if r.Sockets != nil {
			curves = []plot.Curve{{Class: "offered", Y: l.Offered}, {Class: "failed", Y: l.Failed}, {Class: "good", Y: l.Sent}}
		}
		c.Panels = append(c.Panels, plot.Panel{Title: title, Curves: curves})
	}
	if attacked {
		rates("honest requests/s", &r.Series.Honest)
		rates("attack requests/s", &r.Series.Attack)
	} else {
		rates("requests/s", &r.Series.Honest)
	}
	c.Panels = append(c.Panels, plot.Panel{Title: "latency of good replies, ms", Log: true,
		Curves: []plot.Curve{{Class: "p99", Y: r.Series.Honest.P99}, {Class: "p50", Y: r.Series.Honest.P50}}})
	return c
}

func (r *Result) title() string {
	if r.Name != "" {
		return r.Name
	}
	return fmt.Sprintf("%s, %s", r.Mode, r.Profile)
}
