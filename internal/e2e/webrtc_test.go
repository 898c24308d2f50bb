//go:build e2e

package e2e

import (
	"path/filepath"
	"testing"

	"github.com/anacrolix/torrent"
)

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
