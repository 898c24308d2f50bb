package admin

import (
	"encoding/json"
	"flag"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/internal/logx/logxtest"
	"spillway/relay"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// relayed is a relay with one backend up and one down.
func relayed() relay.Status {
	at := time.Date(2025, 12, 30, 8, 0, 0, 0, time.UTC)
	return relay.Status{
		Version: "v0.9.0", Started: at, UptimeSeconds: 3600, Mode: "kernel", ModeWhy: "nf_tables and CAP_NET_ADMIN are there",
		Listen: []string{":80", ":443"}, Masquerade: true, State: "degraded", Why: "[fd00::2]:6969 is down", Since: at.Add(time.Hour),
		Backends: []relay.BackendStatus{
			{Addr: "10.66.0.2:6969", Weight: 1, Share: 0.25, Up: true, Since: at, ProbeMS: 0.8, Level: 0.35, Budget: 375, BudgetMax: 1500, Unanswered: 12, Opened: 2000, Refused: 3},
			{Addr: "[fd00::2]:6969", Weight: 3, Since: at.Add(time.Hour), Why: "no answer within 300ms", ProbeMS: 250, Budget: 187, BudgetMax: 1500, Refused: 412},
		},
		Opened: 2000, RefusedDown: 412, RefusedBudget: 3, RefusedSource: 1.5, NoFlow: 9,
		Conntrack: 30412, ConntrackMax: 262144, InsertFailed: 7, PortsUsed: 0.31,
		Profile: "fast-fail", ProfileOff: []string{"net.ipv4.tcp_tw_reuse"},
		Events: []relay.Event{{At: at.Add(time.Hour), Text: "[fd00::2]:6969 is down: no answer within 300ms"}},
	}
}

func startRelay(t *testing.T, st relay.Status) *server {
	t.Helper()
	h := new(RelayHistory)
	h.Add(time.Unix(1_700_000_000, 0), st)
	return start(t, Config{Relay: func() relay.Status { return st }, RelayHistory: h}, "tcp", "127.0.0.1:0")
}

// What scripts and dashboards read; a name that changes here changes for them.
func TestRelaysAPI(t *testing.T) {
	t.Parallel()
	s := startRelay(t, relayed())
	for path, file := range map[string]string{"/api/v1/status": "relay_status.json", "/api/v1/history": "relay_history.json"} {
		code, body, header := s.ask("GET", path, bearer)
		if code != 200 || header.Get("Content-Type") != "application/json" {
			t.Fatalf("%s: got %d %s", path, code, header.Get("Content-Type"))
		}
		var tree any
		if err := json.Unmarshal([]byte(body), &tree); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		got, _ := json.MarshalIndent(tree, "", "  ")
		got = append(got, '\n')
		golden := filepath.Join("testdata", file)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s: got\n%s\nwant %s (-update rewrites it)", path, got, golden)
		}
	}
}

func TestRelaysEmptyListsAreListsInJSON(t *testing.T) {
	t.Parallel()
	s := start(t, Config{Relay: func() relay.Status { return relay.Status{} }}, "tcp", "127.0.0.1:0")
	_, body, _ := s.ask("GET", "/api/v1/status", bearer)
	for _, want := range []string{`"listen":[]`, `"backends":[]`, `"profile_off":[]`, `"events":[]`} {
		if !strings.Contains(body, want) {
			t.Errorf("status: got %s, want %s in it", body, want)
		}
	}
	if _, body, _ := s.ask("GET", "/api/v1/history", bearer); !strings.Contains(body, `"to":0,"series":{"backends_up":[],`) {
		t.Errorf("history: got %s", body)
	}
}

