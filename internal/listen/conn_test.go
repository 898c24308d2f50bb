package listen

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"
	"pgregory.net/rapid"

	"spillway/internal/waittest"
)

// deadlineConn records what reaches the socket.
type deadlineConn struct {
	net.Conn
	read, write time.Time
	calls       int
}

func (c *deadlineConn) SetReadDeadline(t time.Time) error  { c.read = t; c.calls++; return nil }
func (c *deadlineConn) SetWriteDeadline(t time.Time) error { c.write = t; c.calls++; return nil }

func TestDeadlinesOfABusyConnectionReachTheSocketOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sock := &deadlineConn{}
		c := &Conn{Conn: sock}
		for range 100 { // ten seconds of ten requests a second, with the calls fasthttp makes
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
			time.Sleep(100 * time.Millisecond) // in synctest's time
		}
		if sock.calls > 20 {
			t.Errorf("calls to the socket: got %d of 300, want at most 20", sock.calls)
		}
	})
}

func TestDeadlineIsNeverFarFromTheOneAsked(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(*testing.T) {
			sock := &deadlineConn{}
			c := &Conn{Conn: sock}
			for range rapid.IntRange(1, 20).Draw(rt, "calls") {
				time.Sleep(time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(rt, "pause")))
				var asked time.Time
				if left := rapid.Int64Range(-int64(time.Second), int64(30*time.Second)).Draw(rt, "left"); left%7 != 0 {
					asked = time.Now().Add(time.Duration(left))
				}
				_ = c.SetReadDeadline(asked)
				switch left := time.Until(asked); {
				case asked.IsZero() || left <= 0:
					if !sock.read.Equal(asked) {
						rt.Fatalf("zero or past: armed %v, asked %v", sock.read, asked)
					}
				case sock.read.Sub(asked).Abs() > min(time.Second, left/8):
					rt.Fatalf("armed %v from the deadline asked, %v ahead", sock.read.Sub(asked), left)
				case !sock.read.After(time.Now()):
					rt.Fatalf("armed in the past, asked %v ahead", left)
				}
			}
		})
	})
}

func TestAnExpiredDeadlineCanBeMoved(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{})
	client := dial(t, d.Addrs()[0])
	c, err := d.Listeners[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	_ = c.SetDeadline(time.Now())
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatal("Read past the deadline: got no error")
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = client.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Errorf("Read before the new deadline: %v", err)
	}
}

func TestConnGivesItsDescriptor(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{})
	dial(t, d.Addrs()[0])
	c, err := d.Listeners[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(uintptr) {}); err != nil {
		t.Errorf("Control: %v", err)
	}
	if _, err := (&Conn{Conn: &deadlineConn{}}).SyscallConn(); err == nil {
		t.Error("SyscallConn of what is no socket: got no error")
	}
}

// serve runs a fasthttp server on d until the test ends. Its handler answers with the client's address.
func serve(t testing.TB, d *Door, timeout time.Duration) { serveLogging(t, d, timeout, failLogger{t}) }

func serveLogging(t testing.TB, d *Door, timeout time.Duration, log fasthttp.Logger) {
	s := &fasthttp.Server{
		Handler:      func(ctx *fasthttp.RequestCtx) { fmt.Fprint(ctx, ctx.RemoteAddr()) },
		Concurrency:  d.MaxConns() + 1,
		ReadTimeout:  timeout,
		IdleTimeout:  timeout,
		WriteTimeout: timeout,
		Logger:       log,
	}
	var wg sync.WaitGroup
	for _, l := range d.Listeners {
		wg.Go(func() {
			if err := s.Serve(l); err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		d.Close()
		wg.Wait()
		if err := s.Shutdown(); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// failLogger fails the test for each line fasthttp would log: a stranger would have caused it.
type failLogger struct{ t testing.TB }

func (l failLogger) Printf(format string, args ...any) { l.t.Errorf("fasthttp logs: "+format, args...) }

type noLogger struct{}

func (noLogger) Printf(string, ...any) {}

func TestPlacesAreAllGivenBackAfterAStorm(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"plain":     {MaxConns: 8},
		"two doors": {MaxConns: 8, Addrs: []string{"127.0.0.1:0", "127.0.0.1:0"}},
		"proxy":     {MaxConns: 8, ProxyProtocol: true, Trusted: trustAll},
		"tls":       {MaxConns: 8, Certs: testCerts(t)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := open(t, cfg)
			serveLogging(t, d, 2*time.Second, noLogger{}) // of half requests it logs that they are bad
			var wg sync.WaitGroup
			for i := range 32 {
				wg.Go(func() {
					for range 20 {
						c := dial(t, d.Addrs()[i%len(d.Listeners)])
						switch i % 4 {
						case 0: // a whole request, and an answer unless the door wants something else first
							_, _ = io.WriteString(c, request)
							_, _ = io.Copy(io.Discard, c)
						case 1: // half a request
							_, _ = io.WriteString(c, request[:10])
						case 2: // gone at once, with a reset
							_ = c.(*net.TCPConn).SetLinger(0)
						case 3: // a PROXY header, of use to one door only
							_, _ = io.WriteString(c, "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"+request)
							_, _ = io.Copy(io.Discard, c)
						}
						_ = c.Close()
					}
				})
			}
			wg.Wait()
			waittest.Until(t, waittest.Patience, "all places are free", func() bool { return d.Conns() == 0 })
			if got := d.peak.Load(); got > 8 {
				t.Errorf("peak: got %d, want at most 8", got)
			}
		})
	}
}

func TestASilentClientIsClosedAtTheDeadline(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"plain": {},
		"tls":   {Certs: testCerts(t)},
		"proxy": {ProxyProtocol: true, Trusted: trustAll},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := open(t, cfg)
			serve(t, d, 300*time.Millisecond)
			start := time.Now()
			c := dial(t, d.Addrs()[0])
			_, _ = c.Read(make([]byte, 1024)) // 408 from fasthttp, or the end
			waittest.Until(t, waittest.Patience, "the place is free", func() bool { return d.Conns() == 0 })
			if got := time.Since(start); got < 200*time.Millisecond { // how much later depends on how busy the machine is
				t.Errorf("closed after %v, want about 300ms", got)
			}
		})
	}
}
