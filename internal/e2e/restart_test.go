package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"
)

// TestWarmAfterCrash: kill -9, start again, and clients find each other as if nothing had been.
func TestWarmAfterCrash(t *testing.T) {
	t.Parallel()
	dataDir := filepath.Join(t.TempDir(), "data")
	flags := []string{"--http.listen=127.0.0.1:0", "--store.snapshot.every=1s"}
	tr := serveOn(t, dataDir, flags...)
	hash := metainfo.HashBytes([]byte(t.Name()))
	announce{from: "127.0.0.2", hash: hash, port: 1002, left: 1, event: "started"}.mustTo(t, tr.announce)
	announce{from: "127.0.0.3", hash: hash, port: 1003, left: 1, event: "started"}.mustTo(t, tr.announce)
	announce{from: "127.0.0.3", hash: hash, port: 1003, left: 0, event: "completed"}.mustTo(t, tr.announce)

	// The snapshot that is being written now may have been begun before the last announce; the next is not.
	snapshot := filepath.Join(dataDir, "swarms.snapshot")
	waitForWrite(t, snapshot)
	waitForWrite(t, snapshot)
	tr.kill()

	again := serveOn(t, dataDir, flags...)
	again.wantCounts(t, hash, counts{Complete: 1, Incomplete: 1, Downloaded: 1})
	announce{from: "127.0.0.4", hash: hash, port: 1004, left: 1, event: "started"}.mustTo(t, again.announce).
		wantPeers(t, "127.0.0.2:1002", "127.0.0.3:1003")
	again.stop(t)
}

// waitForWrite returns once another file has taken the name.
func waitForWrite(t *testing.T, path string) {
	t.Helper()
	before, _ := os.Stat(path)
	eventually(t, 20*time.Second, "write of "+path, func() error {
		now, err := os.Stat(path)
		if err == nil && before != nil && os.SameFile(now, before) && now.ModTime().Equal(before.ModTime()) {
			err = errors.New("still the old one")
		}
		return err
	})
}
