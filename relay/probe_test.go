package relay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"
)

// serve has a backend do one thing with each connection, on a port of its own, until the test ends.
func serve(t *testing.T, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn.(*net.TCPConn))
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// answering writes text once the request was read.
func answering(text string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, text)
		}
	}
}

// probe asks one backend once.
func probe(t *testing.T, addr netip.AddrPort, health Health) (answer, outcome, string) {
	t.Helper()
	q := newProber([]Backend{{Addr: addr}}, health)
	defer q.close()
	q.ask(probed{number: 1, started: time.Now()})
	ended := q.wait(time.Now().Add(time.Hour))
	if len(ended) != 1 {
		t.Fatalf("got %d probes, want 1", len(ended))
	}
	p := ended[0]
	if p.took <= 0 || p.number != 1 {
		t.Errorf("got probe %d, which took %v", p.number, p.took)
	}
	return p.answer, p.outcome, p.words
}

func TestProbe(t *testing.T) {
	t.Parallel()
	f := func(name string, handle func(*net.TCPConn), timeout time.Duration, want outcome, wantWords string, wantAnswer answer) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, got, words := probe(t, serve(t, handle), Health{Path: "/healthz", Timeout: timeout})
			if got != want || a != wantAnswer || !strings.Contains(words, wantWords) || (words == "") != (want == answeredOK) {
				t.Errorf("got %v, %q, %+v; want %v, %q, %+v", outcomeNames[got], words, a, outcomeNames[want], wantWords, wantAnswer)
			}
		})
	}
	const long, short = 30 * time.Second, time.Second // a busy machine needs its time to connect
	const ok = "HTTP/1.1 200 OK\r\n"
	f("healthy", answering(ok+"Spillway-State: overload\r\nSpillway-Shed: 0.35\r\nContent-Length: 3\r\n\r\nok\n"), long, answeredOK, "", answer{"overload", 0.35})
	f("any other server", answering("HTTP/1.0 204\n\n"), long, answeredOK, "", answer{})
	f("without end", func(conn *net.TCPConn) {
		answering(ok + "\r\n")(conn)
		for err := error(nil); err == nil; { // the probe's reset ends it
			_, err = conn.Write(make([]byte, 1<<16))
		}
	}, long, answeredOK, "", answer{})
	f("in small pieces", func(conn *net.TCPConn) {
		for _, c := range []byte(ok + "Spillway-Shed: 1\r\n\r\n") {
			_, _ = conn.Write([]byte{c})
		}
		_, _ = io.Copy(io.Discard, conn)
	}, long, answeredOK, "", answer{Level: 1})
	f("endless headers", answering(ok+strings.Repeat("X-Junk: 1\r\n", 1000)), long, answeredOK, "", answer{})
	f("unwell", answering("HTTP/1.1 503 Service Unavailable\r\nSpillway-Shed: 1\r\n\r\n"), long, badStatus, "answered 503", answer{})
	f("moved", answering("HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n"), long, badStatus, "answered 301", answer{})
	f("no HTTP", answering("SSH-2.0-OpenSSH_9.2\r\n\r\n"), long, broken, `not HTTP/1: "SSH-2.0`, answer{})
	f("garbage", answering(strings.Repeat("\x00", 10000)), long, broken, "not HTTP/1", answer{})
	f("closes", answering(""), long, broken, "closed before it had answered", answer{})
	f("closes within its headers", answering(ok), long, broken, "closed before it had answered", answer{})
	f("resets", func(conn *net.TCPConn) { _ = conn.SetLinger(0) }, long, broken, "connection reset", answer{})
	f("hangs", func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) }, short, timedOut, "connected, but no answer within 1s", answer{})
	f("hangs within its headers", func(conn *net.TCPConn) {
		answering(ok)(conn)
		_, _ = io.Copy(io.Discard, conn)
	}, short, timedOut, "connected, but no answer within 1s", answer{})
}

// Ten a second would fill a side with connections in TIME_WAIT, and a hung backend with closed ones.
func TestProbeEndsWithAReset(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 503 No\r\n\r\n"} {
		ended := make(chan error, 1)
		addr := serve(t, func(conn *net.TCPConn) {
			answering(text)(conn)
			_, err := conn.Read(make([]byte, 1))
			ended <- err
		})
		probe(t, addr, Health{Path: "/healthz", Timeout: 10 * time.Second})
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: the connection ended with %v, want a reset", text, err)
		}
	}
}

func TestProbeOfADeadProcess(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	began := time.Now()
	if _, got, words := probe(t, addr, Health{Path: "/", Timeout: time.Minute}); got != refused || words != "connection refused" {
		t.Errorf("got %v, %q", outcomeNames[got], words)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %s; a refusal is there at once", took)
	}
}

// A hung process whose queue of connections is full: the kernel drops the SYN.
func TestProbeOfAFullQueue(t *testing.T) {
	t.Parallel()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*unix.SockaddrInet4).Port))
	waits, err := net.Dial("tcp", addr.String()) // a queue of no length has room for one
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	if _, got, words := probe(t, addr, Health{Path: "/", Timeout: 50 * time.Millisecond}); got != timedOut || words != "no connection within 50ms" {
		t.Errorf("got %v, %q", outcomeNames[got], words)
	}
}

