package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spillway/internal/admin"
	"spillway/internal/admin/admintest"
	"spillway/relay"
)

// relayStatus is one in a state, with so many backends; every third has an IPv6 address.
func relayStatus(state string, backends int) relay.Status {
	st := relay.Status{
		Version: "v1.2.3", Started: noon.Add(-76 * time.Hour), UptimeSeconds: 76 * 3600,
		Mode: "kernel", ModeWhy: "nf_tables and CAP_NET_ADMIN are there", Listen: []string{":80", ":443"}, Masquerade: true,
		State: state, Why: "all backends are up", Since: noon.Add(-4*time.Hour - 12*time.Minute),
		Opened: 2114, NoFlow: 11.4, Conntrack: 30412, ConntrackMax: 262144, PortsUsed: 0.31, Profile: "fast-fail",
		Events: []relay.Event{{At: noon.Add(-76 * time.Hour), Text: "forwarding in kernel mode"}},
	}
	for i := range backends {
		b := relay.BackendStatus{
			Addr: fmt.Sprintf("10.66.0.%d:6969", i+2), Weight: 1, Share: 1 / float64(backends), Up: true, Since: noon.Add(-time.Duration(i+1) * 7777 * time.Second),
			ProbeMS: 0.8 + float64(i), Budget: 1500, BudgetMax: 1500, Unanswered: 9 + i, Opened: st.Opened / float64(backends),
		}
		if i%3 == 2 {
			b.Addr = fmt.Sprintf("[fd00:66:3a7f:9b1c:225:90ff:fe8a:%x]:6969", 0x1d04+i)
		}
		if state == "refusing" || state == "degraded" && i%3 == 1 {
			b.Up, b.Why, b.Since, b.Share, b.Opened, b.Refused, b.Budget, b.Unanswered = false, "no answer within 300ms", noon.Add(-95*time.Second), 0, 0, 412, 187, 187
		}
		st.Backends = append(st.Backends, b)
	}
	if state == "forwarding" {
		return st
	}
	st.Since = noon.Add(-95 * time.Second)
	st.RefusedDown, st.Why = 412, "10.66.0.3:6969 is down: no answer within 300ms; the others take its sources"
	st.PortsUsed, st.InsertFailed, st.LogDropped = 0.78, 1204, 3
	st.ProfileOff = []string{"net.ipv4.tcp_tw_reuse", "net.netfilter.nf_conntrack_tcp_timeout_syn_sent"}
	st.Backends[0].Level, st.Backends[0].Why = 0.35, "GET /healthz: 503"
	for i := range 20 {
		st.Events = append([]relay.Event{{At: noon.Add(-time.Duration(200-5*i) * time.Second), Text: fmt.Sprintf("10.66.0.3:6969 is down: no answer within 300ms; %d flows ended", 70*i)}}, st.Events...)
	}
	if state == "refusing" {
		st.Opened, st.Why, st.Conntrack = 0, "no backend answers", 246
	}
	return st
}

// startRelayAdmin serves what st holds on the real admin side of a relay, and returns its address.
func startRelayAdmin(t *testing.T, st *atomic.Pointer[relay.Status]) string {
	t.Helper()
	return admintest.Serve(t, admin.Config{Token: fakeToken, Relay: func() relay.Status { return *st.Load() }})
}

// ctlRelay runs a command line against addr as ctl does.
func ctlRelay(t *testing.T, addr string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = run(append([]string{"ctl", "--relay", "--admin=" + addr}, args...), []string{"SPILLWAY_RELAY_ADMIN_TOKEN=" + fakeToken}, &out, &errOut)
	if strings.ContainsRune(out.String()+errOut.String(), 0x1b) {
		t.Errorf("%q: an escape character where no terminal is: %q", args, out.String()+errOut.String())
	}
	return code, out.String(), errOut.String()
}

