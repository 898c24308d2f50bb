//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/torrent"
)

// saysOK waits until a script of testdata has ended well.
func saysOK(t *testing.T, p *process, within time.Duration) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(within):
		t.Fatalf("%s: still running after %v", p.name, within)
	}
	if code := p.exitCode(); code != 0 || !strings.HasSuffix(strings.TrimSpace(p.log()), "ok") {
		t.Errorf("%s: exit code %d, want 0 and ok", p.name, code)
	}
}

// needsNode fails the test where .ci/install-web has not been run.
func needsNode(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("node_modules/webtorrent"); err != nil {
		t.Fatalf("%v; .ci/install-web installs it", err)
	}
}

// bittorrent-tracker's client, which webtorrent and p2p-media-loader have: announce, offers, answers, scrape, stop, a
// socket shared between clients; and over HTTP, in the same swarm.
func TestBittorrentTrackerClient(t *testing.T) {
	t.Parallel()
	needsNode(t)
	tr := serve(t)
	saysOK(t, start(t, "client.mjs", "node", "testdata/client.mjs", tr.webSocket(), tr.announce), time.Minute)
	tr.stop(t)
}

func TestWebTorrentNodePair(t *testing.T) {
	t.Parallel()
	needsNode(t)
	tr := serve(t)
	saysOK(t, start(t, "webtorrent.mjs", "node", "testdata/webtorrent.mjs", tr.webSocket()+"/announce", "8", t.TempDir()), 90*time.Second)
	tr.wantNobody(t) // a process that ends has left at once
	tr.stop(t)
}

// Two browsers. Their WebRTC wants an interface with a default route: a namespace has one.
func TestWebTorrentChromiumPair(t *testing.T) {
	t.Parallel()
	needsNode(t)
	ns := newNamespace(t)
	ip(t, "-n", ns.name, "route", "add", "default", "via", ns.outside)
	tr := serve(t, "--http.listen="+ns.outside+":0")
	saysOK(t, ns.start(t, "chromium.mjs", "node", "testdata/chromium.mjs", tr.webSocket(), "8"), 2*time.Minute)
	tr.wantNobody(t)
	tr.stop(t)
}

// newWebRTC starts a client that can meet others over WebRTC only.
func newWebRTC(t *testing.T, dir string) *torrent.Client {
	t.Helper()
	return newAnacrolix(t, "127.0.0.1", dir, func(cfg *torrent.ClientConfig) {
		cfg.DisableWebtorrent = false
		cfg.DisableTCP = true
		cfg.ICEServerList = nil
	})
}

// Two anacrolix clients whose tracker is a ws:// one meet over WebRTC, or not at all. They need an address besides loopback.
func TestAnacrolixWebRTCPair(t *testing.T) {
	t.Parallel()
	tr := serve(t)
	p := newPayload(t, 4*mib, tr.webSocket()+"/announce")

	seeder := addTorrent(t, newWebRTC(t, p.seedDir), p.torrent)
	tr.wantCounts(t, p.hash, counts{Complete: 1})
	dir := filepath.Join(t.TempDir(), "leech")
	leecher := addTorrent(t, newWebRTC(t, dir), p.torrent)
	leecher.DownloadAll()
	p.arrivesIn(t, dir)

	leecher.Drop()
	seeder.Drop()
	tr.wantNobody(t)
	tr.stop(t)
}
