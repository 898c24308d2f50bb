// Package logx is log/slog with a bound on what strangers can make it write.
//
// A line passes through: slog.Logger, limiter.Handle (windows.admit says yes
// or no), then slog's text or JSON handler.
package logx

import (
	"context"
	"io"
	"log/slog"
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
