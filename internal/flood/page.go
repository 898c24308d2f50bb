package flood

import (
	"bytes"
	"fmt"
	"strings"
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
	for i := range runs {
		b.Write(columnsSVG(runs, i, i+1))
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
