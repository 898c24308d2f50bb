package console

import (
	"math"
	"strings"
	"time"

	"spillway/internal/admin"
)

// sparkPoints is what the curves of ctl top show: a minute, a point each second.
const sparkPoints = 60

// view is all that a frame of ctl top shows.
type view struct {
	place  string
	now    time.Time
	colour bool

	// As last heard.
	heard   time.Time
	status  admin.Status
	talkers admin.Talkers
	blocks  admin.Blocks
	trouble string // why nothing newer was heard; empty: all is well

	offered, served, shed curve

	dimension int    // index in dimensions
	question  string // waits for y or n
	message   string // what came of the last key
}

// curve is the newest point last; NaN where nothing was heard.
type curve []float64

// push appends v and drops what is too old.
func (c *curve) push(v float64) {
	*c = append(*c, v)
	if over := len(*c) - sparkPoints; over > 0 {
		*c = append((*c)[:0], (*c)[over:]...)
	}
}

// dimensions are what talkers are told apart by; a key for each.
var dimensions = []struct {
	name string
	of   func(*admin.Talkers) []admin.Talker
}{
	{"sources", func(t *admin.Talkers) []admin.Talker { return t.Sources }},
	{"prefixes", func(t *admin.Talkers) []admin.Talker { return t.Prefixes }},
	{"user agents", func(t *admin.Talkers) []admin.Talker { return t.UserAgents }},
	{"peer ids", func(t *admin.Talkers) []admin.Talker { return t.PeerIDs }},
	{"torrents", func(t *admin.Talkers) []admin.Talker { return t.InfoHashes }},
}

// frame draws v in at most height lines of at most width columns. What the operator must see comes first: the state, the
// switches; and the last line says which keys there are, or asks. Pure.
func frame(v *view, width, height int) []string {
	s := &screen{width: max(width, 1), colour: v.colour}
	s.head(v)
	s.curves(v)
	s.figures(v)
	s.endpoints(&v.status, v.now)
	room := max(height-1, 0)
	if spare := room - len(s.lines); spare > 2 {
		proposals := 0
		if n := len(v.blocks.Proposed); n > 0 {
			proposals = min(n+1, max(2, spare/3))
		}
		s.topTalkers(v, spare-proposals)
		s.proposals(v, proposals)
	}
	s.lines = s.lines[:min(len(s.lines), room)]
	for len(s.lines) < room {
		s.lines = append(s.lines, "")
	}
	if height > 0 {
		s.foot(v)
	}
	return s.lines
}

func (s *screen) head(v *view) {
	st := &v.status
	s.line(func(l *line) {
		l.addf(bold, "spillway %s at %s", st.Version, v.place)
		l.addf(plain, ", up %s", span(time.Duration(st.UptimeSeconds)*time.Second+v.now.Sub(v.heard)))
		if at := v.now.Format("15:04:05"); l.width-l.used > len(at)+1 {
			l.add(plain, right(at, l.width-l.used))
		}
	})
	if v.trouble != "" {
		s.line(func(l *line) {
			l.addf(alarm, "NOTHING HEARD for %s", span(v.now.Sub(v.heard)))
			l.add(plain, "  "+v.trouble)
		})
	}
	// Two lines at most: what is to be done stands at the end of a why.
	state := strings.ToUpper(st.Load.State)
	lines := wrap(clean(state+"  "+st.Load.Why), s.width)
	for i, text := range lines[:min(len(lines), 2)] {
		s.line(func(l *line) {
			if rest, ok := strings.CutPrefix(text, state); ok && i == 0 {
				l.add(stateStyle(st.Load.State), state)
				text = rest
			}
			l.add(plain, text)
		})
	}
}

// wrap breaks a clean text at blanks into lines of at most width columns, as far as there are blanks.
func wrap(text string, width int) (lines []string) {
	for {
		blank, used := 0, 0
		for i, r := range text {
			if r == ' ' && used <= width {
				blank = i
			}
			if used += runeColumns(r); used > width && blank > 0 {
				break
			}
		}
		if used <= width || blank == 0 {
			return append(lines, text)
		}
		lines = append(lines, text[:blank])
		text = strings.TrimLeft(text[blank:], " ")
	}
}

