package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"

	"spillway/internal/waittest"
)

// tracker is `spillway serve` on a port the kernel chose.
type tracker struct {
	*process
	dataDir  string
	announce string // URL to put into a torrent
}

// serve starts a tracker on 127.0.0.1 with an empty data_dir. More flags may follow; a later one wins.
func serve(t *testing.T, flags ...string) *tracker {
	t.Helper()
	return serveOn(t, filepath.Join(t.TempDir(), "data"), append([]string{"--http.listen=127.0.0.1:0"}, flags...)...)
}

// announceURL finds the URL in the line with which serve says that it is up.
var announceURL = regexp.MustCompile(`https?://[^\s"]+/announce`)

// serveOn is serve with the data_dir of an earlier life, listening wherever the flags say.
func serveOn(t *testing.T, dataDir string, flags ...string) *tracker {
	t.Helper()
	argv := append([]string{spillwayPath, "serve", "--data_dir=" + dataDir, "--admin.listen=127.0.0.1:0", "--udp.listen="}, flags...)
	tr := &tracker{process: start(t, "spillway", argv...), dataDir: dataDir}
	waittest.Done(t, 20*time.Second, "announce URL in the log", func() error {
		select {
		case <-tr.exited:
			t.Fatalf("spillway serve ended at once:\n%s", tr.log())
		default:
		}
		if tr.announce = announceURL.FindString(tr.log()); tr.announce == "" {
			return errors.New("not logged yet")
		}
		return nil
	})

	return tr
}

// maxLogLines is far more than a start, a test and a stop may log, and far less than a line per request.
const maxLogLines = 40

// stop ends the tracker as an operator does and judges how it went.
func (tr *tracker) stop(t *testing.T) {
	t.Helper()
	tr.quit(t, syscall.SIGTERM, 20*time.Second)
	if code := tr.exitCode(); code != 0 {
		t.Errorf("exit code after SIGTERM: got %d, want 0", code)
	}
	log := tr.log()
	if n := strings.Count(log, "\n"); n > maxLogLines {
		t.Errorf("log lines: got %d, want at most %d", n, maxLogLines)
	}
	for _, bad := range []string{"level=ERROR", "panic", "DATA RACE"} {
		if strings.Contains(log, bad) {
			t.Errorf("log has %q, want none", bad)
		}
	}
}

// counts is what a tracker says about one swarm.
type counts struct {
	Complete   int `bencode:"complete"`
	Incomplete int `bencode:"incomplete"`
	Downloaded int `bencode:"downloaded"`
}

// scrape asks for one info hash. A tracker that leaves an unknown hash out, as opentracker does, is taken to say zeros.
func scrape(announce string, hash metainfo.Hash) (counts, error) {
	// As libtorrent does: the text announce in the URL becomes scrape.
	body, err := get(strings.Replace(announce, "/announce", "/scrape", 1) + "?info_hash=" + escape(hash[:]))
	if err != nil {
		return counts{}, err
	}
	var reply struct {
		Failure string            `bencode:"failure reason"`
		Files   map[string]counts `bencode:"files"`
	}
	if err := bencode.Unmarshal(body, &reply); err != nil {
		return counts{}, fmt.Errorf("scrape reply %q: %w", body, err)
	}
	if reply.Failure != "" {
		return counts{}, errors.New(reply.Failure)
	}
	return reply.Files[string(hash[:])], nil
}

// escape writes every byte as %XX. url.QueryEscape would write a space as +, which is a plus sign to a tracker.
func escape(raw []byte) string {
	dst := make([]byte, 0, 3*len(raw))
	for _, b := range raw {
		dst = fmt.Appendf(dst, "%%%02X", b)
	}
	return string(dst)
}

// wantCounts waits until the tracker counts as wanted: clients announce when they please.
func (tr *tracker) wantCounts(t *testing.T, hash metainfo.Hash, want counts) {
	t.Helper()
	waittest.Done(t, time.Minute, "scrape", func() error {
		got, err := scrape(tr.announce, hash)
		if err == nil && got != want {
			err = fmt.Errorf("got %+v, want %+v", got, want)
		}
		return err
	})

}

// wantStats waits until /stats.json says how many peers there are over all swarms.
func (tr *tracker) wantStats(t *testing.T, seeders, leechers int) {
	t.Helper()
	waittest.Done(t, 30*time.Second, "/stats.json", func() error {
		var stats struct{ Seeders, Leechers, Announces int }
		if err := getJSON(tr.page("/stats.json"), &stats); err != nil {
			return err
		}
		if stats.Seeders != seeders || stats.Leechers != leechers || stats.Announces == 0 {
			return fmt.Errorf("got %+v, want %d seeders, %d leechers, some announces", stats, seeders, leechers)
		}
		return nil
	})

}

// page is the URL of another path of the public listener.
func (tr *tracker) page(path string) string {
	return strings.TrimSuffix(tr.announce, "/announce") + path
}

var httpClient = &http.Client{Timeout: 10 * time.Second}

// get returns the body of a 200.
func get(url string) ([]byte, error) {
	resp, err := httpClient.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, mib))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %.200q", url, resp.Status, body)
	}
	return body, nil
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

// getJSON decodes the body of a 200 into v.
func getJSON(url string, v any) error {
	body, err := get(url)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("GET %s: %w in %.200q", url, err, body)
	}
	return nil
}
