package proxy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/waittest"
	"spillway/relay"
)

// open forwards to backends, all of them up, and looks after the test that nothing has been kept.
func open(t testing.TB, cfg Config) *Path {
	t.Helper()
	p, err := Open(cfg, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, p.Apply(planFor(p)))
	t.Cleanup(func() {
		must(t, p.Close())
		settled(t, p)
	})
	return p
}

func settled(t testing.TB, p *Path) {
	t.Helper()
	if n := p.conns.Load(); n != 0 {
		t.Errorf("connections in the end: got %d, want 0", n)
	}
	for i, b := range p.backends {
		if n := b.connecting.Load(); n != 0 {
			t.Errorf("backend %d: connecting in the end: got %d, want 0", i, n)
		}
	}
	for _, l := range p.loops {
		if l.live != 0 || len(l.free) != len(l.conns) {
			t.Errorf("records in use in the end: %d, free %d of %d", l.live, len(l.free), len(l.conns))
		}
		if n := l.memory.left + len(l.memory.small)*smallSize + len(l.memory.large)*(readSize+maxHeader); n != maxBuffered/len(p.loops) {
			t.Errorf("buffers lost: %d bytes", maxBuffered/len(p.loops)-n)
		}
		if n := l.pipes.left; n != max(maxPipes/len(p.loops), 1) {
			t.Errorf("pipes in the end: %d left to be made", n)
		}
		for _, q := range []*queue{&l.connecting, &l.idle, &l.halfClosed} {
			for i := range q.lists {
				if q.lists[i].first != nil {
					t.Error("a connection is still waited for")
				}
			}
		}
	}
}

// serve runs f for each connection to a listener on addr, and is a backend.
func serve(t testing.TB, addr string, f func(c *net.TCPConn)) relay.Backend {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	must(t, err)
	b := relay.Backend{Addr: l.Addr().(*net.TCPAddr).AddrPort(), Weight: 1}
	serveOn(t, l, f)
	return b
}

func serveOn(t testing.TB, l net.Listener, f func(c *net.TCPConn)) {
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		must(t, l.Close())
		conns.Wait()
	})
}

func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

func dial(t testing.TB, p *Path, listener int) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", p.Addrs()[listener].String(), 20*time.Second)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must(t, c.SetDeadline(time.Now().Add(time.Minute)))
	return c.(*net.TCPConn)
}

// say sends s and wants it back.
func say(t testing.TB, c net.Conn, s string) {
	t.Helper()
	_, err := io.WriteString(c, s)
	must(t, err)
	got := make([]byte, len(s))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != s {
		t.Fatalf("echo of %q: got %q, %v", s, got, err)
	}
}

// isReset reads to the end, which is to be a reset.
func isReset(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("connection ended with %v, want a reset", err)
	}
}

func counts(t testing.TB, p *Path) relay.Counts {
	t.Helper()
	c, err := p.Counts()
	must(t, err)
	return c
}

func TestEchoOfBothFamilies(t *testing.T) {
	t.Parallel()
	v4, v6 := serve(t, "127.0.0.1:0", echo), serve(t, "[::1]:0", echo)
	for name, backends := range map[string][]relay.Backend{"both": {v4, v6}, "v4 only": {v4}, "v6 only": {v6}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(backends...)
			cfg.Listen = []string{"127.0.0.1:0", "[::1]:0", ":0"}
			p := open(t, cfg)
			for i := range cfg.Listen {
				c := dial(t, p, i)
				say(t, c, "hello")
				say(t, c, strings.Repeat("again", 10000))
			}
			_, port, _ := net.SplitHostPort(p.Addrs()[2].String())
			c, err := net.Dial("tcp", "127.0.0.1:"+port) // the listener of both, from IPv4
			must(t, err)
			say(t, c, "hello")
			must(t, c.Close())
			waittest.Until(t, waittest.Patience, "one connection is over", func() bool { return p.conns.Load() == 3 })
			var opened uint64
			for i, b := range counts(t, p).Backends {
				if opened += b.Opened; b.Opened == 0 {
					t.Errorf("backend %d has got nothing", i)
				}
			}
			if opened != 4 {
				t.Errorf("opened: got %d, want 4", opened)
			}
		})
	}
}

// A backend that speaks first is heard, and a client that sends nothing is forwarded.
func TestBackendSpeaksFirst(t *testing.T) {
	t.Parallel()
	p := open(t, config(serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "220 ready\r\n")
		echo(c)
	})))
	c := dial(t, p, 0)
	got := make([]byte, 11)
	_, err := io.ReadFull(c, got)
	must(t, err)
	if string(got) != "220 ready\r\n" {
		t.Errorf("got %q", got)
	}
	if n := counts(t, p).Backends[0].Spoken; n != 1 {
		t.Errorf("heard of it: got %d reads, want 1", n)
	}
	say(t, c, "hello")
}

