package listen

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spillway/internal/logx/logxtest"
	"spillway/internal/waittest"
)

func trustAll(netip.Addr) bool { return true }

const request = "GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"

// v2 is a PROXY header of version 2: command (0x20 LOCAL, 0x21 PROXY), family (0x11 TCP4, 0x21 TCP6), body.
func v2(command, family byte, body ...byte) string {
	head := []byte("\r\n\r\n\x00\r\nQUIT\n")
	head = append(head, command, family, byte(len(body)>>8), byte(len(body)))
	return string(append(head, body...))
}

func TestProxyHeader(t *testing.T) {
	t.Parallel()
	tcp4 := []byte{192, 0, 2, 1, 192, 0, 2, 2, 0x03, 0xe8, 0, 80} // 192.0.2.1:1000 -> 192.0.2.2:80
	tcp6 := append(netip.MustParseAddr("2001:db8::1").AsSlice(), netip.MustParseAddr("2001:db8::2").AsSlice()...)
	tcp6 = append(tcp6, 0x03, 0xe8, 0, 80)
	mapped := append(netip.MustParseAddr("::ffff:192.0.2.1").AsSlice(), netip.MustParseAddr("::ffff:192.0.2.2").AsSlice()...)
	mapped = append(mapped, 0x03, 0xe8, 0, 80)
	self := "127.0.0.1:" // and a port

	for name, c := range map[string]struct {
		sent   string
		want   string // the address seen, or "" for a closed connection
		result string
	}{
		"v1 TCP4":            {"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n" + request, "192.0.2.1:1000", "ok"},
		"v1 TCP6":            {"PROXY TCP6 2001:db8::1 2001:db8::2 1000 80\r\n" + request, "[2001:db8::1]:1000", "ok"},
		"v1 UNKNOWN":         {"PROXY UNKNOWN\r\n" + request, self, "local"},
		"v1 bad address":     {"PROXY TCP4 192.0.2.256 192.0.2.2 1000 80\r\n" + request, "", "bad"},
		"v1 wrong family":    {"PROXY TCP4 2001:db8::1 2001:db8::2 1000 80\r\n" + request, "", "bad"},
		"v1 bad port":        {"PROXY TCP4 192.0.2.1 192.0.2.2 65536 80\r\n" + request, "", "bad"},
		"v1 without end":     {"PROXY TCP4 " + strings.Repeat("1", 200), "", "bad"},
		"v1 unspecified":     {"PROXY TCP4 0.0.0.0 192.0.2.2 1000 80\r\n" + request, "", "bad"},
		"v2 TCP4":            {v2(0x21, 0x11, tcp4...) + request, "192.0.2.1:1000", "ok"},
		"v2 TCP6":            {v2(0x21, 0x21, tcp6...) + request, "[2001:db8::1]:1000", "ok"},
		"v2 mapped":          {v2(0x21, 0x21, mapped...) + request, "192.0.2.1:1000", "ok"},
		"v2 with TLV":        {v2(0x21, 0x11, append(tcp4[:12:12], 4, 0, 1, 0)...) + request, "192.0.2.1:1000", "ok"},
		"v2 with a long TLV": {v2(0x21, 0x11, append(tcp4[:12:12], append([]byte{4, 4, 0}, make([]byte, 1024)...)...)...) + request, "192.0.2.1:1000", "ok"},
		"v2 LOCAL":           {v2(0x20, 0x00) + request, self, "local"},
		"v2 LOCAL with body": {v2(0x20, 0x11, tcp4...) + request, self, "local"},
		"v2 UDP4":            {v2(0x21, 0x12, tcp4...) + request, "", "bad"},
		"v2 unix":            {v2(0x21, 0x31, make([]byte, 216)...) + request, "", "bad"},
		"v2 bad command":     {v2(0x2f, 0x11, tcp4...) + request, "", "bad"},
		"v2 body too short":  {v2(0x21, 0x11, tcp4[:8]...) + request, "", "bad"},
		"none":               {request, "", "missing"},
		"none, TLS":          {"\x16\x03\x01\x02\x00\x01", "", "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, log := open(t, Config{ProxyProtocol: true, Trusted: func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") }})
			serve(t, d, 10*time.Second)
			client := dial(t, d.Addrs()[0])
			_, _ = io.WriteString(client, c.sent)
			reply, _ := io.ReadAll(client)
			_, body, _ := strings.Cut(string(reply), "\r\n\r\n")
			switch {
			case c.want == self && !strings.HasPrefix(body, self), c.want != self && body != c.want:
				t.Errorf("client seen as: got %q, want %q", body, c.want)
			case c.want == "" && len(reply) > 0:
				t.Errorf("refused with %q, want silence", reply)
			}
			if got := metric(t, d, `spillway_proxy_protocol_total{endpoint="http",result="`+c.result+`"}`); got != "1" {
				t.Errorf("count of %s: got %s, want 1", c.result, got)
			}
			if got := strings.Contains(log.String(), "no usable PROXY header"); got != (c.want == "") {
				t.Errorf("log: got %q", log)
			}
		})
	}
}

