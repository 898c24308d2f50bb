package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"spillway/internal/console"
	"spillway/internal/flood"
)

// progressLine is one line of a terminal that is written again and again. Anything else than a terminal gets a line every ten seconds.
type progressLine struct {
	p        *program
	terminal *os.File // nil: it is none
	n        int
}

func newProgressLine(p *program) *progressLine {
	l := &progressLine{p: p}
	if f, ok := p.stderr.(*os.File); ok && console.IsTerminal(f) {
		l.terminal = f
	}
	return l
}

// show writes how it stands: label says what is running now, done is of whole.
func (l *progressLine) show(now flood.Progress, label string, done, whole time.Duration) {
	if l.terminal != nil {
		width, _ := console.TerminalSize(l.terminal)
		fmt.Fprintf(l.p.stderr, "\r\x1b[K%s", progressText(now, label, done, whole, width-1))
	} else if l.n++; l.n%10 == 0 {
		fmt.Fprintln(l.p.stderr, progressText(now, label, done, whole, 0))
	}
}

// end gives the line back.
func (l *progressLine) end() {
	if l.terminal != nil {
		fmt.Fprint(l.p.stderr, "\r\x1b[K")
	}
}

// A bar shorter than this says nothing, and a longer one no more.
const shortestBar, longestBar = 6, 30

// progressText is label, bar, how much is done, since when, how long still, and what happens now, in width columns; 0: any. Where
// they do not suffice the end goes first, then the bar.
func progressText(now flood.Progress, label string, done, whole time.Duration, width int) string {
	done = min(max(done, 0), whole)
	share := 1.0
	if whole > 0 {
		share = float64(done) / float64(whole)
	}
	late := ""
	if now.Late >= 0.5 {
		late = fmt.Sprintf(" late %.0f", now.Late)
	}
	rest := fmt.Sprintf("%3.0f %%  %s, %s left  %.0f/s: good %.0f%s shed %.0f failed %.0f", 100*share, minutes(done), minutes(whole-done), now.Offered, now.Good,
		late, now.Shed, now.Failed)
	bar := longestBar
	if width > 0 {
		bar = min(width-len(label)-len(rest)-len(" [] "), longestBar)
	}
	if now.Behind > 0 {
		rest += fmt.Sprintf(", generator late %d", now.Behind)
	}
	text := label + " " + rest
	if bar >= shortestBar {
		full := int(share*float64(bar) + 0.5)
		text = label + " [" + strings.Repeat("#", full) + strings.Repeat(".", bar-full) + "] " + rest
	}
	if width > 0 && len(text) > width {
		text = text[:width]
	}
	return text
}

// minutes writes 1:05.
func minutes(d time.Duration) string {
	s := int(d.Round(time.Second) / time.Second)
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}
