//go:build linux

package bench

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// startWebSockets starts the real program with more flags, on the server's core unless cores is 2.
func startWebSockets(tb testing.TB, procs int, flags ...string) tracker {
	tb.Helper()
	path := *program
	if path == "" {
		var err error
		if path, err = build(); err != nil {
			tb.Fatal(err)
		}
	}
	t := tracker{server: server{name: "spillway", addr: freeAddr(tb)}, admin: freeAddr(tb)}
	cmd := exec.Command(path, append([]string{"serve", "--data_dir=" + tb.TempDir(), "--http.listen=" + t.addr.String(),
		"--admin.listen=" + t.admin.String(), "--udp.listen=", "--http.max_conns=500", "--ws.max_conns=18000", "--store.snapshot.every=0s", "--log.level=warn"}, flags...)...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("GOMAXPROCS=%d", procs), "SPILLWAY_ADMIN_TOKEN="+adminToken)
	cmd.Stderr = os.Stderr
	if procs == 1 {
		start(tb, cmd)
	} else {
		startAnywhere(tb, cmd)
	}
	waitListening(tb, t.addr)
	t.pid = cmd.Process.Pid
	return t
}

// startAnywhere is start on all cores.
func startAnywhere(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", cmd.Path, err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// npmTracker is the tracker that WebTorrent's authors publish. It is not part of this tree: it is installed once, into the
// user's cache directory, by who runs the benchmark.
const npmTracker = "bittorrent-tracker@11.2.3"

// npmServer is its server with WebSockets alone, on a port of the kernel's choice.
const npmServer = `
import Server from 'bittorrent-tracker/server'
const server = new Server({ udp: false, http: false, ws: true, stats: false })
server.on('error', err => { console.error(err); process.exit(1) })
server.on('warning', err => console.error(err.message))
server.listen(0, '127.0.0.1', () => console.log('127.0.0.1:' + server.http.address().port))
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

// startNPMTracker starts it on the server's core; ok is false where it cannot be had.
func startNPMTracker(tb testing.TB) (s server, ok bool) {
	tb.Helper()
	dir, err := installNPMTracker()
	if err != nil {
		tb.Logf("bittorrent-tracker is not there, and left out: %v", err)
		return server{}, false
	}
	cmd := exec.Command("node", "--input-type=module", "-e", npmServer)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	start(tb, cmd)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatalf("bittorrent-tracker: %v", err)
	}
	addr, err := netip.ParseAddrPort(strings.TrimSpace(line))
	if err != nil {
		tb.Fatalf("bittorrent-tracker: %v", err)
	}
	return server{name: "bittorrent-tracker", addr: addr, pid: cmd.Process.Pid}, true
}
