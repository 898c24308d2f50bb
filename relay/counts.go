package relay

import "time"

// signs are what the path's counts say of a backend, since the counts before. They are there long before a probe has timed out.
type signs struct {
	over   bool // connections were refused because too many wait
	silent bool // connections go out and none is answered
	spoke  bool // data came from it
	idle   bool // nobody asked for it, or waits for it
}

// fewConns say nothing of a backend: fewer between two counts may all be on their way.
const fewConns = 10

// readSigns compares two counts of a backend.
func readSigns(before, now BackendCounts) signs {
	opened, refused := grown(before.Opened, now.Opened), grown(before.Budget, now.Budget)
	answered := int64(opened) - int64(now.Unanswered-before.Unanswered)
	return signs{
		over:   refused > 0,
		idle:   opened == 0 && refused == 0 && now.Unanswered == 0,
		spoke:  grown(before.Spoken, now.Spoken) > 0,
		silent: opened+refused >= fewConns && now.Unanswered >= fewConns && answered <= int64(opened/10),
	}
}

// grown is by how much a total has grown; a path that was made anew begins at 0.
func grown(before, now uint64) uint64 {
	if now < before {
		return 0
	}
	return now - before
}

// history is the counts of the last seconds, for rates.
type history []sample

type sample struct {
	at time.Time
	c  Counts
}

// Rates are over historyLen-1 times countEvery: three seconds.
const historyLen = 16

func (h *history) add(at time.Time, c Counts) {
	if len(*h) == historyLen {
		copy(*h, (*h)[1:])
		(*h)[historyLen-1] = sample{at, c}
		return
	}
	*h = append(*h, sample{at, c})
}

// last is the newest counts; before the first, zeros for n backends.
func (h history) last(n int) Counts {
	if len(h) == 0 {
		return Counts{Backends: make([]BackendCounts, n)}
	}
	return h[len(h)-1].c
}

// rate is how fast a total grows, a second.
func (h history) rate(total func(*Counts) uint64) float64 {
	if len(h) < 2 {
		return 0
	}
	first, last := &h[0], &h[len(h)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if seconds <= 0 {
		return 0
	}
	return float64(grown(total(&first.c), total(&last.c))) / seconds
}

// sum adds up a total of all backends.
func sum(one func(*BackendCounts) uint64) func(*Counts) uint64 {
	return func(c *Counts) (n uint64) {
		for i := range c.Backends {
			n += one(&c.Backends[i])
		}
		return n
	}
}

// alarm is raised when a share passes high, and again only after it was below low.
type alarm struct {
	high, low float64
	raised    bool
}

// step tells whether the alarm is raised now.
func (a *alarm) step(share float64) bool {
	switch {
	case !a.raised && share >= a.high:
		a.raised = true
		return true
	case share < a.low:
		a.raised = false
	}
	return false
}
