package listen

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/internal/logx/logxtest"

	"golang.org/x/sys/unix"
)

// role is the command that plays it; see playRole.
func role(t testing.TB, name string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// $$ is the process systemd would name in LISTEN_PID: exec keeps it.
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `LISTEN_PID=$$ exec "$0"`, self)
	cmd.Env = append(os.Environ(), "LISTEN_TEST_ROLE="+name)
	return cmd
}

// The tests here are not parallel: between fork and exec a child holds copies of the sockets that others close.

func TestOutOfFilesAcceptGoesOnWhenSomeAreFree(t *testing.T) {
	if out, err := role(t, "few-files").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// serveWithFewFiles fills the process' file table with connections, and then closes them.
func serveWithFewFiles() error {
	log := &logxtest.Buffer{}
	d, err := Open(Config{Addrs: []string{"127.0.0.1:0"}, MaxConns: 1000}, log.Logger())
	if err != nil {
		return err
	}
	defer d.Close()
	accepted := make(chan net.Conn, 1000)
	go func() {
		for {
			c, err := d.Listeners[0].Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()

	var clients []int
	for range 50 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		clients = append(clients, fd)
	}
	files := uint64(clients[len(clients)-1] + 10) // room for less than ten more
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}); err != nil {
		return err
	}
	for _, fd := range clients {
		port := d.Addrs()[0].(*net.TCPAddr).Port
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
	}
	for end := time.Now().Add(30 * time.Second); !strings.Contains(log.String(), "raise LimitNOFILE"); {
		if time.Now().After(end) {
			return fmt.Errorf("accept never failed; log: %s", log)
		}
		time.Sleep(time.Millisecond) // between polls
	}
	for range clients {
		select {
		case c := <-accepted:
			_ = c.Close()
		case <-time.After(30 * time.Second):
			return errors.New("accept did not go on")
		}
	}
	return nil
}

func TestFitMaxConnsRaisesTheSoftLimit(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if before.Max < 2048 {
		t.Skip("hard limit too low")
	}
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	log := &logxtest.Buffer{}
	if got := FitMaxConns(1000, "http.max_conns", log.Logger()); got != 1000 {
		t.Errorf("got %d, want 1000", got)
	}
	var after unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &after)
	if after.Cur != 1000+reservedFiles || log.String() != "" {
		t.Errorf("soft limit: got %d, want %d; log %q", after.Cur, 1000+reservedFiles, log)
	}
	if got := FitMaxConns(1<<40, "http.max_conns", log.Logger()); uint64(got) != before.Max-reservedFiles || !strings.Contains(log.String(), "lower http.max_conns") {
		t.Errorf("beyond the hard limit %d: got %d; log %q", before.Max, got, log)
	}
}

func TestSystemdSockets(t *testing.T) {
	cmd := role(t, "activated")
	cmd.Env = append(cmd.Env, "LISTEN_FDS=4", "LISTEN_FDNAMES=web:other:udp:web")
	var addrs []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		addrs = append(addrs, l.Addr().String())
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	uf, err := u.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer uf.Close()
	cmd.ExtraFiles = []*os.File{cmd.ExtraFiles[0], cmd.ExtraFiles[1], uf, cmd.ExtraFiles[2]}

	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(30 * time.Second)) // until the child has started
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || line != "hello\n" {
			t.Errorf("%s: got %q, %v", addr, line, err)
		}
		_ = c.Close()
	}
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	if got, want := stdout.String(), "web 2\nrest 1\nleft [udp]\nenv \n"; got != want {
		t.Errorf("child says %q, want %q", got, want)
	}
}

// serveActivated says hello on the sockets systemd, here the test, passed; until its input ends.
func serveActivated(out io.Writer) error {
	in := Inherit()
	var wg sync.WaitGroup
	var doors []*Door
	open := func(name string, addrs ...string) error {
		d, err := Open(Config{Addrs: addrs, MaxConns: 10, Inherited: in}, (&logxtest.Buffer{}).Logger())
		if err != nil {
			return err
		}
		fmt.Fprintln(out, name, len(d.Listeners))
		doors = append(doors, d)
		for _, l := range d.Listeners {
			wg.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(c, "hello\n")
					_ = c.Close()
				}
			})
		}
		return nil
	}
	if err := errors.Join(open("web", "systemd:web"), open("rest", "systemd")); err != nil {
		return err
	}
	fmt.Fprintln(out, "left", in.Left())
	fmt.Fprintln(out, "env", os.Getenv("LISTEN_FDS")+os.Getenv("LISTEN_PID"))
	if err := open("none", "systemd:web"); err == nil {
		return errors.New("the same sockets were taken twice")
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, d := range doors {
		d.Close()
	}
	wg.Wait()
	return nil
}
