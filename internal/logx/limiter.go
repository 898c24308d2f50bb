package logx

import (
	"context"
	"log/slog"
	"time"
)

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
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			// Once more, all of it: what was suppressed in the last seconds may
			// be why somebody stops the program.
			l.summarize(l.windows.drain())
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
