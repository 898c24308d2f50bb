package drill

import (
	"bytes"
	_ "embed"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"

	"spillway/internal/plot"
)

//go:embed page.css
var pageCSS string

// Page is the report as one HTML page with nothing to load and no script.
func (r *Report) Page() []byte {
	var b bytes.Buffer
	first := "Nothing was played."
	if len(r.Result) > 0 {
		first = r.Result[0]
	}
	fmt.Fprintf(&b, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"+
		"<title>Drill: %s</title>\n<style>\n%s</style></head>\n<body><main>\n<p class=\"over\">Spillway drill, %s UTC</p>\n<h1>%s</h1>\n",
		html.EscapeString(first), pageCSS, r.Started.Format("2 January 2006, 15:04"), html.EscapeString(first))
	for i, s := range r.Result {
		if i > 0 {
			fmt.Fprintf(&b, "<p class=\"lead\">%s</p>\n", html.EscapeString(s))
		}
	}
	r.cards(&b)
	if len(r.Runs) > 0 {
		b.WriteString("<h2>Over time</h2>\n<p class=\"soft\">The same clients, attack and operator in each; plots of a kind have the same axes.</p>\n")
		for _, p := range plots(r) {
			p.section(&b, r.Runs)
		}
		r.table(&b)
		r.story(&b)
	}
	fmt.Fprintf(&b, "<h2>On what</h2>\n<p class=\"soft\">%s</p>\n", html.EscapeString(r.setting()))
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "<p class=\"warning\">%s</p>\n", html.EscapeString(w))
	}
	b.WriteString("</main></body></html>\n")
	return b.Bytes()
}

// cards are the three figures to remember.
func (r *Report) cards(b *bytes.Buffer) {
	all := []struct {
		title string
		text  func(*Run) string
	}{
		{"Answered in time under attack", func(run *Run) string { a := run.attacked(); return shareText(&a) }},
		{"Until a client knew the backend was gone", func(run *Run) string {
			if g := run.find(gone); g != nil && g.Failed > 0 {
				return duration(g.FailP50)
			}
			return "-"
		}},
		{"After its return, until all was as usual", func(run *Run) string {
			switch {
			case run.Recovery < 0:
				return "never"
			case run.Recovery < 0.3:
				return "at once"
			}
			return fmt.Sprintf("%.1f s", run.Recovery)
		}},
	}
	b.WriteString("<div class=\"cards\">\n")
	for _, c := range all {
		fmt.Fprintf(b, "<section class=\"card\"><h3>%s</h3><dl>", c.title)
		for _, run := range r.Runs {
			class := "without"
			if run.Name == Protected {
				class = "with"
			}
			fmt.Fprintf(b, "<dd class=\"%s\">%s</dd><dt>%s</dt>", class, c.text(run), run.Name)
		}
		b.WriteString("</dl></section>\n")
	}
	b.WriteString("</div>\n")
}

func shareText(p *Phase) string {
	if share := p.share(p.InTime); share > 0 && share < 0.01 {
		return "< 1 %"
	}
	return percent(p.share(p.InTime))
}

func (p *graph) section(b *bytes.Buffer, runs []*Run) {
	fmt.Fprintf(b, "<section class=\"plot\"><header><h3>%s</h3><ul class=\"key\">", html.EscapeString(p.title+strings.TrimRight(", "+strings.TrimSpace(p.unit), ", ")))
	for _, c := range p.curves {
		shape := " class=\"line\""
		if p.stacked {
			shape = ""
		}
		fmt.Fprintf(b, "<li><span class=\"%s\"><i%s></i></span>%s</li>", c.class, shape, html.EscapeString(c.name))
	}
	fmt.Fprintf(b, "</ul></header>\n<div class=\"pair\" style=\"--runs:%d\">\n", len(runs))
	axes := p.axes(runs)
	for _, run := range runs {
		fmt.Fprintf(b, "<figure><figcaption>%s</figcaption>", run.Name)
		p.draw(b, run, axes)
		b.WriteString("</figure>\n")
	}
	b.WriteString("</div>\n")
	if p.note != "" {
		fmt.Fprintf(b, "<p class=\"soft\">%s</p>\n", html.EscapeString(p.note))
	}
	b.WriteString("</section>\n")
}

func (r *Report) table(b *bytes.Buffer) {
	b.WriteString("<h2>Phase by phase</h2>\n<div class=\"wide\"><table><thead><tr><th>phase</th><th></th>")
	for _, c := range columns {
		fmt.Fprintf(b, "<th>%s</th>", c.head)
	}
	b.WriteString("</tr></thead><tbody>\n")
	for i := range r.Runs[0].Phases {
		for j, run := range r.Runs {
			class, name := run.Name, ""
			if j == 0 {
				class, name = class+" first", run.Phases[i].Name
			}
			fmt.Fprintf(b, "<tr class=\"%s\"><th scope=\"row\">%s</th><td class=\"run\">%s</td>", class, name, run.Name)
			for _, c := range columns {
				fmt.Fprintf(b, "<td>%s</td>", c.text(r, &run.Phases[i]))
			}
			b.WriteString("</tr>\n")
		}
	}
	b.WriteString("</tbody></table></div>\n")
	for _, run := range r.Runs {
		fmt.Fprintf(b, "<p class=\"soft\"><b>%s</b>: %s.</p>\n", run.Name, html.EscapeString(strings.ReplaceAll(strings.Join(run.facts(), "; "), "`", "")))
	}
}

