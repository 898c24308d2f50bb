package listen

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spillway/internal/waittest"
)

// testGate is a Gate that a test turns, and that keeps what it is told.
type testGate struct {
	full, unwelcome atomic.Bool
	backlog         atomic.Int32
	parked          atomic.Int32

	mu    sync.Mutex // guards the rest
	ages  []time.Duration
	fresh int
}

func (g *testGate) Full() bool                           { return g.full.Load() }
func (g *testGate) Unwelcome(netip.Addr, time.Time) bool { return g.unwelcome.Load() }
func (g *testGate) Backlog() int                         { return int(g.backlog.Load()) }
func (g *testGate) Park()                                { g.parked.Add(1) }
func (g *testGate) Spent(time.Duration, bool)            {}
func (g *testGate) Observe(age time.Duration, fresh bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ages = append(g.ages, age)
	if fresh {
		g.fresh++
	}
}

func newTestGate() *testGate {
	g := new(testGate)
	g.backlog.Store(128)
	return g
}

// stamping waits until the kernel stamps what d's listeners get, and empties the gate. The first socket of a machine that asks for stamps
// has them only after the kernel has rewritten its own code, which it does in a worker of its own.
func stamping(t *testing.T, d *Door, gate *testGate) {
	t.Helper()
	waittest.Until(t, waittest.Patience, "the kernel stamps", func() bool {
		client := dial(t, d.Addrs()[0])
		defer client.Close()
		if _, err := io.WriteString(client, "GET / HTTP/1.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		server, err := d.Listeners[0].Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		if _, err := server.Read(make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
		return len(gate.ages) > 0
	})

	gate.ages, gate.fresh = nil, 0
}

// A request's age is the time since the kernel had it, on the connection's first read as on those that wait for the poller.
func TestARequestIsAsOldAsItHasWaited(t *testing.T) {
	t.Parallel()
	gate := newTestGate()
	d, _ := open(t, Config{Gate: gate})
	stamping(t, d, gate)
	client := dial(t, d.Addrs()[0])
	buf := make([]byte, 64)
	var server net.Conn
	for i := range 3 {
		before := time.Now().Round(0) // the clock of people, as the kernel's stamps: it may be set meanwhile
		if _, err := io.WriteString(client, "GET / HTTP/1.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		sent := time.Now().Round(0)
		<-time.After(20 * time.Millisecond) // it waits in the kernel: that is what is measured
		if server == nil {
			var err error
			if server, err = d.Listeners[0].Accept(); err != nil {
				t.Fatal(err)
			}
			defer server.Close()
		}
		reading := time.Now().Round(0)
		if _, err := server.Read(buf); err != nil {
			t.Fatal(err)
		}
		least, most := reading.Sub(sent)-time.Millisecond, time.Now().Round(0).Sub(before)+time.Millisecond
		if len(gate.ages) != i+1 {
			t.Fatalf("ages known after request %d: got %v, want %d", i, gate.ages, i+1)
		}
		if got := gate.ages[i]; got < least || got > most {
			t.Errorf("request %d: got %s, want between %s and %s", i, got, least, most)
		}
		if _, err := server.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if gate.fresh != 1 {
		t.Errorf("first requests of their connection: got %d, want 1", gate.fresh)
	}
}

// What Early sees is one whole request, and nothing else: else answers could be shifted on a connection that a proxy shares.
func TestEarlySeesWholeRequestsOfKeptConnectionsOnly(t *testing.T) {
	t.Parallel()
	const one = "GET /announce HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, c := range map[string]struct {
		reads   []string // what comes with a read each; the server answers after those that end a request, "~" when it says 100
		want    string   // those Early sees, by number
		proxied bool
	}{
		"kept":                 {reads: []string{one, one, one}, want: "1 2"},
		"the first is not":     {reads: []string{one}, want: ""},
		"cut in two":           {reads: []string{one, one[:10], one[10:]}, want: ""},
		"two at once":          {reads: []string{one, one + one, one}, want: "2"},
		"one and a beginning":  {reads: []string{one, one + one[:10], one[10:], one}, want: "3"},
		"another method":       {reads: []string{one, "POST /announce HTTP/1.1\r\n\r\n", one}, want: "2"},
		"a body is no request": {reads: []string{one, "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 36\r\n\r\n~", one, one}, want: "3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen []string
			read := 0
			d, _ := open(t, Config{Gate: newTestGate(), Early: func(_ net.Addr, head []byte, now time.Time, _ time.Duration) ([]byte, bool) {
				if now.IsZero() || string(head) != one {
					t.Errorf("Early: got %q at %v", head, now)
				}
				seen = append(seen, fmt.Sprint(read))
				return nil, true
			}})
			client := dial(t, d.Addrs()[0])
			var server *Conn
			buf := make([]byte, 256)
			for i, text := range c.reads {
				text, interim := strings.CutSuffix(text, "~")
				if _, err := io.WriteString(client, text); err != nil {
					t.Fatal(err)
				}
				if server == nil {
					conn, err := d.Listeners[0].Accept()
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					server = conn.(*Conn)
				}
				read = i
				n, err := server.Read(buf)
				if err != nil || string(buf[:n]) != text {
					t.Fatalf("read %d: got %q, %v", i, buf[:n], err)
				}
				if wants := len(seen) > 0 && seen[len(seen)-1] == fmt.Sprint(i); server.Decided() != wants {
					t.Errorf("read %d: decided %v, want %v", i, server.Decided(), wants)
				}
				switch {
				case interim:
					_, err = io.WriteString(server, "HTTP/1.1 100 Continue\r\n\r\n")
				case strings.HasSuffix(text, "\r\n\r\n"):
					_, err = io.WriteString(server, "HTTP/1.1 200 OK\r\n\r\n")
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if got := strings.Join(seen, " "); got != c.want {
				t.Errorf("seen: got reads %q, want %q", got, c.want)
			}
		})
	}
}

func TestWhatEarlyAnswersIsNotRead(t *testing.T) {
	t.Parallel()
	gate := newTestGate()
	refuse := false
	d, _ := open(t, Config{Gate: gate, Early: func(net.Addr, []byte, time.Time, time.Duration) ([]byte, bool) {
		if refuse {
			refuse = false
			return []byte("refused"), true
		}
		return nil, true
	}})
	client := dial(t, d.Addrs()[0])
	_, _ = io.WriteString(client, "GET /0 HTTP/1.1\r\n\r\n")
	server, err := d.Listeners[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	buf := make([]byte, 64)
	read := func(want string) {
		t.Helper()
		if n, err := server.Read(buf); err != nil || string(buf[:n]) != want {
			t.Fatalf("got %q, %v; want %q", buf[:n], err, want)
		}
		_, _ = io.WriteString(server, "served!")
		if _, err := io.ReadFull(client, buf[:7]); err != nil || string(buf[:7]) != "served!" {
			t.Fatalf("client: got %q, %v", buf[:7], err)
		}
	}
	read("GET /0 HTTP/1.1\r\n\r\n")

	refuse = true
	_, _ = io.WriteString(client, "GET /1 HTTP/1.1\r\n\r\n")
	answered := make(chan error, 1)
	go func() {
		answer := make([]byte, 7)
		_, err := io.ReadFull(client, answer)
		if string(answer) != "refused" {
			err = fmt.Errorf("got %q, %w", answer, err)
		}
		if err == nil {
			_, err = io.WriteString(client, "GET /2 HTTP/1.1\r\n\r\n")
		}
		answered <- err
	}()
	if n, err := server.Read(buf); err != nil || string(buf[:n]) != "GET /2 HTTP/1.1\r\n\r\n" {
		t.Errorf("got %q, %v; want the request after the refused one", buf[:n], err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if n := gate.parked.Load(); n != 1 {
		t.Errorf("waits: got %d, want 1", n)
	}
}

func TestAnUnwelcomeSourceIsResetUnlessItIsAProxy(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{false, true} {
		gate := newTestGate()
		gate.unwelcome.Store(true)
		d, _ := open(t, Config{Gate: gate, Trusted: func(netip.Addr) bool { return trusted }})
		client := dial(t, d.Addrs()[0])
		accepted := make(chan net.Conn, 1)
		go func() {
			if c, err := d.Listeners[0].Accept(); err == nil {
				accepted <- c
			}
		}()
		if trusted {
			(<-accepted).Close()
			continue
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want a reset", err)
		}
		if got := metric(t, d, `spillway_conns_reset_total{endpoint="http"}`); got != "1" {
			t.Errorf("resets: got %s, want 1", got)
		}
	}
}

func TestWithoutMemoryConnectionsWaitInTheKernel(t *testing.T) {
	t.Parallel()
	gate := newTestGate()
	gate.full.Store(true)
	d, _ := open(t, Config{Gate: gate})
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := d.Listeners[0].Accept(); err == nil {
			accepted <- c
		}
	}()
	dial(t, d.Addrs()[0])
	waittest.Until(t, waittest.Patience, "it is held", func() bool { return metric(t, d, `spillway_conns_held_total{endpoint="http"}`) == "1" })
	select {
	case <-accepted:
		t.Fatal("accepted without memory")
	default:
	}
	gate.full.Store(false)
	(<-accepted).Close()
}

// Connections whose request is there and not answered are bounded; answered, waited for or closed, they make room.
func TestFreshConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{Gate: newTestGate(), MaxConns: 4 * maxFresh})
	l := d.Listeners[0]
	accepted := make(chan net.Conn, 4*maxFresh)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	})
	for range maxFresh + 50 {
		_, _ = io.WriteString(dial(t, d.Addrs()[0]), "x")
	}
	var open []net.Conn
	for range maxFresh {
		open = append(open, <-accepted)
	}
	waittest.Until(t, waittest.Patience, "accept waits", func() bool { return l.(*listener).fresh.waiting.Load() })
	if n := len(accepted); n != 0 {
		t.Errorf("accepted above the bound: %d", n)
	}
	buf := make([]byte, 8)
	for i, c := range open {
		switch i % 3 {
		case 0:
			_, _ = c.Write([]byte("answer"))
		case 1:
			c.Close()
		case 2: // the second read has to wait for its client
			_, _ = c.Read(buf)
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, _ = c.Read(buf)
		}
	}
	for range 50 {
		open = append(open, <-accepted)
	}
	d.Close()
	wg.Wait()
	for _, c := range open {
		c.Close()
	}
	if n := l.(*listener).fresh.n.Load(); n != 0 {
		t.Errorf("fresh in the end: %d", n)
	}
}

// However the bound is moved while connections come and go, no place is lost and none is made.
func TestMaxConnsCanBeMoved(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const most = 20
		d := &Door{places: make(chan struct{}, most)}
		open, bound := 0, most
		t.Repeat(map[string]func(*rapid.T){
			"open": func(t *rapid.T) {
				if open >= bound {
					t.Skip()
				}
				d.places <- struct{}{}
				open++
			},
			"close": func(t *rapid.T) {
				if open == 0 {
					t.Skip()
				}
				d.leave()
				open--
			},
			"move": func(t *rapid.T) {
				bound = rapid.IntRange(1, most).Draw(t, "bound")
				d.SetMaxConns(bound)
			},
			"": func(t *rapid.T) {
				if d.Conns() != open || d.MaxConns() != bound {
					t.Fatalf("got %d of %d, want %d of %d", d.Conns(), d.MaxConns(), open, bound)
				}
				if free := most - len(d.places); free != max(bound-open, 0) {
					t.Fatalf("free: got %d, want %d of bound %d with %d open", free, max(bound-open, 0), bound, open)
				}
			},
		})
	})
	d := &Door{places: make(chan struct{}, 100)}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				d.places <- struct{}{}
				d.leave()
			}
		})
	}
	for range 2000 {
		d.SetMaxConns(10 + rand.IntN(90))
	}
	wg.Wait()
	d.SetMaxConns(100)
	if len(d.places) != 0 || d.Conns() != 0 {
		t.Errorf("places left taken: %d, conns %d", len(d.places), d.Conns())
	}
}
