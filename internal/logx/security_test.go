package logx

import (
	"encoding/json"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// quoted is a value in quotes, with what is escaped in it.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// What strangers choose stands in attributes. It can neither begin a line of its own nor be obeyed by a terminal.
func TestOneEventIsOneLine(t *testing.T) {
	t.Parallel()
	for _, hostile := range []string{
		"a\ntime=2026-01-01T00:00:00Z level=ERROR msg=forged", "a\r\nb", "\x1b[2J\x1b]0;title\x07", "\x00", "a\" level=ERROR msg=\"b", "\u2028\u2029\u0085",
		"\xff\xfe", "\u202egnp.exe", "=", " ", "", strings.Repeat("x", 10_000),
	} {
		for _, format := range []string{"text", "json"} {
			var o output
			logs := New(&o, new(slog.LevelVar), format)
			logs.Limited.With("peer", hostile).Warn("bad request", "agent", hostile, "err", errors.New(hostile), slog.Group("of", "it", []byte(hostile)))
			got := o.buf.String()
			if strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") {
				t.Errorf("%s: %q: got %q, want one line", format, hostile, got)
			}
			if line := strings.TrimSuffix(got, "\n"); strings.ContainsFunc(line, func(r rune) bool { return r < ' ' }) {
				t.Errorf("%s: %q: got control characters in %q", format, hostile, line)
			} else if format == "text" && strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s: %q: got what no terminal should see in %q", format, hostile, line)
			}
			if format == "json" {
				var event map[string]any
				if err := json.Unmarshal([]byte(got), &event); err != nil || event["msg"] != "bad request" || event["level"] != "WARN" {
					t.Errorf("%q: got %q, %v", hostile, got, err)
				}
			} else if strings.Count(quoted.ReplaceAllString(got, ""), " msg=") != 1 {
				t.Errorf("%q: got %q", hostile, got)
			}
		}
	}
}
