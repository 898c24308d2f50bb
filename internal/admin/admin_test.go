package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/internal/logx/logxtest"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),    // one a process, for ever
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2")) // sleeps ten seconds, then looks
}

const token = "0123456789abcdef0123456789abcdef"

// server is a Server on network and addr until the test ends, and a client of it.
type server struct {
	*Server
	t      *testing.T
	addr   net.Addr
	client *http.Client
	log    *logxtest.Buffer
}

func start(t *testing.T, cfg Config, network, addr string) *server {
	t.Helper()
	log := &logxtest.Buffer{}
	if cfg.Token == "" {
		cfg.Token = token
	}
	if cfg.Operator == nil {
		cfg.Operator = newFlooded()
	}
	s, err := New(cfg, log.Logger())
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, l.Addr().String())
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return &server{Server: s, t: t, addr: l.Addr(), client: &http.Client{Transport: transport, Timeout: 20 * time.Second}, log: log}
}

// ask is one request without a body. Headers are "Name: value".
func (s *server) ask(method, path string, headers ...string) (code int, answer string, header http.Header) {
	s.t.Helper()
	return s.request(method, path, nil, headers)
}

// send is one request with the token, a body and headers.
func (s *server) send(method, path, body string, headers ...string) (code int, answer string) {
	s.t.Helper()
	code, answer, _ = s.request(method, path, strings.NewReader(body), append([]string{bearer}, headers...))
	return code, answer
}

