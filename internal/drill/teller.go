package drill

import (
	"context"
	"sync"
	"time"

	"spillway/internal/lab"
)

// binWidth is the step of plots.
const binWidth = 250 * time.Millisecond

// teller tells what goes on, once a second.
type teller struct {
	*drill
	stage *stage
	loads *loads
	seen  *observed
	run   string
	total time.Duration

	mu  sync.Mutex // guards now
	now phase
}

func newTeller(d *drill, s *stage, l *loads, o *observed, run string) *teller {
	t := &teller{drill: d, stage: s, loads: l, seen: o, run: run}
	for _, p := range d.plan {
		t.total += p.last
	}
	return t
}

// enter says that a phase begins.
func (t *teller) enter(p phase, at time.Duration) {
	t.mu.Lock()
	t.now = p
	t.mu.Unlock()
	t.Progress(Progress{Run: t.run, Phase: p.name, Text: p.text, At: at, Of: t.total})
}

// tell goes on until ctx ends. It counts the open sockets too.
func (t *teller) tell(ctx context.Context) {
	tick := time.NewTicker(binWidth)
	defer tick.Stop()
	meter := t.stage.lab.NewMeter()
	begun, ended := t.loads.honest.Begun(), t.loads.honest.Ended()
	last := time.Now()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		open := t.loads.web.Open()
		t.seen.sockets = append(t.seen.sockets, open)
		if n%int(time.Second/binWidth) != 0 {
			continue
		}
		nowBegun, nowEnded, seconds := t.loads.honest.Begun(), t.loads.honest.Ended(), time.Since(last).Seconds()
		rate := func(of ...lab.Outcome) (sum float64) {
			for _, o := range of {
				sum += float64(nowEnded[o]-ended[o]) / seconds
			}
			return sum
		}
		t.mu.Lock()
		p := Progress{Run: t.run, Phase: t.now.name, At: t.loads.honest.Since(), Of: t.total, Offered: float64(nowBegun-begun) / seconds, Served: rate(lab.OK), Shed: rate(lab.Shed),
			Failed: rate(lab.Refused, lab.Reset, lab.Timeout, lab.Bad), RelayCPU: meter.Relay(), Sockets: open}
		t.mu.Unlock()
		t.Progress(p)
		begun, ended, last = nowBegun, nowEnded, time.Now()
	}
}
