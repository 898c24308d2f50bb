//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// output runs argv to its end, at most a minute, and returns what it printed on stdout.
func output(argv ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("%s: %w; .ci/install installs it", argv[0], err)
	}
	kill := time.AfterFunc(time.Minute, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer kill.Stop()
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s%s", strings.Join(argv, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

var ports struct {
	mu    sync.Mutex // guards given
	given map[int]bool
}

// freePort finds a TCP and UDP port for programs that cannot be told 0. It stays below 32768, where Linux takes the
// local ports of outgoing connections from: such a port may be gone again before the program binds it.
func freePort(t *testing.T) int {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.given == nil {
		ports.given = make(map[int]bool)
	}
	for range 1000 {
		port := 10000 + rand.IntN(20000)
		if ports.given[port] || !bindable(port) {
			continue
		}
		ports.given[port] = true
		return port
	}
	t.Fatal("no free port between 10000 and 30000")
	return 0
}

func bindable(port int) bool {
	addr := fmt.Sprintf(":%d", port)
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	pc, udpErr := net.ListenPacket("udp", addr)
	if udpErr == nil {
		pc.Close()
	}
	return errors.Join(udpErr, ln.Close()) == nil
}

// TestEverythingIsInstalled fails where a program is missing that tests of any package are skipped without: on a machine that .ci/install
// has prepared nothing is left out unseen.
func TestEverythingIsInstalled(t *testing.T) {
	if os.Getuid() != 0 {
		t.Error("not root: tests in network namespaces are left out")
	}
	for _, program := range []string{
		"bash", "groff", "promtool", "prometheus", "systemd-analyze", "strace", "buildah", "nft", "ufw", "wg", "dpkg-deb", "debootstrap", "lintian", "ip", "unshare",
		"redis-server", "haproxy", "nginx", "chromium", "node", "opentracker",
		"qbittorrent-nox", "transmission-daemon", "aria2c", "rtorrent", "deluged", "python3",
	} {
		if _, err := exec.LookPath(program); err != nil {
			if _, err := os.Stat("/usr/sbin/" + program); err != nil {
				t.Errorf("%s is missing: run .ci/install and .ci/install-web", program)
			}
		}
	}
}
