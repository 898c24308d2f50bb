package flood

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strings"

	"spillway/internal/plot"
)

const pageStyle = `<style>
:root{color-scheme:light dark;--ink:#1c2024;--soft:#5b6470;--line:#e3e6ea;--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa3ad;--line:#2e343b;--paper:#15181c}}
body{margin:2rem auto;max-width:72rem;padding:0 1rem;font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:var(--paper)}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}.soft{color:var(--soft)}.wide{overflow-x:auto}
svg{max-width:100%;height:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child{text-align:left}.warning{border-left:3px solid #d55e00;padding-left:.7rem}
.side{display:flex;flex-wrap:wrap;gap:1rem}.side svg{flex:0 1 auto}
.verdict{border-left:3px solid #0072b2;padding-left:.7rem;font-size:1.05rem}.verdict p{margin:.3rem 0}
.spread{color:var(--soft);padding-left:0}.url{overflow-wrap:anywhere}h3{font-size:1rem;font-weight:600;margin:1.6rem 0 .4rem}
</style>
`

// Page is one HTML page about runs, with nothing to load: plots side by side, then each run's table and settings.
func Page(title string, runs ...*Result) []byte {
	var b bytes.Buffer
	beginPage(&b, title)
	columnsPage(&b, runs)
	for _, r := range runs {
		r.section(&b)
	}
	return b.Bytes()
}

