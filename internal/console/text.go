package console

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"spillway/internal/config"
)

// Text for a terminal. Much of it was chosen by strangers (user agents, peer ids), who would like to move the operator's
// cursor, colour a line or turn it around; line.add is the only way onto the screen, and cleans all that passes.

// mark stands for what must not be shown, so that the operator sees that something was there.
const mark = '·'

// clean makes s one line of visible characters: a mark for each escape sequence, each control or invisible character, each
// byte that is no text.
func clean(s string) string {
	if isPlain(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == 0x1b || r == 0x9b || r == 0x9d:
			n = max(n, escapeLen(s))
			r = mark
		case r == utf8.RuneError && n == 1, !unicode.IsPrint(r), unicode.In(r, unicode.Mn, unicode.Me):
			r = mark // Mn and Me are printed on the character before, without end
		}
		b.WriteRune(r)
		s = s[n:]
	}
	return b.String()
}

func isPlain(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// escapeLen is the length of the escape sequence s begins with (ECMA-48 5.4): CSI with its parameters, a string such as an
// OSC with its end, or two characters. A string that does not end is not one: it must not hide what comes behind.
func escapeLen(s string) int {
	r, n := utf8.DecodeRuneInString(s)
	if r == 0x1b {
		if len(s) < 2 {
			return n
		}
		n, r = 2, rune(s[1])
	}
	switch r {
	case '[', 0x9b:
		for n < len(s) && s[n] >= 0x20 && s[n] < 0x40 {
			n++
		}
		if n < len(s) && s[n] < 0x7f {
			n++
		}
	case ']', 'P', '_', '^', 'X', 0x9d:
		for i := n; i < len(s); i++ {
			if s[i] == 0x07 {
				return i + 1
			}
			if s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\' {
				return i + 2
			}
		}
	default:
		if r < ' ' || r > '~' {
			return 1 // an escape character alone
		}
	}
	return n
}

// wide are the characters that take two columns on terminals: East Asian Wide and Fullwidth (Unicode annex 11), and emoji.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1}, {0x231a, 0x231b, 1}, {0x2329, 0x232a, 1}, {0x23e9, 0x23ec, 1}, {0x23f0, 0x23f3, 3}, {0x25fd, 0x25fe, 1},
		{0x2614, 0x2615, 1}, {0x2630, 0x2637, 1}, {0x2648, 0x2653, 1}, {0x267f, 0x268f, 1}, {0x2693, 0x26a1, 14}, {0x26aa, 0x26ab, 1},
		{0x26bd, 0x26be, 1}, {0x26c4, 0x26c5, 1}, {0x26ce, 0x26d4, 6}, {0x26ea, 0x26ea, 1}, {0x26f2, 0x26f5, 1}, {0x26fa, 0x26fd, 3},
		{0x2705, 0x270b, 1}, {0x2728, 0x274c, 36}, {0x274e, 0x2757, 1}, {0x2795, 0x2797, 1}, {0x27b0, 0x27bf, 15}, {0x2b1b, 0x2b1c, 1},
		{0x2b50, 0x2b55, 5}, {0x2e80, 0x303e, 1}, {0x3041, 0xa4cf, 1}, {0xa960, 0xa97f, 1}, {0xac00, 0xd7a3, 1}, {0xf900, 0xfaff, 1},
		{0xfe10, 0xfe6f, 1}, {0xff00, 0xff60, 1}, {0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{{0x16fe0, 0x18dff, 1}, {0x1aff0, 0x1b2ff, 1}, {0x1d300, 0x1d376, 1}, {0x1f000, 0x1faff, 1}, {0x20000, 0x3fffd, 1}},
}

// columns is the width of a clean s on a terminal.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	if r >= 0x1100 && unicode.Is(wide, r) {
		return 2
	}
	return 1
}

// cut makes a clean s fit into width columns, with an ellipsis where something is missing.
func cut(s string, width int) string {
	if len(s) <= width || columns(s) <= width {
		return s
	}
	used := 0
	for i, r := range s {
		used += runeColumns(r)
		if used > width-1 {
			if width < 1 {
				return ""
			}
			return s[:i] + "…"
		}
	}
	return s
}

