// Package logx is log/slog with a bound on what strangers can make it write.
//
// A line passes through: slog.Logger, limiter.Handle (windows.admit says yes
// or no), then slog's text or JSON handler.
package logx

import (
	"context"
	"io"
	"log/slog"
	"time"
)

// Logs are two loggers on one output.
type Logs struct {
	// Limited writes a message at most once in Window, and Budget lines in a
	// second over all messages. It is the one to hand out: whatever a client,
	// a proxy or a scanner can trigger must go through it. Messages are fixed
	// texts, facts are attributes; so the message is what is counted.
	Limited *slog.Logger
	// Always writes every line. It is for events that an operator causes or
	// waits for: start, stop, reload.
	Always *slog.Logger

	limiter *limiter
}

// New returns loggers writing to w, one write a line, in format "json" or,
// else, as text. level may be changed at any time.
func New(w io.Writer, level *slog.LevelVar, format string) *Logs {
	opts := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(w, opts)
	if format == "json" {
		handler = slog.NewJSONHandler(w, opts)
	}
	l := &limiter{next: handler, windows: newWindows(), root: handler}
	return &Logs{Limited: slog.New(l), Always: slog.New(handler), limiter: l}
}

// Run writes, until ctx ends, one last line for each message that was
// suppressed and did not come again: without it the end of a flood would be
// silent until the next flood.
func (l *Logs) Run(ctx context.Context) { l.limiter.run(ctx) }

// Dropped is the number of lines suppressed so far.
func (l *Logs) Dropped() uint64 { return l.limiter.windows.droppedTotal() }

// limiter is a slog.Handler that lets through what windows admits.
type limiter struct {
	next    slog.Handler // with the attributes of this logger
	root    slog.Handler // without any, for the summaries
	windows *windows     // shared with all loggers made by With
}

func (l *limiter) Enabled(ctx context.Context, level slog.Level) bool {
	return l.next.Enabled(ctx, level)
}

// Handle writes r, with the number of those like it that were suppressed
// before, or drops it.
func (l *limiter) Handle(ctx context.Context, r slog.Record) error {
	ok, suppressed := l.windows.admit(r.Message, r.Level, time.Now())
	if !ok {
		return nil
	}
	if suppressed > 0 {
		r.AddAttrs(slog.Uint64("suppressed", suppressed))
	}
	return l.next.Handle(ctx, r)
}

func (l *limiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limiter{next: l.next.WithAttrs(attrs), root: l.root, windows: l.windows}
}

func (l *limiter) WithGroup(name string) slog.Handler {
	return &limiter{next: l.next.WithGroup(name), root: l.root, windows: l.windows}
}

func (l *limiter) run(ctx context.Context) {
	tick := time.NewTicker(Window)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			// Once more, all of it: what was suppressed in the last seconds may
			// be why somebody stops the program.
			l.summarize(l.windows.drain())
			return
		case now := <-tick.C:
			l.summarize(l.windows.flush(now))
		}
	}
}

func (l *limiter) summarize(lines []summary) {
	for _, s := range lines {
		if !l.root.Enabled(context.Background(), s.level) {
			continue
		}
		r := slog.NewRecord(time.Now(), s.level, s.message, 0)
		r.AddAttrs(slog.Uint64("suppressed", s.suppressed))
		_ = l.root.Handle(context.Background(), r) // nowhere to report a log that cannot be written
	}
}
