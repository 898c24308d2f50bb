package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/admin"
)

// fakeAdmin answers as the admin API does, with what a quiet test machine never has: overload, talkers, proposals. The scripts
// (testdata/ctl.txtar) hold ctl against the real one.
type fakeAdmin struct {
	mu       sync.Mutex // guards the rest
	status   admin.Status
	switches []admin.Switch
	blocks   admin.Blocks
	limits   []admin.Limit
	talkers  admin.Talkers
	changes  []string // "PUT /api/v1/switches/ws {...}"
	mute     bool     // answers 500
}

const fakeToken = "0123456789abcdef0123456789abcdef"

func newFakeAdmin() *fakeAdmin {
	f := &fakeAdmin{status: busyStatus(), blocks: busyBlocks(), talkers: busyTalkers()}
	f.switches = f.status.Switches
	f.limits = []admin.Limit{{Name: "http.max_conns", Value: 20000, Min: 1, Max: 20000}, {Name: "ws.max_conns", Value: 100000, Min: 1, Max: 100000}}
	return f
}

func (f *fakeAdmin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := func(code int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v)
	}
	refuse := func(code int, why string) { answer(code, map[string]string{"error": why}) }
	body, _ := io.ReadAll(r.Body)
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/api/v1/")
	noun, name, _ := strings.Cut(path, "/")
	switch {
	case r.Header.Get("Authorization") != "Bearer "+fakeToken:
		refuse(401, "token missing or wrong")
		return
	case f.mute:
		refuse(500, "out of order\x1b[2J")
		return
	case r.Method != http.MethodGet && r.Header.Get("Content-Type") != "application/json":
		refuse(415, "Content-Type: must be application/json")
		return
	case r.Method != http.MethodGet:
		f.changes = append(f.changes, r.Method+" "+r.URL.RequestURI()+" "+string(body))
	}
	var with change
	_ = json.Unmarshal(body, &with)
	now := time.Now()
	var until *time.Time
	if d, err := time.ParseDuration(with.For); err == nil {
		t := now.Add(d)
		until = &t
	}
	switch r.Method + " " + noun {
	case "GET status":
		f.status.Switches = f.switches
		answer(200, f.status)
	case "GET switches":
		answer(200, admin.Switches{Switches: f.switches})
	case "PUT switches":
		at := slices.IndexFunc(f.switches, func(s admin.Switch) bool { return s.Endpoint == name })
		f.switches = slices.Clone(f.switches)
		f.switches[at] = admin.Switch{Endpoint: name, Mode: with.Mode, Until: until, Reason: with.Reason, By: "api 127.0.0.1", Since: &now}
		answer(200, f.switches[at])
	case "GET blocks":
		answer(200, f.blocks)
	case "PUT blocks":
		kind, escaped, _ := strings.Cut(name, "/")
		value, _ := url.PathUnescape(escaped)
		answer(200, admin.Block{Kind: kind, Value: value, Until: until, Reason: with.Reason, By: "api 127.0.0.1", Since: now})
	case "DELETE blocks":
		if name != "source/192.0.2.0%2F24" {
			refuse(404, "value: no such block")
			return
		}
		answer(200, map[string]bool{"removed": true})
	case "GET limits":
		answer(200, admin.Limits{Limits: f.limits})
	case "PUT limits":
		var v struct{ Value int64 }
		_ = json.Unmarshal(body, &v)
		if v.Value > 20000 {
			refuse(400, "value: must be a number from 1 to 20000")
			return
		}
		answer(200, admin.Limit{Name: name, Value: v.Value, Min: 1, Max: 20000})
	case "GET talkers":
		answer(200, f.talkers)
	case "GET history":
		_, _ = io.WriteString(w, `{"step_seconds":10,"to":1,"series":{"offered":[1000,2000],"served":[1000,1500],"shed":[0,500]}}`)
	default:
		refuse(404, "no such path")
	}
}

func (f *fakeAdmin) lastChange() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.changes) == 0 {
		return ""
	}
	return f.changes[len(f.changes)-1]
}

