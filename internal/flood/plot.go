package flood

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
)

// Sizes of a figure, in its own units, which are pixels at full size.
const (
	plotWidth, plotHeight = 400.0, 170.0
	marginLeft            = 58.0
	marginRight           = 14.0
	rowTop                = 34.0 // of a row: its title
	rowBottom             = 34.0 // the time axis
	headHeight            = 30.0 // the runs' names
	legendHeight          = 26.0
	columnWidth           = marginLeft + plotWidth + marginRight
	rowHeight             = rowTop + plotHeight + rowBottom
)

// The colours are Okabe and Ito's, which the colour-blind tell apart; offered is what everything is measured by, so it is grey.
const style = `<style>
svg{--ink:#1c2024;--soft:#6b7280;--grid:#e3e6ea;--shade:#64748b;--offered:#8a929c;--good:#0072b2;--late:#e69f00;--shed:#009e73;--failed:#d55e00}
@media(prefers-color-scheme:dark){svg{--ink:#e8eaed;--soft:#9aa3ad;--grid:#2e343b;--shade:#94a3b8;--offered:#79828c;--good:#56b4e9;--late:#f0c14b;--shed:#2fc79a;--failed:#ff7f50}}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
.name{font-size:14px;font-weight:600;fill:var(--ink)}.title{fill:var(--ink)}
.grid{stroke:var(--grid);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1}
.phase{fill:var(--shade);opacity:.13}.end{text-anchor:end}.mid{text-anchor:middle}
path{fill:none;stroke-width:1.8;stroke-linejoin:round}
.offered{stroke:var(--offered);stroke-dasharray:5 3}.good{stroke:var(--good)}.late{stroke:var(--late)}.shed{stroke:var(--shed)}.failed{stroke:var(--failed)}
.p50{stroke:var(--good)}.p99{stroke:var(--failed)}
</style>
`

// line is one of a chart.
type line struct {
	class string // its colour, and its name in the legend
	y     []float64
}

// chart is one set of axes.
type chart struct {
	title string
	lines []line
	log   bool
	step  float64 // seconds between two values
}

// row is the charts of one kind of all runs, which have one scale.
type row []chart

func rows(runs []*Result) []row {
	rates := func(title string, side func(*Result) Lines) (r row) {
		for _, run := range runs {
			l := side(run)
			lines := []line{{"offered", l.Offered}, {"failed", l.Failed}, {"shed", l.Shed}, {"late", l.Late}, {"good", l.Good}}
			if run.Sockets != nil {
				lines = []line{{"offered", l.Offered}, {"failed", l.Failed}, {"good", l.Sent}}
			}
			r = append(r, chart{title: title, lines: lines, step: run.Series.BinSeconds})
		}
		return r
	}
	title := "requests/s"
	attacked := false
	for _, run := range runs {
		attacked = attacked || run.hasAttack()
	}
	if attacked {
		title = "honest requests/s"
	}
	all := []row{rates(title, func(r *Result) Lines { return r.Series.Honest })}
	if attacked {
		all = append(all, rates("attack requests/s", func(r *Result) Lines { return r.Series.Attack }))
	}
	var latency row
	for _, run := range runs {
		l := run.Series.Honest
		latency = append(latency, chart{title: "latency of good replies, ms", lines: []line{{"p99", l.P99}, {"p50", l.P50}}, log: true, step: run.Series.BinSeconds})
	}
	return append(all, latency)
}

// SVG draws runs side by side, on the same scales: rates, of the attack too if there was one, and latencies over time. Phases above
// the usual rate are shaded. The picture follows the reader's light or dark mode.
func SVG(runs ...*Result) []byte { return columnsSVG(runs, 0, len(runs)) }

// columnsSVG is the columns of some of the runs: a page has a picture of each, which stand one below the other where it is narrow.
func columnsSVG(runs []*Result, from, to int) []byte {
	all := rows(runs)
	width := columnWidth * float64(max(to-from, 1))
	height := headHeight + rowHeight*float64(len(all)) + legendHeight
	var b bytes.Buffer
	beginSVG(&b, width, height)
	for i, run := range runs[from:to] {
		fmt.Fprintf(&b, `<text class="name" x="%g" y="20">%s</text>`+"\n", columnWidth*float64(i)+marginLeft, escape(run.title()))
	}
	for j, r := range all {
		lo, hi := r.scale()
		for i, c := range r[from:to] {
			fmt.Fprintf(&b, `<g transform="translate(%g %g)">`+"\n", columnWidth*float64(i)+marginLeft, headHeight+rowHeight*float64(j)+rowTop)
			c.draw(&b, runs[from+i].Phases, lo, hi)
			b.WriteString("</g>\n")
		}
	}
	legend(&b, height-10, runs[from:to])
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func beginSVG(b *bytes.Buffer, width, height float64) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img">`+"\n", width, height, width, height)
	b.WriteString(style)
}

func (r *Result) title() string {
	if r.Name != "" {
		return r.Name
	}
	return fmt.Sprintf("%s, %s", r.Mode, r.Profile)
}