func beginPage(b *bytes.Buffer, title string) {
	fmt.Fprintf(b, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n<title>%s</title>\n", escape(title))
	b.WriteString(pageStyle)
	fmt.Fprintf(b, "<h1>%s</h1>\n", escape(title))
}

// columnsPage writes a picture of each run, on the same scales.
func columnsPage(b *bytes.Buffer, runs []*Result) {
	b.WriteString("<div class=\"side\">\n")
	for i, f := 0, figureOf(runs); i < len(runs); i++ {
		b.Write(f.Part(i, i+1))
	}
	b.WriteString("</div>\n")
}

func (r *Result) section(b *bytes.Buffer) {
	peak := ""
	if r.Peak > 0 {
		peak = fmt.Sprintf(" Peak, closed loop: %.0f requests/s.", r.Peak)
	}
	fmt.Fprintf(b, "<h2>%s</h2>\n<p class=\"soft\">%s flood of %s on %s UTC: %s of %.0f requests/s, %d connections, %d threads, sources (%s) %d honest and %d attackers."+
		"%s Good is a reply with the key %q within %g ms of its due time; a request waits %g ms for a connection at most.</p>\n", escape(r.title()), r.Mode,
		escape(r.Target), r.Start.UTC().Format("2006-01-02 15:04"), escape(r.Profile), r.Rate, r.Conns, r.Threads, escape(r.Source), r.Honest, r.Attackers, peak,
		escape(r.GoodKey), r.GoodMS, r.PatienceMS)
	for _, w := range r.Warnings() {
		fmt.Fprintf(b, "<p class=\"warning\">%s</p>\n", escape(w))
	}
	heads := []string{"phase", "side", "offered/s", "sent/s", "good/s", "late/s", "shed/s", "failed/s", "good", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"}
	fmt.Fprintf(b, "<div class=\"wide\"><table><tr><th>%s</tr>\n", strings.Join(heads, "<th>"))
	for _, p := range r.Phases {
		for _, side := range []struct {
			name string
			Side
		}{{"honest", p.Honest}, {"attack", p.Attack}} {
			if side.Offered == 0 {
				continue
			}
			fmt.Fprintf(b, "<tr><td>%g-%g s, x%g<td>%s", p.From, p.To, p.Multiple, side.name)
			for _, n := range []uint64{side.Offered, side.Sent, side.Good, side.Late, side.Shed, side.Failed} {
				fmt.Fprintf(b, "<td>%.0f", float64(n)/(p.To-p.From))
			}
			fmt.Fprintf(b, "<td>%.1f %%<td>%.2f<td>%.2f<td>%.2f<td>%.2f<td>%.2f</tr>\n", 100*float64(side.Good)/float64(side.Offered), side.P50, side.P90, side.P99,
				side.P999, side.Max)
		}
	}
	b.WriteString("</table></div>\n")
}

// TrialPage is one HTML page about a trial, with nothing to load: what came of it in words, the figures, then plots.
func TrialPage(t *Trial) []byte {
	var b bytes.Buffer
	title := "Bench: " + t.What
	if t.B != nil {
		title += ", A against B"
	}
	beginPage(&b, title)
	t.settings(&b)
	b.WriteString("<div class=\"verdict\">\n")
	for _, v := range t.Verdict {
		fmt.Fprintf(&b, "<p>%s</p>\n", escape(v))
	}
	b.WriteString("</div>\n")
	for _, w := range t.Warnings {
		fmt.Fprintf(&b, "<p class=\"warning\">%s</p>\n", escape(w))
	}
	t.table(&b)
	typicals := []*Result{typical(t.RunsA)}
	if t.B != nil {
		typicals = append(typicals, typical(t.RunsB))
	}
	b.WriteString("<div class=\"side\">\n")
	if t.B != nil {
		b.WriteString("<div><h3>B over A, each round and their median</h3>\n")
		t.ratioSVG(&b)
		b.WriteString("</div>\n")
	}
	b.WriteString("<div><h3>Latency of all that were served, each round</h3>\n")
	t.curveSVG(&b)
	b.WriteString("</div>\n</div>\n<h2>The median round over time</h2>\n")
	named := make([]*Result, len(typicals)) // by their letters
	for i, r := range typicals {
		run := *r
		run.Name = strings.TrimSpace(t.name(i) + " " + r.Name)
		named[i] = &run
	}
	columnsPage(&b, named)
	b.WriteString("<h2>Each round</h2>\n")
	t.rounds(&b)
	return b.Bytes()
}

func (t *Trial) settings(b *bytes.Buffer) {
	r := t.RunsA[0]
	attackers := ""
	if r.Attackers > 0 {
		attackers = fmt.Sprintf(" %d addresses attack; the figures are those of the %d honest ones.", r.Attackers, r.Honest)
	}
	if t.B != nil {
		fmt.Fprintf(b, "<p class=\"url\">A: %s<br>B: %s</p>\n", escape(t.A.URL), escape(t.B.URL))
	} else {
		fmt.Fprintf(b, "<p class=\"url\">%s</p>\n", escape(t.A.URL))
	}
	fmt.Fprintf(b, "<p class=\"soft\">%s UTC. %s requests a second (%s) for %g s, %d rounds of each, %d connections, %d torrents. Good is an answer within %g ms of when its request was "+
		"due. Requests are due at fixed times whatever becomes of the earlier ones.%s Generator and targets share %d cores.</p>\n",
		t.Start.UTC().Format("2006-01-02 15:04"), count(r.Rate), escape(string(r.Mode)), r.Phases[0].To, t.Rounds, r.Conns, r.Torrents, r.GoodMS, attackers, t.CPUs)
}

// table is the medians, with the least and the most of the rounds.
func (t *Trial) table(b *bytes.Buffer) {
	b.WriteString("<div class=\"wide\"><table><tr><th>median of the rounds")
	if t.B != nil {
		b.WriteString("<th>A<th><th>B<th><th>B/A<th></tr>\n")
	} else {
		b.WriteString("<th><th></tr>\n")
	}
	for i := range t.Metrics {
		m := &t.Metrics[i]
		fmt.Fprintf(b, "<tr><td>%s", escape(m.label()))
		cell := func(s *Spread) {
			if s == nil {
				b.WriteString("<td><td>")
				return
			}
			fmt.Fprintf(b, "<td>%s<td class=\"spread\">%s to %s", m.figure(s.Median), m.figure(s.Min), m.figure(s.Max))
		}
		cell(&m.A)
		if t.B != nil {
			cell(m.B)
			if m.Ratio != nil {
				fmt.Fprintf(b, "<td>%.2f<td class=\"spread\">%.2f to %.2f", m.Ratio.Median, m.Ratio.Min, m.Ratio.Max)
			} else {
				b.WriteString("<td><td>")
			}
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</table></div>\n")
}

// rounds is what each brought.
func (t *Trial) rounds(b *bytes.Buffer) {
	b.WriteString("<div class=\"wide\"><table><tr><th>round<th>good/s<th>late<th>shed<th>failed<th>p50 ms<th>p90 ms<th>p99 ms<th>p99.9 ms<th>max ms<th>generator late</tr>\n")
	for round := range t.Rounds {
		for i, runs := range [][]*Result{t.RunsA, t.RunsB} {
			if len(runs) == 0 {
				continue
			}
			r := runs[round]
			p := &r.Phases[0]
			h := &p.Honest
			fmt.Fprintf(b, "<tr><td>%s<td>%s<td>%d<td>%d<td>%d<td>%.3f<td>%.3f<td>%.3f<td>%.3f<td>%.3f<td>%d</tr>\n", strings.TrimSpace(fmt.Sprintf("%s %d", t.name(i), round+1)),
				count(p.GoodRate(*h)), h.Late, h.Shed, h.Failed, h.ServedP50, h.ServedP90, h.ServedP99, h.ServedP999, h.ServedMax, r.Behind)
		}
	}
	b.WriteString("</table></div>\n")
}

// Subjects' colours are the first two of a figure's.
const subjectStyle = `.a{stroke:#0072b2}.b{stroke:#d55e00}.round{opacity:.35;stroke-width:1.2}.dot{fill:var(--ink);stroke:none}.faint{fill:var(--soft);stroke:none;opacity:.6}
.even{stroke:var(--soft);stroke-dasharray:4 3}@media(prefers-color-scheme:dark){.a{stroke:#56b4e9}.b{stroke:#ff7f50}}
`

// curveSVG is latency by percentile, both logarithmic: each step to the right has a tenth of the requests left.
func (t *Trial) curveSVG(b *bytes.Buffer) {
	lo, hi, nines := math.Inf(1), 0.0, 2.0
	all := [][]*Result{t.RunsA, t.RunsB}
	for _, runs := range all {
		for _, r := range runs {
			for _, q := range r.Phases[0].Honest.Latency {
				if q.MS > 0 {
					lo, hi = min(lo, q.MS), max(hi, q.MS)
				}
				if q.Q < 1 {
					nines = max(nines, -math.Log10(1-q.Q))
				}
			}
		}
	}
	axes := plot.Axes{Width: plot.Width, Height: plot.Height, Log: true}
	axes.Fit(lo, hi)
	nines = math.Ceil(nines + 0.01)
	height := plot.Top + plot.Height + plot.Bottom + plot.LegendHeight
	plot.Begin(b, plot.ColumnWidth, height, subjectStyle)
	x := func(q float64) float64 { return min(-math.Log10(1-q), nines) / nines * plot.Width }
	fmt.Fprintf(b, `<g transform="translate(%g %g)"><text class="title" x="0" y="-14">ms</text>`+"\n", plot.Left, plot.Top)
	axes.ValueGrid(b)
	fmt.Fprintf(b, `<text class="mid" x="%.1f" y="%g">p50</text>`, x(0.5), plot.Height+17)
	for n := 1; n <= int(nines); n++ {
		at := float64(n) / nines * plot.Width
		label := "max"
		if n < int(nines) {
			label = "p" + strings.TrimSuffix(fmt.Sprintf("%.6g", 100-100*math.Pow10(-n)), ".")
		}
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="0" y2="%g"/><text class="mid" x="%.1f" y="%g">%s</text>`+"\n", at, at, plot.Height, at, plot.Height+17, label)
	}
	for i, runs := range all {
		if len(runs) == 0 {
			continue
		}
		middle := typical(runs)
		for _, r := range runs {
			class := []string{"a", "b"}[i]
			if r != middle {
				class += " round"
			}
			fmt.Fprintf(b, `<path class="%s" d="`, class)
			op := "M"
			for _, q := range r.Phases[0].Honest.Latency {
				fmt.Fprintf(b, "%s%.1f %.1f", op, x(q.Q), axes.Y(q.MS))
				op = "L"
			}
			b.WriteString("\"/>\n")
		}
	}
	b.WriteString("</g>\n")
	at := plot.Left
	for i, runs := range all {
		if len(runs) == 0 {
			continue
		}
		name := t.name(i)
		if name == "" {
			name = "median round"
		}
		fmt.Fprintf(b, `<path class="%s" d="M%g %gh18"/><text x="%g" y="%g">%s</text>`+"\n", []string{"a", "b"}[i], at, height-14, at+23, height-10, name)
		at += 60
	}
	if t.Rounds > 1 {
		fmt.Fprintf(b, `<text x="%g" y="%g">bold: the median round</text>`+"\n", at+60*float64(1-min(len(t.RunsB), 1)), height-10)
	}
	b.WriteString("</svg>\n")
}

// ratioSVG is a row for each metric: the rounds' ratios, and their median, left of 1 where B has less.
func (t *Trial) ratioSVG(b *bytes.Buffer) {
	var shown []*Metric
	most := 0.1 // of ln 2: so much there is to see, if all are alike
	for i := range t.Metrics {
		m := &t.Metrics[i]
		if m.Ratio == nil || m.Ratio.Min <= 0 || strings.HasSuffix(m.Name, "_percent") {
			continue
		}
		shown = append(shown, m)
		most = max(most, math.Abs(math.Log2(m.Ratio.Min)), math.Abs(math.Log2(m.Ratio.Max)))
	}
	const row, left, right = 26.0, 106.0, 24.0
	const wide = plot.ColumnWidth - left - right
	height := plot.Top + row*float64(len(shown)) + 24
	plot.Begin(b, plot.ColumnWidth, height, subjectStyle)
	x := func(ratio float64) float64 { return left + wide*(0.5+math.Log2(ratio)/(2*most)) }
	ends := [2]string{"B has less", "B has more"}
	fmt.Fprintf(b, `<text x="%g" y="14">%s</text><text class="end" x="%g" y="14">%s</text>`+"\n", left, ends[0], left+wide, ends[1])
	bottom := plot.Top + row*float64(len(shown))
	for _, v := range ratioTicks(most) {
		class := "grid"
		if v == 1 {
			class = "even"
		}
		fmt.Fprintf(b, `<line class="%s" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/><text class="mid" x="%.1f" y="%g">%s</text>`+"\n", class, x(v), x(v), plot.Top-12, bottom, x(v), bottom+15, ratioLabel(v))
	}
	for i, m := range shown {
		y := plot.Top + row*float64(i)
		fmt.Fprintf(b, `<text class="end title" x="%g" y="%g">%s</text><path class="b" d="M%.1f %gH%.1f"/>`+"\n", left-10, y+4, escape(m.label()), x(m.Ratio.Min), y, x(m.Ratio.Max))
		for _, r := range t.ratios(m.Name) {
			fmt.Fprintf(b, `<circle class="faint" cx="%.1f" cy="%g" r="2.5"/>`, x(r), y)
		}
		fmt.Fprintf(b, `<circle class="dot" cx="%.1f" cy="%g" r="4.5"/>`+"\n", x(m.Ratio.Median), y)
	}
	b.WriteString("</svg>\n")
}

// ratios are a metric's of B over A, round by round.
func (t *Trial) ratios(name string) (all []float64) {
	for _, m := range metrics {
		if m.name != name {
			continue
		}
		for i := range t.RunsB {
			if a := m.of(&t.RunsA[i].Phases[0]); a > 0 {
				all = append(all, m.of(&t.RunsB[i].Phases[0])/a)
			}
		}
	}
	return all
}

// ratioLabel writes 1/32x for what is small.
func ratioLabel(v float64) string {
	if v < 0.5 {
		return fmt.Sprintf("1/%gx", 1/v)
	}
	return fmt.Sprintf("%gx", v)
}

// ratioTicks are ratios whose binary logarithms are within most, 1 among them, and few enough to be read.
func ratioTicks(most float64) (all []float64) {
	steps := []float64{0.9, 0.95, 1, 1.05, 1.1}
	switch {
	case most > 20:
		return []float64{1}
	case most > 5:
		steps = []float64{1. / 1024, 1. / 32, 1, 32, 1024}
	case most > 2:
		steps = []float64{0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16}
	case most > 0.8:
		steps = []float64{0.25, 0.5, 1, 2, 4}
	case most > 0.3:
		steps = []float64{0.6, 0.8, 1, 1.25, 1.6}
	}
	for _, v := range steps {
		if math.Abs(math.Log2(v)) <= most {
			all = append(all, v)
		}
	}
	return all
}

func escape(s string) string { return html.EscapeString(s) }
