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

// adminGet fetches a page of an admin listener with the token made for it in dataDir.
func adminGet(t *testing.T, addr, dataDir, path string) []byte {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(dataDir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+path, nil)
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
		t.Fatalf("%s: %s, %v", path, resp.Status, err)
	}
	return body
}

// adminGet is a page of the tracker's admin listener.
func (tr *tracker) adminGet(t *testing.T, path string) []byte {
	t.Helper()
	match := adminAddr.FindStringSubmatch(tr.log())
	if match == nil {
		t.Fatal("no admin address in the log")
	}
	return adminGet(t, match[1], tr.dataDir, path)
}

func (tr *tracker) metrics(t *testing.T) []byte {
	t.Helper()
	return tr.adminGet(t, "/metrics")
}

// promtool has the metrics judged by Prometheus's own tool.
func promtool(t *testing.T, metrics []byte) {
	t.Helper()
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = bytes.NewReader(metrics)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
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
	promtool(t, body)
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
