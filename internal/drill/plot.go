package drill

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
)

// plot is one figure of both runs, on the same axes.
type plot struct {
	title   string
	note    string // under it
	unit    string // of the highest label
	stacked bool   // curves are parts of a whole, the first at the bottom
	log     bool
	least   float64 // the axis goes at least so far
	curves  []curve
}

// curve is one line of a plot. Its class is its colour.
type curve struct {
	name  string
	class string
	dash  bool
	y     func(*Run) []float64
}

// plots are the page's, in order.
func plots(r *Report) []plot {
	quota := func(run *Run) []float64 {
		y := make([]float64, len(run.Series.Offered))
		for i := range y {
			y[i] = 100 * r.BackendShare
		}
		return y
	}
	return []plot{
		{title: "What became of honest announces, a second", stacked: true, note: "By when they were sent; who fails comes again, so there are more of them.", curves: []curve{
			{"in 200 ms", "good", false, func(r *Run) []float64 { return r.Series.InTime }},
			{"later", "late", false, func(r *Run) []float64 { return r.Series.Late }},
			{"told politely to come later (shed)", "shed", false, func(r *Run) []float64 { return r.Series.Shed }},
			{"failed", "failed", false, func(r *Run) []float64 { return r.Series.Failed }},
		}},
		{title: "Time until a client knew that it failed", unit: " ms", log: true, note: "Clients give up after 5 s. Gaps: nobody failed.", curves: []curve{
			{"99 of 100", "plain", false, func(r *Run) []float64 { return r.Series.FailP99 }},
			{"half of them", "failed", false, func(r *Run) []float64 { return r.Series.FailP50 }},
		}},
		{title: "Requests of the attack, a second", curves: []curve{
			{"sent", "attack", false, func(r *Run) []float64 { return r.Series.Attack }},
		}},
		{title: "Connections the relay's kernel tracks", curves: []curve{
			{"conntrack entries", "attack", false, func(r *Run) []float64 { return r.Series.Conntrack }},
		}},
		{title: "CPU", unit: " %", least: 50, note: "The relay's of its core, the kernel's work with packets in it; the backend's of a core, of which it may have a part.", curves: []curve{
			{"relay", "good", false, func(run *Run) []float64 {
				if r.Unsteered {
					return make([]float64, len(run.Series.RelayCPU))
				}
				return run.Series.RelayCPU
			}},
			{"backend", "late", false, func(r *Run) []float64 { return r.Series.BackendCPU }},
			{"the backend's quota", "plain", true, quota},
		}},
		{title: "Memory of the tracker", unit: " MB", curves: []curve{
			{"resident", "good", false, func(r *Run) []float64 { return r.Series.Memory }},
		}},
		{title: "WebSockets of honest peers", least: webPeers, note: "The operator's switch ends them in both runs, and they come back by their own formulas.", curves: []curve{
			{"open", "shed", false, func(r *Run) []float64 { return r.Series.Sockets }},
		}},
	}
}

// Sizes of a plot, in its own units.
const (
	plotLeft, plotTop      = 44.0, 18.0
	plotWidth, plotHeight  = 430.0, 150.0
	plotRight, plotBottom  = 6.0, 20.0
	wholeWidth, wholeHeigh = plotLeft + plotWidth + plotRight, plotTop + plotHeight + plotBottom
)

// scale is the axis of all runs.
func (p *plot) scale(runs []*Run) (lo, hi float64) {
	lo = math.Inf(1)
	for _, run := range runs {
		var sum []float64
		for _, c := range p.curves {
			for i, v := range c.y(run) {
				if p.log {
					if v > 0 {
						lo, hi = min(lo, v), max(hi, v)
					}
					continue
				}
				if i == len(sum) {
					sum = append(sum, 0)
				}
				if sum[i] += v; !p.stacked {
					sum[i] = v
				}
				hi = max(hi, sum[i])
			}
		}
	}
	if p.log {
		if hi == 0 {
			return 0.1, 10
		}
		lo, hi = math.Pow(10, math.Floor(math.Log10(lo))), math.Pow(10, math.Ceil(math.Log10(hi)))
		return lo, max(hi, 10*lo)
	}
	if hi = max(hi, p.least); hi == 0 {
		return 0, 1
	}
	step := niceStep(hi)
	return 0, step * math.Ceil(hi/step)
}

// niceStep makes three to five ticks, of 1, 2 or 5 times a power of ten.
func niceStep(hi float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(hi)))
	for _, m := range []float64{0.2, 0.5, 1, 2} {
		if hi/(m*power) <= 5 {
			return m * power
		}
	}
	return 5 * power
}

