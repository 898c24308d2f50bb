package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/tracker/udp"

	"spillway/internal/waittest"
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

	tr.crash(t)

	again := serveOn(t, dataDir, flags...)
	again.wantCounts(t, hash, counts{Complete: 1, Incomplete: 1, Downloaded: 1})
	announce{from: "127.0.0.4", hash: hash, port: 1004, left: 1, event: "started"}.mustTo(t, again.announce).
		wantPeers(t, "127.0.0.2:1002", "127.0.0.3:1003")
	again.stop(t)
}

// crash kills the tracker once all that was announced is in its snapshot.
func (tr *tracker) crash(t *testing.T) {
	t.Helper()
	// The snapshot that is being written now may have been begun before the last announce; the next is not.
	for range 2 {
		waitForWrite(t, filepath.Join(tr.dataDir, "swarms.snapshot"))
	}
	tr.kill()
}

// waitForWrite returns once another file has taken the name.
func waitForWrite(t *testing.T, path string) {
	t.Helper()
	before, _ := os.Stat(path)
	waittest.Done(t, 20*time.Second, "write of "+path, func() error {
		now, err := os.Stat(path)
		if err == nil && before != nil && os.SameFile(now, before) && now.ModTime().Equal(before.ModTime()) {
			err = errors.New("still the old one")
		}
		return err
	})

}

// TestUDPWarmAfterCrash: kill -9, start again, and a client that has its connection id from before is served at once, with the
// peers from before. Without a key that is kept it would be told an error, and come back when it likes.
func TestUDPWarmAfterCrash(t *testing.T) {
	t.Parallel()
	dataDir := filepath.Join(t.TempDir(), "data")
	flags := []string{"--http.listen=127.0.0.1:0", "--store.snapshot.every=1s"}
	tr := serveOn(t, dataDir, append(flags, "--udp.listen=127.0.0.1:0")...)
	hash := metainfo.HashBytes([]byte(t.Name()))
	listen := mustHost(t, regexp.MustCompile(`udp://[^\s"]+`).FindString(tr.log()))
	client, err := udp.NewConnClient(udp.NewConnClientOpts{Network: "udp4", Host: listen})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ask := func(port uint16) (udp.AnnounceResponseHeader, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		req := udp.AnnounceRequest{PeerId: [20]byte([]byte("-E20000-000000000000")), Left: 1, NumWant: -1, Port: port}
		copy(req.InfoHash[:], hash[:])
		h, peers, err := client.Announce(ctx, req, udp.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return h, fmt.Sprint(peers.NodeAddrs())
	}
	ask(1002)
	tr.crash(t)

	again := serveOn(t, dataDir, append(flags, "--udp.listen="+listen)...)
	if h, peers := ask(1003); h.Leechers != 2 || peers != "[127.0.0.1:1002]" {
		t.Errorf("after the crash: got %+v, %s", h, peers)
	}
	again.stop(t)
}

func mustHost(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		t.Fatalf("url %q: %v", raw, err)
	}
	return u.Host
}
