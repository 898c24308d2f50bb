//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"testing"
)

// TestEverythingIsInstalled fails where a program is missing that tests of any package are skipped without: on a machine that .ci/install
// has prepared nothing is left out unseen.
func TestEverythingIsInstalled(t *testing.T) {
	if os.Getuid() != 0 {
		t.Error("not root: tests in network namespaces are left out")
	}
	for _, program := range []string{
		"bash", "groff", "promtool", "prometheus", "systemd-analyze", "strace", "buildah", "nft", "ufw", "wg", "dpkg-deb", "ip", "unshare",
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
