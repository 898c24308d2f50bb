package listen

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// accepted is a fresh connection, both ends, on a listener of its own.
func accepted(t testing.TB, network, addr string) (client *net.TCPConn, c *socket) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Skip(err)
	}
	socks, err := newTCPListener(l.(*net.TCPListener))
	if err != nil {
		t.Fatal(err)
	}
	defer socks.Close()
	dialed, err := net.Dial("tcp", socks.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close() })
	conn, err := socks.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return dialed.(*net.TCPConn), conn.(*socket)
}

func (c *socket) polled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.file != nil
}

func TestSocketThatNeedNotWaitStaysOutOfThePoller(t *testing.T) {
	t.Parallel()
	client, c := accepted(t, "tcp4", "127.0.0.1:0")
	if _, err := io.WriteString(client, "question"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != "question" {
		t.Fatalf("Read: got %q, %v", buf[:n], err)
	}
	if n, err := io.WriteString(c, "answer"); n != 6 || err != nil {
		t.Fatalf("Write: got %d, %v", n, err)
	}
	if c.polled() {
		t.Error("nothing had to wait, and the poller has it")
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	got, err := io.ReadAll(client)
	if err != nil || string(got) != "answer" {
		t.Errorf("client: got %q, %v", got, err)
	}
}

func TestSocketWaitsForWhatIsNotThere(t *testing.T) {
	t.Parallel()
	client, c := accepted(t, "tcp4", "127.0.0.1:0")
	read := make(chan string, 1)
	go func() {
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		if err != nil {
			read <- err.Error()
			return
		}
		read <- string(buf[:n])
	}()
	waitFor(t, c.polled)
	if _, err := io.WriteString(client, "late"); err != nil {
		t.Fatal(err)
	}
	if got := <-read; got != "late" {
		t.Errorf("Read: got %q, want %q", got, "late")
	}
	_ = client.CloseWrite()
	if n, err := c.Read(make([]byte, 8)); n != 0 || err != io.EOF {
		t.Errorf("Read at the end: got %d, %v, want EOF", n, err)
	}
}

func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !what(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited 30 s")
		}
	}
}

func TestSocketSeesTheEndWithoutWaiting(t *testing.T) {
	t.Parallel()
	client, c := accepted(t, "tcp4", "127.0.0.1:0")
	_ = client.Close()
	if n, err := c.Read(make([]byte, 8)); n != 0 || err != io.EOF {
		t.Errorf("Read: got %d, %v, want EOF", n, err)
	}
}

func TestSocketDeadlines(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"passed before the first read", "passed with data there", "passes while waiting", "moved while waiting"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, c := accepted(t, "tcp4", "127.0.0.1:0")
			switch name {
			case "passed before the first read":
				_ = c.SetReadDeadline(time.Now().Add(-time.Second))
			case "passed with data there":
				_, _ = io.WriteString(client, "x")
				_ = c.SetReadDeadline(time.Now().Add(-time.Second))
			case "passes while waiting":
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			case "moved while waiting":
				go func() {
					for !c.polled() {
						time.Sleep(time.Millisecond)
					}
					_ = c.SetReadDeadline(time.Now())
				}()
			}
			_, err := c.Read(make([]byte, 8))
			// fasthttp asks for net.Error, and for a *net.OpError to know a timeout by.
			var timeout net.Error
			if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("Read: got %v, want a timeout", err)
			}
			if _, ok := err.(*net.OpError); !ok {
				t.Errorf("Read: got a %T, want *net.OpError", err)
			}
		})
	}
}

func TestSocketWritesWhatDoesNotFitAtOnce(t *testing.T) {
	t.Parallel()
	client, c := accepted(t, "tcp4", "127.0.0.1:0")
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	wrote := make(chan error, 1)
	go func() {
		n, err := c.Write(want)
		if err == nil && n != len(want) {
			err = io.ErrShortWrite
		}
		wrote <- errors.Join(err, c.Close())
	}()
	got, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Errorf("Write: %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("read %d bytes that are not the %d written", len(got), len(want))
	}
}

func TestSocketWriteStopsAtItsDeadline(t *testing.T) {
	t.Parallel()
	_, c := accepted(t, "tcp4", "127.0.0.1:0")
	go func() {
		for !c.polled() {
			time.Sleep(time.Millisecond)
		}
		_ = c.SetWriteDeadline(time.Now())
	}()
	n, err := c.Write(make([]byte, 64<<20)) // nobody reads
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: got %v, want a timeout", err)
	}
	if n <= 0 || n >= 64<<20 {
		t.Errorf("written: got %d, want a part", n)
	}
}

func TestSocketKnowsItsPeer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ network, listen string }{
		"ipv4":                      {"tcp4", "127.0.0.1:0"},
		"ipv6":                      {"tcp6", "[::1]:0"},
		"ipv4 on a socket for both": {"tcp", "[::]:0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, sock := accepted(t, c.network, c.listen)
			want := netip.MustParseAddrPort(client.LocalAddr().String())
			got := sock.RemoteAddr().(*net.TCPAddr).AddrPort()
			if got := netip.AddrPortFrom(got.Addr().Unmap(), got.Port()); got != want {
				t.Errorf("peer: got %s, want %s", got, want)
			}
		})
	}
}

func TestClosedSocket(t *testing.T) {
	t.Parallel()
	for _, polled := range []bool{false, true} {
		_, c := accepted(t, "tcp4", "127.0.0.1:0")
		if polled {
			if _, err := c.SyscallConn(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		_, readErr := c.Read(make([]byte, 1))
		_, writeErr := c.Write(make([]byte, 1))
		_, rawErr := c.SyscallConn()
		for call, err := range map[string]error{"Read": readErr, "Write": writeErr, "SyscallConn": rawErr, "Close": c.Close(),
			"SetDeadline": c.SetDeadline(time.Now())} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("polled %t: %s: got %v, want %v", polled, call, err, net.ErrClosed)
			}
		}
	}
}

func TestCloseEndsAReadThatWaits(t *testing.T) {
	t.Parallel()
	_, c := accepted(t, "tcp4", "127.0.0.1:0")
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	waitFor(t, c.polled)
	_ = c.Close()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: got %v, want %v", err, net.ErrClosed)
	}
}

// A descriptor that is closed may be another connection's a moment later: no call may touch it then.
func TestSocketsUsedFromAllSidesDoNotMix(t *testing.T) {
	t.Parallel()
	const rounds, conns = 20, 8
	for range rounds {
		var all sync.WaitGroup
		for range conns {
			client, c := accepted(t, "tcp4", "127.0.0.1:0")
			token := []byte(client.LocalAddr().String())
			all.Go(func() { _, _ = client.Write(token) })
			all.Go(func() {
				buf := make([]byte, 64)
				if n, err := c.Read(buf); err == nil && !bytes.HasPrefix(token, buf[:n]) {
					t.Errorf("read %q, which is another's than %q", buf[:n], token)
				}
			})
			all.Go(func() { _, _ = c.Write([]byte("x")) })
			all.Go(func() { _ = c.SetDeadline(time.Now().Add(time.Second)) })
			all.Go(func() { _ = c.Close() })
		}
		all.Wait()
	}
}

func TestTCPListenerEndsWithErrClosed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socks, err := newTCPListener(l.(*net.TCPListener))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := socks.Accept()
		ended <- err
	}()
	_ = socks.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: got %v, want %v", err, net.ErrClosed)
	}
	if _, err := net.Dial("tcp", socks.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after Close: got %v, want %v", err, syscall.ECONNREFUSED)
	}
}
