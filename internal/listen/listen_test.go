package listen

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"spillway/internal/logx/logxtest"
	"spillway/internal/waittest"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("LISTEN_TEST_ROLE"); role != "" {
		os.Exit(playRole(role))
	}
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),    // one a process, for ever
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2")) // sleeps ten seconds, then looks
}

// playRole is what this test's binary does when a test starts it as a process of its own.
func playRole(role string) int {
	var err error
	switch role {
	case "few-files":
		err = serveWithFewFiles()
	case "floor":
		err = serveFloor(os.Stdout, os.Getenv("LISTEN_TEST_FLOOR"))
	case "activated":
		err = serveActivated(os.Stdout)
	}
	if err != nil {
		_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
		return 1
	}
	return 0
}

// open is Open on a free port of 127.0.0.1, if cfg says nothing else, until the test ends.
func open(t testing.TB, cfg Config) (*Door, *logxtest.Buffer) {
	t.Helper()
	if cfg.Addrs == nil {
		cfg.Addrs = []string{"127.0.0.1:0"}
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 100
	}
	log := &logxtest.Buffer{}
	d, err := Open(cfg, log.Logger())
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(d.Close)
	return d, log
}

func dial(t testing.TB, a net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// metric is the value of a counter or gauge of d, as /metrics shows it.
func metric(t testing.TB, d *Door, name string) string {
	t.Helper()
	var b strings.Builder
	d.WriteMetrics(&b)
	for line := range strings.Lines(b.String()) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no metric %s in:\n%s", name, b.String())
	return ""
}

func TestAtMaxConnsTheNextConnectionWaitsUntilOneCloses(t *testing.T) {
	t.Parallel()
	d, log := open(t, Config{Addrs: []string{"127.0.0.1:0", "127.0.0.1:0"}, MaxConns: 2})
	accepted := make(chan net.Conn)
	var wg sync.WaitGroup
	for _, l := range d.Listeners {
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				accepted <- c
			}
		})
	}

	for range 2 {
		dial(t, d.Addrs()[0])
	}
	first, second := <-accepted, <-accepted
	dial(t, d.Addrs()[1]) // the bound is of both listeners together
	waittest.Until(t, waittest.Patience, "the bound is counted", func() bool { return metric(t, d, `spillway_conns_full_total{endpoint="http"}`) == "1" })
	select {
	case <-accepted:
		t.Fatal("a third connection was accepted")
	default:
	}
	waittest.Until(t, waittest.Patience, "the log names the key", func() bool { return strings.Contains(log.String(), "http.max_conns reached") })

	_ = first.Close()
	_ = first.Close() // frees no second place
	third := <-accepted
	if got := d.Conns(); got != 2 {
		t.Errorf("conns: got %d, want 2", got)
	}
	_ = second.Close()
	_ = third.Close()
	if got := d.Conns(); got != 0 {
		t.Errorf("conns after close: got %d, want 0", got)
	}
	if got := metric(t, d, `spillway_conns_peak{endpoint="http"}`); got != "2" {
		t.Errorf("peak: got %s, want 2", got)
	}
	d.Close()
	wg.Wait()
}

func TestCloseWakesAnAcceptThatWaitsForAPlace(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{MaxConns: 1})
	dial(t, d.Addrs()[0])
	first, err := d.Listeners[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	waiting := dial(t, d.Addrs()[0])
	done := make(chan error)
	go func() {
		_, err := d.Listeners[0].Accept()
		done <- err
	}()
	waittest.Until(t, waittest.Patience, "the bound is counted", func() bool { return metric(t, d, `spillway_conns_full_total{endpoint="http"}`) == "1" })

	d.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: got %v, want net.ErrClosed", err)
	}
	if _, err := waiting.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the waiting connection: got %v, want it closed", err)
	}
}

// failingListener gives its errors one by one, then waits for Close.
type failingListener struct {
	errs   chan error
	closed chan struct{}
}

func (l *failingListener) Accept() (net.Conn, error) {
	select {
	case err := <-l.errs:
		if err != nil {
			return nil, err
		}
		c, _ := net.Pipe()
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *failingListener) Close() error   { close(l.closed); return nil }
func (l *failingListener) Addr() net.Addr { return &net.TCPAddr{} }

func TestAcceptErrorsAreWaitedOut(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPERM} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				log := &logxtest.Buffer{}
				d, err := Open(Config{MaxConns: 1}, log.Logger())
				if err != nil {
					t.Fatal(err)
				}
				fake := &failingListener{errs: make(chan error, 20), closed: make(chan struct{})}
				l := &listener{Listener: fake, door: d, closed: make(chan struct{})}
				for range 10 {
					fake.errs <- &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", errno)}
				}
				fake.errs <- nil

				start := time.Now()
				c, err := l.Accept()
				if err != nil {
					t.Fatalf("Accept: %v", err)
				}
				_ = c.Close()
				// 5+10+20+...+640 ms is 1.275 s, and two waits of a second.
				if got, want := time.Since(start), 3275*time.Millisecond; got != want {
					t.Errorf("waited: got %v, want %v", got, want)
				}
				if got := metric(t, d, `spillway_accept_errors_total{endpoint="http"}`); got != "10" {
					t.Errorf("errors: got %s, want 10", got)
				}
				if got := strings.Count(log.String(), "\n"); got != 1 {
					t.Errorf("log lines: got %d, want 1:\n%s", got, log)
				}
				if errno == syscall.EMFILE && !strings.Contains(log.String(), "raise LimitNOFILE") {
					t.Errorf("log gives no advice: %s", log)
				}

				fake.errs <- errno
				go l.Close()
				if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("after Close: got %v, want net.ErrClosed", err)
				}
			})
		})
	}
}

func TestFitConns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		maxConns int
		files    uint64
		want     int
	}{
		{20000, 1 << 20, 20000},
		{20000, 20000 + reservedFiles, 20000},
		{20000, 4096, 4096 - reservedFiles},
		{20000, 1024, 512},
		{20000, 256, 128},
		{20000, 1, 1},
		{20000, 0, 1},
		{20000, 1<<64 - 1, 20000}, // RLIM_INFINITY
		{10, 1024, 10},
	} {
		if got := fitConns(c.maxConns, c.files); got != c.want {
			t.Errorf("fitConns(%d, %d): got %d, want %d", c.maxConns, c.files, got, c.want)
		}
	}
}