// ctl runs a command line against f and returns what an operator would see.
func ctl(t *testing.T, url string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	environ := []string{"SPILLWAY_ADMIN_TOKEN=" + fakeToken}
	code = run(append([]string{"ctl", "--admin=" + url}, args...), environ, &out, &errOut)
	if strings.ContainsRune(out.String()+errOut.String(), 0x1b) {
		t.Errorf("%q: an escape character where no terminal is: %q", args, out.String()+errOut.String())
	}
	return code, out.String(), errOut.String()
}

func TestCtl(t *testing.T) {
	t.Parallel()
	f := newFakeAdmin()
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	// ok wants exit code 0, the last change and these texts, one after the other, in what is printed.
	ok := func(args, change string, want ...string) {
		t.Helper()
		code, stdout, stderr := ctl(t, srv.URL, fields(args)...)
		if code != 0 || stderr != "" {
			t.Errorf("%s: exit code %d, %s", args, code, stderr)
		}
		if change != "" && f.lastChange() != change {
			t.Errorf("%s: sent %s, want %s", args, f.lastChange(), change)
		}
		rest := stdout
		for _, w := range want {
			_, after, found := strings.Cut(rest, w)
			if !found {
				t.Errorf("%s: no %q in %q of\n%s", args, w, rest, stdout)
				return
			}
			rest = after
		}
	}
	ok("status", "", "OVERLOAD  requests waited longer", "offered 2,000/s, served 1,500/s", "25 % of what", "1,204/20,000 6 %", "announce", "1,900")
	ok("status --json", "", `{"version":"v1.2.3",`)
	ok("ws", "", "ws on\n")
	ok("ws off --for 10m --reason 'flood'", `PUT /api/v1/switches/ws {"mode":"off","for":"10m","reason":"flood"}`,
		"ws off for 10m0s (until ", "), reason: flood; 12,001 WebSockets are being closed\n")
	ok("ws", "", "ws off, ", " left, flood, by api 127.0.0.1, until ", ", since ") // 10m 0s, or less on a busy machine
	ok("ws --json", "", `{"endpoint":"ws","mode":"off","until":"2`)
	ok("status", "", "ws  ", "off, ", " left, flood, by api 127.0.0.1, until ")
	ok("ws drain", `PUT /api/v1/switches/ws {"mode":"drain"}`, "ws drain until it is switched on again; 12,001 WebSockets are being closed over a minute\n")
	ok("ws reject-new", `PUT /api/v1/switches/ws {"mode":"reject-new"}`, "; 12,001 WebSockets stay open\n")
	ok("ws on", `PUT /api/v1/switches/ws {"mode":"on"}`, "ws on\n")
	ok("ws on --cluster", `PUT /api/v1/switches/ws {"mode":"on","cluster":true}`, "ws on; all nodes are told\n")
	ok("udp off --for 1d", `PUT /api/v1/switches/udp {"mode":"off","for":"24h"}`, "udp off for 24h0m0s (until ")
	ok("announce reject-new --json", `PUT /api/v1/switches/announce {"mode":"reject-new"}`, `{"endpoint":"announce","mode":"reject-new","until":null,`)
	ok("scrape on", `PUT /api/v1/switches/scrape {"mode":"on"}`, "scrape on\n")

	ok("block", "", "source", "12  192.0.2.0/24  until it is removed, flood, by api 127.0.0.1", "proposed", "83 %", "2 %  Evil/1.0·", "  its share")
	ok("block list --json", "", `"proposed":[`, `Evil/1.0\u001b[31m`)
	ok("block add source 2001:db8::/32 --for 1h --reason bots", `PUT /api/v1/blocks/source/2001:db8::%2F32 {"for":"1h","reason":"bots"}`,
		"source 2001:db8::/32 is blocked until ", " left), reason: bots\n")
	ok("block add user-agent 'a b/?#%'", `PUT /api/v1/blocks/user-agent/a%20b%2F%3F%23%25 {}`, "user-agent a b/?#% is blocked until it is removed\n")
	ok("block rm source 192.0.2.0/24 --cluster", `DELETE /api/v1/blocks/source/192.0.2.0%2F24 {"cluster":true}`, "is not blocked any more; all nodes are told\n")
	ok("block add user-agent ..", `PUT /api/v1/blocks/user-agent?value=.. {}`)
	ok("block rm source 192.0.2.0/24", "DELETE /api/v1/blocks/source/192.0.2.0%2F24 ", "source 192.0.2.0/24 is not blocked any more\n")
	ok("block accept "+proposalID(&f.blocks.Proposed[0]), `PUT /api/v1/blocks/user-agent/Evil%2F1.0%1B%5B31m {"for":"1h","reason":"proposed: its share rose"}`,
		"user-agent Evil/1.0· is blocked until ")

	ok("limits", "", "http.max_conns", "20,000", "ws.max_conns")
	ok("limits set http.max_conns 1000", `PUT /api/v1/limits/http.max_conns {"value":1000}`, "http.max_conns is 1,000 (was 20,000), until the next restart\n")
	ok("top", "", "spillway v1.2.3 at http://127.0.0.1:", "OVERLOAD", "offered", "▇", "1 sources", "40 %", "192.0.2.1", "proposed blocks: 1")
}

