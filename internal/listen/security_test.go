package listen

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/internal/logx/logxtest"
	"spillway/internal/waittest"
)

// drip writes a byte every 20 ms, from the first of raw to its last again and again, until the server closes, and tells whether it did.
func drip(t *testing.T, c net.Conn, raw string) bool {
	t.Helper()
	began := time.Now()
	buf := make([]byte, 4096)
	for i := 0; time.Since(began) < 20*time.Second; i++ {
		if _, err := c.Write([]byte{raw[i%len(raw)]}); err != nil {
			return true
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := c.Read(buf); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return true
		}
	}
	return false
}

// A TLS handshake has the deadline of a request, however steadily its bytes come, and whether or not a PROXY header is before it.
func TestTLSHandshakeThatNeverEnds(t *testing.T) {
	t.Parallel()
	// A record that says it has 16 KiB of a ClientHello, of which there is always more to come.
	hello := "\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + strings.Repeat("\xaa", 200)
	for name, c := range map[string]struct {
		cfg    Config
		before string
	}{
		"plain":               {Config{Certs: testCerts(t)}, ""},
		"behind a header":     {Config{Certs: testCerts(t), ProxyProtocol: true, Trusted: trustAll}, "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"},
		"nothing is said":     {Config{Certs: testCerts(t)}, ""},
		"after a whole hello": {Config{Certs: testCerts(t)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, log := open(t, c.cfg)
			serve(t, d, 500*time.Millisecond)
			conn := dial(t, d.Addrs()[0])
			_, _ = io.WriteString(conn, c.before)
			switch name {
			case "nothing is said":
				_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
				if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("still open")
				}
			case "after a whole hello":
				// The client never says that it has finished.
				_, _ = conn.Write(clientHello(t))
				_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
				if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("still open")
				}
			default:
				if _, _ = io.WriteString(conn, hello[:11]); !drip(t, conn, hello[11:]) {
					t.Error("still open")
				}
			}
			waittest.Until(t, waittest.Patience, "the place is free", func() bool { return d.Conns() == 0 })
			if log.String() != "" {
				t.Errorf("a stranger made a log line: %s", log)
			}
		})
	}
}

// clientHello is what a client says first.
func clientHello(t *testing.T) []byte {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake() // fails when the pipe is closed
	}()
	defer func() { server.Close(); <-done }()
	b := make([]byte, 16<<10)
	_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := server.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// Only the proxy's own header counts. One that its client has put behind it is the beginning of a bad request, whoever it names.
func TestASecondProxyHeaderIsNotBelieved(t *testing.T) {
	t.Parallel()
	forged := netip.MustParseAddr("203.0.113.9").As4()
	v2Forged := v2(0x21, 0x11, append(forged[:], 192, 0, 2, 2, 0, 80, 0, 80)...)
	v2Real := v2(0x21, 0x11, 192, 0, 2, 1, 192, 0, 2, 2, 0x03, 0xe8, 0, 80)
	const v1Forged, v1Real = "PROXY TCP4 203.0.113.9 192.0.2.2 80 80\r\n", "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"
	for _, real := range []string{v1Real, v2Real} {
		for _, forged := range []string{v1Forged, v2Forged} {
			d, _ := open(t, Config{ProxyProtocol: true, Trusted: trustAll})
			serveLogging(t, d, 10*time.Second, noLogger{})
			c := dial(t, d.Addrs()[0])
			_, _ = io.WriteString(c, real+forged+request)
			reply, _ := io.ReadAll(c)
			if bytes.Contains(reply, []byte("203.0.113.9")) || bytes.HasPrefix(reply, []byte("HTTP/1.1 200")) {
				t.Errorf("%q: got %q", real+forged, reply)
			}
		}
	}
}

// A link at a socket's path is neither removed nor bound through.
func TestUnixSocketAtALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "http.sock")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{victim, filepath.Join(dir, "nowhere"), dir} {
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		d, err := Open(Config{Addrs: []string{"unix:" + path}, MaxConns: 1}, (&logxtest.Buffer{}).Logger())
		if err == nil {
			d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "is not a socket") {
			t.Errorf("a link to %s: got %v", target, err)
		}
		if got, err := os.Readlink(path); err != nil || got != target {
			t.Errorf("the link: got %q, %v", got, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
		t.Errorf("the file behind the link: got %q, %v", got, err)
	}
	open(t, Config{Addrs: []string{"unix:" + path}})
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != unixMode {
		t.Errorf("the socket: got %v, %v; want mode %04o", info.Mode(), err, unixMode)
	}
}