// left and right fill up s, cleaned and cut, to width columns.
func left(s string, width int) string {
	s = cut(clean(s), width)
	return s + strings.Repeat(" ", width-columns(s))
}

func right(s string, width int) string {
	s = cut(clean(s), width)
	return strings.Repeat(" ", width-columns(s)) + s
}

// style is the number of a rendition (ECMA-48 8.3.117, SGR), or several with semicolons.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	alarm  style = "1;31"
	title  style = "1;7"
)

// line is one line on a terminal of a width; what is too long is cut. Zero width is no bound.
type line struct {
	width  int
	colour bool
	used   int
	b      strings.Builder
}

func (l *line) add(s style, text string) {
	text = clean(text)
	if l.width > 0 {
		text = cut(text, l.width-l.used)
	}
	if text == "" {
		return
	}
	l.used += columns(text)
	if s == plain || !l.colour {
		l.b.WriteString(text)
		return
	}
	l.b.WriteString("\x1b[" + string(s) + "m" + text + "\x1b[0m")
}

func (l *line) addf(s style, format string, args ...any) { l.add(s, fmt.Sprintf(format, args...)) }

// String has no blanks at its end, when there is no colour to carry on.
func (l *line) String() string { return strings.TrimRight(l.b.String(), " ") }

// screen is lines under construction, all of one width.
type screen struct {
	width  int // 0: no bound
	colour bool
	lines  []string
}

// line adds the line that f fills.
func (s *screen) line(f func(l *line)) {
	l := line{width: s.width, colour: s.colour}
	f(&l)
	s.lines = append(s.lines, l.String())
}

// row adds a line with its name before it.
func (s *screen) row(name string, f func(l *line)) {
	s.line(func(l *line) {
		l.add(dim, left(name, 12))
		f(l)
	})
}

// count writes n in groups of three digits.
func count(n int64) string {
	digits := strconv.FormatUint(uint64(max(n, -n)), 10)
	var b strings.Builder
	if n < 0 {
		b.WriteByte('-')
	}
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// number writes v with a decimal while that says something.
func number(v float64) string {
	if v != 0 && math.Abs(v) < 9.95 {
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
	}
	return count(int64(math.Round(min(max(v, -1e15), 1e15))))
}

// percent writes a share of one.
func percent(share float64) string {
	if share > 0 && share < 0.001 {
		return "<0.1 %"
	}
	return number(share*100) + " %"
}

func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, u := float64(n), 0
	for v >= 1023.5 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return number(v) + " " + units[u]
}

// span writes d with its two largest units: 3d 4h, 4h 12m, 9m 58s, 5s.
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	day := 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd %dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm %ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// clock writes t as a clock on the wall has it, with the date if that is not within a day of now.
func clock(t, now time.Time) string {
	t = t.In(now.Location())
	if d := t.Sub(now); d < -24*time.Hour || d > 24*time.Hour {
		return t.Format("2006-01-02 15:04:05")
	}
	return t.Format("15:04:05")
}

func OrList(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// knownWord refuses a word that is not one of words, and asks whether the nearest was meant.
func knownWord(what, word string, words []string) error {
	nearest, best := "", 2*(max(2, len(word)/2)+1)
	for _, w := range words {
		if w == word {
			return nil
		}
		d := 2 * config.Distance(strings.ToLower(word[:min(len(word), 64)]), w)
		if word != "" && strings.HasPrefix(w, word) {
			d-- // "of" is off, not on
		}
		if d < best {
			nearest, best = w, d
		}
	}
	if len(words) == 0 {
		return fmt.Errorf("%s %q: there is none", what, word)
	}
	if nearest != "" {
		return fmt.Errorf("%s %.40q: must be %s; did you mean %q?", what, word, OrList(words), nearest)
	}
	return fmt.Errorf("%s %.40q: must be %s", what, word, OrList(words))
}
