package proxy

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/waittest"
	"spillway/relay"
)

// closedPort is an address where the kernel refuses; nobody else gets the port before the test's end.
func closedPort(t testing.TB) relay.Backend {
	t.Helper()
	l, err := newListener("127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { closeFD(l.fd) })
	return relay.Backend{Addr: l.addr(), Weight: 1}
}

// blackHole is an address where a SYN is not answered: its accept queue is full.
func blackHole(t testing.TB) relay.Backend {
	t.Helper()
	l, err := newListener("127.0.0.1:0")
	must(t, err)
	must(t, unix.Listen(l.fd, 0))
	t.Cleanup(func() { closeFD(l.fd) })
	c, err := net.Dial("tcp", l.addr().String())
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return relay.Backend{Addr: l.addr(), Weight: 1}
}

// sourced connects from a source address of its own, which is in a slot of its own.
func sourced(t testing.TB, p *Path, source string) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 20 * time.Second}
	c, err := d.Dial("tcp", p.Addrs()[0].String())
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c.(*net.TCPConn)
}

// refused is sourced for a client who says text and gets a reset. That may be there before connect has returned.
func refused(t testing.TB, p *Path, source, text string) {
	t.Helper()
	refusedAt(t, p.Addrs()[0].String(), source, text)
}

func refusedAt(t testing.TB, addr, source, text string) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 20 * time.Second}
	c, err := d.Dial("tcp", addr)
	if errors.Is(err, unix.ECONNRESET) {
		return
	}
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	if text != "" { // even an empty write would take the error away
		if _, err := io.WriteString(c, text); errors.Is(err, unix.ECONNRESET) {
			return
		}
	}
	isReset(t, c)
}

func TestBackendRefuses(t *testing.T) {
	t.Parallel()
	cfg := config(closedPort(t))
	newClock(&cfg) // it stands still: nobody waits for a timeout
	p := open(t, cfg)
	for _, text := range []string{"", "hello"} {
		refused(t, p, "127.0.0.1", text)
	}
	if n := p.Stats(); n.Failed != 2 || n.Retried != 0 || counts(t, p).Backends[0].Down != 2 {
		t.Errorf("stats: %+v, down %d; want 2 failures", n, counts(t, p).Backends[0].Down)
	}
}

// Another backend of the family is tried, once, and what the client has said is not lost.
func TestRefusedConnectionGoesElsewhere(t *testing.T) {
	t.Parallel()
	gone, alive, v6 := closedPort(t), serve(t, "127.0.0.1:0", echo), serve(t, "[::1]:0", echo)
	p := open(t, config(gone, v6, alive))
	plan := planFor(p)
	for i := range plan.Slots4 {
		plan.Slots4[i] = 0
	}
	plan.Slots4[(slotOf(netip.MustParseAddr("127.0.0.1"))+17)%relay.Slots] = 2
	must(t, p.Apply(plan))
	for _, text := range []string{"hello", strings.Repeat("long", 10000)} {
		say(t, dial(t, p, 0), text)
	}
	quiet := dial(t, p, 0) // says nothing before it is connected
	waittest.Until(t, waittest.Patience, "it is connected", func() bool { return counts(t, p).Backends[2].Opened == 3 && p.backends[2].connecting.Load() == 0 })
	say(t, quiet, "hello")
	if s := p.Stats(); s.Failed != 3 || s.Retried != 3 {
		t.Errorf("stats: %+v, want 3 failed and retried", s)
	}

	p = open(t, config(gone, closedPort(t), closedPort(t)))
	refused(t, p, "127.0.0.1", "")
	if s := p.Stats(); s.Failed != 2 || s.Retried != 1 {
		t.Errorf("with all gone: %+v, want 2 failed and one of them retried", s)
	}
}

