//go:build linux

package bench

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// program is where to find another version, to compare.
var program = flag.String("spillway", "", "program to measure; empty builds this tree's")

// buildDir is where build put it, for TestMain to remove.
var buildDir string

// build makes the program once for all benchmarks of a run.
var build = sync.OnceValues(func() (path string, err error) {
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

// tracker is the server under test, the real program.
type tracker struct {
	server
	admin netip.AddrPort
}

// startSpillway serves from dataDir; an empty one is made where it is not given.
func startSpillway(tb testing.TB, dataDir string, flags ...string) tracker {
	tb.Helper()
	path := *program
	if path == "" {
		var err error
		if path, err = build(); err != nil {
			tb.Fatal(err)
		}
	}
	if dataDir == "" {
		dataDir = tb.TempDir()
	}
	t := tracker{server: server{name: "spillway", addr: freeAddr(tb)}, admin: freeAddr(tb)}
	cmd := exec.Command(path, append([]string{"serve", "--data_dir=" + dataDir, "--http.listen=" + t.addr.String(), "--udp.listen=" + t.addr.String(), "--admin.listen=" + t.admin.String(),
		"--http.max_conns=2000", "--store.memory.max=2GiB", "--store.snapshot.every=0s", "--log.level=warn"}, flags...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "SPILLWAY_ADMIN_TOKEN="+adminToken)
	cmd.Stderr = os.Stderr
	start(tb, cmd)
	waitListening(tb, t.addr)
	t.pid = cmd.Process.Pid
	return t
}

// waitReady waits for the snapshot to be loaded.
func waitReady(tb testing.TB, t tracker) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		status, _, err := fasthttp.GetTimeout(nil, "http://"+t.admin.String()+"/readyz", time.Second)
		if err == nil && status == fasthttp.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("spillway is not ready: status %d, %v", status, err)
		}
	}
}