func TestMuchBothWaysAtOnce(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	type sum = [sha256.Size]byte
	send := func(w *net.TCPConn, seed uint64) (sum, error) {
		h := sha256.New()
		_, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(rand.NewChaCha8([32]byte{byte(seed)}), size))
		return sum(h.Sum(nil)), errors.Join(err, w.CloseWrite())
	}
	receive := func(r io.Reader) (sum, int64, error) {
		h := sha256.New()
		n, err := io.Copy(h, r)
		return sum(h.Sum(nil)), n, err
	}
	both := func(c *net.TCPConn, seed uint64) (sent, got sum, n int64, err error) {
		var sending sync.WaitGroup
		var sendErr error
		sending.Go(func() { sent, sendErr = send(c, seed) })
		got, n, err = receive(c)
		sending.Wait()
		return sent, got, n, errors.Join(err, sendErr)
	}
	type outcome struct {
		sent, got sum
		n         int64
		err       error
	}
	backend := make(chan outcome, 1)
	cfg := config(serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		var o outcome
		o.sent, o.got, o.n, o.err = both(c, 1)
		backend <- o
	}))
	p := open(t, cfg)
	c := dial(t, p, 0)
	var o outcome
	o.sent, o.got, o.n, o.err = both(c, 2)
	other := <-backend
	if o.err != nil || other.err != nil {
		t.Fatal(o.err, other.err)
	}
	if o.n != size || other.n != size || o.got != other.sent || other.got != o.sent {
		t.Errorf("got %d and %d bytes of %d, sums equal: %v, %v", o.n, other.n, size, o.got == other.sent, other.got == o.sent)
	}
	waittest.Until(t, waittest.Patience, "it is over", func() bool { return p.conns.Load() == 0 })
	if s := p.Stats(); s.Reset+s.Idle+s.Buffers != 0 {
		t.Errorf("stats: %+v, want none", s)
	}
}

func TestHalfCloseIsPassedOn(t *testing.T) {
	t.Parallel()
	// The backend answers what it got before the client's end, after that end; its own end comes last.
	p := open(t, config(serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		all, err := io.ReadAll(c)
		if err == nil {
			_, _ = c.Write(bytes.ToUpper(all))
		}
	})))
	for _, text := range []string{"", "hello", strings.Repeat("long", 100000)} {
		c := dial(t, p, 0)
		_, err := io.WriteString(c, text)
		must(t, err)
		must(t, c.CloseWrite())
		got, err := io.ReadAll(c)
		if err != nil || string(got) != strings.ToUpper(text) {
			t.Errorf("%d bytes: got %d, %v", len(text), len(got), err)
		}
	}
	waittest.Until(t, waittest.Patience, "they are over", func() bool { return p.conns.Load() == 0 })
}

// A client whose backend has ended may go on sending.
func TestBackendHalfCloses(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	p := open(t, config(serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_ = c.CloseWrite()
		all, _ := io.ReadAll(c)
		got <- string(all)
	})))
	c := dial(t, p, 0)
	if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
		t.Fatalf("read: %d, %v; want the end", n, err)
	}
	_, err := io.WriteString(c, "late")
	must(t, err)
	must(t, c.CloseWrite())
	if s := <-got; s != "late" {
		t.Errorf("got %q, want %q", s, "late")
	}
}

// An answer given before the request was read, as a refusal of a large body is, reaches the client though the backend then resets.
func TestAnswerBeforeAReset(t *testing.T) {
	t.Parallel()
	p := open(t, config(serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 10))
		_, _ = io.WriteString(c, "413 too large")
		// Closed with bytes unread.
	})))
	c := dial(t, p, 0)
	go func() { _, _ = c.Write(make([]byte, 1<<20)) }()
	got := make([]byte, 13)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "413 too large" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestResetsArePassedOn(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	p := open(t, config(serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		b := make([]byte, 1)
		_, _ = c.Read(b)
		if b[0] == 'r' {
			_ = c.SetLinger(0)
			return
		}
		_, err := c.Read(b)
		ended <- err
	})))
	c := dial(t, p, 0)
	_, err := io.WriteString(c, "r")
	must(t, err)
	isReset(t, c)

	c = dial(t, p, 0)
	_, err = io.WriteString(c, "w")
	must(t, err)
	waittest.Until(t, waittest.Patience, "the backend has the connection", func() bool { return counts(t, p).Backends[0].Opened == 2 && p.backends[0].connecting.Load() == 0 })
	must(t, c.SetLinger(0))
	must(t, c.Close())
	if err := <-ended; !errors.Is(err, unix.ECONNRESET) && err != io.EOF {
		t.Errorf("backend: got %v, want a reset", err)
	}
	waittest.Until(t, waittest.Patience, "it is over", func() bool { return p.conns.Load() == 0 })
}

