//go:build e2e

package e2e

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/anacrolix/torrent/metainfo"
)

// adminAddr finds the admin listener in the line with which serve says that it is up.
var adminAddr = regexp.MustCompile(`admin=\[?"?(127\.0\.0\.1:\d+)`)

// metrics fetches /metrics with the token that the tracker made for itself.
func (tr *tracker) metrics(t *testing.T) []byte {
	t.Helper()
	match := adminAddr.FindStringSubmatch(tr.log())
	if match == nil {
		t.Fatal("no admin address in the log")
	}
	token, err := os.ReadFile(filepath.Join(tr.dataDir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+match[1]+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := httpClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("/metrics: %s, %v", resp.Status, err)
	}
	return body
}

func TestPromtoolAcceptsMetrics(t *testing.T) {
	t.Parallel()
	tr := serve(t)
	hash := metainfo.HashBytes([]byte(t.Name()))
	announce{from: "127.0.0.2", hash: hash, port: 1002, left: 1}.mustTo(t, tr.announce)
	announce{from: "127.0.0.3", hash: hash, port: 1003, left: 0}.mustTo(t, tr.announce)
	if _, err := get(tr.announce + "?info_hash=short"); err != nil { // a mistake is a 200 too
		t.Error(err)
	}
	tr.wantCounts(t, hash, counts{Complete: 1, Incomplete: 1})

	body := tr.metrics(t)
	promtool := exec.Command("promtool", "check", "metrics")
	promtool.Stdin = bytes.NewReader(body)
	if out, err := promtool.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	for _, line := range []string{
		`spillway_announces_total{proto="http",result="served"} 2`,
		`spillway_announces_total{proto="http",result="bad"} 1`,
	} {
		if !strings.Contains(string(body), line+"\n") {
			t.Errorf("/metrics has no line %s", line)
		}
	}
	tr.stop(t)
}
