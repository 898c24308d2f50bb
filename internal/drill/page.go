package drill

import (
	"bytes"
	_ "embed"
	"fmt"
	"html"
	"strings"
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

func (p *plot) section(b *bytes.Buffer, runs []*Run) {
	fmt.Fprintf(b, "<section class=\"plot\"><header><h3>%s</h3><ul class=\"key\">", html.EscapeString(p.title+strings.TrimRight(", "+strings.TrimSpace(p.unit), ", ")))
	for _, c := range p.curves {
		shape := " class=\"line\""
		if p.stacked {
			shape = ""
		}
		fmt.Fprintf(b, "<li><span class=\"%s\"><i%s></i></span>%s</li>", c.class, shape, html.EscapeString(c.name))
	}
	fmt.Fprintf(b, "</ul></header>\n<div class=\"pair\" style=\"--runs:%d\">\n", len(runs))
	lo, hi := p.scale(runs)
	for _, run := range runs {
		fmt.Fprintf(b, "<figure><figcaption>%s</figcaption>", run.Name)
		p.draw(b, run, lo, hi)
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
