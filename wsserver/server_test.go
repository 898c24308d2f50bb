package wsserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/valyala/fasthttp"
	"go.uber.org/goleak"

	"spillway/tracker/swarm"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),    // once a process
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"), // sleeps on for 10 s
	)
}

var loopback = netip.MustParseAddr("127.0.0.1")

// testServer is a Server behind fasthttp, as cmd/spillway wires it.
type testServer struct {
	*Server
	table *swarm.Table
	addr  string
	tls   *tls.Config // the clients', or nil
	http  *fasthttp.Server
	stop  func()
}

// serve starts a server that goes with the test. Client addresses are taken from X-Client if it is there.
func serve(t *testing.T, cfg Config) *testServer { return serveTLS(t, cfg, nil, nil) }

func serveTLS(t *testing.T, cfg Config, serverTLS, clientTLS *tls.Config) *testServer {
	t.Helper()
	table := swarm.New(swarm.Config{})
	return serveSwarms(t, cfg, table, table, serverTLS, clientTLS)
}

// serveSwarms serves another store, whose table of its own peers is table.
func serveSwarms(t *testing.T, cfg Config, swarms Swarms, table *swarm.Table, serverTLS, clientTLS *tls.Config) *testServer {
	t.Helper()
	s, err := New(cfg, swarms, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ts := &testServer{Server: s, table: table, addr: ln.Addr().String(), tls: clientTLS}
	if serverTLS != nil {
		ln = tls.NewListener(ln, serverTLS)
	}
	ts.http = &fasthttp.Server{
		Handler: func(ctx *fasthttp.RequestCtx) {
			addr, _ := netip.AddrFromSlice(ctx.RemoteIP())
			if h := ctx.Request.Header.Peek("X-Client"); len(h) > 0 {
				addr = netip.MustParseAddr(string(h))
			}
			s.Upgrade(ctx, addr)
		},
		KeepHijackedConns: true,
		CloseOnShutdown:   true,
		Logger:            quiet{},
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran, served := make(chan struct{}), make(chan struct{})
	go func() { s.Run(ctx); close(ran) }()
	go func() { _ = ts.http.Serve(ln); close(served) }()
	stopped := false
	ts.stop = func() {
		if stopped {
			return
		}
		stopped = true
		shut, done := context.WithTimeout(context.Background(), 10*time.Second)
		defer done()
		if err := ts.http.ShutdownWithContext(shut); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		cancel()
		<-ran
		<-served
		if n := s.Conns(); n != 0 {
			t.Errorf("sockets after Run: got %d, want 0", n)
		}
		if n := s.members.len(); n != 0 {
			t.Errorf("members after Run: got %d, want 0", n)
		}
		if n := s.buffered.used.Load(); n != 0 {
			t.Errorf("buffered bytes after Run: got %d, want 0", n)
		}
	}
	t.Cleanup(ts.stop)
	return ts
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

// wait polls until f is content.
func wait(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// client is a WebSocket client that does nothing by itself.
type client struct {
	t    *testing.T
	conn net.Conn
	br   *bufio.Reader
}

const clientTimeout = 30 * time.Second

// dial opens a socket; header lines may be added.
func (ts *testServer) dial(t *testing.T, header ...string) *client {
	t.Helper()
	c, err := ts.tryDial(t, header...)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	return c
}

func (ts *testServer) tryDial(t *testing.T, header ...string) (*client, error) {
	d := ws.Dialer{Timeout: clientTimeout, TLSConfig: ts.tls}
	if len(header) > 0 {
		d.Header = ws.HandshakeHeaderString(strings.Join(header, "\r\n") + "\r\n")
	}
	scheme := "ws"
	if ts.tls != nil {
		scheme = "wss"
	}
	conn, br, _, err := d.Dial(context.Background(), scheme+"://"+ts.addr+"/any/path")
	if err != nil {
		return nil, err
	}
	if br == nil {
		br = bufio.NewReader(conn)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn, br}, nil
}

func (c *client) send(text string) {
	c.t.Helper()
	_ = c.conn.SetDeadline(time.Now().Add(clientTimeout))
	if err := wsutil.WriteClientText(c.conn, []byte(text)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// frame writes any frame, masked.
func (c *client) frame(fin bool, op ws.OpCode, payload string) {
	c.t.Helper()
	_ = c.conn.SetDeadline(time.Now().Add(clientTimeout))
	if err := ws.WriteFrame(c.conn, ws.MaskFrame(ws.NewFrame(op, fin, []byte(payload)))); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// got is a message of the server's.
type got struct {
	Action     string
	InfoHash   string          `json:"info_hash"`
	PeerID     string          `json:"peer_id"`
	OfferID    string          `json:"offer_id"`
	Offer      json.RawMessage `json:"offer"`
	Answer     json.RawMessage `json:"answer"`
	Interval   json.Number
	Complete   int
	Incomplete int
	Failure    string `json:"failure reason"`
	Warning    string `json:"warning message"`
	Files      map[string]swarm.Counts
	raw        string
}

// next reads a frame.
func (c *client) next() (ws.Frame, error) {
	_ = c.conn.SetDeadline(time.Now().Add(clientTimeout))
	return readFrame(c.br)
}

// readFrame reads one of the server's frames.
func readFrame(r io.Reader) (f ws.Frame, err error) {
	if f.Header, err = ws.ReadHeader(r); err != nil {
		return f, err
	}
	if f.Header.Length > 1<<20 {
		return f, fmt.Errorf("frame of %d bytes", f.Header.Length)
	}
	f.Payload = make([]byte, f.Header.Length)
	_, err = io.ReadFull(r, f.Payload)
	return f, err
}

// read reads the next message, answering pings.
func (c *client) read() (g got) {
	c.t.Helper()
	for {
		f, err := c.next()
		if err != nil {
			c.t.Fatalf("read: %v", err)
		}
		switch f.Header.OpCode {
		case ws.OpPing:
			c.frame(true, ws.OpPong, string(f.Payload))
			continue
		case ws.OpText:
		default:
			c.t.Fatalf("read: got opcode %d %q, want a text frame", f.Header.OpCode, f.Payload)
		}
		if err := json.Unmarshal(f.Payload, &g); err != nil {
			c.t.Fatalf("read %q: %v", f.Payload, err)
		}
		g.raw = string(f.Payload)
		return g
	}
}

// silent sees to it that nothing but replies to a ping comes.
func (c *client) silent() {
	c.t.Helper()
	c.frame(true, ws.OpPing, "anything else?")
	f, err := c.next()
	if err != nil || f.Header.OpCode != ws.OpPong {
		c.t.Errorf("next frame: got %+v %q (%v), want the pong", f.Header, f.Payload, err)
	}
}

// wantClose reads until the server's close frame, and sees the connection end.
func (c *client) wantClose(code ws.StatusCode) {
	c.t.Helper()
	for {
		f, err := c.next()
		if err != nil {
			c.t.Errorf("close: got %v, want code %d", err, code)
			return
		}
		if f.Header.OpCode != ws.OpClose {
			continue
		}
		if got, _ := ws.ParseCloseFrameData(f.Payload); got != code {
			c.t.Errorf("close code: got %d, want %d", got, code)
		}
		break
	}
	if _, err := c.next(); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
		c.t.Errorf("after the close frame: got %v, want the end", err)
	}
	c.conn.Close()
}

// wantEnd sees the connection end, whatever comes before.
func (c *client) wantEnd() {
	c.t.Helper()
	for {
		if _, err := c.next(); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.t.Error("the connection did not end")
			}
			return
		}
	}
}

// id is a peer id or info hash of one letter, in quotes.
func id(c string) string { return `"` + strings.Repeat(c, 20) + `"` }

func announce(hash, peer, more string) string {
	return `{"action":"announce","info_hash":` + hash + `,"peer_id":` + peer + more + `}`
}

func offers(n int) string {
	b := []byte(`,"offers":[`)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"offer":{"type":"offer","sdp":"v=0\r\no=%d"},"offer_id":"offer%015d"}`, i, i)
	}
	return string(append(b, ']'))
}

func (ts *testServer) wantCounts(t *testing.T, hash byte, complete, incomplete uint32) {
	t.Helper()
	var h swarm.InfoHash
	for i := range h {
		h[i] = hash
	}
	var c swarm.Counts
	wait(t, fmt.Sprintf("%d seeders, %d leechers", complete, incomplete), func() bool {
		c = ts.table.Scrape([]swarm.InfoHash{h}, nil)[0]
		return c.Complete == complete && c.Incomplete == incomplete
	})
}
