//go:build e2e

package e2e

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/storage"
)

// newWebRTC starts a client that can meet others over WebRTC only.
func newWebRTC(t *testing.T, dir string) *torrent.Client {
	t.Helper()
	cfg := torrent.NewDefaultClientConfig()
	cfg.ListenHost = func(string) string { return "127.0.0.1" }
	cfg.ListenPort = 0
	cfg.DisableIPv6 = true
	cfg.DisableUTP = true
	cfg.DisableTCP = true
	cfg.DisablePEX = true
	cfg.NoDHT = true
	cfg.NoDefaultPortForwarding = true
	cfg.Seed = true
	cfg.DataDir = dir
	cfg.ICEServerList = nil
	cfg.DefaultStorage = storage.NewFileWithCompletion(dir, storage.NewMapPieceCompletion())
	cfg.Slogger = slog.New(slog.DiscardHandler)
	cl, err := torrent.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
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
