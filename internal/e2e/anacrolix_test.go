package e2e

import (
	"log/slog"
	"testing"

	"github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"
)

// newAnacrolix starts a client on host whose only way to find peers is its torrent's tracker. It meets them over TCP, unless
// changes say otherwise.
func newAnacrolix(t *testing.T, host, dir string, changes ...func(*torrent.ClientConfig)) *torrent.Client {
	t.Helper()
	cfg := torrent.NewDefaultClientConfig()
	cfg.ListenHost = func(string) string { return host }
	cfg.ListenPort = 0
	cfg.DisableIPv6 = true
	cfg.DisableUTP = true
	cfg.DisablePEX = true
	cfg.DisableWebtorrent = true
	cfg.NoDHT = true
	cfg.NoDefaultPortForwarding = true
	cfg.Seed = true
	cfg.DataDir = dir
	// Piece completion in memory: the default keeps a database in dir.
	cfg.DefaultStorage = storage.NewFileWithCompletion(dir, storage.NewMapPieceCompletion())
	cfg.Slogger = slog.New(slog.DiscardHandler)
	for _, change := range changes {
		change(cfg)
	}
	cl, err := torrent.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

// addTorrent waits until what is already on the disk has been hashed.
func addTorrent(t *testing.T, cl *torrent.Client, path string) *torrent.Torrent {
	t.Helper()
	mi, err := metainfo.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tor, err := cl.AddTorrent(mi)
	if err != nil {
		t.Fatal(err)
	}
	if err := tor.VerifyDataContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return tor
}

func TestAnacrolixPair(t *testing.T) {
	t.Parallel()
	tr := serve(t)
	p := newPayload(t, 8*mib, tr.announce)
	moveFile(t, tr, p, func(t *testing.T, p payload, dir string, seed bool) side {
		tor := addTorrent(t, newAnacrolix(t, "127.0.0.1", dir), p.torrent)
		tor.DownloadAll()
		return side{
			content: func() {
				if missing := tor.BytesMissing(); missing != 0 {
					t.Errorf("bytes missing: got %d, want 0", missing)
				}
			},
			leave: tor.Drop,
		}
	})
	tr.stop(t)
}
