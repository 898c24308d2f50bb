//go:build linux

package bench

import (
	"bufio"
	"cmp"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"spillway/internal/flood"
	"spillway/internal/sys"
)

// server is a process under load.
type server struct {
	name  string
	addr  netip.AddrPort
	admin netip.AddrPort // of spillway
	pid   int
	stop  func() // which the benchmark's end does too
}

// cores skips the benchmark on a machine that has one core only.
func cores(tb testing.TB) (client, serverCore int) {
	tb.Helper()
	all, err := sys.Cores()
	if err != nil {
		tb.Fatal(err)
	}
	if len(all) < 2 {
		tb.Skip("a benchmark needs two cores, one for the server and one for the client")
	}
	// The first core serves most interrupts, so the server gets the last.
	return all[0], all[len(all)-1]
}

// start runs cmd on the server's core until stop or the end of the benchmark.
func start(tb testing.TB, cmd *exec.Cmd) (stop func()) {
	tb.Helper()
	_, core := cores(tb)
	if err := sys.StartPinned(cmd, core); err != nil {
		tb.Fatalf("start %s: %v", cmd.Path, err)
	}
	return stopper(tb, cmd)
}

// stopper waits for a process that was started.
func stopper(tb testing.TB, cmd *exec.Cmd) (stop func()) {
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	stop = func() {
		_ = cmd.Process.Kill() // says so itself if it has ended
		<-ended
	}
	tb.Cleanup(stop)
	return stop
}

// startAt starts a program that serves at addr, and waits until it does.
func startAt(tb testing.TB, name string, addr netip.AddrPort, cmd *exec.Cmd, over protocol) server {
	tb.Helper()
	s := server{name: name, addr: addr, stop: start(tb, cmd)}
	s.pid = cmd.Process.Pid
	if over == overUDP {
		waitUDP(tb, addr)
	} else {
		waitListening(tb, addr)
	}
	return s
}

// program is where to find another version, to compare.
var program = flag.String("spillway", "", "program to measure; empty builds this tree's")

// buildDir is where build put it, for TestMain to remove.
var buildDir string

// build makes the program once for all benchmarks of a run.
var build = sync.OnceValues(func() (path string, err error) {
	if *program != "" {
		return *program, nil
	}
	if buildDir, err = os.MkdirTemp("", "spillway-bench-"); err != nil {
		return "", err
	}
	path = filepath.Join(buildDir, "spillway")
	cmd := exec.Command("go", "build", "-o", path, "spillway/cmd/spillway")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build spillway: %w: %s", err, out)
	}
	return path, nil
})

// adminToken lets a benchmark read the server's metrics and ask it for a collection.
const adminToken = "a-token-for-benchmarks-only-0123456789"

// startSpillway starts the real program on the server's core. Flags come after those that all have, and stand above them.
func startSpillway(tb testing.TB, flags ...string) server {
	tb.Helper()
	s, cmd := spillway(tb, 1, flags)
	s.stop = start(tb, cmd)
	s.pid = cmd.Process.Pid
	waitListening(tb, s.addr)
	return s
}

// startWide is startSpillway on all cores.
func startWide(tb testing.TB, procs int, flags ...string) server {
	tb.Helper()
	s, cmd := spillway(tb, procs, flags)
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", cmd.Path, err)
	}
	s.pid, s.stop = cmd.Process.Pid, stopper(tb, cmd)
	waitListening(tb, s.addr)
	return s
}

func spillway(tb testing.TB, procs int, flags []string) (server, *exec.Cmd) {
	tb.Helper()
	path, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	s := server{name: "spillway", addr: freeAddr(tb), admin: freeAddr(tb)}
	cmd := exec.Command(path, append([]string{"serve", "--data_dir=" + tb.TempDir(), "--http.listen=" + s.addr.String(), "--udp.listen=" + s.addr.String(),
		"--admin.listen=" + s.admin.String(), "--http.max_conns=2000", "--ws.max_conns=16000", "--store.memory.max=2GiB", "--store.snapshot.every=0s", "--log.level=warn"}, flags...)...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("GOMAXPROCS=%d", procs), "SPILLWAY_ADMIN_TOKEN="+adminToken)
	cmd.Stderr = os.Stderr
	return s, cmd
}

