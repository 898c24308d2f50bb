//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const rtorrentRC = `system.daemon.set = true
network.bind_address.set = 127.0.0.1
network.port_range.set = %[1]d-%[1]d
network.port_random.set = no
dht.mode.set = disable
protocol.pex.set = no
session.path.set = %[2]s
directory.default.set = %[3]s
load.start = %[4]s
`

// rTorrent announces and leaves as it should; moving a file on one host is something it does three times out of seven.
func TestRTorrentAnnounces(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--http.trusted_proxies="+recorderAddr)
	rec := newRecorder(t, tr)
	p := newPayload(t, 8*mib, rec.announce)
	port := freePort(t)
	rc := filepath.Join(t.TempDir(), "rtorrent.rc")
	writeFile(t, rc, fmt.Sprintf(rtorrentRC, port, t.TempDir(), p.seedDir, p.torrent))

	rt := start(t, "rtorrent", "rtorrent", "-n", "-o", "import="+rc)
	started := rec.announced(t, "started")
	started.has(t, map[string]string{
		"info_hash": string(p.hash[:]), "port": strconv.Itoa(port), "left": "0", "compact": "1",
		"numwant": "", // it leaves the number to us
	})
	if id := started.query["peer_id"]; len(id) != 20 || !strings.HasPrefix(id, "-lt0D80-") {
		t.Errorf("peer_id: got %q, want 20 bytes beginning with -lt0D80-", id)
	}
	tr.wantCounts(t, p.hash, counts{Complete: 1})

	rt.quit(t, syscall.SIGINT, 30*time.Second)
	rec.announced(t, "stopped").has(t, map[string]string{"peer_id": started.query["peer_id"], "port": strconv.Itoa(port)})
	tr.wantCounts(t, p.hash, counts{})
	tr.stop(t)
}
