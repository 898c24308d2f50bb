package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/tracker/udp"
)

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
	snapshot := filepath.Join(dataDir, "swarms.snapshot")
	waitForWrite(t, snapshot)
	waitForWrite(t, snapshot)
	tr.kill()

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

// getAuthorized is get with the operator's token.
func getAuthorized(url, token string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := httpClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return string(body), err
}
