//go:build e2e

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// With its memory nearly full the tracker lets no more WebSockets in, then no more connections; those it has are served, and
// when they end it is as before.
func TestShedMemory(t *testing.T) {
	t.Parallel()
	const limit = 64 * mib
	tr := serve(t, "--shedder.memory_max=64MiB", "--http.idle_timeout=1h")
	u, err := url.Parse(tr.announce)
	if err != nil {
		t.Fatal(err)
	}
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	ask := func(c net.Conn, header string) (status int, err error) {
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if _, err := fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n%s\r\n", header); err != nil {
			return 0, err
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return 0, err
		}
		return res.StatusCode, res.Body.Close()
	}
	held := false
	for len(open) < 9000 && !held {
		c, err := net.Dial("tcp", u.Host)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		switch status, err := ask(c, ""); {
		case err == nil && status == http.StatusOK:
		case errors.Is(err, os.ErrDeadlineExceeded):
			held = true
		default:
			t.Fatalf("connection %d: status %d, %v", len(open), status, err)
		}
	}
	if !held {
		t.Fatalf("%d connections, and all were accepted", len(open))
	}
	if status, err := ask(open[0], ""); err != nil || status != http.StatusOK {
		t.Errorf("the first connection, with memory full: status %d, %v", status, err)
	}
	handshake := "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	if status, err := ask(open[1], handshake); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("a WebSocket, with memory full: status %d, %v; want 503", status, err)
	}
	resident := residentBytes(t, tr.cmd.Process.Pid)
	t.Logf("%d connections; resident %d MiB", len(open), resident/mib)
	if resident > limit+16*mib { // the program's own pages are not Go's memory
		t.Errorf("resident: %d MiB, the limit is %d", resident/mib, limit/mib)
	}
	for _, c := range open {
		c.Close()
	}
	open = nil
	waittest.Done(t, 30*time.Second, "connections are accepted again", func() error {
		c, err := net.Dial("tcp", u.Host)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = ask(c, "")
		return err
	})

}

func residentBytes(t *testing.T, pid int) (n int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &n); err == nil {
			return n << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