// fields splits at blanks, but not in single quotes.
func fields(s string) (list []string) {
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			list = append(list, part)
		} else {
			list = append(list, strings.Fields(part)...)
		}
	}
	return list
}

func TestCtlPage(t *testing.T) {
	t.Parallel()
	f := func(at, want, wantNote string) {
		t.Helper()
		code, stdout, stderr := ctl(t, at, "page")
		if code != 0 || stdout != want+"\n" || !strings.Contains(stderr, "holds the admin token") || !strings.Contains(stderr, wantNote) {
			t.Errorf("%s: exit code %d, %q, %q, want %q", at, code, stdout, stderr, want)
		}
	}
	f("127.0.0.1:7070", "http://127.0.0.1:7070/#token="+fakeToken, "")
	f("https://tracker.example/admin/", "https://tracker.example/admin/#token="+fakeToken, "")
	f("unix:/run/spillway/admin.sock", "http://localhost:7070/#token="+fakeToken, "ssh -N -L 7070:/run/spillway/admin.sock")
}

func TestCtlRefuses(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(newFakeAdmin())
	t.Cleanup(srv.Close)
	f := func(args string, wantCode int, want string) {
		t.Helper()
		code, stdout, stderr := ctl(t, srv.URL, fields(args)...)
		if code != wantCode || !strings.Contains(stderr, want) || stdout != "" {
			t.Errorf("%s: exit code %d, %q, %q, want %d, %q", args, code, stdout, stderr, wantCode, want)
		}
	}
	f("wss off", 2, `unexpected argument wss, did you mean "ws"?`)
	f("ws of", 2, `mode "of": must be on, reject-new, drain or off; did you mean "off"?`)
	f("ws reject_new", 2, `did you mean "reject-new"?`)
	f("ws on --for 10m", 2, "--for goes with a mode that ends, not with on")
	f("ws --cluster", 2, "--cluster goes with a mode")
	f("ws --reason x", 2, "--for and --reason go with a mode")
	f("ws off --for 10", 2, `--for: got "10"; must be a time, as 20s`)
	f("block add useragent x", 2, `did you mean "user-agent"?`)
	f("block add", 2, `expected "<kind> <value>"`)
	f("block add source", 2, "value: none given")
	f("block add source ''", 2, "value: none given")
	f("block rm source 192.0.2.1", 1, `no such block: source 192.0.2.1; "spillway ctl block" lists`)
	f("block accept 123456", 1, `no proposal "123456" now`)
	f("limits set http.max_con 1", 1, `did you mean "http.max_conns"?`)
	f("limits set http.max_conns 20001", 1, "value: must be a number from 1 to 20000")
	f("top --json", 1, "status --json")
	f("status --timeout 0s", 2, "--timeout")
	f("status --admin 127.0.0.1", 2, "--admin: got \"127.0.0.1\"; must be HOST:PORT")
	f("status --token-file /dev/null", 1, "/dev/null holds no token")
	f("status --token-file none", 1, "token: open none: no such file or directory; it is the file admin.token in the data_dir")
}

