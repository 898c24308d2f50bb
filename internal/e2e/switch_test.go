//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"
)

// The modes of a switch, the mildest first.
var modes = []string{"on", "reject-new", "drain", "off"}

// operator is who turns the switches of a tracker that runs.
type operator struct {
	api   string // base URL
	token string
}

// anyAdminAddr is adminAddr of a tracker whose operator is not on loopback.
var anyAdminAddr = regexp.MustCompile(`admin=\[?"?([0-9.]+:\d+)`)

func (tr *tracker) operator(t *testing.T) operator {
	t.Helper()
	match := anyAdminAddr.FindStringSubmatch(tr.log())
	if match == nil {
		t.Fatal("no admin address in the log")
	}
	token, err := os.ReadFile(filepath.Join(tr.dataDir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	return operator{api: "http://" + match[1] + "/api/v1/", token: strings.TrimSpace(string(token))}
}

// turn returns when the answer was here.
func (o operator) turn(t *testing.T, endpoint, mode string) (answered time.Time) {
	t.Helper()
	var state struct{ Mode string }
	o.do(t, http.MethodPut, "switches/"+endpoint, fmt.Sprintf(`{"mode":%q,"reason":"a test"}`, mode), &state)
	answered = time.Now()
	if state.Mode != mode {
		t.Fatalf("switch %s: got %q, want %q", endpoint, state.Mode, mode)
	}
	return answered
}

// mode is what the API says of a switch, and who turned it.
func (o operator) mode(t *testing.T, endpoint string) (mode, by string) {
	t.Helper()
	var all struct {
		Switches []struct{ Endpoint, Mode, By string }
	}
	o.do(t, http.MethodGet, "switches", "", &all)
	for _, s := range all.Switches {
		if s.Endpoint == endpoint {
			return s.Mode, s.By
		}
	}
	t.Fatalf("no switch %s in %+v", endpoint, all)
	return "", ""
}

func (o operator) do(t *testing.T, method, path, body string, reply any) {
	t.Helper()
	req, err := http.NewRequest(method, o.api+path, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+o.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := httpClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s, %v: %s", method, path, resp.Status, err, raw)
	}
	if err := json.Unmarshal(raw, reply); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, raw)
	}
}

// told is what the last announce of a torrent was answered, and how many there were.
func (rec *recorder) told(hash metainfo.Hash) (reply announceReply, announces int) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for _, r := range rec.requests {
		if !strings.HasPrefix(r.path, "/announce") || r.query["info_hash"] != string(hash[:]) {
			continue
		}
		var got announceReply
		if bencode.Unmarshal(r.reply, &got) == nil {
			reply, announces = got, announces+1
		}
	}
	return reply, announces
}

// row is a line of the table in docs/switches.md; go test -v shows it.
func row(t *testing.T, cells ...any) {
	t.Helper()
	var b strings.Builder
	for _, c := range cells {
		fmt.Fprintf(&b, "| %v ", c)
	}
	t.Log(b.String() + "|")
}

// wantAbout: client programs count in whole seconds and begin to when they like.
func wantAbout(t *testing.T, what string, got, want, give time.Duration) {
	t.Helper()
	if got < want-give || got > want+give {
		t.Errorf("%s: got %v, want %v, give or take %v", what, got.Round(time.Second), want, give)
	}
}