func TestProxyHeaderCutShort(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{ProxyProtocol: true, Trusted: trustAll})
	serve(t, d, 10*time.Second)
	for _, whole := range []string{
		"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n",
		v2(0x21, 0x11, 192, 0, 2, 1, 192, 0, 2, 2, 0x03, 0xe8, 0, 80),
	} {
		for n := range len(whole) {
			client := dial(t, d.Addrs()[0])
			_, _ = io.WriteString(client, whole[:n])
			_ = client.(*net.TCPConn).CloseWrite()
			if reply, err := io.ReadAll(client); err != nil || len(reply) > 0 {
				t.Errorf("cut at %d: got %q, %v; want the end", n, reply, err)
			}
		}
	}
	waittest.Until(t, waittest.Patience, "all places are free", func() bool { return d.Conns() == 0 })
}

// TestProxyHeaderInPieces covers version 2 only: the parser wants version 1's line in one read, as the specification
// lets a receiver do.
func TestProxyHeaderInPieces(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{ProxyProtocol: true, Trusted: trustAll})
	serve(t, d, 10*time.Second)
	client := dial(t, d.Addrs()[0])
	for _, b := range []byte(v2(0x21, 0x11, 192, 0, 2, 1, 192, 0, 2, 2, 0x03, 0xe8, 0, 80) + request) {
		_, _ = client.Write([]byte{b})
	}
	reply, _ := io.ReadAll(client)
	if !bytes.HasSuffix(reply, []byte("192.0.2.1:1000")) {
		t.Errorf("got %q", reply)
	}
}

func TestUntrustedPeerIsServedAsItselfAndMaySendNoHeader(t *testing.T) {
	t.Parallel()
	d, log := open(t, Config{ProxyProtocol: true, Trusted: func(netip.Addr) bool { return false }})
	serve(t, d, 10*time.Second)

	client := dial(t, d.Addrs()[0])
	_, _ = io.WriteString(client, request)
	if reply, _ := io.ReadAll(client); !bytes.HasSuffix(reply, []byte(client.LocalAddr().String())) {
		t.Errorf("without header: got %q, want the client's own address", reply)
	}
	for _, header := range []string{"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n", v2(0x21, 0x11, 192, 0, 2, 1, 192, 0, 2, 2, 0x03, 0xe8, 0, 80)} {
		client := dial(t, d.Addrs()[0])
		_, _ = io.WriteString(client, header+request)
		if reply, _ := io.ReadAll(client); len(reply) > 0 {
			t.Errorf("with header: got %q, want silence", reply)
		}
	}
	if got := metric(t, d, `spillway_proxy_protocol_total{endpoint="http",result="untrusted"}`); got != "2" {
		t.Errorf("count: got %s, want 2", got)
	}
	waittest.Until(t, waittest.Patience, "all places are free", func() bool { return d.Conns() == 0 })
	if log.String() != "" {
		t.Errorf("a stranger made a log line: %s", log)
	}
}