func TestRelaysPathsAndWhoMayAsk(t *testing.T) {
	t.Parallel()
	s := startRelay(t, relayed())
	const isRelay = `{"error":"this is a relay: `
	for _, c := range []struct {
		method, path  string
		open, granted int
		body          string
	}{
		{"GET", "/", 200, 200, "<title>Spillway relay</title>"},
		{"GET", "/page/relay.js", 200, 200, "begin('relay'"},
		{"GET", "/page/session.js", 200, 200, "sessionStorage"},
		{"GET", "/page/page.css", 200, 200, "prefers-reduced-motion"},
		{"GET", "/page/page.js", 404, 404, "no such path"},     // the tracker's
		{"GET", "/page/switches.js", 404, 404, "no such path"}, // the tracker's
		{"GET", "/page/index.html", 404, 404, "no such path"},
		{"GET", "/healthz", 200, 200, "ok\n"},
		{"GET", "/readyz", 503, 503, "not ready"},
		{"GET", "/metrics", 401, 200, "spillway_ready 0\n"},
		{"GET", "/api/v1/status", 401, 200, `"state":"degraded"`},
		{"GET", "/api/v1/history", 401, 200, `"opened":[2000]`},
		{"POST", "/api/v1/status", 401, 405, "only GET and HEAD"},
		{"PUT", "/api/v1/status", 401, 405, "only GET and HEAD"},
		{"GET", "/debug/pprof/goroutine?debug=1", 401, 200, "goroutine profile"},
		{"GET", "/api/v1/switches", 404, 404, isRelay},
		{"PUT", "/api/v1/switches/ws", 404, 404, isRelay},
		{"GET", "/api/v1/blocks", 404, 404, isRelay},
		{"PUT", "/api/v1/blocks/source/192.0.2.0%2F24", 404, 404, isRelay},
		{"DELETE", "/api/v1/blocks/user-agent/..", 404, 404, ""},
		{"PUT", "/api/v1/limits/http.max_conns", 404, 404, isRelay},
		{"GET", "/api/v1/talkers", 404, 404, isRelay},
		{"GET", "/api/v1/torrents/ab000000000000000000000000000000000000ff", 404, 404, isRelay},
		{"GET", "/announce", 404, 404, "no such path"},
	} {
		if code, _, _ := s.ask(c.method, c.path, jsonType); code != c.open {
			t.Errorf("%s %s without token: got %d, want %d", c.method, c.path, code, c.open)
		}
		code, body, header := s.ask(c.method, c.path, bearer, jsonType)
		if code != c.granted || !strings.Contains(body, c.body) {
			t.Errorf("%s %s: got %d %q, want %d %q", c.method, c.path, code, body, c.granted, c.body)
		}
		if header.Get("Content-Security-Policy") != pagePolicy || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: a guard is missing: %v", c.method, c.path, header)
		}
	}
	if code, _, _ := s.ask("GET", "/api/v1/status", bearer, "Host: evil.example"); code != 421 {
		t.Errorf("another Host: got %d, want 421", code)
	}
	codes := map[int]int{}
	for range 30 {
		code, _, _ := s.ask("GET", "/api/v1/status", "Authorization: Bearer wrong")
		codes[code]++
	}
	if codes[401] == 0 || codes[429] == 0 || codes[401]+codes[429] != 30 {
		t.Errorf("wrong tokens: got %v, want some 401 and some 429", codes)
	}
}

func TestRelaysHistory(t *testing.T) {
	t.Parallel()
	series := func(h *RelayHistory) map[string][]float64 {
		b, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		var got told
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		return got.Series
	}
	var h RelayHistory
	at := time.Unix(1_700_000_000, 0)
	h.Add(at, relayed())
	all := relayed()
	for i := range all.Backends {
		all.Backends[i].Up = true
	}
	all.Opened, all.Conns = math.NaN(), 5
	h.Add(at.Add(3*HistoryStep), all) // two steps nobody measured
	got := series(&h)
	for name, want := range map[string][]float64{
		"opened": {2000, 0, 0, 0}, "refused": {416.5, 0, 0, 416.5}, "conntrack": {30412, 0, 0, 30412}, "conns": {0, 0, 0, 5},
		"backends_up": {1, 0, 0, 2}, "probe_ms": {0.8, 0, 0, 250},
	} {
		if !slices.Equal(got[name], want) {
			t.Errorf("%s: got %v, want %v", name, got[name], want)
		}
	}
	if len(got) != len(relaySeries) {
		t.Errorf("got %d series, want %d", len(got), len(relaySeries))
	}
	for i := range 1000 {
		h.Add(at.Add(time.Duration(i+4)*HistoryStep), all)
	}
	if got := series(&h); len(got["opened"]) != historyPoints {
		t.Errorf("after 1,000 steps: got %d points, want %d", len(got["opened"]), historyPoints)
	}
}

// The operator is told the relay's keys, not the tracker's.
func TestRelaysMessagesNameItsKeys(t *testing.T) {
	t.Parallel()
	cfg := Config{Relay: func() relay.Status { return relay.Status{} }}
	cfg.Token = "short"
	if _, err := New(cfg, new(logxtest.Buffer).Logger()); err == nil || !strings.HasPrefix(err.Error(), "relay.admin.token: got 5 characters") {
		t.Errorf("a short token: got %v", err)
	}
	cfg.Token = ""
	s := start(t, cfg, "tcp", "0.0.0.0:0")
	if code, _, _ := s.ask("GET", "/healthz"); code != 200 {
		t.Errorf("got %d, want 200", code)
	}
	if log := s.log.String(); !strings.Contains(log, "relay.admin.listen is not a loopback address") || !strings.Contains(log, "127.0.0.1:7071") {
		t.Errorf("log: got %s", log)
	}
}

// Text becomes HTML nowhere; the policy would make a browser refuse it, and then a page would be broken.
func TestPagesTakeNoHTML(t *testing.T) {
	t.Parallel()
	files := 0
	err := fs.WalkDir(pages, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		content, err := pages.ReadFile(path)
		for _, word := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "://cdn", "@import", " onclick="} {
			if strings.Contains(string(content), word) {
				t.Errorf("%s has %s", path, word)
			}
		}
		return err
	})
	if err != nil || files < 10 {
		t.Errorf("looked at %d files: %v", files, err)
	}
}