func (s *server) request(method, path string, body io.Reader, headers []string) (code int, answer string, header http.Header) {
	s.t.Helper()
	req, err := http.NewRequest(method, "http://localhost"+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
		if name == "Host" {
			req.Host = value
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(b), resp.Header
}

const bearer = "Authorization: Bearer " + token

func TestPathsAndWhoMayAsk(t *testing.T) {
	t.Parallel()
	s := start(t, Config{}, "tcp", "127.0.0.1:0")
	for _, c := range []struct {
		method, path  string
		open, granted int
		body          string
	}{
		{"GET", "/", 200, 200, "<title>Spillway</title>"},
		{"GET", "/page/session.js", 200, 200, "sessionStorage"},
		{"GET", "/page/page.css", 200, 200, "prefers-reduced-motion"},
		{"GET", "/page/index.html", 404, 404, "no such path"},
		{"PUT", "/", 405, 405, "only GET and HEAD"},
		{"GET", "/healthz", 200, 200, "ok\n"},
		{"HEAD", "/healthz", 200, 200, ""},
		{"GET", "/readyz", 503, 503, "not ready"},
		{"GET", "/metrics", 401, 200, "spillway_ready 0\n"},
		{"GET", "/api/v1/status", 401, 200, `"swarms":48210`},
		{"GET", "/debug/pprof/", 401, 200, "goroutine"},
		{"GET", "/debug/pprof/goroutine?debug=1", 401, 200, "goroutine profile"},
		{"GET", "/debug/pprof/heap", 401, 200, ""},
		{"POST", "/api/v1/status", 401, 405, "only GET and HEAD"},
		{"POST", "/healthz", 405, 405, "only GET and HEAD"},
		{"GET", "/announce", 404, 404, "no such path"},
		{"GET", "/debug/vars", 404, 404, "no such path"},
		{"GET", "//metrics", 401, 200, ""}, // fasthttp cleans paths before they are compared
		{"GET", "/x/../metrics", 401, 200, ""},
	} {
		if code, _, _ := s.ask(c.method, c.path); code != c.open {
			t.Errorf("%s %s without token: got %d, want %d", c.method, c.path, code, c.open)
		}
		code, body, header := s.ask(c.method, c.path, bearer)
		if code != c.granted || !strings.Contains(body, c.body) {
			t.Errorf("%s %s: got %d %q, want %d %q", c.method, c.path, code, body, c.granted, c.body)
		}
		if header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s may be cached", c.method, c.path)
		}
		if csp := header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; script-src 'self';") || !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Errorf("%s %s: Content-Security-Policy: got %q", c.method, c.path, csp)
		}
		if got := header.Get("Allow") != ""; got != (c.granted == 405) {
			t.Errorf("%s %s: Allow: got %q", c.method, c.path, header.Get("Allow"))
		}
	}

	s.SetReady(true)
	if code, _, _ := s.ask("GET", "/readyz"); code != 200 {
		t.Errorf("ready: got %d, want 200", code)
	}
	s.SetReady(false)
	if code, _, _ := s.ask("GET", "/readyz"); code != 503 {
		t.Errorf("draining: got %d, want 503", code)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	s := start(t, Config{}, "tcp", "127.0.0.1:0")
	for header, want := range map[string]int{
		"Authorization: Bearer " + token:             200,
		"Authorization: bearer " + token:             200,
		"Authorization: Bearer  " + token:            200,
		"Authorization: Bearer " + token + "0":       401,
		"Authorization: Bearer " + token[1:]:         401,
		"Authorization: Bearer":                      401,
		"Authorization: Basic " + token:              401,
		"Authorization: " + token:                    401,
		"X-Token: " + token:                          401,
		"Authorization: Bearer " + token + " " + "x": 401,
	} {
		code, _, h := s.ask("GET", "/api/v1/status", header)
		if code != want {
			t.Errorf("%q: got %d, want %d", header, code, want)
		}
		if got := h.Get("WWW-Authenticate") != ""; got != (want == 401) {
			t.Errorf("%q: WWW-Authenticate: got %v", header, got)
		}
	}
	if strings.Contains(s.log.String(), token) {
		t.Errorf("the log has the token: %s", s.log)
	}
}

func TestWrongTokensAreRefusedShortlyAndTheRightOneAlwaysPasses(t *testing.T) {
	t.Parallel()
	s := start(t, Config{}, "tcp", "127.0.0.1:0")
	codes := map[int]int{}
	for range 100 {
		code, _, _ := s.ask("GET", "/metrics", "Authorization: Bearer wrong")
		codes[code]++
		if code, _, _ := s.ask("GET", "/api/v1/status", bearer); code != 200 {
			t.Errorf("right token: got %d, want 200", code)
		}
	}
	if codes[401] == 0 || codes[429] == 0 {
		t.Errorf("codes: got %v, want some 401 and some 429", codes)
	}
	if _, body, _ := s.ask("GET", "/metrics", bearer); !strings.Contains(body, "spillway_admin_auth_errors_total 100\n") {
		t.Error("not all 100 are counted")
	}
}

func TestHostHeader(t *testing.T) {
	t.Parallel()
	s := start(t, Config{Hosts: []string{"tracker.lan"}}, "tcp", "127.0.0.1:0")
	for host, want := range map[string]int{
		"localhost":             200,
		"localhost:7070":        200,
		"LOCALHOST":             200,
		"127.0.0.1":             200,
		"127.0.0.1:7070":        200,
		"127.1.2.3":             200,
		"[::1]":                 200,
		"[::1]:7070":            200,
		"tracker.lan:7070":      200,
		"evil.example":          421,
		"evil.example:7070":     421,
		"localhost.evil.net":    421,
		"127.0.0.1.evil.net":    421,
		"192.0.2.1":             421,
		"[2001:db8::1]:7070":    421,
		"localhost:80:evil.net": 400, // fasthttp's own
	} {
		if code, _, _ := s.ask("GET", "/healthz", "Host: "+host); code != want {
			t.Errorf("%s: got %d, want %d", host, code, want)
		}
	}
	if strings.Contains(s.log.String(), "not a loopback address") {
		t.Errorf("warned on loopback: %s", s.log)
	}

	unix := start(t, Config{}, "unix", filepath.Join(t.TempDir(), "s"))
	if code, _, _ := unix.ask("GET", "/healthz", "Host: evil.example"); code != 200 {
		t.Errorf("unix socket: got %d, want 200", code)
	}
}

func TestServeWarnsWhereOthersCanConnect(t *testing.T) {
	t.Parallel()
	s := start(t, Config{}, "tcp", "0.0.0.0:0")
	if code, _, _ := s.ask("GET", "/healthz"); code != 200 {
		t.Errorf("got %d, want 200", code)
	}
	if got := strings.Count(s.log.String(), "admin.listen is not a loopback address"); got != 1 {
		t.Errorf("warnings: got %d, want 1", got)
	}
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, TokenFile)
	log := &logxtest.Buffer{}
	first, err := New(Config{DataDir: dir}, log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode: got %04o, want 0600", got)
	}
	made, err := ReadToken(file)
	if err != nil || len(made) != 64 {
		t.Errorf("token: got %q, %v; want 64 hex digits", made, err)
	}
	if strings.Contains(log.String(), made) || !strings.Contains(log.String(), file) {
		t.Errorf("log must name the file and not the token: %s", log)
	}
	second, err := New(Config{DataDir: dir}, log.Logger())
	if err != nil || second.token != first.token {
		t.Errorf("the second start has another token (%v)", err)
	}
	if left, _ := filepath.Glob(file + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	for _, c := range []struct {
		content string
		mode    os.FileMode
		want    string
	}{
		{made, 0o640, "chmod 600"},
		{made, 0o604, "chmod 600"},
		{"", 0o600, "got 0 characters"},
		{"short", 0o600, "got 5 characters"},
		{strings.Repeat("x", 1000), 0o600, "must be 16 to 256"},
		{"with a blank and a snowman", 0o600, "printable ASCII"},
	} {
		_ = os.Remove(file)
		if err := os.WriteFile(file, []byte(c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		_ = os.Chmod(file, c.mode)
		if _, err := New(Config{DataDir: dir}, log.Logger()); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "admin.token: ") {
			t.Errorf("%q %04o: got %v, want %s", c.content, c.mode, err, c.want)
		}
	}
	_ = os.Remove(file)
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{DataDir: dir}, log.Logger()); err == nil {
		t.Error("a directory: got no error")
	}
	if _, err := New(Config{Token: "short"}, log.Logger()); err == nil || !strings.Contains(err.Error(), "openssl rand -hex 32") {
		t.Errorf("configured token too short: got %v", err)
	}
}

func TestOpenMetrics(t *testing.T) {
	t.Parallel()
	s := start(t, Config{OpenMetrics: true}, "tcp", "127.0.0.1:0")
	if code, _, _ := s.ask("GET", "/metrics"); code != 200 {
		t.Errorf("/metrics: got %d, want 200", code)
	}
	if code, _, _ := s.ask("GET", "/api/v1/status"); code != 401 {
		t.Errorf("/api/v1/status: got %d, want 401", code)
	}
}

func TestExpositionPutsAFamilyTogether(t *testing.T) {
	t.Parallel()
	raw := `# HELP b The b.
# HELP b
# TYPE b gauge
b{endpoint="http"} 1
a 5

# HELP h
# TYPE h histogram
h_bucket{le="1"} 1
h_bucket{le="+Inf"} 2
h_sum 3
h_count 2
h_total 9
# HELP b
# TYPE b gauge
b{endpoint="admin"} 2
# TYPE empty counter
`
	want := `# HELP a The a.
# TYPE a untyped
a 5
# HELP b The b.
# TYPE b gauge
b{endpoint="http"} 1
b{endpoint="admin"} 2
# HELP h See docs/metrics.md.
# TYPE h histogram
h_bucket{le="1"} 1
h_bucket{le="+Inf"} 2
h_sum 3
h_count 2
# HELP h_total See docs/metrics.md.
# TYPE h_total untyped
h_total 9
`
	got := string(appendExposition(nil, raw, map[string]string{"a": "The a.", "b": "Not this."}))
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestPromtoolAcceptsMetrics needs promtool, of Debian's package prometheus.
func TestPromtoolAcceptsMetrics(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool here: apt-get install prometheus")
	}
	set := func(endpoint string) *metrics.Set {
		set := metrics.NewSet()
		set.NewGauge(`spillway_conns{endpoint="`+endpoint+`"}`, func() float64 { return 1 })
		set.NewPrometheusHistogram(`spillway_announce_seconds{endpoint="` + endpoint + `"}`).Update(0.1)
		return set
	}
	s := start(t, Config{Metrics: []func(io.Writer){set("http").WritePrometheus, set("admin").WritePrometheus}}, "tcp", "127.0.0.1:0")
	code, body, header := s.ask("GET", "/metrics", bearer)
	if code != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("got %d %s", code, header)
	}
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(body)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

func TestOversizedRequestIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, Config{}, "tcp", "127.0.0.1:0")
	if code, _, _ := s.ask("GET", "/healthz", "X-Long: "+strings.Repeat("x", 10000)); code != 431 {
		t.Errorf("long header: got %d, want 431", code)
	}
	req, _ := http.NewRequest("PUT", "http://localhost/api/v1/status", strings.NewReader(strings.Repeat("x", maxBodyBytes+1)))
	resp, err := s.client.Do(req)
	if err != nil {
		var opErr *net.OpError
		if !errors.As(err, &opErr) { // closed before all of it was sent
			t.Fatal(err)
		}
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != 400 { // fasthttp's default for it
		t.Errorf("long body: got %d, want 400", resp.StatusCode)
	}
}