// What goes wrong between ctl and the tracker is said so that a person knows where to look.
func TestCtlUnreachable(t *testing.T) {
	t.Parallel()
	f := func(at, want string, more ...string) {
		t.Helper()
		code, stdout, stderr := ctl(t, at, append([]string{"status"}, more...)...)
		if code != 1 || !strings.Contains(stderr, want) || stdout != "" {
			t.Errorf("%s: exit code %d, %q, %q, want 1, %q", at, code, stdout, stderr, want)
		}
	}
	handler := func(h http.HandlerFunc) string {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		return srv.URL
	}
	// A port that was bound a moment ago, and is not now.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	f(nobody, "nothing answers at "+nobody+"; is spillway serve running, and is --admin right?")
	f("unix:"+t.TempDir()+"/none", "nothing answers at unix:")
	f("none.invalid:1", "no answer from none.invalid:1: ")

	release := make(chan struct{})
	slow := handler(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	f(slow, "within 50ms; if --admin is right it is very busy: give it longer with --timeout", "--timeout=50ms")

	fake := newFakeAdmin()
	srv := httptest.NewServer(fake)
	t.Cleanup(srv.Close)
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("another-token-than-that\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f(srv.URL, "does not take this token (from "+wrong+"); the right one is in the file admin.token", "--token-file="+wrong)
	fake.mu.Lock()
	fake.mute = true
	fake.mu.Unlock()
	f(srv.URL, "spillway: out of order·\n")

	f(handler(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "d14:failure reason", http.StatusNotFound) }),
		"answered 404 Not Found, which is not how an admin side answers; is --admin the address of admin.listen, and not of http.listen?")
	f(handler(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }), "answered something else than this program expects")
	f(handler(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, srv.URL, http.StatusFound) }), "answered 302 Found")
	f(handler(func(w http.ResponseWriter, _ *http.Request) {
		piece := bytes.Repeat([]byte(" "), 1<<20)
		for range maxAnswerBytes>>20 + 1 {
			_, _ = w.Write(piece)
		}
	}), "answers with more than 8 MiB")
}

// An operator's shell often has a proxy set, which has no business with the token.
func TestCtlIgnoresProxies(t *testing.T) {
	c := newClient(place{base: "http://192.0.2.1"}, fakeToken, "", time.Second)
	if c.http.Transport.(*http.Transport).Proxy != nil {
		t.Error("requests go through the proxy of the environment")
	}
}

func TestCtlUnixSocket(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "a")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(newFakeAdmin())
	_ = srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	if code, stdout, stderr := ctl(t, "unix:"+socket, "ws"); code != 0 || stdout != "ws on\n" {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
}

func TestParsePlace(t *testing.T) {
	t.Parallel()
	f := func(text, base, socket string) {
		t.Helper()
		got, err := parsePlace(text)
		if err != nil || got.base != base || got.socket != socket {
			t.Errorf("%q: got %+v, %v, want %q, %q", text, got, err, base, socket)
		}
	}
	f("127.0.0.1:7070", "http://127.0.0.1:7070", "")
	f(":7070", "http://127.0.0.1:7070", "")
	f("0.0.0.0:7070", "http://127.0.0.1:7070", "")
	f("[::]:7070", "http://[::1]:7070", "")
	f("[fe80::1%eth0]:7070", "http://[fe80::1%25eth0]:7070", "")
	f("tracker.example:80", "http://tracker.example:80", "")
	f("https://tracker.example/admin/", "https://tracker.example/admin", "")
	f("unix:/run/a", "http://localhost", "/run/a")
	for _, bad := range []string{"", "x", "unix:", "http://", "ftp://x", "http://u:p@x", "http://x/?q", ":99999", "x:y", "http://x/#f"} {
		if got, err := parsePlace(bad); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, got)
		}
	}
}