// scale is the lowest and the highest value to be drawn.
func (r row) scale() (lo, hi float64) {
	lo = math.Inf(1)
	for _, c := range r {
		for _, l := range c.lines {
			for _, v := range l.y {
				if !c.log || v > 0 {
					lo, hi = min(lo, v), max(hi, v)
				}
			}
		}
	}
	switch {
	case hi <= 0: // nothing at all
		return 0.1, 1
	case r[0].log:
		return math.Pow(10, math.Floor(math.Log10(lo))), math.Pow(10, math.Max(math.Ceil(math.Log10(hi)), math.Floor(math.Log10(lo))+1))
	}
	step := niceStep(hi)
	return 0, step * math.Ceil(hi/step)
}

// niceStep makes four to eight ticks, of 1, 2 or 5 times a power of ten.
func niceStep(hi float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(hi)))
	for _, m := range []float64{0.1, 0.2, 0.5, 1, 2} {
		if hi/(m*power) <= 8 {
			return m * power
		}
	}
	return power
}

func (c *chart) draw(b *bytes.Buffer, phases []PhaseResult, lo, hi float64) {
	seconds := 1.0
	if len(phases) > 0 {
		seconds = phases[len(phases)-1].To
	}
	x := func(s float64) float64 { return s / seconds * plotWidth }
	y := func(v float64) float64 {
		if c.log {
			return plotHeight * (1 - math.Log10(v/lo)/math.Log10(hi/lo))
		}
		return plotHeight * (1 - (v-lo)/(hi-lo))
	}
	fmt.Fprintf(b, `<text class="title" x="0" y="-18">%s</text>`+"\n", escape(c.title))
	for _, p := range phases {
		if p.Multiple > 1 {
			fmt.Fprintf(b, `<rect class="phase" x="%.1f" y="0" width="%.1f" height="%g"/>`, x(p.From), x(p.To)-x(p.From), plotHeight)
		}
		if len(phases) > 1 {
			fmt.Fprintf(b, `<text class="mid" x="%.1f" y="-4">x%g</text>`+"\n", (x(p.From)+x(p.To))/2, p.Multiple)
		}
	}
	tick := func(v float64) {
		fmt.Fprintf(b, `<line class="grid" x1="0" x2="%g" y1="%.1f" y2="%.1f"/><text class="end" x="-6" y="%.1f">%s</text>`+"\n", plotWidth, y(v), y(v), y(v)+4, short(v))
	}
	if c.log {
		for v := lo; v <= hi*1.001; v *= 10 {
			tick(v)
		}
	} else {
		for v, step := lo, niceStep(hi); v <= hi*1.001; v += step {
			tick(v)
		}
	}
	step := niceStep(seconds)
	for s := 0.0; s <= seconds*1.001; s += step {
		unit := ""
		if s+step > seconds*1.001 {
			unit = " s"
		}
		fmt.Fprintf(b, `<text class="mid" x="%.1f" y="%g">%s%s</text>`, x(s), plotHeight+17, short(s), unit)
	}
	fmt.Fprintf(b, "\n"+`<line class="axis" x1="0" x2="%g" y1="%g" y2="%g"/>`+"\n", plotWidth, plotHeight, plotHeight)
	for _, l := range c.lines {
		c.path(b, l, x, y)
	}
}

// path draws one line, with gaps where a logarithm has no value. A rate that is zero throughout is left out.
func (c *chart) path(b *bytes.Buffer, l line, x, y func(float64) float64) {
	any := false
	for _, v := range l.y {
		any = any || v > 0
	}
	if !any {
		return
	}
	fmt.Fprintf(b, `<path class="%s" d="`, l.class)
	down := false
	for i, v := range l.y {
		if c.log && v <= 0 {
			down = false
			continue
		}
		op := byte('M')
		if down {
			op = 'L'
		}
		down = true
		b.WriteByte(op)
		b.Write(strconv.AppendFloat(nil, x((float64(i)+0.5)*c.step), 'f', 1, 64))
		b.WriteByte(' ')
		b.Write(strconv.AppendFloat(nil, y(v), 'f', 1, 64))
		if op == 'M' {
			b.WriteString("h.01") // a value between two gaps is a dot
		}
	}
	b.WriteString("\"/>\n")
}

func legend(b *bytes.Buffer, y float64, runs []*Result) {
	x := marginLeft - 20 // all of it fits below one column
	type name struct{ class, label string }
	names := []name{{"offered", "offered"}, {"good", "good"}, {"late", "late"}, {"shed", "shed"}, {"failed", "failed"}, {"p50", "p50"}, {"p99", "p99"}}
	for _, run := range runs {
		if run.Sockets != nil { // messages have no outcome
			names[1].label = "good; messages: sent"
		}
	}
	if len(runs) == 1 && runs[0].Sockets != nil {
		names = []name{{"offered", "offered"}, {"good", "sent"}, {"failed", "failed"}}
	}
	for _, n := range names {
		fmt.Fprintf(b, `<path class="%s" d="M%g %gh18"/><text x="%g" y="%g">%s</text>`+"\n", n.class, x, y-4, x+23, y, n.label)
		x += 34 + 6.2*float64(len(n.label))
	}
}

// short writes 1500000 as 1.5M.
func short(v float64) string {
	unit := ""
	switch {
	case v >= 1e6:
		v, unit = v/1e6, "M"
	case v >= 1e4:
		v, unit = v/1e3, "k"
	}
	return strconv.FormatFloat(math.Round(v*1e4)/1e4, 'g', -1, 64) + unit
}

func escape(s string) string { return html.EscapeString(s) }
