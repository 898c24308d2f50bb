package tracker

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"
	httpTracker "github.com/anacrolix/torrent/tracker/http"
	"go.uber.org/goleak"

	"spillway/tracker/swarm"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// fasthttp's clock, which it never stops, and what cleans up after a server: it sleeps ten seconds before it looks.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// testConfig is the program's defaults, with the times of a test.
func testConfig() Config {
	return Config{
		Interval: 30 * time.Minute, MaxInterval: 90 * time.Minute, NumWant: 50, MaxNumWant: 200,
		RealIPHeader: "X-Forwarded-For", AccessMode: AccessOpen, IdleTimeout: 20 * time.Second, MaxConns: 1000,
	}
}

// lines is a slog.Handler that keeps what would be logged.
type lines struct {
	mu   sync.Mutex // guards text
	text []string
}

func (l *lines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l *lines) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *lines) WithGroup(string) slog.Handler                    { return l }
func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	l.text = append(l.text, text)
	return nil
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.text...)
}

// server is a tracker that serves on loopback until the test ends.
type server struct {
	*testing.T
	tracker *Tracker
	table   *swarm.Table
	log     *lines
	addr    string
}

// serve starts a tracker. change, if not nil, changes its configuration.
func serve(t *testing.T, change func(*Config)) *server {
	t.Helper()
	return serveOn(t, change, "tcp4", "127.0.0.1:0", nil)
}

func serveOn(t *testing.T, change func(*Config), network, addr string, swarms Swarms) *server {
	t.Helper()
	cfg := testConfig()
	if change != nil {
		change(&cfg)
	}
	s := &server{T: t, table: swarm.New(swarm.Config{}), log: new(lines)}
	if swarms == nil {
		swarms = s.table
	}
	var err error
	if s.tracker, err = New(cfg, swarms, slog.New(s.log)); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Skipf("no %s here: %v", network, err)
	}
	s.addr = ln.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.tracker.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.tracker.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		ln.Close() // which Shutdown has not done when Serve had not begun
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

// client is one connection to the server, with a deadline.
type client struct {
	*server
	net.Conn
	r *bufio.Reader
}

func (s *server) dial() *client { return s.dialFrom("") }

// dialFrom connects from an address of this machine, as any in 127.0.0.0/8 is.
func (s *server) dialFrom(addr string) *client {
	s.Helper()
	var d net.Dialer
	network := "tcp"
	if addr != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0))
	}
	if strings.HasPrefix(s.addr, "/") {
		network = "unix"
	}
	conn, err := d.Dial(network, s.addr)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		s.Fatal(err)
	}
	return &client{s, conn, bufio.NewReader(conn)}
}

func (c *client) send(raw string) {
	c.Helper()
	if _, err := io.WriteString(c.Conn, raw); err != nil {
		c.Fatal(err)
	}
}

// reply is a response, with its body read.
type reply struct {
	*http.Response
	body string
}

func (c *client) read(method string) reply {
	c.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.Fatal(err)
	}
	return reply{res, string(body)}
}

// get asks for uri with the header lines given.
func (c *client) get(uri string, header ...string) reply {
	c.Helper()
	c.send("GET " + uri + " HTTP/1.1\r\nHost: tracker.example\r\n" + strings.Join(append(header, "\r\n"), "\r\n"))
	return c.read(http.MethodGet)
}

// closed tells whether the server has closed the connection, waiting for it to.
func (c *client) closed() bool {
	_, err := c.r.ReadByte()
	return err == io.EOF
}

// get asks on a connection of its own.
func (s *server) get(uri string, header ...string) reply {
	s.Helper()
	c := s.dial()
	defer c.Close()
	return c.get(uri, header...)
}

// announceURI is an announce by a leecher of the torrent "aaaa...", with more parameters.
func announceURI(more string) string {
	return "/announce?info_hash=" + hash20 + "&peer_id=-qB4500-abcdefghijkl&port=6881&left=1" + more
}

// decoded is a bencoded announce reply in both of its readings.
type decoded struct {
	httpTracker.HttpResponse
	raw map[string]any
}

// decode reads a reply that must be one to a tracker client: status 200, canonical bencode, of a length told.
func (r reply) decode(t testing.TB) decoded {
	t.Helper()
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "text/plain" || r.ContentLength != int64(len(r.body)) ||
		len(r.TransferEncoding) > 0 || r.Header.Get("Content-Encoding") != "" {
		t.Fatalf("got %s %v, %d bytes: %q", r.Status, r.Header, r.ContentLength, r.body)
	}
	d := decoded{raw: reencode(t, []byte(r.body))}
	if err := bencode.Unmarshal([]byte(r.body), &d.HttpResponse); err != nil {
		t.Fatalf("%q: %v", r.body, err)
	}
	return d
}

// announce asks and decodes.
func (c *client) announce(uri string, header ...string) decoded {
	c.Helper()
	return c.get(uri, header...).decode(c)
}

func (s *server) announce(uri string, header ...string) decoded {
	s.Helper()
	return s.get(uri, header...).decode(s)
}

// peers are the peers of a reply, of both families.
func (d decoded) peers() (all []netip.AddrPort) {
	for _, p := range d.Peers.List {
		addr, _ := netip.AddrFromSlice(p.IP)
		all = append(all, netip.AddrPortFrom(addr.Unmap(), uint16(p.Port)))
	}
	for _, p := range d.Peers6 {
		addr, _ := netip.AddrFromSlice(p.IP)
		all = append(all, netip.AddrPortFrom(addr, uint16(p.Port)))
	}
	return all
}

// file writes a file into a folder of the test's own and returns its path.
func file(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