func TestBackendDoesNotAnswer(t *testing.T) {
	t.Parallel()
	cfg := config(blackHole(t))
	cfg.Budget = 16
	at := newClock(&cfg)
	p := open(t, cfg)
	var waiting []*net.TCPConn
	for range cfg.Budget {
		waiting = append(waiting, dial(t, p, 0))
	}
	waittest.Until(t, waittest.Patience, "the budget is used up", func() bool { return counts(t, p).Backends[0].Unanswered == cfg.Budget })
	for range 5 {
		refused(t, p, "127.0.0.1", "")
	}
	at.add(cfg.ConnectTimeout * 9 / 10)
	refused(t, p, "127.0.0.1", "")
	if c := counts(t, p).Backends[0]; c.Budget != 6 || c.Unanswered != cfg.Budget || c.Opened != uint64(cfg.Budget) {
		t.Errorf("counts: %+v, want 6 over a budget of %d", c, cfg.Budget)
	}
	at.add(cfg.ConnectTimeout / 5)
	for _, c := range waiting {
		isReset(t, c)
	}
	if c := counts(t, p).Backends[0]; c.Unanswered != 0 || p.Stats().Failed != uint64(cfg.Budget) {
		t.Errorf("counts: %+v, failed %d", c, p.Stats().Failed)
	}

	// Others would wait as long: one may try in the next second.
	waiting = append(waiting[:0], dial(t, p, 0))
	waittest.Until(t, waittest.Patience, "one waits", func() bool { return counts(t, p).Backends[0].Unanswered == cfg.Budget/latePart })
	for range 5 {
		refused(t, p, "127.0.0.1", "")
	}
	at.add(cfg.ConnectTimeout * 11 / 10)
	isReset(t, waiting[0])
	at.add(time.Duration(lateFor))

	// Half of the bands is a quarter of the budget.
	plan := planFor(p)
	plan.Open[0] = 2
	must(t, p.Apply(plan))
	for range cfg.Budget / 4 {
		dial(t, p, 0)
	}
	waittest.Until(t, waittest.Patience, "a quarter of the budget is used up", func() bool { return counts(t, p).Backends[0].Unanswered == cfg.Budget/4 })
	refused(t, p, "127.0.0.1", "")
}

func TestDownIsRefusedByTheKernel(t *testing.T) {
	t.Parallel()
	for _, loops := range []int{1, 2} {
		cfg := config(serve(t, "127.0.0.1:0", echo))
		cfg.loops = loops
		p := open(t, cfg)
		at := p.Addrs()[0]
		slow := 0
		for range 20 {
			say(t, dial(t, p, 0), "hello")
			must(t, p.Apply(planFor(p, 0)))
			for range 5 {
				begun := time.Now()
				if c, err := net.Dial("tcp", at.String()); !errors.Is(err, unix.ECONNREFUSED) {
					t.Fatalf("down: got %v, %v; want refused", c, err)
				}
				if time.Since(begun) > 500*time.Millisecond { // a SYN that is dropped comes again after a second
					slow++
				}
			}
			must(t, p.Apply(planFor(p)))
		}
		if slow > 20 { // of 100: the machine may be busy
			t.Errorf("%d of 100 were not refused at once", slow)
		}
		if now := p.Addrs()[0]; now != at {
			t.Errorf("address: got %v, was %v", now, at)
		}
		for _, option := range []struct{ level, option, want int }{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent},
		} {
			if n, err := unix.GetsockoptInt(p.listeners[0].fd, option.level, option.option); err != nil || n != option.want {
				t.Errorf("option %d after it has been down: got %d, %v; want %d", option.option, n, err, option.want)
			}
		}
	}
}

func TestOneFamilyDown(t *testing.T) {
	t.Parallel()
	cfg := config(serve(t, "127.0.0.1:0", echo), serve(t, "[::1]:0", echo))
	cfg.Listen = []string{":0", "127.0.0.1:0", "[::1]:0"}
	p := open(t, cfg)
	_, port, _ := net.SplitHostPort(p.Addrs()[0].String())
	must(t, p.Apply(planFor(p, 0)))
	refusedAt(t, "127.0.0.1:"+port, "127.0.0.1", "")
	if n := counts(t, p).Backends[0].Down; n != 1 {
		t.Errorf("refused for being down: got %d, want 1", n)
	}
	if _, err := net.Dial("tcp", p.Addrs()[1].String()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a listener of the family that is down: got %v, want refused", err)
	}
	say(t, dial(t, p, 2), "hello")
	c, err := net.Dial("tcp", "[::1]:"+port)
	must(t, err)
	say(t, c, "hello")
	must(t, c.Close())
}