var phaseClass = map[string]string{attack: "in-attack", wsOff: "in-off", gone: "in-gone", back: "in-back"}

// draw writes one run's picture.
func (p *plot) draw(b *bytes.Buffer, run *Run, lo, hi float64) {
	seconds := 1.0
	if n := len(run.Phases); n > 0 {
		seconds = max(run.Phases[n-1].To, 1)
	}
	x := func(s float64) float64 { return plotLeft + min(s/seconds, 1)*plotWidth }
	y := func(v float64) float64 {
		if p.log {
			return plotTop + plotHeight*(1-math.Log10(v/lo)/math.Log10(hi/lo))
		}
		return plotTop + plotHeight*(1-(v-lo)/(hi-lo))
	}
	fmt.Fprintf(b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s, %s">`+"\n", wholeWidth, wholeHeigh, html.EscapeString(p.title), run.Name)
	for _, ph := range run.Phases {
		class := phaseClass[ph.Name]
		if class == "" {
			class = "in-calm"
		}
		fmt.Fprintf(b, `<rect class="%s" x="%.1f" y="%g" width="%.1f" height="%g"/><text class="phase mid" x="%.1f" y="%g">%s</text>`+"\n", class, x(ph.From), plotTop,
			x(ph.To)-x(ph.From), plotHeight, (x(ph.From)+x(ph.To))/2, plotTop-6, ph.Name)
	}
	tick := func(v float64, unit string) {
		fmt.Fprintf(b, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text class="end" x="%g" y="%.1f">%s%s</text>`+"\n", plotLeft, plotLeft+plotWidth, y(v), y(v),
			plotLeft-6, y(v)+3.5, short(v), unit)
	}
	if p.log {
		for v := lo; v <= hi*1.001; v *= 10 {
			tick(v, "")
		}
	} else {
		for v, step := 0.0, niceStep(hi); v <= hi*1.001; v += step {
			tick(v, "")
		}
	}
	step := niceStep(seconds)
	for s := 0.0; s <= seconds*1.001; s += step {
		unit := ""
		if s == 0 {
			unit = " s"
		}
		fmt.Fprintf(b, `<text class="mid" x="%.1f" y="%g">%s%s</text>`, x(s), plotTop+plotHeight+15, short(s), unit)
	}
	fmt.Fprintf(b, "\n"+`<line class="axis" x1="%g" x2="%g" y1="%g" y2="%g"/>`+"\n", plotLeft, plotLeft+plotWidth, plotTop+plotHeight, plotTop+plotHeight)
	var below []float64
	for _, c := range p.curves {
		values := c.y(run)
		if p.stacked {
			below = area(b, c.class, values, below, func(i int) float64 { return x((float64(i) + 0.5) * run.Series.Step) }, y)
			continue
		}
		p.line(b, &c, values, func(i int) float64 { return x((float64(i) + 0.5) * run.Series.Step) }, y)
	}
	b.WriteString("</svg>")
}

// line has gaps where a logarithm has no value.
func (p *plot) line(b *bytes.Buffer, c *curve, values []float64, x func(int) float64, y func(float64) float64) {
	dash := ""
	if c.dash {
		dash = " dash"
	}
	fmt.Fprintf(b, `<path class="curve %s%s" d="`, c.class, dash)
	down := false
	for i, v := range values {
		if p.log && v <= 0 {
			down = false
			continue
		}
		if down {
			fmt.Fprintf(b, "L%.1f %.1f", x(i), y(v))
		} else {
			fmt.Fprintf(b, "M%.1f %.1fh.01", x(i), y(v)) // a value between two gaps is a dot
		}
		down = true
	}
	b.WriteString("\"/>\n")
}

// area stands on what is below it, and returns its own top.
func area(b *bytes.Buffer, class string, values, below []float64, x func(int) float64, y func(float64) float64) (top []float64) {
	top = make([]float64, len(values))
	if below == nil {
		below = make([]float64, len(values))
	}
	any := false
	for i, v := range values {
		top[i] = below[i] + v
		any = any || v > 0
	}
	if !any {
		return top
	}
	fmt.Fprintf(b, `<path class="area %s" d="`, class)
	for i := range top {
		fmt.Fprintf(b, "%c%.1f %.1f", "ML"[min(i, 1)], x(i), y(top[i]))
	}
	for i := len(below) - 1; i >= 0; i-- {
		fmt.Fprintf(b, "L%.1f %.1f", x(i), y(below[i]))
	}
	b.WriteString("Z\"/>\n")
	return top
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