func (r *Report) story(b *bytes.Buffer) {
	b.WriteString("<h2>What was played</h2>\n<p><b>unprotected</b>: one DNAT rule forwards, and the tracker serves whoever comes. <b>protected</b>: <code>spillway relay</code> and the shedder, with their defaults.</p>\n<ol class=\"story\">\n")
	for _, p := range r.Runs[0].Phases {
		fmt.Fprintf(b, "<li><b>%s</b>, %.0f s: %s.</li>\n", p.Name, p.To-p.From, html.EscapeString(p.Text))
	}
	b.WriteString("</ol>\n")
}

// graph is one figure of both runs, on the same axes.
type graph struct {
	title   string
	note    string // under it
	unit    string // of the highest label
	stacked bool   // curves are parts of a whole, the first at the bottom
	log     bool
	least   float64 // the axis goes at least so far
	curves  []curve
}

// curve is one line of a graph. Its class is its colour.
type curve struct {
	name  string
	class string
	dash  bool
	y     func(*Run) []float64
}

// plots are the page's, in order.
func plots(r *Report) []graph {
	quota := func(run *Run) []float64 {
		y := make([]float64, len(run.Series.Offered))
		for i := range y {
			y[i] = 100 * r.BackendShare
		}
		return y
	}
	return []graph{
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

// Sizes of a graph, in its own units.
const (
	plotLeft, plotTop       = 44.0, 18.0
	plotWidth, plotHeight   = 430.0, 150.0
	wholeWidth, wholeHeight = plotLeft + plotWidth + 6, plotTop + plotHeight + 20
)

// axes are of all runs.
func (p *graph) axes(runs []*Run) plot.Axes {
	a := plot.Axes{Width: plotWidth, Height: plotHeight, Log: p.log, Steps: 5}
	lo, hi := math.Inf(1), p.least
	for _, run := range runs {
		var sum []float64
		for _, c := range p.curves {
			y := c.y(run)
			if p.stacked {
				sum = onTop(sum, y)
				y = sum
			}
			for _, v := range y {
				if v > 0 {
					lo, hi = min(lo, v), max(hi, v)
				}
			}
		}
	}
	a.Fit(lo, hi)
	return a
}

// onTop adds up.
func onTop(below, values []float64) []float64 {
	top := slices.Clone(values)
	for i, v := range below {
		top[i] += v
	}
	return top
}

var phaseClass = map[string]string{attack: "in-attack", wsOff: "in-off", gone: "in-gone", back: "in-back"}

// draw writes one run's picture.
func (p *graph) draw(b *bytes.Buffer, run *Run, a plot.Axes) {
	a.Seconds = 1
	if n := len(run.Phases); n > 0 {
		a.Seconds = max(run.Phases[n-1].To, 1)
	}
	fmt.Fprintf(b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s, %s"><g transform="translate(%g %g)">`+"\n", wholeWidth, wholeHeight, html.EscapeString(p.title), run.Name,
		plotLeft, plotTop)
	for _, ph := range run.Phases {
		class := phaseClass[ph.Name]
		if class == "" {
			class = "in-calm"
		}
		from, to := a.X(ph.From), a.X(ph.To)
		fmt.Fprintf(b, `<rect class="%s" x="%.1f" y="0" width="%.1f" height="%g"/><text class="phase mid" x="%.1f" y="-6">%s</text>`+"\n", class, from, to-from, plotHeight,
			(from+to)/2, ph.Name)
	}
	a.Grid(b)
	var below []float64
	for _, c := range p.curves {
		values := c.y(run)
		if p.stacked {
			below = area(b, &a, c.class, values, below, run.Series.Step)
			continue
		}
		class := "curve " + c.class
		if c.dash {
			class += " dash"
		}
		a.Line(b, class, values, run.Series.Step)
	}
	b.WriteString("</g></svg>")
}

// area stands on what is below it, and returns its own top.
func area(b *bytes.Buffer, a *plot.Axes, class string, values, below []float64, step float64) (top []float64) {
	top = onTop(below, values)
	if !slices.ContainsFunc(values, func(v float64) bool { return v > 0 }) {
		return top
	}
	if below == nil {
		below = make([]float64, len(values))
	}
	fmt.Fprintf(b, `<path class="area %s" d="`, class)
	point := func(op byte, i int, v float64) { fmt.Fprintf(b, "%c%.1f %.1f", op, a.X((float64(i)+0.5)*step), a.Y(v)) }
	for i, v := range top {
		point("ML"[min(i, 1)], i, v)
	}
	for i := len(below) - 1; i >= 0; i-- {
		point('L', i, below[i])
	}
	b.WriteString("Z\"/>\n")
	return top
}
