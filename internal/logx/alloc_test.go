//go:build !race

package logx

import (
	"io"
	"log/slog"
	"testing"
)

func TestSuppressedLineAllocatesNothing(t *testing.T) {
	logs := New(io.Discard, new(slog.LevelVar), "text")
	logs.Limited.Warn("bad header", "port", "1")
	if n := testing.AllocsPerRun(1000, func() { logs.Limited.Warn("bad header", "port", "1") }); n != 0 {
		t.Errorf("allocations: got %v, want 0", n)
	}
}