// Probes of several backends under way at once, some of which are given up.
func TestProbesEndWithTheProber(t *testing.T) {
	t.Parallel()
	hung := make(chan error, 4)
	addr := serve(t, func(conn *net.TCPConn) {
		_, err := io.Copy(io.Discard, conn)
		hung <- err
	})
	well := serve(t, answering("HTTP/1.1 200 OK\r\n\r\n"))
	q := newProber([]Backend{{Addr: addr}, {Addr: well}}, Health{Path: "/", Timeout: time.Hour})
	q.ask(probed{backend: 0, number: 1, started: time.Now()})
	for n := range uint64(5) { // each in the place of the one before
		q.ask(probed{backend: 1, number: 2 + n, started: time.Now()})
		if p := q.wait(time.Now().Add(time.Hour)); len(p) != 1 || p[0].backend != 1 || p[0].number != 2+n || p[0].outcome != answeredOK {
			t.Fatalf("got %+v", p)
		}
	}
	if len(q.places) != 2 {
		t.Errorf("got %d places for two probes at once", len(q.places))
	}
	q.close()
	if err := <-hung; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("what was given up ended with %v, want a reset", err)
	}
}

func TestProberWaits(t *testing.T) {
	t.Parallel()
	q := newProber(nil, Health{Timeout: time.Second})
	defer q.close()
	for range 3 {
		until := time.Now().Add(20 * time.Millisecond)
		if p := q.wait(until); len(p) != 0 || time.Now().Before(until) {
			t.Errorf("got %+v, %s early", p, time.Until(until))
		}
	}
	q.nudge() // before it waits
	q.wait(time.Now().Add(time.Hour))
	for range 3 { // and, most likely, while it does
		done := make(chan struct{})
		go func() {
			q.wait(time.Now().Add(time.Hour))
			close(done)
		}()
		time.Sleep(5 * time.Millisecond)
		q.nudge()
		<-done
	}
}

func TestProbeOverIPv6(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			answering("HTTP/1.1 200 OK\r\nSpillway-Shed: 0.5\r\n\r\n")(conn.(*net.TCPConn))
			conn.Close()
		}
	}()
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	if a, got, words := probe(t, addr, Health{Path: "/", Timeout: 10 * time.Second}); got != answeredOK || a.Level != 0.5 {
		t.Errorf("got %v, %q, %+v", outcomeNames[got], words, a)
	}
	<-done
	l.Close()
	if _, got, words := probe(t, addr, Health{Path: "/", Timeout: time.Minute}); got != refused {
		t.Errorf("when it is gone: got %v, %q", outcomeNames[got], words)
	}
}

// What this says is what net/http says, which shares no code with it.
func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nSpillway-State: calm\r\nSpillway-Shed: 0.35\r\nContent-Length: 3\r\n\r\nok\n"))
	f.Add([]byte("HTTP/1.0 503\n\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nspillway-shed:1e-1\r\nSPILLWAY-SHED: 2\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nSpillway-Shed: NaN\r\nSpillway-State: x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		end := headEnd(b)
		head := b[:end]
		if end == 0 {
			head = b
		}
		code, a, err := parseAnswer(head)
		if !(a.Level >= 0 && a.Level <= 1) || code < 0 || code > 999 {
			t.Fatalf("%q: got %d, %+v", head, code, a)
		}
		if end == 0 || bytes.Contains(head, []byte("\n ")) || bytes.Contains(head, []byte("\n\t")) {
			return // a header over several lines, which nobody sends any more, is read as far as its first
		}
		res, wantErr := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
		if wantErr != nil || res.Proto != "HTTP/1.1" && res.Proto != "HTTP/1.0" || len(res.Status) > 3 && res.Status[3] != ' ' {
			return
		}
		res.Body.Close()
		if err != nil || code != res.StatusCode {
			t.Fatalf("%q: got %d, %v, want %d", head, code, err, res.StatusCode)
		}
		level, err := strconv.ParseFloat(res.Header.Get("Spillway-Shed"), 64)
		if err != nil || !(level >= 0 && level <= 1) {
			level = 0
		}
		if a.Level != level {
			t.Fatalf("%q: got level %v, want %v", head, a.Level, level)
		}
		if state := res.Header.Get("Spillway-State"); a.State != "" && a.State != state {
			t.Fatalf("%q: got state %q, want %q", head, a.State, state)
		}
	})
}

// A backend that wants the PROXY protocol is told that it is the relay itself that asks.
func TestProbeOfAProxiedBackend(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxied := &proxyproto.Listener{Listener: ln, ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) { return proxyproto.REQUIRE, nil }}
	var local atomic.Bool
	server := &http.Server{
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			header := c.(*proxyproto.Conn).ProxyHeader()
			local.Store(header != nil && header.Command.IsLocal())
			return ctx
		},
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
	}
	go func() { _ = server.Serve(proxied) }()
	defer server.Close()
	addr := netip.MustParseAddrPort(ln.Addr().String())
	if _, got, words := probe(t, addr, Health{Path: "/healthz", Timeout: 10 * time.Second, Proxied: true}); got != answeredOK || !local.Load() {
		t.Errorf("got %s %s, local %v", outcomeNames[got], words, local.Load())
	}
	if _, got, _ := probe(t, addr, Health{Path: "/healthz", Timeout: 10 * time.Second}); got == answeredOK {
		t.Error("answered without the header: this test tests nothing")
	}
}
