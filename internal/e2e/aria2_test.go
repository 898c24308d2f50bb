//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// aria2 starts a client that seeds what is complete in dir and downloads what is not, then seeds it.
func aria2(t *testing.T, p payload, dir string, _ bool) side {
	t.Helper()
	proc := start(t, "aria2-"+filepath.Base(dir), "aria2c", "--no-conf", "--interface=lo", "--disable-ipv6=true",
		"--enable-dht=false", "--enable-dht6=false", "--enable-peer-exchange=false", "--bt-enable-lpd=false",
		"--file-allocation=none", "--check-integrity=true", "--seed-ratio=0.0", "--summary-interval=0", "--no-proxy=*",
		fmt.Sprintf("--listen-port=%d", freePort(t)), "--dir="+dir, p.torrent)
	return side{
		content: func() {},
		// On SIGTERM it leaves without a word.
		leave: func() { proc.quit(t, syscall.SIGINT, 15*time.Second) },
	}
}

func TestAria2Pair(t *testing.T) {
	t.Parallel()
	tr := serve(t)
	moveFile(t, tr, newPayload(t, 16*mib, tr.announce), aria2)
	tr.stop(t)
}
