package console

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"spillway/internal/admin"
)

type topCmd struct{}

// Help is shown by ctl top --help.
func (topCmd) Help() string {
	return "Keys: q quits, w switches WebSockets off or on after a question, 1 to 5 and tab change what talkers are told apart by. " +
		"Where there is no terminal, one frame is printed."
}

func (topCmd) Run(p *Program, c *Ctl) error {
	if c.JSON {
		return fmt.Errorf(`--json: top has no JSON; "spillway ctl status --json" has`)
	}
	if c.Relay {
		return topRelay(p, c)
	}
	client, err := c.client(p)
	if err != nil {
		return err
	}
	t := &top{client: client, view: view{place: client.place.text, colour: p.colour()}, news: make(chan func(), 1)}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// What is wrong is better said on the operator's own screen than on one that vanishes.
	first := client.look(ctx)
	if first.err != nil {
		return first.err
	}
	t.view.offered, t.view.served, t.view.shed = client.lastMinute(ctx)
	t.take(first)
	defer t.tasks.Wait()
	picture := &live{
		frame: func(now time.Time, width, height int) []string {
			t.view.now = now
			return frame(&t.view, width, height)
		},
		look: func(ctx context.Context) func() {
			l := client.look(ctx)
			return func() { t.take(l) }
		},
		press: t.press,
		news:  t.news,
	}
	return picture.show(ctx, p, 80, 40)
}

// top is ctl top while it runs. Its fields belong to the goroutine that draws.
type top struct {
	client *client
	view   view
	ask    *change // what y would do
	tasks  sync.WaitGroup
	news   chan func() // what came of a change; holds one
}

// look is what is heard in one look at the tracker.
type look struct {
	at      time.Time
	status  admin.Status
	talkers admin.Talkers
	blocks  admin.Blocks
	err     error
}

func (c *client) look(ctx context.Context) look {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var l look
	if l.status, _, l.err = askContext[admin.Status](ctx, c, http.MethodGet, "status", nil); l.err != nil {
		return l
	}
	if l.talkers, _, l.err = askContext[admin.Talkers](ctx, c, http.MethodGet, "talkers", nil); l.err != nil {
		return l
	}
	l.blocks, _, l.err = askContext[admin.Blocks](ctx, c, http.MethodGet, "blocks", nil)
	l.at = time.Now()
	return l
}

// lastMinute is what the tracker remembers, so that the curves do not begin with nothing. Without an answer they do.
func (c *client) lastMinute(ctx context.Context) (offered, served, shed curve) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	history, _, err := askContext[struct {
		StepSeconds int                  `json:"step_seconds"`
		Series      map[string][]float64 `json:"series"`
	}](ctx, c, http.MethodGet, "history", nil)
	if err != nil {
		return nil, nil, nil
	}
	seconds := func(name string) (points curve) {
		for _, v := range history.Series[name] {
			for range min(max(history.StepSeconds, 1), sparkPoints) {
				points.push(v)
			}
		}
		return points
	}
	return seconds("offered"), seconds("served"), seconds("shed")
}

// take puts what was heard into the view.
func (t *top) take(l look) {
	v := &t.view
	if l.err != nil {
		v.trouble = l.err.Error()
		for _, c := range []*curve{&v.offered, &v.served, &v.shed} {
			c.push(math.NaN())
		}
		return
	}
	v.trouble, v.heard, v.now = "", l.at, l.at
	v.status, v.talkers, v.blocks = l.status, l.talkers, l.blocks
	load := &l.status.Load
	v.offered.push(load.Offered)
	v.served.push(load.Served)
	v.shed.push(load.Shed + load.OverBudget + load.Refused)
}

// press handles what one read of the keyboard gave, and reports whether it is time to quit. What comes in one read with the
// key that asks is no answer: it was pasted.
func (t *top) press(ctx context.Context, keys []byte) (quit bool) {
	for len(keys) > 0 {
		k, n := keys[0], 1
		if k == 0x1b {
			n = escapeLen(string(keys)) // an arrow or the like; alone it says no
			if n == 2 && keys[1] == 'O' && len(keys) > 2 {
				n = 3 // F2 is ESC O Q, and no Q
			}
		}
		keys = keys[n:]
		if n > 1 {
			continue
		}
		if t.view.question != "" {
			t.answer(ctx, k == 'y' || k == 'Y')
			continue
		}
		t.view.message = ""
		switch {
		case k == 'q' || k == 'Q':
			return true
		case k == '\t':
			t.view.dimension = (t.view.dimension + 1) % len(dimensions)
		case k >= '1' && int(k-'1') < len(dimensions):
			t.view.dimension = int(k - '1')
		case k == 'w' || k == 'W':
			t.askWS()
			return false
		}
	}
	return false
}

func (t *top) answer(ctx context.Context, yes bool) {
	t.view.question, t.view.message = "", "nothing switched"
	if yes {
		t.turnWS(ctx, *t.ask)
	}
}

func (t *top) askWS() {
	for _, sw := range t.view.status.Switches {
		if sw.Endpoint != "ws" {
			continue
		}
		if sw.Mode == "on" {
			t.ask = &change{Mode: "off", Reason: "ctl top"}
			t.view.question = fmt.Sprintf("switch WebSockets off, until somebody switches them on? %s are open", count(int64(t.view.status.WebSockets)))
			return
		}
		t.ask = &change{Mode: "on"}
		t.view.question = fmt.Sprintf("switch WebSockets on? They are %s", sw.Mode)
		return
	}
}

// turnWS does not wait: the screen goes on, and says later what came of it.
func (t *top) turnWS(ctx context.Context, to change) {
	t.view.message = "switching WebSockets " + to.Mode + " ..."
	t.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.client.timeout) // q must not take it back
		defer cancel()
		message := ""
		sw, _, err := askContext[admin.Switch](ctx, t.client, http.MethodPut, "switches/ws", to)
		if err != nil {
			message = "not switched: " + err.Error()
		} else {
			message = turnedText(&sw, 0, time.Now())
		}
		select {
		case <-t.news: // nobody has read it, and it is older
		default:
		}
		select {
		case t.news <- func() { t.view.message = message }:
		default:
		}
	})
}