// A client that does not read makes the kernel's buffers fill and ours not: the backend stops, and nothing is lost.
func TestSlowReaderIsBounded(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	var sent atomic.Int64
	p := open(t, config(serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		b := make([]byte, 64<<10)
		_, _ = io.ReadFull(c, b[:4])
		for sent.Load() < size {
			n, err := c.Write(b)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	})))
	c := dial(t, p, 0)
	_, err := io.WriteString(c, "give")
	must(t, err)
	last, since := int64(-1), time.Now()
	waittest.Until(t, waittest.Patience, "the backend stops", func() bool {
		if n := sent.Load(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 200*time.Millisecond
	})

	if last >= size/2 {
		t.Errorf("%d bytes sent to a client that reads nothing", last)
	}
	n, err := io.Copy(io.Discard, c)
	if n != size || err != nil {
		t.Errorf("read in the end: %d of %d, %v", n, size, err)
	}
}

// clock is one that stands still until it is moved.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Duration   { return time.Duration(c.at.Load()) }
func (c *clock) add(d time.Duration)  { c.at.Add(int64(d)) }
func newClock(cfg *Config) (c *clock) { c = new(clock); c.add(time.Hour); cfg.clock = c.now; return c }

func TestSilenceEnds(t *testing.T) {
	t.Parallel()
	cfg := config(serve(t, "127.0.0.1:0", echo))
	at := newClock(&cfg)
	p := open(t, cfg)
	quiet, lively := dial(t, p, 0), dial(t, p, 0)
	say(t, quiet, "hello")
	for range 3 {
		say(t, lively, "hello")
		at.add(cfg.IdleTimeout / 2)
	}
	isReset(t, quiet)
	say(t, lively, "hello")
	if n := p.Stats().Idle; n != 1 {
		t.Errorf("ended for silence: got %d, want 1", n)
	}
	at.add(cfg.IdleTimeout * 21 / 20)
	isReset(t, lively)
}

// One side has ended, the other says nothing: that is not waited for as long.
func TestHalfClosedSilenceEndsSooner(t *testing.T) {
	t.Parallel()
	stop, passed := make(chan struct{}), make(chan struct{})
	cfg := config(serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_, _ = io.Copy(io.Discard, c)
		close(passed)
		<-stop
	}))
	t.Cleanup(func() { close(stop) })
	at := newClock(&cfg)
	p := open(t, cfg)
	c := dial(t, p, 0)
	_, err := io.WriteString(c, "hello")
	must(t, err)
	must(t, c.CloseWrite())
	<-passed // the end is
	at.add(halfClosed * 9 / 10)
	must(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("before %v: got %v, want it to go on", halfClosed, err)
	}
	for range 4 { // the proxy may look at it once more, late, which is activity
		at.add(halfClosed * 21 / 20)
		must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		if _, err = c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	if took := at.now() - time.Hour; !errors.Is(err, unix.ECONNRESET) || took >= cfg.IdleTimeout {
		t.Errorf("after %v: got %v, want a reset after %v", took, err, halfClosed)
	}
}

func TestOpenRefusesNonsense(t *testing.T) {
	t.Parallel()
	taken := serve(t, "127.0.0.1:0", echo)
	for want, change := range map[string]func(c *Config){
		"relay.listen":                func(c *Config) { c.Listen = nil },
		`relay.listen "80"`:           func(c *Config) { c.Listen = []string{"80"} },
		"address already in use":      func(c *Config) { c.Listen = []string{taken.Addr.String()} },
		"relay.backends":              func(c *Config) { c.Backends = nil },
		"relay.backends: address":     func(c *Config) { c.Backends[0].Addr = netip.MustParseAddrPort("[fe80::1%nolink]:80") },
		"relay.budget":                func(c *Config) { c.Budget = 0 },
		"relay.proxy.max_conns":       func(c *Config) { c.MaxConns = 0 },
		"relay.per_source":            func(c *Config) { c.PerSource = -1 },
		"relay.proxy.connect_timeout": func(c *Config) { c.ConnectTimeout = 0 },
		"relay.proxy.idle_timeout":    func(c *Config) { c.IdleTimeout = 0 },
	} {
		cfg := config(relay.Backend{Addr: taken.Addr, Weight: 1})
		change(&cfg)
		p, err := Open(cfg, slog.New(slog.DiscardHandler))
		if err == nil {
			_ = p.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}