func TestUnixPeersAreTrustedProxies(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	d, _ := open(t, Config{Addrs: []string{"unix:" + path}, ProxyProtocol: true})
	serve(t, d, 10*time.Second)
	client := dial(t, d.Addrs()[0])
	_, _ = io.WriteString(client, "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"+request)
	if reply, _ := io.ReadAll(client); !bytes.HasSuffix(reply, []byte("192.0.2.1:1000")) {
		t.Errorf("got %q", reply)
	}
}

func TestSlowProxyHeaderEndsAfterFiveSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(Config{MaxConns: 1, ProxyProtocol: true}, (&logxtest.Buffer{}).Logger())
		if err != nil {
			t.Fatal(err)
		}
		sock, client := net.Pipe()
		c := &Conn{Conn: sock, door: d, proxy: &proxied{trusted: true}}
		d.places <- struct{}{}
		var wg sync.WaitGroup
		defer wg.Wait()
		defer client.Close()
		defer c.Close()
		wg.Go(func() { // a byte a second, for ever
			for _, b := range []byte(v2(0x21, 0x11, make([]byte, 200)...)) {
				if _, err := client.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second) // in synctest's time
			}
		})
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		wg.Go(func() { // nor does a later deadline, set meanwhile, lengthen it
			time.Sleep(time.Second)
			_ = c.SetReadDeadline(time.Now().Add(time.Hour))
		})
		start := time.Now()
		if _, err := c.Read(make([]byte, 10)); err != io.EOF {
			t.Errorf("Read: got %v, want io.EOF", err)
		}
		if got := time.Since(start); got != proxyHeaderTimeout {
			t.Errorf("waited: got %v, want %v", got, proxyHeaderTimeout)
		}
		if got := metric(t, d, `spillway_proxy_protocol_total{endpoint="http",result="timeout"}`); got != "1" {
			t.Errorf("count: got %s, want 1", got)
		}
	})
}

func TestReadDeadlineAskedBeforeTheProxyHeaderHoldsAfterIt(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{ProxyProtocol: true, Trusted: trustAll})
	client := dial(t, d.Addrs()[0])
	c, err := d.Listeners[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, _ = io.WriteString(client, "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n")
	if _, err := c.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("Read: got %v, want a timeout", err)
	}
}

// FuzzProxyHeader sends any bytes as a trusted and as an untrusted peer: no panic, and what follows a good header comes through whole.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"+request), true)
	f.Add([]byte("PROXY UNKNOWN\r\n"+request), true)
	f.Add([]byte(v2(0x21, 0x11, 192, 0, 2, 1, 192, 0, 2, 2, 0x03, 0xe8, 0, 80)+request), true)
	f.Add([]byte(v2(0x20, 0)+request), true)
	f.Add([]byte(request), false)
	d, err := Open(Config{MaxConns: 1, ProxyProtocol: true}, (&logxtest.Buffer{}).Logger())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sent []byte, trusted bool) {
		c := &Conn{Conn: &bytesConn{Reader: bytes.NewReader(sent)}, door: d, proxy: &proxied{trusted: trusted}}
		d.places <- struct{}{}
		defer c.Close()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatalf("ReadAll: %v", err)
		}
		if !bytes.HasSuffix(sent, got) {
			t.Errorf("read %q of %q", got, sent)
		}
		switch addr := c.RemoteAddr().(type) {
		case *net.TCPAddr:
			if addr.AddrPort().Addr().Is4In6() || addr.IP.IsUnspecified() {
				t.Errorf("client: got %v", addr)
			}
		default:
			t.Errorf("client: got %T", addr)
		}
	})
}

// bytesConn is a connection whose peer sends these bytes, and no more.
type bytesConn struct {
	net.Conn
	*bytes.Reader
}

func (c *bytesConn) Read(b []byte) (int, error)      { return c.Reader.Read(b) }
func (c *bytesConn) Close() error                    { return nil }
func (c *bytesConn) SetReadDeadline(time.Time) error { return nil }
func (c *bytesConn) RemoteAddr() net.Addr            { return &net.TCPAddr{IP: net.IP{198, 51, 100, 1}, Port: 1} }
