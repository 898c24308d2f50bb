// Package plot draws what happened over time, as SVG that needs nothing beside it and follows the reader's light or dark mode. Axes are
// one set of them, with a grid and lines (plot.go); a Figure is columns of them with names and a legend (figure.go). What floods, labs
// and drills draw is theirs.
package plot

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
)

// Axes have time to the right and values up, from the point in the middle of the corner: they are drawn in a <g> that is moved there.
type Axes struct {
	Width, Height float64
	Seconds       float64 // to the right end
	Log           bool    // of values
	Steps         int     // of the grid at most; 0: 8
	lo, hi        float64
}

// Fit has the axis reach over all values from lo to hi. Of a logarithm lo is the least that is above 0; else the axis begins at 0.
func (a *Axes) Fit(lo, hi float64) {
	switch {
	case hi <= 0 && a.Log: // nothing at all
		a.lo, a.hi = 0.1, 1
	case hi <= 0:
		a.lo, a.hi = 0, 1
	case a.Log:
		a.lo, a.hi = math.Pow(10, math.Floor(math.Log10(lo))), math.Pow(10, math.Max(math.Ceil(math.Log10(hi)), math.Floor(math.Log10(lo))+1))
	default:
		step := niceStep(hi, a.steps())
		a.lo, a.hi = 0, step*math.Ceil(hi/step)
	}
}

func (a *Axes) steps() float64 {
	if a.Steps == 0 {
		return 8
	}
	return float64(a.Steps)
}

// niceStep makes most ticks or somewhat fewer, of 1, 2 or 5 times a power of ten.
func niceStep(hi, most float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(hi)))
	for _, m := range []float64{0.1, 0.2, 0.5, 1, 2} {
		if hi/(m*power) <= most {
			return m * power
		}
	}
	return 5 * power
}

// X is where a time is.
func (a *Axes) X(seconds float64) float64 { return seconds / a.Seconds * a.Width }

// Y is where a value is, which is within what was fitted.
func (a *Axes) Y(v float64) float64 {
	if a.Log {
		return a.Height * (1 - math.Log10(v/a.lo)/math.Log10(a.hi/a.lo))
	}
	return a.Height * (1 - (v-a.lo)/(a.hi-a.lo))
}

// Grid draws lines at round values, their labels, and times below.
func (a *Axes) Grid(b *bytes.Buffer) {
	a.ValueGrid(b)
	step := niceStep(a.Seconds, 8)
	for s := 0.0; s <= a.Seconds*1.001; s += step {
		unit := ""
		if s == 0 {
			unit = " s"
		}
		fmt.Fprintf(b, `<text class="mid" x="%.1f" y="%g">%s%s</text>`, a.X(s), a.Height+17, Short(s), unit)
	}
	b.WriteByte('\n')
}

// ValueGrid is Grid without times.
func (a *Axes) ValueGrid(b *bytes.Buffer) {
	step := niceStep(a.hi, a.steps())
	for v := a.lo; v <= a.hi*1.001; {
		fmt.Fprintf(b, `<line class="grid" x1="0" x2="%g" y1="%.1f" y2="%.1f"/><text class="end" x="-6" y="%.1f">%s</text>`+"\n", a.Width, a.Y(v), a.Y(v), a.Y(v)+4, Short(v))
		if a.Log {
			v *= 10
		} else {
			v += step
		}
	}
	fmt.Fprintf(b, `<line class="axis" x1="0" x2="%g" y1="%g" y2="%g"/>`+"\n", a.Width, a.Height, a.Height)
}

// Line draws one of a class, with a gap where a logarithm has no value. The first value is half a step after the beginning.
func (a *Axes) Line(b *bytes.Buffer, class string, values []float64, step float64) {
	fmt.Fprintf(b, `<path class="%s" d="`, class)
	down := false
	for i, v := range values {
		if a.Log && v <= 0 {
			down = false
			continue
		}
		op := byte('M')
		if down {
			op = 'L'
		}
		down = true
		b.WriteByte(op)
		b.Write(strconv.AppendFloat(nil, a.X((float64(i)+0.5)*step), 'f', 1, 64))
		b.WriteByte(' ')
		b.Write(strconv.AppendFloat(nil, a.Y(v), 'f', 1, 64))
		if op == 'M' {
			b.WriteString("h.01") // a value between two gaps is a dot
		}
	}
	b.WriteString("\"/>\n")
}

// Short writes 1500000 as 1.5M.
func Short(v float64) string {
	unit := ""
	switch {
	case v >= 1e6:
		v, unit = v/1e6, "M"
	case v >= 1e4:
		v, unit = v/1e3, "k"
	}
	return strconv.FormatFloat(math.Round(v*1e4)/1e4, 'g', -1, 64) + unit
}