func TestCtlRelayStatusText(t *testing.T) {
	t.Parallel()
	proxy := relayStatus("forwarding", 1)
	proxy.Mode, proxy.ModeWhy, proxy.Masquerade, proxy.Profile = "proxy", "no CAP_NET_ADMIN", false, "none"
	proxy.Conns, proxy.ConnsMax, proxy.Conntrack, proxy.ConntrackMax = 17204, 20000, 0, 0
	for name, st := range map[string]relay.Status{
		"relay-forwarding": relayStatus("forwarding", 1), "relay-degraded": relayStatus("degraded", 3),
		"relay-refusing": relayStatus("refusing", 16), "relay-proxy": proxy,
	} {
		wantPicture(t, name, relayLines(&st, noon, false))
	}
	v := &relayView{place: "127.0.0.1:7071", now: noon, heard: noon.Add(-5 * time.Second), status: relayStatus("degraded", 16), trouble: "nothing answers at 127.0.0.1:7071"}
	wantPicture(t, "relay-top", relayFrame(v, 80, 24))
}

func TestCtlRelay(t *testing.T) {
	t.Parallel()
	var st atomic.Pointer[relay.Status]
	set := func(s relay.Status) { st.Store(&s) }
	set(relayStatus("degraded", 3))
	addr := startRelayAdmin(t, &st)
	f := func(args string, wantCode int, wantOut, wantErr string) {
		t.Helper()
		code, stdout, stderr := ctlRelay(t, addr, strings.Fields(args)...)
		if code != wantCode || !strings.Contains(stdout, wantOut) || !strings.Contains(stderr, wantErr) || (wantErr == "") != (stderr == "") {
			t.Errorf("%s: exit code %d, %q, %q, want %d, %q, %q", args, code, stdout, stderr, wantCode, wantOut, wantErr)
		}
	}
	f("status", 0, "DEGRADED for ", "")
	f("status --exit-code", 3, "DEGRADED", "")
	f("status --json", 0, `"state":"degraded","why":"10.66.0.3:6969 is down`, "")
	f("top", 0, "spillway relay v1.2.3 at "+addr, "")
	f("top --json", 1, "", "status --json")
	for _, other := range []string{"ws", "ws off", "announce", "scrape drain", "udp", "block", "block add source 192.0.2.1", "limits", "limits set http.max_conns 1", "page"} {
		f(other, 2, "", "--relay goes with status and top")
	}
	set(relayStatus("refusing", 1))
	f("status --exit-code", 3, "REFUSING", "")
	set(relayStatus("forwarding", 1))
	f("status --exit-code", 0, "FORWARDING", "")

	_, stdout, _ := ctlRelay(t, addr, "status", "--json")
	var heard relay.Status
	if err := json.Unmarshal([]byte(stdout), &heard); err != nil || len(heard.Backends) != 1 || heard.Backends[0].ProbeMS != 0.8 {
		t.Errorf("--json: got %s, %v", stdout, err)
	}
	evil := relayStatus("degraded", 1)
	evil.Why, evil.Backends[0].Why, evil.Events[0].Text = "\x1b[2J\u202eowned", "\x1b]0;owned\x07", "a\nb"
	set(evil)
	f("status", 0, "·owned", "") // and ctlRelay looks for escapes
	f("status --json", 0, `\u202eowned`, "")
}

