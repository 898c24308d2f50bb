package plot

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"slices"
)

// Figure is columns side by side, each with as many panels. Panels in one place of their columns have one scale.
type Figure struct {
	Columns []Column
	Style   string  // CSS of the classes of curves that have one
	Legend  []Curve // which has their names; nil: all curves, as they come
}

// Column is panels one above the other, with one axis of time.
type Column struct {
	Name    string
	Seconds float64 // of the axis
	Step    float64 // seconds between two values
	Spans   []Span
	Panels  []Panel
}

// Span is a part of the time.
type Span struct {
	From, To float64
	Shaded   bool
	Name     string // above it
}

// Panel is one set of axes.
type Panel struct {
	Title  string
	Log    bool
	Curves []Curve
}

// Curve is one line of a Panel. One that is zero throughout is not drawn.
type Curve struct {
	Name  string    // curves of one name have one colour throughout a figure
	Class string    // if it has one, its colour is that of Figure.Style
	Y     []float64 // the first is half a step after the beginning
}

// Sizes of a figure, in its own units, which are pixels at full size.
const (
	Width, Height = 400.0, 170.0 // of axes
	Left          = 58.0
	right         = 14.0
	Top           = 34.0 // of a row: its title
	Bottom        = 34.0 // the time axis
	headHeight    = 30.0 // the columns' names
	LegendHeight  = 26.0
	ColumnWidth   = Left + Width + right
	rowHeight     = Top + Height + Bottom
)

const style = `<style>
svg{--ink:#1c2024;--soft:#6b7280;--grid:#e3e6ea;--shade:#64748b}
@media(prefers-color-scheme:dark){svg{--ink:#e8eaed;--soft:#9aa3ad;--grid:#2e343b;--shade:#94a3b8}}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
.name{font-size:14px;font-weight:600;fill:var(--ink)}.title{fill:var(--ink)}
.grid{stroke:var(--grid);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1}
.phase{fill:var(--shade);opacity:.13}.end{text-anchor:end}.mid{text-anchor:middle}
path{fill:none;stroke-width:1.8;stroke-linejoin:round}
`

// colours are Okabe and Ito's, light and dark, which the colour-blind tell apart; what comes after the last begins again, dashed.
var colours = [][2]string{{"#0072b2", "#56b4e9"}, {"#d55e00", "#ff7f50"}, {"#009e73", "#2fc79a"}, {"#cc79a7", "#e6a3c8"}, {"#e69f00", "#f0c14b"},
	{"#6b7280", "#b6bdc6"}, {"#111827", "#ffffff"}}

// Begin begins a picture of a size, with more CSS if there is any; "</svg>" ends it.
func Begin(b *bytes.Buffer, width, height float64, css string) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img">`+"\n%s%s</style>\n", width, height, width, height,
		style, css)
}

// SVG draws all columns.
func (f *Figure) SVG() []byte { return f.Part(0, len(f.Columns)) }

// Part draws columns from to to-1, on the scales of all: a page has a picture of each, which stand one below the other where it is narrow.
func (f *Figure) Part(from, to int) []byte {
	columns := slices.Clone(f.Columns)
	var scales []Axes
	for i := range columns {
		if columns[i].Seconds <= 0 {
			columns[i].Seconds = 1 // an axis has a length, whatever there is to be drawn on it
		}
		for len(scales) < len(columns[i].Panels) {
			scales = append(scales, f.scale(len(scales)))
		}
	}
	colour := f.colour()
	legend := f.Legend
	if legend == nil {
		legend = colour.names
	}
	width, height := ColumnWidth*float64(max(to-from, 1)), headHeight+rowHeight*float64(len(scales))
	key, height := drawLegend(legend, colour, width, height)
	var b bytes.Buffer
	Begin(&b, width, height, f.Style+colour.css())
	for i, col := range columns[from:to] {
		fmt.Fprintf(&b, `<text class="name" x="%g" y="20">%s</text>`+"\n", ColumnWidth*float64(i)+Left, html.EscapeString(col.Name))
		for j := range col.Panels {
			a := scales[j]
			a.Seconds = col.Seconds
			fmt.Fprintf(&b, `<g transform="translate(%g %g)">`+"\n", ColumnWidth*float64(i)+Left, headHeight+rowHeight*float64(j)+Top)
			col.draw(&b, &col.Panels[j], &a, colour)
			b.WriteString("</g>\n")
		}
	}
	b.WriteString(key + "</svg>\n")
	return b.Bytes()
}

