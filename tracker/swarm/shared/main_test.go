package shared

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway/tracker/swarm"
	"spillway/tracker/swarm/shared/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is one that tests turn.
type clock struct{ ns atomic.Int64 }

func (c *clock) set(t time.Time) { c.ns.Store(t.UnixNano()) }
func (c *clock) now() time.Time {
	if ns := c.ns.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Now()
}

// node is a store that runs.
type node struct {
	*Store
	stop func()
}

// startNode runs a store until the test ends, or stop is called.
func startNode(t testing.TB, cfg Config) node {
	t.Helper()
	return startNodeWith(t, cfg, swarm.New(swarm.Config{}))
}

// startNodeWith is startNode with peers of an earlier life.
func startNodeWith(t testing.TB, cfg Config, own *swarm.Table) node {
	t.Helper()
	s := New(cfg, own, slog.New(slog.NewTextHandler(testWriter(t), nil)))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	stop := sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return node{s, stop}
}

// testWriter shows a log only if the test fails, and drops what comes after its end.
func testWriter(t testing.TB) io.Writer {
	w := &logWriter{t: t}
	t.Cleanup(func() { w.mu.Lock(); w.t = nil; w.mu.Unlock() })
	return w
}

type logWriter struct {
	mu sync.Mutex // guards t
	t  testing.TB
}

func (w *logWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Logf("%s", b)
	}
	return len(b), nil
}

// at is where Redis is.
func at(addrs ...string) link.Config { return link.Config{Addrs: addrs} }