// While the last backend is down the kernel refuses, and the program does nothing, with connections that are silent or without.
func TestDownCostsNothing(t *testing.T) {
	t.Parallel()
	proxy := self(t, -1, "proxy", serve(t, "127.0.0.1:0", echo).Addr.String())
	at := proxy.line(t)
	c, err := net.Dial("tcp", at)
	must(t, err)
	defer c.Close()
	say(t, c, "hello")
	_, err = io.WriteString(proxy.in, "down\n")
	must(t, err)
	proxy.line(t)
	cheapest, n := time.Hour, 0
	for range 3 { // its runtime has things to do, too
		before, begun := proxy.cpu(t), time.Now()
		for n = 0; time.Since(begun) < 300*time.Millisecond; n++ {
			if _, err := net.Dial("tcp", at); !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatalf("down: got %v, want refused", err)
			}
		}
		if cheapest = min(cheapest, proxy.cpu(t)-before); cheapest <= 30*time.Millisecond {
			break
		}
	}
	if cheapest > 30*time.Millisecond {
		t.Errorf("%v of CPU for %d connections in 300ms while down", cheapest, n)
	}
	say(t, c, "hello")
	_, err = io.WriteString(proxy.in, "up\n")
	must(t, err)
	proxy.line(t)
	c, err = net.Dial("tcp", at)
	must(t, err)
	defer c.Close()
	say(t, c, "hello")
}

// What waits in the kernel's queue when the last backend goes down is reset.
func TestQueueIsResetWithTheListener(t *testing.T) {
	t.Parallel()
	cfg := config(serve(t, "127.0.0.1:0", echo))
	cfg.MaxConns = 1
	p := open(t, cfg)
	say(t, dial(t, p, 0), "hello")
	queued := dial(t, p, 0)
	must(t, p.Apply(planFor(p, 0)))
	isReset(t, queued)
}

func TestAddressTakenMeanwhile(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	p, err := Open(config(serve(t, "127.0.0.1:0", echo)), slog.New(slog.NewTextHandler(&log, nil)))
	must(t, err)
	defer p.Close()
	l, err := net.Listen("tcp", p.Addrs()[0].String()) // SO_REUSEADDR: it may, while we do not listen
	must(t, err)
	for range 3 {
		must(t, p.Apply(planFor(p)))
	}
	if n := strings.Count(log.String(), "cannot listen"); n != 1 {
		t.Errorf("said %d times that it cannot listen, want once:\n%s", n, &log)
	}
	must(t, l.Close())
	must(t, p.Apply(planFor(p)))
	say(t, dial(t, p, 0), "hello")
	if !strings.Contains(log.String(), "listening again") {
		t.Errorf("log:\n%s", &log)
	}
}

func TestCutEndsAll(t *testing.T) {
	t.Parallel()
	var ends atomic.Int64
	cfg := config(serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		if _, err := io.Copy(c, c); errors.Is(err, unix.ECONNRESET) {
			ends.Add(1)
		}
	}), serve(t, "127.0.0.1:0", echo), blackHole(t))
	cfg.ConnectTimeout = time.Minute
	p := open(t, cfg)
	only := func(backend int16) relay.Plan {
		plan := planFor(p)
		for i := range plan.Slots4 {
			plan.Slots4[i] = backend
		}
		return plan
	}
	must(t, p.Apply(only(1)))
	spared := dial(t, p, 0)
	say(t, spared, "hello")
	must(t, p.Apply(only(2)))
	connecting := dial(t, p, 0)
	waittest.Until(t, waittest.Patience, "it is being connected", func() bool { return counts(t, p).Backends[2].Unanswered == 1 })

	must(t, p.Apply(only(0)))
	const n = 2000
	var conns []*net.TCPConn
	for range n {
		c := dial(t, p, 0)
		say(t, c, "x")
		conns = append(conns, c)
	}
	cancelled := make(chan struct{})
	begun := time.Now()
	flows, err := p.Cut(0, cancelled)
	took := time.Since(begun)
	t.Logf("%d flows ended in %v", flows, took)
	if flows != n || err != nil {
		t.Errorf("cut: %d flows, %v, after %v; want %d", flows, err, took, n)
	}
	for _, c := range conns {
		isReset(t, c)
	}
	waittest.Until(t, waittest.Patience, "the backend's sides are reset", func() bool { return ends.Load() == n })
	say(t, spared, "hello")

	if flows, err := p.Cut(2, cancelled); flows != 1 || err != nil {
		t.Errorf("cut of one that is being connected: %d, %v", flows, err)
	}
	isReset(t, connecting)
	close(cancelled)
	if flows, err := p.Cut(1, cancelled); flows != 0 || err != nil {
		t.Errorf("cut, cancelled: %d, %v", flows, err)
	}
	say(t, spared, "hello")
}