// scale is of the panels in place j of all columns.
func (f *Figure) scale(j int) Axes {
	a := Axes{Width: Width, Height: Height}
	lo, hi := math.Inf(1), 0.0
	for _, col := range f.Columns {
		if j >= len(col.Panels) {
			continue
		}
		a.Log = col.Panels[j].Log
		for _, c := range col.Panels[j].Curves {
			for _, v := range c.Y {
				if v > 0 {
					lo, hi = min(lo, v), max(hi, v)
				}
			}
		}
	}
	a.Fit(lo, hi)
	return a
}

func (col *Column) draw(b *bytes.Buffer, p *Panel, a *Axes, colour palette) {
	fmt.Fprintf(b, `<text class="title" x="0" y="-18">%s</text>`+"\n", html.EscapeString(p.Title))
	for _, s := range col.Spans {
		if s.Shaded {
			fmt.Fprintf(b, `<rect class="phase" x="%.1f" y="0" width="%.1f" height="%g"/>`, a.X(s.From), a.X(s.To)-a.X(s.From), Height)
		}
		if s.Name != "" {
			fmt.Fprintf(b, `<text class="mid" x="%.1f" y="-4">%s</text>`+"\n", (a.X(s.From)+a.X(s.To))/2, html.EscapeString(s.Name))
		}
	}
	a.Grid(b)
	for _, c := range p.Curves {
		if slices.ContainsFunc(c.Y, func(v float64) bool { return v > 0 }) {
			a.Line(b, colour.class(c), c.Y, col.Step)
		}
	}
}

// palette gives colours to names.
type palette struct{ names []Curve }

func (f *Figure) colour() (p palette) {
	for _, col := range f.Columns {
		for _, panel := range col.Panels {
			for _, c := range panel.Curves {
				if c.Class == "" && !slices.ContainsFunc(p.names, func(o Curve) bool { return o.Name == c.Name }) {
					p.names = append(p.names, Curve{Name: c.Name})
				}
			}
		}
	}
	return p
}

func (p palette) class(c Curve) string {
	if c.Class != "" {
		return c.Class
	}
	return fmt.Sprintf("c%d", slices.IndexFunc(p.names, func(o Curve) bool { return o.Name == c.Name }))
}

func (p palette) css() string {
	var b bytes.Buffer
	for i := range p.names {
		c, dash := colours[i%len(colours)], ""
		if i >= len(colours) {
			dash = ";stroke-dasharray:5 3"
		}
		fmt.Fprintf(&b, ".c%d{stroke:%s%s}@media(prefers-color-scheme:dark){.c%d{stroke:%s}}\n", i, c[0], dash, i, c[1])
	}
	return b.String()
}

// drawLegend places names below what is height high, in as many rows as it takes, and tells how high it all is then.
func drawLegend(names []Curve, colour palette, width, height float64) (svg string, whole float64) {
	const first = Left - 20 // so that a flood's fits below one column
	var b bytes.Buffer
	x, rows := first, 1
	for _, n := range names {
		w := 34 + 6.2*float64(len(n.Name))
		if x+w > width && x > first {
			x, rows = first, rows+1
		}
		y := height + LegendHeight*float64(rows) - 10
		fmt.Fprintf(&b, `<path class="%s" d="M%g %gh18"/><text x="%g" y="%g">%s</text>`+"\n", colour.class(n), x, y-4, x+23, y, html.EscapeString(n.Name))
		x += w
	}
	return b.String(), height + LegendHeight*float64(rows)
}
