package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spillway/relay"
)

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

// relayLook is what came of asking once.
type relayLook struct {
	at     time.Time
	status relay.Status
	err    error
}

func (c *client) relayLook(ctx context.Context) (l relayLook) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	l.status, _, l.err = askContext[relay.Status](ctx, c, http.MethodGet, "status", nil)
	if l.err == nil {
		l.err = c.wantRelay(&l.status)
	}
	l.at = time.Now()
	return l
}

func (v *relayView) take(l relayLook) {
	if l.err != nil {
		v.trouble = l.err.Error()
		return
	}
	v.trouble, v.heard, v.now, v.status = "", l.at, l.at, l.status
}

func topRelay(p *program, c *ctlCmd) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	v := &relayView{place: client.place.text, colour: p.colour()}
	// What is wrong is better said on the operator's own screen than on one that vanishes.
	first := client.relayLook(ctx)
	if first.err != nil {
		return first.err
	}
	v.take(first)
	out, ok := p.stdout.(*os.File)
	if !ok || !isTerminal(out) {
		lines := relayFrame(v, 120, 60)
		return writeLines(p.stdout, trimBlank(lines[:len(lines)-1])) // there are no keys here
	}
	return client.relayTop(ctx, v, os.Stdin, out)
}

// relayTop draws v each second until q, a signal or an error, and leaves the terminal as it was, as top does.
func (c *client) relayTop(ctx context.Context, v *relayView, in, out *os.File) error {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	keys, looks := make(chan []byte), make(chan relayLook)
	if isTerminal(in) {
		restore, err := rawMode(in)
		if err != nil {
			return fmt.Errorf("top: terminal: %w", err)
		}
		tasks.Go(func() { readKeys(ctx, in, keys) })
		defer func() {
			cancel()
			for range keys { // until it reads no more: what is typed next is for the shell
			}
			restore()
		}()
	}
	tasks.Go(func() { lookOften(ctx, c.relayLook, looks) })
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	const enter, leave = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l" // see top.run
	if _, err := io.WriteString(out, enter); err != nil {
		return err
	}
	defer func() { _, _ = io.WriteString(out, leave) }()
	clock := time.NewTicker(topEvery)
	defer clock.Stop()
	erase := "\x1b[2J"
	for {
		v.now = time.Now()
		width, height := terminalSize(out)
		lines := relayFrame(v, width, height)
		if _, err := io.WriteString(out, "\x1b[?2026h\x1b[H"+erase+"\x1b[K"+strings.Join(lines, "\r\n\x1b[K")+"\x1b[?2026l"); err != nil {
			return err
		}
		erase = ""
		select {
		case <-ctx.Done():
			return nil
		case l := <-looks:
			v.take(l)
		case <-clock.C:
		case <-resized:
			erase = "\x1b[2J"
		case pressed, ok := <-keys:
			if !ok || pressed[0] != 0x1b && strings.ContainsAny(string(pressed), "qQ") { // F2 is ESC O Q, and no Q
				return nil
			}
		}
	}
}