// waitReady waits for the snapshot to be loaded.
func waitReady(tb testing.TB, s server) {
	tb.Helper()
	await(tb, time.Minute, "spillway is ready", func() error {
		status, _, err := fasthttp.GetTimeout(nil, "http://"+s.admin.String()+"/readyz", time.Second)
		if err == nil && status != fasthttp.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
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
	s := server{name: "floor", stop: start(tb, cmd)}
	s.pid = cmd.Process.Pid
	if _, err := fmt.Fprintf(in, "%x\n", body); err != nil {
		tb.Fatalf("floor: %v", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		s.addr, err = netip.ParseAddrPort(strings.TrimSpace(line))
	}
	if err != nil {
		tb.Fatalf("floor: %v", err)
	}
	return s
}

// startOpentracker starts Debian's opentracker, over HTTP and UDP. It is built with a list of those it serves: torrents 0 to torrents-1.
// ok is false where it is not installed.
func startOpentracker(tb testing.TB, torrents int) (s server, ok bool) {
	tb.Helper()
	program, err := exec.LookPath("opentracker")
	if err != nil {
		return server{}, false
	}
	dir := tb.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // it drops to nobody
		tb.Fatal(err)
	}
	var list []byte
	for i := range torrents {
		list = fmt.Appendf(list, "%x\n", flood.InfoHash(i))
	}
	if err := os.WriteFile(filepath.Join(dir, "whitelist"), list, 0o644); err != nil {
		tb.Fatal(err)
	}
	addr := freeAddr(tb)
	port := fmt.Sprint(addr.Port())
	s = startAt(tb, "opentracker", addr, exec.Command(program, "-i", "127.0.0.1", "-p", port, "-P", port, "-d", dir, "-w", "whitelist"), httpClose)
	// It reads its whitelist in a thread, after it has begun to serve.
	client, _ := cores(tb)
	load := Load{Addr: addr, Torrent: torrents - 1, Event: "stopped", Conns: 1, Peers: 1, Core: client}
	await(tb, 10*time.Second, "opentracker serves its torrents", func() error {
		_, err := load.Once()
		return err
	})
	return s, true
}

// npmTracker is the tracker that WebTorrent's authors publish. It is not part of this tree: it is installed once, into the
// user's cache directory, by who runs the benchmark.
const npmTracker = "bittorrent-tracker@11.2.3"

// npmServer is its server with what is asked for of its protocols.
const npmServer = `
import Server from 'bittorrent-tracker/server'
const [port, udp, ws] = [Number(process.env.PORT), process.env.UDP === '1', process.env.WS === '1']
const server = new Server({ udp, http: !udp && !ws, ws, stats: false })
server.on('error', err => { console.error(err); process.exit(1) })
server.on('warning', () => {}) // in a flood, thousands: of clients that are gone
server.listen(port, { http: '127.0.0.1', udp: '127.0.0.1', udp6: '::1' })
`

// installNPMTracker returns the directory it is installed in.
var installNPMTracker = sync.OnceValues(func() (dir string, err error) {
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			return "", err
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(cache, "spillway-bench", strings.ReplaceAll(npmTracker, "@", "-"))
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "bittorrent-tracker", "package.json")); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("npm", "install", "--prefix", dir, "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", npmTracker)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm install %s: %w: %s", npmTracker, err, out)
	}
	return dir, nil
})

// startNPMTracker starts it for one protocol; ok is false where it cannot be had.
func startNPMTracker(tb testing.TB, over protocol) (s server, ok bool) {
	tb.Helper()
	dir, err := installNPMTracker()
	if err != nil {
		tb.Logf("bittorrent-tracker is not there, and left out: %v", err)
		return server{}, false
	}
	addr := freeAddr(tb)
	flag := func(name string, p protocol) string {
		return fmt.Sprintf("%s=%d", name, map[bool]int{true: 1}[over == p])
	}
	cmd := exec.Command("node", "--input-type=module", "-e", npmServer)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), fmt.Sprintf("PORT=%d", addr.Port()), flag("UDP", overUDP), flag("WS", overWS))
	return startAt(tb, "bittorrent-tracker", addr, cmd, over), true
}

// startRedis starts a redis-server that keeps nothing on disk, on the server's core: a machine of two has no third. ok is false where
// it is not installed.
func startRedis(tb testing.TB) (s server, ok bool) {
	tb.Helper()
	program, err := exec.LookPath(cmp.Or(os.Getenv("SPILLWAY_TEST_REDIS"), "redis-server"))
	if err != nil {
		return server{}, false
	}
	addr := freeAddr(tb)
	return startAt(tb, "redis", addr, exec.Command(program, "--port", fmt.Sprint(addr.Port()), "--bind", "127.0.0.1", "--dir", tb.TempDir(), "--save", "",
		"--appendonly", "no", "--daemonize", "no", "--loglevel", "warning"), httpClose), true
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
	await(tb, 10*time.Second, addr.String()+" is listened on", func() error {
		c, err := net.Dial("tcp4", addr.String())
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

// waitUDP waits for an answer to a connect.
func waitUDP(tb testing.TB, addr netip.AddrPort) {
	tb.Helper()
	await(tb, 10*time.Second, "udp://"+addr.String()+" answers", func() error {
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(addr))
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if _, err = c.Write(udpConnect(7)); err == nil {
			_, err = c.Read(make([]byte, 64))
		}
		return err
	})
}

// await tries until f has no error.
func await(tb testing.TB, within time.Duration, what string, f func() error) {
	tb.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("not within %s: %s: %v", within, what, err)
		}
	}
}
