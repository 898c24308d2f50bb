//go:build linux

package bench

import (
	"bufio"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// roleEnv makes the test binary be something else than the tests: a server or a filled table, in a process of its own.
const roleEnv = "SPILLWAY_BENCH_ROLE"

var roles = map[string]func() error{
	"floor": floorRole,
	"fill":  fillRole,
	"spin":  spinRole,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(roleEnv); name != "" {
		role, ok := roles[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "%s: no role %q\n", roleEnv, name)
			os.Exit(2)
		}
		if err := role(); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	code := m.Run()
	results.print(os.Stdout)
	if buildDir != "" {
		_ = os.RemoveAll(buildDir)
	}
	os.Exit(code)
}

// How long the contests are: make bench runs them in full, and a quick look is -rounds=1 -turn=500ms.
var (
	rounds = flag.Int("rounds", 5, "times each server is loaded")
	turn   = flag.Duration("turn", 3*time.Second, "length of one load")
)

// floorRole serves the body given in hex, until its input ends.
func floorRole() error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	body, err := hex.DecodeString(strings.TrimSpace(line))
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, in)
		os.Exit(0)
	}()
	return ServeFloor(ln, body)
}

// spinRole takes turns with a server on its core. A client with a core of its own cannot open connections as fast as a
// server closes them; beside the spinner the server is half as fast, and always has connections waiting. The spinner
// touches no memory, so it costs the server's caches nothing.
func spinRole() error {
	for turns := 0; ; turns++ {
	}
}

// role is the test binary as another program.
func role(tb testing.TB, name string) *exec.Cmd {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"="+name, "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	return cmd
}

// server is a process under load.
type server struct {
	name string
	addr netip.AddrPort
	pid  int
}

// cores skips the benchmark on a machine that has one core only.
func cores(tb testing.TB) (client, serverCore int) {
	tb.Helper()
	client, serverCore, err := Cores()
	if err != nil {
		tb.Skip(err)
	}
	return client, serverCore
}

// start runs cmd on the server's core until the benchmark ends.
func start(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	_, core := cores(tb)
	if err := StartPinned(cmd, core); err != nil {
		tb.Fatalf("start %s: %v", cmd.Path, err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// startFloor serves body by the floor.
func startFloor(tb testing.TB, body []byte) server {
	tb.Helper()
	cmd := role(tb, "floor")
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	start(tb, cmd)
	if _, err := fmt.Fprintf(in, "%x\n", body); err != nil {
		tb.Fatalf("floor: %v", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatalf("floor: %v", err)
	}
	addr, err := netip.ParseAddrPort(strings.TrimSpace(line))
	if err != nil {
		tb.Fatalf("floor: %v", err)
	}
	return server{name: "floor", addr: addr, pid: cmd.Process.Pid}
}

// startOpentracker starts Debian's opentracker, which serves the torrents of its whitelist; ok is false where it is not
// installed.
func startOpentracker(tb testing.TB, torrent int) (s server, ok bool) {
	tb.Helper()
	program, err := exec.LookPath("opentracker")
	if err != nil {
		return server{}, false
	}
	dir := tb.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // it drops to nobody
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "whitelist"), fmt.Appendf(nil, "%x\n", InfoHash(torrent)), 0o644); err != nil {
		tb.Fatal(err)
	}
	addr := freeAddr(tb)
	cmd := exec.Command(program, "-i", "127.0.0.1", "-p", fmt.Sprint(addr.Port()), "-d", dir, "-w", "whitelist")
	start(tb, cmd)
	waitListening(tb, addr)
	waitWhitelist(tb, addr, torrent)
	return server{name: "opentracker", addr: addr, pid: cmd.Process.Pid}, true
}

// waitWhitelist waits for opentracker to have read its whitelist, which it does in a thread, after it has begun to serve.
func waitWhitelist(tb testing.TB, addr netip.AddrPort, torrent int) {
	tb.Helper()
	client, _ := cores(tb)
	load := Load{Addr: addr, Torrent: torrent, Event: "stopped", Conns: 1, Peers: 1, Core: client}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := load.Once()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("opentracker does not serve its torrent: %v", err)
		}
	}
}

// freeAddr is a loopback port that was free a moment ago, for programs that cannot be given port 0.
func freeAddr(tb testing.TB) netip.AddrPort {
	tb.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	return netip.MustParseAddrPort(ln.Addr().String())
}

func waitListening(tb testing.TB, addr netip.AddrPort) {
	tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp4", addr.String())
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("nothing listens on %s: %v", addr, err)
		}
	}
}
