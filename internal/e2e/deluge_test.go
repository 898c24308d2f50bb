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

// delugeConf is a configuration file of Deluge 2: a version object, then the settings.
const delugeConf = `{"file": 1, "format": 1}{
  "listen_interface": "127.0.0.1", "outgoing_interface": "lo", "random_port": false, "listen_ports": [%[1]d, %[1]d],
  "dht": false, "utpex": false, "lsd": false, "upnp": false, "natpmp": false, "new_release_check": false,
  "add_paused": false, "download_location": %[2]q
}`

// Deluge announces and leaves as it should; between two of them on one host no file ever moved.
func TestDelugeAnnounces(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--http.trusted_proxies="+recorderAddr)
	rec := newRecorder(t, tr)
	const size = 8 * mib
	p := newPayload(t, size, rec.announce)
	port, rpcPort := freePort(t), freePort(t)
	config, dir := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(config, "core.conf"), fmt.Sprintf(delugeConf, port, dir))
	writeFile(t, filepath.Join(config, "auth"), "e2e:e2e:10\n")

	deluged := start(t, "deluged", "deluged", "--do-not-daemonize", "--config", config, "--port", strconv.Itoa(rpcPort), "--loglevel", "info")
	// Until the daemon answers the console fails; added twice, a torrent is still one.
	eventually(t, 30*time.Second, "torrent added", func() error {
		_, err := output("deluge-console", "--config", config,
			fmt.Sprintf("connect 127.0.0.1:%d e2e e2e; add -p %s %s", rpcPort, dir, p.torrent))
		return err
	})
	started := rec.announced(t, "started")
	started.has(t, map[string]string{
		"info_hash": string(p.hash[:]), "port": strconv.Itoa(port), "left": strconv.Itoa(size), "compact": "1", "numwant": "200",
	})
	if id := started.query["peer_id"]; len(id) != 20 || !strings.HasPrefix(id, "-DE") {
		t.Errorf("peer_id: got %q, want 20 bytes beginning with -DE", id)
	}
	tr.wantCounts(t, p.hash, counts{Incomplete: 1})

	deluged.quit(t, syscall.SIGTERM, 30*time.Second)
	rec.announced(t, "stopped").has(t, map[string]string{"peer_id": started.query["peer_id"], "port": strconv.Itoa(port)})
	tr.wantCounts(t, p.hash, counts{})
	tr.stop(t)
}
