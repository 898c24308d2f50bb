package listen

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/internal/logx/logxtest"
)

func TestTCPNetwork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		addr string
		all  []string
		want string
	}{
		{":6969", nil, "tcp"},
		{"localhost:6969", nil, "tcp"},
		{"0.0.0.0:6969", nil, "tcp4"},
		{"192.0.2.1:6969", nil, "tcp4"},
		{"[::]:6969", nil, "tcp"},
		{"[::]:6969", []string{"0.0.0.0:6969", "[::]:6969"}, "tcp6"},
		{"[::]:6969", []string{"0.0.0.0:80", "[::]:6969"}, "tcp"},
		{"[2001:db8::1]:6969", []string{"0.0.0.0:6969"}, "tcp"},
	} {
		if got := tcpNetwork(c.addr, c.all); got != c.want {
			t.Errorf("tcpNetwork(%s, %v): got %s, want %s", c.addr, c.all, got, c.want)
		}
	}
}

func TestBothWildcardsOnOnePort(t *testing.T) {
	t.Parallel()
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("no IPv6 here")
	} else {
		_ = l.Close()
	}
	for left := 10; ; left-- {
		free, _ := open(t, Config{Addrs: []string{"0.0.0.0:0"}})
		port := free.Addrs()[0].(*net.TCPAddr).Port
		free.Close()
		d, err := Open(Config{Addrs: []string{fmt.Sprintf("[::]:%d", port), fmt.Sprintf("0.0.0.0:%d", port)}, MaxConns: 1}, (&logxtest.Buffer{}).Logger())
		if err == nil {
			d.Close()
			return
		}
		if left == 0 { // somebody else may take the port meanwhile, but not each time
			t.Fatalf("Open: %v", err)
		}
	}
}

func TestOpenErrorsNameTheKeyAndTheWayOut(t *testing.T) {
	t.Parallel()
	taken, _ := open(t, Config{})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), nil)
	live, _ := open(t, Config{Addrs: []string{"unix:" + filepath.Join(dir, "live")}})

	for _, c := range []struct{ addr, want string }{
		{taken.Addrs()[0].String(), "choose another port"},
		{"192.0.2.1:0", "choose an address of this machine"},
		{"127.0.0.1", "missing port"},
		{"unix:", "needs a path"},
		{"unix:" + filepath.Join(dir, "file"), "is not a socket; remove it"},
		{"unix:" + live.Addrs()[0].String(), "is in use"},
		{"unix:" + filepath.Join(dir, "none", "s"), "no such file"},
		{"systemd", "start the .socket unit"},
		{"systemd:web", "FileDescriptorName=web"},
	} {
		first := filepath.Join(t.TempDir(), "first")
		_, err := Open(Config{Addrs: []string{"unix:" + first, c.addr}, MaxConns: 1}, (&logxtest.Buffer{}).Logger())
		if err == nil || !strings.HasPrefix(err.Error(), "http.listen: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want http.listen: ... %s", c.addr, err, c.want)
		}
		if _, err := os.Stat(first); err == nil {
			t.Errorf("%s: the first socket is left open", c.addr)
		}
	}
	if _, err := Open(Config{Key: "ws"}, (&logxtest.Buffer{}).Logger()); err == nil || !strings.HasPrefix(err.Error(), "ws.max_conns: got 0") {
		t.Errorf("max_conns 0: got %v", err)
	}
}

func TestUnixSocketTakesTheStaleFilesPlace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false) // as kill -9 leaves it
	_ = stale.Close()

	d, _ := open(t, Config{Addrs: []string{"unix:" + path}})
	serve(t, d, 10*time.Second)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o660 {
		t.Errorf("mode: got %04o, want 0660", got)
	}
	c := dial(t, d.Addrs()[0])
	_, _ = io.WriteString(c, request)
	if reply, _ := io.ReadAll(c); !strings.HasPrefix(string(reply), "HTTP/1.1 200") {
		t.Errorf("got %q", reply)
	}
	d.Close()
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is left after Close")
	}
}

func TestDeferAcceptServesWhoSpeaksAndSeesTheSilentLater(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{DeferAccept: true})
	serve(t, d, 3*time.Second) // a busy machine may not get to a request for a while
	silent := dial(t, d.Addrs()[0])
	c := dial(t, d.Addrs()[0])
	_, _ = io.WriteString(c, request)
	if reply, _ := io.ReadAll(c); !strings.HasPrefix(string(reply), "HTTP/1.1 200") {
		t.Errorf("got %q", reply)
	}
	if _, err := silent.Read(make([]byte, 1)); os.IsTimeout(err) {
		t.Error("the silent connection is never ended")
	}
}

func TestSocketsShareAPort(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{Sockets: 2})
	if len(d.Listeners) != 2 || d.Addrs()[0].String() != d.Addrs()[1].String() {
		t.Fatalf("addresses: got %v, want the same twice", d.Addrs())
	}
	serve(t, d, 10*time.Second)
	for range 20 {
		c := dial(t, d.Addrs()[0])
		_, _ = io.WriteString(c, request)
		if reply, _ := io.ReadAll(c); !strings.HasPrefix(string(reply), "HTTP/1.1 200") {
			t.Errorf("got %q", reply)
		}
	}
}
