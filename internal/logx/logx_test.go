package logx

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// output is a buffer that many goroutines may write to.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// lines returns what was written since the last call, without the time.
func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var lines []string
	for line := range strings.Lines(o.buf.String()) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), " ")
		lines = append(lines, line)
	}
	o.buf.Reset()
	return lines
}

func want(t *testing.T, o *output, want ...string) {
	t.Helper()
	if got := o.lines(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("log:\ngot  %q\nwant %q", got, want)
	}
}

func TestFloodIsOneLineAWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var o output
		logs := New(&o, new(slog.LevelVar), "text")
		for i := range 1000 {
			logs.Limited.Warn("bad header", "i", i)
		}
		want(t, &o, `level=WARN msg="bad header" i=0`)

		time.Sleep(Window)
		logs.Limited.With("addr", "a").Warn("bad header", "i", 1000)
		want(t, &o, `level=WARN msg="bad header" addr=a i=1000 suppressed=999`)
		if got := logs.Dropped(); got != 999 {
			t.Errorf("dropped: got %d, want 999", got)
		}
	})
}

func TestManyMessagesShareABudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var o output
		logs := New(&o, new(slog.LevelVar), "text")
		for i := range 10 * maxMessages {
			logs.Limited.Info(fmt.Sprint("message ", i))
		}
		if got := len(o.lines()); got != Budget {
			t.Errorf("lines at once: got %d, want %d", got, Budget)
		}
		if got := len(logs.limiter.windows.messages); got != maxMessages {
			t.Errorf("messages kept: got %d, want %d", got, maxMessages)
		}
		time.Sleep(time.Second)
		for i := range 100 {
			logs.Limited.Info(fmt.Sprint("message ", 100+i))
		}
		if got := len(o.lines()); got != Budget {
			t.Errorf("lines a second later: got %d, want %d", got, Budget)
		}
	})
}

func TestAlwaysIsNotLimited(t *testing.T) {
	t.Parallel()
	var o output
	logs := New(&o, new(slog.LevelVar), "text")
	for range 100 {
		logs.Limited.Info("reloaded")
		logs.Always.Info("reloaded")
	}
	if got := len(o.lines()); got != 101 {
		t.Errorf("lines: got %d, want 101", got)
	}
}

func TestEndOfFloodIsSummed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var o output
		logs := New(&o, new(slog.LevelVar), "text")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); logs.Run(ctx) }()

		for range 5 {
			logs.Limited.Warn("bad header", "addr", "a")
		}
		want(t, &o, `level=WARN msg="bad header" addr=a`)
		time.Sleep(2 * Window)
		synctest.Wait()
		want(t, &o, `level=WARN msg="bad header" suppressed=4`)
		time.Sleep(3 * Window)
		synctest.Wait()
		want(t, &o)
		if got := len(logs.limiter.windows.messages); got != 0 {
			t.Errorf("messages kept when quiet: got %d, want 0", got)
		}

		logs.Limited.Warn("bad header")
		logs.Limited.Warn("bad header")
		cancel()
		<-done
		want(t, &o, `level=WARN msg="bad header"`, `level=WARN msg="bad header" suppressed=1`)
	})
}

func TestLevelAndFormat(t *testing.T) {
	t.Parallel()
	var o output
	level := new(slog.LevelVar)
	logs := New(&o, level, "json")
	logs.Limited.Debug("hidden")
	level.Set(slog.LevelDebug)
	logs.Limited.WithGroup("g").Debug("seen", "a", 1)
	if got := o.buf.String(); strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, `"seen","g":{"a":1}}`+"\n") {
		t.Errorf("got %q, want one line of JSON", got)
	}
	if logs.Dropped() != 0 {
		t.Errorf("dropped: got %d; a line below the level is not dropped", logs.Dropped())
	}
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	var o output
	logs := New(&o, new(slog.LevelVar), "text")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				logs.Limited.Info(fmt.Sprint("message ", i%3), "g", g)
			}
		})
	}
	var run sync.WaitGroup
	run.Go(func() { logs.Run(ctx) })
	wg.Wait()
	cancel()
	run.Wait()
	var suppressed, written uint64
	for _, line := range o.lines() {
		var n uint64
		if _, after, found := strings.Cut(line, "suppressed="); found {
			fmt.Sscan(after, &n)
		}
		if strings.Contains(line, " g=") {
			written++
		}
		suppressed += n
	}
	if written+suppressed != 4000 || suppressed != logs.Dropped() {
		t.Errorf("got %d written and %d suppressed (%d dropped), want 4000 in all", written, suppressed, logs.Dropped())
	}
}
