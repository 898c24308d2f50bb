//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// qBittorrent is a qbittorrent-nox driven through its WebUI API.
type qBittorrent struct {
	*process
	api string // base URL
}

// qBittorrentConf: no way to find a peer but a tracker, several peers on one address, no login from loopback.
const qBittorrentConf = `[LegalNotice]
Accepted=true

[Network]
PortForwardingEnabled=false

[Preferences]
General\Locale=en
WebUI\Enabled=true
WebUI\Address=127.0.0.1
WebUI\Port=%d
WebUI\LocalHostAuth=false
WebUI\CSRFProtection=false
WebUI\HostHeaderValidation=false
WebUI\UseUPnP=false

[BitTorrent]
Session\BTProtocol=TCP
Session\Port=%d
Session\Interface=lo
Session\InterfaceName=lo
Session\InterfaceAddress=127.0.0.1
Session\DHTEnabled=false
Session\PeXEnabled=false
Session\LSDEnabled=false
Session\MultiConnectionsPerIp=true
Session\QueueingSystemEnabled=false
Session\AddTrackersEnabled=false
`

// startQBittorrent starts an instance with a profile of its own.
func startQBittorrent(t *testing.T, name string) *qBittorrent {
	t.Helper()
	profile := t.TempDir()
	webPort := freePort(t)
	q := &qBittorrent{api: fmt.Sprintf("http://127.0.0.1:%d/api/v2/", webPort)}
	writeFile(t, filepath.Join(profile, "qBittorrent/config/qBittorrent.conf"),
		fmt.Sprintf(qBittorrentConf, webPort, freePort(t)))
	q.process = start(t, "qbittorrent-"+name, "qbittorrent-nox", "--profile="+profile)
	waittest.Done(t, 30*time.Second, name+" WebUI", func() error {
		_, err := get(q.api + "app/version")
		return err
	})

	return q
}

// add hands over a torrent; the files of a seed are trusted, not hashed again.
func (q *qBittorrent) add(t *testing.T, p payload, dir string, complete bool) {
	t.Helper()
	raw, err := os.ReadFile(p.torrent)
	if err != nil {
		t.Fatal(err)
	}
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	file, err := form.CreateFormFile("torrents", filepath.Base(p.torrent))
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Write(raw)
	err = errors.Join(err, form.WriteField("savepath", dir), form.WriteField("skip_checking", fmt.Sprint(complete)), form.Close())
	if err != nil {
		t.Fatal(err)
	}
	q.post(t, "torrents/add", form.FormDataContentType(), &body)
}

func (q *qBittorrent) post(t *testing.T, path, contentType string, body io.Reader) {
	t.Helper()
	resp, err := httpClient.Post(q.api+path, contentType, body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("qBittorrent %s: %s", path, resp.Status)
	}
}

// done waits until the only torrent is complete.
func (q *qBittorrent) done(t *testing.T) {
	t.Helper()
	waittest.Done(t, time.Minute, q.name+" complete", func() error {
		var torrents []struct {
			Progress float64 `json:"progress"`
			State    string  `json:"state"`
		}
		if err := getJSON(q.api+"torrents/info", &torrents); err != nil {
			return err
		}
		if len(torrents) != 1 || torrents[0].Progress != 1 {
			return fmt.Errorf("torrents: %+v", torrents)
		}
		return nil
	})

}

// remove drops all torrents, which announces "stopped".
func (q *qBittorrent) remove(t *testing.T) {
	t.Helper()
	form := url.Values{"hashes": {"all"}, "deleteFiles": {"false"}}
	q.post(t, "torrents/delete", "application/x-www-form-urlencoded", bytes.NewBufferString(form.Encode()))
}

// wantTracker: qBittorrent calls the tracker working (2) and has nothing to say about it.
func (q *qBittorrent) wantTracker(t *testing.T, p payload, announce string) {
	t.Helper()
	var trackers []struct {
		URL     string `json:"url"`
		Status  int    `json:"status"`
		Message string `json:"msg"`
	}
	if err := getJSON(q.api+"torrents/trackers?hash="+p.hash.HexString(), &trackers); err != nil {
		t.Fatal(err)
	}
	for _, tr := range trackers {
		if tr.URL != announce {
			continue
		}
		if tr.Status != 2 || tr.Message != "" {
			t.Errorf("tracker in %s: got status %d, message %q, want 2 and none", q.name, tr.Status, tr.Message)
		}
		return
	}
	t.Errorf("trackers of %s: got %+v, want %s among them", q.name, trackers, announce)
}

func TestQBittorrentPair(t *testing.T) {
	t.Parallel()
	tr := serve(t)
	p := newPayload(t, 32*mib, tr.announce)
	moveFile(t, tr, p, func(t *testing.T, p payload, dir string, seed bool) side {
		q := startQBittorrent(t, filepath.Base(dir))
		q.add(t, p, dir, seed)
		return side{
			content: func() {
				q.done(t)
				q.wantTracker(t, p, tr.announce)
			},
			leave: func() {
				if !seed {
					q.remove(t)
				}
				// SIGTERM, as systemd does: an orderly exit announces "stopped" too.
				q.quit(t, syscall.SIGTERM, 30*time.Second)
			},
		}
	})
	tr.stop(t)
}
