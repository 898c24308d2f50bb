//go:build e2e

package shared

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/internal/waittest"
)

// redisServer is a real redis-server, or whatever $SPILLWAY_TEST_REDIS names (valkey-server), with a directory of its own.
type redisServer struct {
	t    testing.TB
	addr string
	argv []string
	cmd  *exec.Cmd
	*redis.Client
}

// startRedis starts one that forgets all when it ends.
func startRedis(t testing.TB, flags ...string) *redisServer {
	t.Helper()
	return startRedisAs(t, func(port int, dir string) []string {
		return append([]string{"--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no",
			"--daemonize", "no", "--logfile", filepath.Join(dir, "log")}, flags...)
	})
}

// startRedisAs starts one with all of its arguments given.
func startRedisAs(t testing.TB, args func(port int, dir string) []string) *redisServer {
	t.Helper()
	name := os.Getenv("SPILLWAY_TEST_REDIS")
	if name == "" {
		name = "redis-server"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v; .ci/install installs it", err)
	}
	port := freePort(t)
	dir := t.TempDir()
	r := &redisServer{t: t, addr: fmt.Sprintf("127.0.0.1:%d", port)}
	r.argv = append([]string{path}, args(port, dir)...)
	r.start()
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("redis said:\n%s", b[max(0, len(b)-2000):])
		}
	})
	r.Client = redis.NewClient(&redis.Options{Addr: r.addr, DisableIdentity: true, Protocol: 2, MaxRetries: -1})
	t.Cleanup(func() { _ = r.Client.Close() })
	return r
}

func (r *redisServer) start() {
	r.t.Helper()
	r.cmd = exec.Command(r.argv[0], r.argv[1:]...)
	// Pdeathsig: a test binary killed by its timeout leaves nothing behind.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	waittest.Until(r.t, 30*time.Second, "redis answers", func() bool {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})

}

func (r *redisServer) signal(s syscall.Signal) { _ = r.cmd.Process.Signal(s) }

// kill ends it as a crash would.
func (r *redisServer) kill() {
	if r.cmd.ProcessState == nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	}
}

func (r *redisServer) swarms() int {
	n, err := r.DBSize(context.Background()).Result()
	if err != nil {
		r.t.Fatal(err)
	}
	return int(n) - laneCount
}

var ports struct {
	mu    sync.Mutex // guards given
	given map[int]bool
}

// freePort is below those that Linux gives to outgoing connections, and leaves room for a cluster node's bus at +10000.
func freePort(t testing.TB) int {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range 1000 {
		port := 10000 + rand.IntN(12000)
		if ports.given[port] || !bindable(port) || !bindable(port+10000) {
			continue
		}
		ports.given[port] = true
		return port
	}
	t.Fatal("no free port")
	return 0
}

func bindable(port int) bool {
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		_ = ln.Close()
	}
	return err == nil
}

// connected waits until all nodes answer from Redis.
func connected(t testing.TB, nodes ...node) {
	t.Helper()
	for _, n := range nodes {
		waittest.Until(t, 30*time.Second, "connected", func() bool { return !n.breakersOpen() })
	}
}
