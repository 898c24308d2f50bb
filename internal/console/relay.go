package console

import (
	"context"
	"fmt"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"spillway/relay"
)

func (cmd *statusCmd) runRelay(p *Program, c *Ctl) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	st, raw, err := ask[relay.Status](client, http.MethodGet, "status", nil)
	if err == nil {
		err = client.wantRelay(&st)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		err = writeRaw(p.Stdout, raw)
	} else {
		err = writeLines(p.Stdout, relayLines(&st, time.Now(), p.colour()))
	}
	if err == nil && cmd.ExitCode && st.State != "forwarding" {
		return ExitCode(3)
	}
	return err
}

// wantRelay refuses the status of a tracker, in which no field has the name of a relay's.
func (c *client) wantRelay(st *relay.Status) error {
	if st.State == "" || st.Mode == "" {
		return fmt.Errorf("%s answers as no relay does; if it is a tracker, leave out --relay", c.place)
	}
	return nil
}

// relayEventsShown bounds the events of the status in text; --json has them all.
const relayEventsShown = 10

// relayLines is what ctl --relay status prints.
func relayLines(st *relay.Status, now time.Time, colour bool) []string {
	s := &screen{colour: colour}
	s.relayHead(st, now)
	s.lines = append(s.lines, "")
	s.relayBackends(st, now, len(st.Backends))
	if len(st.Events) > 0 {
		s.lines = append(s.lines, "")
		s.relayEvents(st, now, relayEventsShown)
	}
	return s.lines
}

func (s *screen) relayHead(st *relay.Status, now time.Time) {
	s.row("relay", func(l *line) {
		l.addf(plain, "%s, up %s since %s", st.Version, span(time.Duration(st.UptimeSeconds)*time.Second), clock(st.Started, now))
		l.addf(plain, ", listens on %s", strings.Join(st.Listen, " "))
	})
	s.relayState(st, now)
	s.row("rates", func(l *line) {
		l.addf(plain, "sent on %s/s", number(st.Opened))
		for _, r := range []struct {
			perSecond float64
			why       string
		}{{st.RefusedDown, "down"}, {st.RefusedBudget, "budget"}, {st.RefusedSource, "source"}} {
			style := plain
			if r.perSecond > 0 {
				style = yellow
			}
			l.add(plain, ", ")
			l.addf(style, "refused (%s) %s/s", r.why, number(r.perSecond))
		}
		if st.Mode != "proxy" {
			l.addf(plain, ", stray segments %s/s", number(st.NoFlow))
		}
	})
	s.row("mode", func(l *line) {
		l.add(plain, st.Mode)
		if st.ModeWhy != "" {
			l.add(plain, ": "+st.ModeWhy)
		}
	})
	if st.Mode == "proxy" {
		s.row("connections", use{"", int64(st.Conns), int64(st.ConnsMax), count}.add)
	} else {
		s.row("conntrack", func(l *line) {
			use{"", int64(st.Conntrack), int64(st.ConntrackMax), count}.add(l)
			style := plain
			if st.InsertFailed > 0 {
				style = alarm
			}
			l.add(plain, ", ")
			l.addf(style, "%s not tracked (insert_failed)", count(int64(min(st.InsertFailed, 1<<62))))
		})
		s.row("ports", func(l *line) { addPorts(l, st) })
	}
	s.row("profile", func(l *line) { addProfile(l, st) })
	if st.LogDropped > 0 {
		s.row("besides", func(l *line) { l.addf(plain, "%s log lines were dropped", count(int64(min(st.LogDropped, 1<<62)))) })
	}
}

// relayState says what state it is in and why: what is worst stands first. On a terminal it has three lines.
func (s *screen) relayState(st *relay.Status, now time.Time) {
	state := strings.ToUpper(st.State)
	text := state
	if !st.Since.IsZero() {
		text += fmt.Sprintf(" for %s, since %s", span(now.Sub(st.Since)), clock(st.Since, now))
	}
	if st.Why != "" {
		text += ": " + st.Why
	}
	lines := []string{clean(text)}
	if room := s.width - 12; room > 0 {
		lines = wrap(lines[0], room)
		lines = lines[:min(len(lines), 3)]
	}
	for i, text := range lines {
		name := "state"
		if i > 0 {
			name = ""
		}
		s.row(name, func(l *line) {
			if rest, ok := strings.CutPrefix(text, state); ok && i == 0 {
				l.add(relayStyle(st.State), state)
				text = rest
			}
			l.add(plain, text)
		})
	}
}