// curves draws offered, served and shed of the last minute, all to one scale.
func (s *screen) curves(v *view) {
	most := 0.0
	for _, c := range []curve{v.offered, v.served, v.shed} {
		for _, p := range c {
			if p > most {
				most = p
			}
		}
	}
	load := &v.status.Load
	for _, row := range []struct {
		name  string
		c     curve
		now   float64
		style style
	}{
		{"offered", v.offered, load.Offered, plain},
		{"served", v.served, load.Served, green},
		{"shed", v.shed, load.Shed + load.OverBudget + load.Refused, red},
	} {
		s.line(func(l *line) {
			l.add(dim, left(row.name, 9))
			points := min(sparkPoints, max(s.width-20, 0))
			l.add(row.style, spark(row.c, points, most))
			l.add(plain, right(number(row.now)+"/s", 11))
		})
	}
}

var sparkBars = []rune("▁▂▃▄▅▆▇█")

// spark draws the newest points of c, with blanks where there are none. The highest bar is most.
func spark(c curve, points int, most float64) string {
	bars := make([]rune, points)
	for i := range bars {
		bars[i] = ' '
		at := len(c) - points + i
		if at < 0 || math.IsNaN(c[at]) {
			continue
		}
		step := 0
		if c[at] > 0 {
			step = min(1+int(min(c[at]/most, 1)*float64(len(sparkBars)-1)), len(sparkBars)-1) // what is not nothing is seen
		}
		bars[i] = sparkBars[step]
	}
	return string(bars)
}

func (s *screen) figures(v *view) {
	load := &v.status.Load
	s.line(func(l *line) {
		l.add(levelStyle(load.Level), percent(load.Level)+" not served")
		l.addf(plain, "  age %s ms  capacity %s", number(load.AgeMS), capacityText(load.Capacity))
		l.addf(plain, "  interval %s +-%s", strings.TrimSuffix(span(time.Duration(load.IntervalSeconds)*time.Second), " 0s"), percent(load.Jitter))
	})
	s.line(func(l *line) {
		for i, u := range usesOf(&v.status)[:3] { // the store grows by the hour: ctl status has it
			l.add(plain, []string{"conns ", "  ws ", "  memory "}[i])
			u.add(l)
		}
	})
	if steps := load.BrownoutSteps; len(steps) > 0 {
		s.line(func(l *line) { l.addf(yellow, "given up (%d): %s", load.Brownout, strings.Join(steps, "; ")) })
	}
}

// topTalkers takes at most rows lines.
func (s *screen) topTalkers(v *view, rows int) {
	if rows < 2 {
		return
	}
	s.line(func(l *line) {
		for i, d := range dimensions {
			text := string(rune('1'+i)) + " " + d.name
			if i == v.dimension {
				l.add(title, "["+text+"]")
			} else {
				l.add(dim, " "+text+" ")
			}
		}
		if v.talkers.Seconds > 0 {
			l.addf(plain, " %s in %ds", count(int64(min(v.talkers.Requests, 1<<62))), v.talkers.Seconds)
		}
	})
	talkers := dimensions[v.dimension].of(&v.talkers)
	if len(talkers) == 0 {
		s.line(func(l *line) { l.add(dim, "   nobody yet") })
		return
	}
	for i := range min(len(talkers), rows-1) {
		t := &talkers[i]
		s.line(func(l *line) {
			style := plain
			if t.Share >= 0.1 && t.Share >= 3*t.Usual { // so much more than usual that it deserves a look
				style = yellow
			}
			l.add(style, right(percent(t.Share), 8))
			l.add(dim, " usually"+right(percent(t.Usual), 8)+"  ")
			l.add(style, t.Value)
		})
	}
}

// proposals takes at most rows lines.
func (s *screen) proposals(v *view, rows int) {
	if rows < 2 {
		return
	}
	s.line(func(l *line) {
		l.addf(bold, "proposed blocks: %d", len(v.blocks.Proposed))
		l.add(plain, "  spillway ctl block accept ID")
	})
	for i := range min(len(v.blocks.Proposed), rows-1) {
		s.line(func(l *line) { addProposal(l, &v.blocks.Proposed[i]) })
	}
}

func (s *screen) foot(v *view) {
	s.line(func(l *line) {
		switch {
		case v.question != "":
			l.add(title, " "+v.question+" [y/n] ")
		case v.message != "":
			l.add(bold, v.message)
		default:
			l.add(dim, "q quit   w WebSockets off/on   1-5, tab who asks")
		}
	})
}