// Who asks the wrong side is told so.
func TestCtlRelayOfTheOtherKind(t *testing.T) {
	t.Parallel()
	var st atomic.Pointer[relay.Status]
	s := relayStatus("forwarding", 1)
	st.Store(&s)
	addr := startRelayAdmin(t, &st)
	if code, stdout, stderr := ctl(t, addr, "status"); code != 1 || stdout != "" || !strings.Contains(stderr, "ask with --relay") {
		t.Errorf("a relay asked as a tracker: exit code %d, %q, %q", code, stdout, stderr)
	}
	if code, _, stderr := ctl(t, addr, "ws", "off"); code != 1 || !strings.Contains(stderr, "this is a relay") {
		t.Errorf("a switch of a relay: exit code %d, %q", code, stderr)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	if code, _, stderr := ctlRelay(t, nobody, "status"); code != 1 || !strings.Contains(stderr, "is spillway relay running") {
		t.Errorf("nobody: exit code %d, %q", code, stderr)
	}
	tracker := httptest.NewServer(newFakeAdmin())
	t.Cleanup(tracker.Close)
	if code, stdout, stderr := ctlRelay(t, tracker.URL, "status"); code != 1 || stdout != "" || !strings.Contains(stderr, "leave out --relay") {
		t.Errorf("a tracker asked as a relay: exit code %d, %q, %q", code, stdout, stderr)
	}
}

func TestCtlRelayClientSources(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := filesIn(t, dir)
	write("admin.token", "token-of-the-data-dir\n")
	bare := write("bare.yaml", "data_dir: "+dir+"\n")
	full := write("full.yaml", "data_dir: "+dir+"\nadmin: {listen: '127.0.0.1:1', token: token-of-the-tracker}\nrelay: {admin: {listen: '127.0.0.1:7000', token: token-of-the-relay}}\n")
	off := write("off.yaml", "data_dir: "+dir+"\nrelay: {admin: {listen: ''}}\n")
	f := func(file string, environ []string, wantPlace, wantToken, wantErr string) {
		t.Helper()
		p := &Program{}
		p.Src.File, p.Src.Environ = file, environ
		got, err := (&Ctl{Relay: true}).client(p)
		if wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), wantErr) {
				t.Errorf("%s: got %v, want %q", file, err, wantErr)
			}
			return
		}
		if err != nil || got.place.text != wantPlace || got.token != wantToken {
			t.Errorf("%s: got %+v, %v, want %s, %s", file, got, err, wantPlace, wantToken)
		}
	}
	f(bare, nil, "127.0.0.1:7071", "token-of-the-data-dir", "")
	f(full, nil, "127.0.0.1:7000", "token-of-the-relay", "")
	f(full, []string{"SPILLWAY_RELAY_ADMIN_TOKEN=token-of-the-environment"}, "127.0.0.1:7000", "token-of-the-environment", "")
	f(full, []string{"SPILLWAY_ADMIN_TOKEN=the-tracker-s-and-not-for-the-relay"}, "127.0.0.1:7000", "token-of-the-relay", "")
	f(full, []string{"SPILLWAY_RELAY_ADMIN_LISTEN=127.0.0.1:7002"}, "127.0.0.1:7002", "token-of-the-relay", "")
	f(off, nil, "", "", "relay.admin.listen is empty in this configuration")
}

// A frame fills the terminal and never more, whatever the relay says and however small it is.
func TestCtlRelayFrameFits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		st := relayStatus(rapid.SampledFrom([]string{"forwarding", "degraded", "refusing"}).Draw(r, "state"), rapid.IntRange(1, 40).Draw(r, "backends"))
		st.Why, st.Backends[0].Addr, st.Backends[0].Why = rapid.String().Draw(r, "why"), rapid.String().Draw(r, "addr"), rapid.String().Draw(r, "failure")
		st.Events = st.Events[:rapid.IntRange(0, len(st.Events)).Draw(r, "events")]
		v := &relayView{place: "127.0.0.1:7071", now: noon, heard: noon, status: st, trouble: rapid.SampledFrom([]string{"", "no answer"}).Draw(r, "trouble")}
		width, height := rapid.IntRange(1, 200).Draw(r, "width"), rapid.IntRange(1, 80).Draw(r, "height")
		lines := relayFrame(v, width, height)
		if len(lines) != height {
			r.Fatalf("got %d lines, want %d", len(lines), height)
		}
		for _, text := range lines {
			if columns(text) > width || clean(text) != text {
				r.Fatalf("%q: %d columns, want at most %d, and clean", text, columns(text), width)
			}
		}
		if height > 30 && !strings.Contains(lines[len(lines)-1], "q quit"[:min(6, width-1)]) {
			r.Fatalf("the last line is %q", lines[len(lines)-1])
		}
	})
}

func TestCtlRelayTopOnATerminal(t *testing.T) {
	t.Parallel()
	var st atomic.Pointer[relay.Status]
	s := relayStatus("forwarding", 3)
	st.Store(&s)
	addr := startRelayAdmin(t, &st)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(fakeToken), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startOnTerminal(t, 120, 30, "ctl", "--relay", "--admin="+addr, "--token-file="+file, "top")
	was := p.termios()
	if got := strings.Count(p.wait("\x1b\\[32mFORWARDING"), "\r\n"); got != 29 {
		t.Errorf("lines: got %d, want 30", got+1)
	}
	s2 := relayStatus("refusing", 3)
	st.Store(&s2)
	p.wait("REFUSING")
	p.resize(60, 12)
	if got := strings.Count(p.wait("REFUSING"), "\r\n"); got != 11 {
		t.Errorf("lines: got %d, want 12", got+1)
	}
	p.press("\x1bOQ") // F2 is no Q
	p.wait("REFUSING")
	p.press("q")
	p.quits(was, 0)
}