func relayStyle(state string) style {
	switch state {
	case "forwarding":
		return green
	case "degraded":
		return yellow
	}
	return alarm
}

// portsHigh is a share of the source ports above which the kernel soon finds none that is free.
const portsHigh = 0.7

func addPorts(l *line, st *relay.Status) {
	if !st.Masquerade {
		l.add(plain, "no masquerade: backends see who connects")
		return
	}
	style, more := plain, ""
	switch {
	case st.PortsUsed >= 0.95:
		style, more = alarm, "; connections fail for want of a port: add a backend, or an address to this machine"
	case st.PortsUsed >= portsHigh:
		style, more = yellow, "; above 70 % connections soon fail for want of a port: add a backend, or an address to this machine"
	}
	l.add(style, percent(st.PortsUsed))
	l.add(plain, " of those towards the busiest backend"+more)
}

func addProfile(l *line, st *relay.Status) {
	switch {
	case st.Profile == "" || st.Profile == "none":
		l.add(plain, "none (relay.profile)")
	case len(st.ProfileOff) == 0:
		l.add(plain, st.Profile+", ")
		l.add(green, "in force")
	default:
		keys := "keys differ"
		if len(st.ProfileOff) == 1 {
			keys = "key differs"
		}
		l.add(plain, st.Profile+", ")
		l.addf(yellow, "%d %s", len(st.ProfileOff), keys)
		l.add(plain, `, which "spillway relay apply" sets: `+strings.Join(st.ProfileOff, " "))
	}
}

// relayBackends adds the table of backends in at most rows lines, besides its head. Where they do not fit, those that are down
// come first. What is cut at the edge of a terminal matters least.
func (s *screen) relayBackends(st *relay.Status, now time.Time, rows int) {
	list := st.Backends
	if rows < len(list) {
		list = worstFirst(list)[:max(rows-1, 0)]
	}
	addrWidth := len("backend")
	for i := range list {
		addrWidth = max(addrWidth, columns(clean(list[i].Addr)))
	}
	addrWidth = min(addrWidth+2, 60)
	s.line(func(l *line) {
		l.add(dim, left("", 6)+left("backend", addrWidth)+right("for", 8)+right("sent on/s", 11)+right("refused/s", 11))
		l.add(dim, right("waiting/room", 14)+right("probe ms", 10)+right("sheds", 8)+right("share", 8)+right("weight", 8))
	})
	if len(st.Backends) == 0 {
		s.line(func(l *line) { l.add(dim, "none; relay.backends names them") })
	}
	for i := range list {
		s.line(func(l *line) { addBackend(l, &list[i], addrWidth, now) })
	}
	if more := len(st.Backends) - len(list); more > 0 {
		s.line(func(l *line) {
			up := 0
			for i := range st.Backends {
				if st.Backends[i].Up {
					up++
				}
			}
			l.addf(dim, "and %d more; of all %d are up, %d down", more, up, len(st.Backends)-up)
		})
	}
}

// worstFirst is list with those that are down before the others.
func worstFirst(list []relay.BackendStatus) []relay.BackendStatus {
	var down, up []relay.BackendStatus
	for _, b := range list {
		if b.Up {
			up = append(up, b)
		} else {
			down = append(down, b)
		}
	}
	return append(down, up...)
}