func TestMaxConns(t *testing.T) {
	t.Parallel()
	for _, loops := range []int{1, 3} {
		cfg := config(serve(t, "127.0.0.1:0", echo))
		cfg.MaxConns, cfg.loops = 4, loops
		p := open(t, cfg)
		var in []*net.TCPConn
		for range cfg.MaxConns {
			c := dial(t, p, 0)
			say(t, c, "hello")
			in = append(in, c)
		}
		for range 20 {
			next := dial(t, p, 0) // waits in the kernel's queue
			_, err := io.WriteString(next, "hello")
			must(t, err)
			must(t, next.SetReadDeadline(time.Now().Add(5*time.Millisecond)))
			if n, err := next.Read(make([]byte, 5)); err == nil {
				t.Fatalf("over the bound: read %d", n)
			}
			if c := counts(t, p); c.Conns != cfg.MaxConns || c.ConnsMax != cfg.MaxConns {
				t.Errorf("connections: %d of %d, want %d", c.Conns, c.ConnsMax, cfg.MaxConns)
			}
			must(t, in[0].Close())
			must(t, next.SetReadDeadline(time.Now().Add(20*time.Second)))
			got := make([]byte, 5)
			if _, err := io.ReadFull(next, got); err != nil || string(got) != "hello" {
				t.Fatalf("when there is room: %q, %v", got, err)
			}
			in = append(in[1:], next)
		}
	}
}

func TestPerSource(t *testing.T) {
	t.Parallel()
	cfg := config(serve(t, "127.0.0.1:0", echo))
	cfg.PerSource = 5
	at := newClock(&cfg)
	p := open(t, cfg)
	for range 2 {
		for range cfg.PerSource {
			say(t, sourced(t, p, "127.0.0.7"), "hello")
		}
		refused(t, p, "127.0.0.7", "")
		say(t, sourced(t, p, "127.0.0.8"), "hello")
		at.add(time.Second)
	}
	if n := counts(t, p).Source; n != 2 {
		t.Errorf("refused: got %d, want 2", n)
	}
}

// No descriptors: accepting pauses, costs next to nothing, and goes on when there are some.
func TestOutOfFiles(t *testing.T) {
	t.Parallel()
	backend := serve(t, "127.0.0.1:0", echo)
	proxy := self(t, -1, "proxy", backend.Addr.String(), "40")
	at := proxy.line(t)
	var conns []net.Conn
	for range 40 {
		c, err := net.Dial("tcp", at)
		if errors.Is(err, unix.ECONNRESET) { // the last that was accepted found no descriptor for the backend's side
			continue
		}
		must(t, err)
		defer c.Close()
		conns = append(conns, c)
	}
	say(t, conns[0], "hello")
	const watch = 500 * time.Millisecond
	cheapest := time.Hour
	for range 3 { // its runtime has things to do, too
		before := proxy.cpu(t)
		must(t, conns[0].SetDeadline(time.Now().Add(watch)))
		if n, err := conns[0].Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read %d, %v", n, err)
		}
		if cheapest = min(cheapest, proxy.cpu(t)-before); cheapest <= watch/10 {
			break
		}
	}
	if cheapest > watch/10 {
		t.Errorf("%v of CPU in %v without descriptors", cheapest, watch)
	}
	for _, c := range conns {
		must(t, c.Close())
	}
	waittest.Until(t, waittest.Patience, "it serves again", func() bool {
		c, err := net.Dial("tcp", at)
		if err != nil {
			return false
		}
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		_, err = io.WriteString(c, "x")
		_, read := io.ReadFull(c, make([]byte, 1))
		return err == nil && read == nil
	})

}

func TestRoomForConnections(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		max   int
		files uint64
		want  int
	}{{20000, 1 << 20, 20000}, {20000, 20000, (20000 - reservedFiles) / 2}, {100, 1024, 100}, {1000, 1024, 256}, {10, 0, 1}} {
		if got := connsFor(c.max, c.files); got != c.want {
			t.Errorf("%d with %d files: got %d, want %d", c.max, c.files, got, c.want)
		}
	}
}