// filesIn writes files into dir, and returns their paths.
func filesIn(t *testing.T, dir string) func(name, content string) (file string) {
	return func(name, content string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
}

// Who says where the tracker is, and with which token: flags, then the environment, then the file, then the defaults.
func TestCtlClientSources(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := filesIn(t, dir)
	write("admin.token", "token-of-the-data-dir\n")
	flag := write("flag", "token-of-the-flag")
	full := write("full.yaml", "data_dir: "+dir+"\nadmin: {listen: '127.0.0.1:7000', token: token-of-the-file}\n")
	bare := write("bare.yaml", "data_dir: "+dir+"\n")
	broken := write("broken.yaml", "data_dir: [\n")
	off := write("off.yaml", "data_dir: "+dir+"\nadmin: {listen: ''}\n")

	f := func(c Ctl, file, env, wantPlace, wantToken, wantErr string) {
		t.Helper()
		p := &Program{}
		p.Src.File = file
		if env != "" {
			p.Src.Environ = []string{"SPILLWAY_ADMIN_TOKEN=" + env}
		}
		got, err := c.client(p)
		if wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), wantErr) {
				t.Errorf("%+v %s %s: got %v, want %q", c, file, env, err, wantErr)
			}
			return
		}
		if err != nil || got.place.text != wantPlace || got.token != wantToken {
			t.Errorf("%+v %s %s: got %+v, %v, want %s, %s", c, file, env, got, err, wantPlace, wantToken)
		}
	}
	f(Ctl{}, bare, "", "127.0.0.1:7070", "token-of-the-data-dir", "")
	f(Ctl{}, full, "", "127.0.0.1:7000", "token-of-the-file", "")
	f(Ctl{}, full, "token-of-the-environment", "127.0.0.1:7000", "token-of-the-environment", "")
	f(Ctl{Admin: "127.0.0.1:1", TokenFile: flag}, full, "token-of-the-environment", "127.0.0.1:1", "token-of-the-flag", "")
	// A broken configuration keeps nobody from the switches.
	f(Ctl{Admin: "127.0.0.1:1", TokenFile: flag}, broken, "", "127.0.0.1:1", "token-of-the-flag", "")
	f(Ctl{Admin: "127.0.0.1:1"}, broken, "token-of-the-environment", "127.0.0.1:1", "token-of-the-environment", "")
	f(Ctl{Admin: "127.0.0.1:1"}, broken, "", "", "", "the configuration is not needed where --admin and --token-file are given")
	f(Ctl{}, off, "", "", "", "admin.listen is empty in this configuration")
	f(Ctl{Admin: "127.0.0.1:1"}, off, "", "127.0.0.1:1", "token-of-the-data-dir", "")
	f(Ctl{TokenFile: write("two", "two words")}, bare, "", "", "", "holds a character that no token has")
	f(Ctl{TokenFile: write("long", strings.Repeat("x", maxTokenBytes+1))}, bare, "", "", "", "holds no token")
}

// The file is the tracker's own user's; somebody else is told which file, who he is and what to do.
func TestCtlTokenOfAnotherUser(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(fakeToken), 0o000); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 { // who may read everything; this thread may not, for as long as it reads
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
	}
	_, err := readTokenFile(file)
	if os.Getuid() == 0 {
		if err := unix.Setfsuid(0); err != nil {
			panic(err) // the thread would go on to other tests
		}
	}
	if err == nil || !strings.Contains(err.Error(), file+": permission denied for user ") || !strings.Contains(err.Error(), "sudo") {
		t.Errorf("got %v", err)
	}
}

// status --exit-code is for scripts: 3 is neither "calm" nor "could not ask".
func TestCtlExitCode(t *testing.T) {
	t.Parallel()
	f := newFakeAdmin()
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	status := func(args ...string) int {
		cmd := exec.Command("spillway", append([]string{"ctl", "status", "--admin=" + srv.URL}, args...)...)
		cmd.Env = append(os.Environ(), "SPILLWAY_ADMIN_TOKEN="+fakeToken)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if !strings.Contains(string(out), "v1.2.3") {
			t.Errorf("%q: got %q", args, out)
		}
		return cmd.ProcessState.ExitCode()
	}
	if got := status(); got != 0 {
		t.Errorf("overload, without the flag: got %d, want 0", got)
	}
	if got := status("--exit-code"); got != 3 {
		t.Errorf("overload: got %d, want 3", got)
	}
	f.mu.Lock()
	f.status.Load.State = "calm"
	f.mu.Unlock()
	if got := status("--exit-code", "--json"); got != 0 {
		t.Errorf("calm: got %d, want 0", got)
	}
}
