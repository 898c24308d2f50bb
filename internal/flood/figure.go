package flood

import (
	"bytes"
	"fmt"
	"slices"
)

// Curve is one line of a Panel. Curves of one name have one colour throughout a figure.
type Curve struct {
	Name string
	Y    []float64 // the first is half a step after the beginning
}

// Panel is one set of axes. Panels in one place of their columns have one scale.
type Panel struct {
	Title  string
	Log    bool
	Curves []Curve
}

// Column is panels one above the other, with one axis of time.
type Column struct {
	Name    string
	Seconds float64 // of the axis
	Step    float64 // seconds between two values
	From    float64 // of the shaded time
	To      float64
	Panels  []Panel
}

// curveColours are Okabe and Ito's, light and dark; what comes after the last begins again, dashed.
var curveColours = [][2]string{{"#0072b2", "#56b4e9"}, {"#d55e00", "#ff7f50"}, {"#009e73", "#2fc79a"}, {"#cc79a7", "#e6a3c8"}, {"#e69f00", "#f0c14b"},
	{"#6b7280", "#b6bdc6"}, {"#111827", "#ffffff"}}

// Figure draws anything in the manner of SVG: columns side by side, each with as many panels.
func Figure(columns ...Column) []byte {
	var names []string
	var all []row
	columns = slices.Clone(columns)
	for i := range columns {
		columns[i].Seconds = max(columns[i].Seconds, 1) // an axis has a length, whatever there is to be drawn on it
		for j, p := range columns[i].Panels {
			if j == len(all) {
				all = append(all, make(row, len(columns)))
			}
			c := chart{title: p.Title, log: p.Log, step: columns[i].Step}
			for _, curve := range p.Curves {
				n := slices.Index(names, curve.Name)
				if n < 0 {
					n = len(names)
					names = append(names, curve.Name)
				}
				c.lines = append(c.lines, line{fmt.Sprintf("c%d", n), curve.Y})
			}
			all[j][i] = c
		}
	}
	width, height := columnWidth*float64(max(len(columns), 1)), headHeight+rowHeight*float64(len(all))
	legendRows, x := 1, marginLeft
	place := func(label string) (atX, atY float64) {
		w := 46 + 7*float64(len(label))
		if x+w > width && x > marginLeft {
			legendRows, x = legendRows+1, marginLeft
		}
		atX, x = x, x+w
		return atX, height + legendHeight*float64(legendRows) - 10
	}
	var key bytes.Buffer
	for i, name := range names {
		atX, atY := place(name)
		fmt.Fprintf(&key, `<path class="c%d" d="M%g %gh18"/><text x="%g" y="%g">%s</text>`+"\n", i, atX, atY-4, atX+23, atY, escape(name))
	}
	total := height + legendHeight*float64(legendRows)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img">`+"\n", width, total, width, total)
	b.WriteString(style)
	b.WriteString("<style>")
	for i := range names {
		c, dash := curveColours[i%len(curveColours)], ""
		if i >= len(curveColours) {
			dash = ";stroke-dasharray:5 3"
		}
		fmt.Fprintf(&b, ".c%d{stroke:%s%s}@media(prefers-color-scheme:dark){.c%d{stroke:%s}}\n", i, c[0], dash, i, c[1])
	}
	b.WriteString("</style>\n")
	for i, col := range columns {
		fmt.Fprintf(&b, `<text class="name" x="%g" y="20">%s</text>`+"\n", columnWidth*float64(i)+marginLeft, escape(col.Name))
	}
	for j, r := range all {
		lo, hi := r.scale()
		for i, col := range columns {
			if j >= len(col.Panels) {
				continue
			}
			fmt.Fprintf(&b, `<g transform="translate(%g %g)">`+"\n", columnWidth*float64(i)+marginLeft, headHeight+rowHeight*float64(j)+rowTop)
			if col.To > col.From {
				fmt.Fprintf(&b, `<rect class="phase" x="%.1f" y="0" width="%.1f" height="%g"/>`, col.From/col.Seconds*plotWidth, (col.To-col.From)/col.Seconds*plotWidth, plotHeight)
			}
			r[i].draw(&b, []PhaseResult{{To: col.Seconds, Multiple: 1}}, lo, hi)
			b.WriteString("</g>\n")
		}
	}
	b.Write(key.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}