func addBackend(l *line, b *relay.BackendStatus, addrWidth int, now time.Time) {
	word, style := "up", green
	if !b.Up {
		word, style = "DOWN", alarm
	}
	l.add(style, left(word, 6))
	l.add(plain, left(b.Addr, addrWidth)+right(sinceText(b.Since, now), 8)+right(number(b.Opened), 11))
	lost := plain
	if b.Refused > 0 {
		lost = yellow
	}
	l.add(lost, right(number(b.Refused), 11))
	room := plain
	if b.Unanswered > 0 && b.Unanswered >= b.Budget*9/10 {
		room = yellow
	}
	l.add(room, right(count(int64(b.Unanswered))+"/"+count(int64(b.Budget)), 14))
	probe, sheds := "-", "-" // the last of one that is down is old
	if b.Up {
		probe, sheds = number(b.ProbeMS), percent(b.Level)
	}
	l.add(plain, right(probe, 10))
	l.add(levelStyle(b.Level), right(sheds, 8))
	l.add(plain, right(percent(b.Share), 8)+right(count(int64(b.Weight)), 8))
	if b.Why != "" {
		why := "  " + b.Why
		if b.Up {
			why = "  last failure: " + b.Why
		}
		l.add(plain, why)
	}
}

func sinceText(since, now time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return span(now.Sub(since))
}

// relayEvents adds the newest events, at most rows of them.
func (s *screen) relayEvents(st *relay.Status, now time.Time, rows int) {
	for i := range min(len(st.Events), max(rows, 0)) {
		e := &st.Events[i]
		s.line(func(l *line) {
			l.add(dim, clock(e.At, now)+"  ")
			l.add(plain, e.Text)
		})
	}
}

// relayView is all that a frame of ctl --relay top shows.
type relayView struct {
	place   string
	now     time.Time
	colour  bool
	heard   time.Time
	status  relay.Status
	trouble string // why nothing newer was heard; empty: all is well
}

// relayFrame draws v in at most height lines of at most width columns. Pure.
func relayFrame(v *relayView, width, height int) []string {
	s := &screen{width: max(width, 1), colour: v.colour}
	s.line(func(l *line) {
		l.addf(bold, "spillway relay %s at %s", v.status.Version, v.place)
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
	s.relayHead(&v.status, v.now)
	room := max(height-1, 0)
	if spare := room - len(s.lines) - 2; spare > 0 {
		s.lines = append(s.lines, "")
		// A few events are worth more than the last of many backends.
		events := min(len(v.status.Events), 3)
		s.relayBackends(&v.status, v.now, max(spare-events-1, 1))
	}
	if spare := room - len(s.lines) - 1; spare > 0 && len(v.status.Events) > 0 {
		s.lines = append(s.lines, "")
		s.relayEvents(&v.status, v.now, spare)
	}
	s.lines = s.lines[:min(len(s.lines), room)]
	for len(s.lines) < room {
		s.lines = append(s.lines, "")
	}
	if height > 0 {
		s.line(func(l *line) { l.add(dim, "q quit") })
	}
	return s.lines
}

func topRelay(p *Program, c *Ctl) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	v := &relayView{place: client.place.text, colour: p.colour()}
	look := func(ctx context.Context) (st relay.Status, err error) {
		ctx, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		st, _, err = askContext[relay.Status](ctx, client, http.MethodGet, "status", nil)
		if err == nil {
			err = client.wantRelay(&st)
		}
		return st, err
	}
	// What is wrong is better said on the operator's own screen than on one that vanishes.
	first, err := look(ctx)
	if err != nil {
		return err
	}
	v.take(first, time.Now(), nil)
	picture := &live{
		frame: func(now time.Time, width, height int) []string {
			v.now = now
			return relayFrame(v, width, height)
		},
		look: func(ctx context.Context) func() {
			st, err := look(ctx)
			at := time.Now()
			return func() { v.take(st, at, err) }
		},
		press: func(_ context.Context, keys []byte) bool {
			return keys[0] != 0x1b && strings.ContainsAny(string(keys), "qQ") // F2 is ESC O Q, and no Q
		},
	}
	return picture.show(ctx, p, 120, 60)
}

// take puts what was heard into the view.
func (v *relayView) take(st relay.Status, at time.Time, err error) {
	if err != nil {
		v.trouble = err.Error()
		return
	}
	v.trouble, v.heard, v.status = "", at, st
}
