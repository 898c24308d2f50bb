package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

func TestNiceScales(t *testing.T) {
	t.Parallel()
	for hi := 1e-3; hi < 1e8; hi *= 1.13 {
		step := niceStep(hi, 8)
		if n := math.Ceil(hi / step); n < 3 || n > 9 {
			t.Errorf("up to %g in steps of %g: %g ticks", hi, step, n)
		}
	}
	for v, want := range map[float64]string{0: "0", 0.2: "0.2", 9000: "9000", 12000: "12k", 1.5e6: "1.5M"} {
		if got := Short(v); got != want {
			t.Errorf("%g: got %s, want %s", v, got, want)
		}
	}
}

// A figure is XML whatever its parts are called and whatever they are made of; panels of a row have one scale, in a part of it too; a
// curve that is zero throughout is in the legend alone; and a logarithm has a gap where it has no value.
func TestFigure(t *testing.T) {
	t.Parallel()
	f := &Figure{Columns: []Column{
		{Name: `<b>"&'`, Seconds: 4, Step: 1, Spans: []Span{{From: 1, To: 2, Shaded: true, Name: "x10"}}, Panels: []Panel{
			{Title: "rate", Curves: []Curve{{Name: "a", Y: []float64{0, 10, 0, 0}}, {Name: "none", Y: []float64{0, 0, 0, 0}}}},
			{Title: "time", Log: true, Curves: []Curve{{Name: "b", Y: []float64{1, 0, 100, 1}}}},
		}},
		{Name: "other", Seconds: 4, Step: 1, Panels: []Panel{{Curves: []Curve{{Name: "a", Y: []float64{100, 0, 0, 0}}}}}},
		{Name: "nothing"},
	}}
	for name, b := range map[string][]byte{"all": f.SVG(), "the first": f.Part(0, 1), "empty": (&Figure{}).SVG()} {
		for d := xml.NewDecoder(bytes.NewReader(b)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v in %s", name, err, b)
			}
		}
		if bytes.Contains(b, []byte("NaN")) || bytes.Contains(b, []byte("Inf")) {
			t.Errorf("%s: a coordinate is no number: %s", name, b)
		}
	}
	first := string(f.Part(0, 1))
	for part, n := range map[string]int{
		"&lt;b&gt;": 1, ">other<": 0, ">x10<": 2, `<rect class="phase" x="100.0" y="0" width="100.0"`: 2,
		`class="c0" d="M50.0 170.0h.01L150.0 153.0L`:               1, // ten of the hundred that the other column has
		`class="c2" d="M50.0 170.0h.01M250.0 0.0h.01L350.0 170.0"`: 1,
		`class="c1"`: 1, ">none<": 1, // the legend's
	} {
		if got := strings.Count(first, part); got != n {
			t.Errorf("%s: got %d of them, want %d in %s", part, got, n, first)
		}
	}
}
