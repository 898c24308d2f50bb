//go:build e2e

package e2e

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway/internal/admin"
	"spillway/internal/admin/admintest"
	"spillway/relay"
)

// An operator opens the page, turns the WebSocket server off and on again, and sees who asks most, whatever that one is called.
// go test -artifacts keeps the pictures.
func TestOperatorsPageInChromium(t *testing.T) {
	t.Parallel()
	needsNode(t)
	tr := serve(t)
	match := adminAddr.FindStringSubmatch(tr.log())
	if match == nil {
		t.Fatal("no admin address in the log")
	}
	token, err := os.ReadFile(filepath.Join(tr.dataDir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	saysOK(t, start(t, "admin_page.mjs", "node", "testdata/admin_page.mjs",
		"http://"+match[1], strings.TrimSpace(string(token)), tr.announce, t.ArtifactDir()), 2*time.Minute)
	for _, change := range []string{
		`what="switch ws" from=on to=off reason="flood of sockets"`,
		`what="switch ws" from=off to=on`,
		`what="limit http.max_conns"`,
	} {
		if !strings.Contains(tr.log(), change) {
			t.Errorf("log has no line with %s", change)
		}
	}
	tr.stop(t)
}

// An operator looks at the relay's page while it forwards, has lost some of its backends, and has lost all; with one backend and
// with many, on a desk and on a phone. Only the figures are made up: the listener, its page and its guards are those of the
// program. go test -artifacts keeps the pictures.
func TestRelaysPageInChromium(t *testing.T) {
	t.Parallel()
	needsNode(t)
	var now atomic.Pointer[relay.Status]
	now.Store(relayScene("forwarding-3"))
	const token = "0123456789abcdef0123456789abcdef"
	addr := admintest.Serve(t, admin.Config{
		Token: token, Relay: func() relay.Status { return *now.Load() }, RelayHistory: relayHour(),
	})
	// The script sets the scene here.
	stage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		st := relayScene(strings.TrimPrefix(r.URL.Path, "/"))
		if st == nil {
			http.NotFound(w, r)
			return
		}
		now.Store(st)
	}))
	t.Cleanup(stage.Close)
	saysOK(t, start(t, "relay_page.mjs", "node", "testdata/relay_page.mjs", "http://"+addr, token, stage.URL, t.ArtifactDir()), 4*time.Minute)
}

// relayScene is a status by the name of its state and its number of backends; nil for a name it does not know.
func relayScene(name string) *relay.Status {
	state, digits, _ := strings.Cut(name, "-")
	count := map[string]int{"1": 1, "3": 3, "16": 16, "proxy": 2, "hostile": 2}[digits]
	if count == 0 {
		return nil
	}
	at := time.Now().UTC()
	ago := func(d time.Duration) time.Time { return at.Add(-d) }
	st := &relay.Status{
		Version: "v0.9.0", Started: ago(76 * time.Hour), UptimeSeconds: 76 * 3600,
		Mode: "kernel", ModeWhy: "CAP_NET_ADMIN is there and the kernel has nf_tables and conntrack", Listen: []string{":80", ":443"}, Masquerade: true,
		State: state, Since: ago(4*time.Hour + 12*time.Minute),
		Opened: 2114, RefusedSource: 3.2, NoFlow: 11.4,
		Conntrack: 30412, ConntrackMax: 262144, PortsUsed: 0.31, Profile: "fast-fail",
		Events: []relay.Event{
			{At: ago(252 * time.Minute), Text: "backend 10.66.0.2:6969 is up; it was down for 4.1s"},
			{At: ago(252*time.Minute + 4*time.Second), Text: "backend 10.66.0.2:6969 is down: no answer within 300ms; it was up for 71h47m"},
			{At: ago(76 * time.Hour), Text: "forwarding :80, :443 in kernel mode"},
		},
	}
	addrs := []string{"10.66.0.2:6969", "10.66.0.3:6969", "[fd00:66:3a7f:9b1c:225:90ff:fe8a:1d04]:6969"}
	for i := range count {
		addr := fmt.Sprintf("10.66.0.%d:6969", i+2)
		if i%3 == 2 {
			addr = fmt.Sprintf("[fd00:66:3a7f:9b1c:225:90ff:fe8a:%x]:6969", 0x1d04+i)
		}
		if i < len(addrs) {
			addr = addrs[i]
		}
		st.Backends = append(st.Backends, relay.BackendStatus{
			Addr: addr, Weight: 1 + i%2*2, Share: 1 / float64(count), Up: true, Since: ago(time.Duration(i+1) * 7777 * time.Second), ProbeMS: 0.8 + float64(i)*0.37,
			Budget: 1500, BudgetMax: 1500, Unanswered: 9 + 5*i, Opened: st.Opened / float64(count),
		})
	}
	fall := func(i int, why string) {
		b := &st.Backends[i]
		b.Up, b.Why, b.Since, b.Share, b.Opened, b.Refused, b.Budget, b.Unanswered = false, why, ago(95*time.Second), 0, 0, 412, 187, 187
	}
	switch state {
	case "forwarding":
		st.Why = "all backends answer"
		if count == 1 {
			st.Why = "the backend answers"
		}
		st.Backends[0].Why = "no answer within 300ms"
	case "degraded":
		st.Why = "backend 10.66.0.3:6969 does not answer since 1m35s (probe: connect: connection refused): its sources go to the others"
		st.Since = ago(95 * time.Second)
		fall(1%count, "connect: connection refused")
		if count > 4 {
			fall(7, "no answer within 300ms")
		}
		b := &st.Backends[0] // it has just come back
		b.Level, b.Budget, b.Unanswered, b.Why, b.Since, b.ProbeMS = 0.35, 375, 352, "GET /healthz: 503 Service Unavailable", ago(4*time.Second), 212.4
		st.Opened, st.RefusedDown, st.RefusedBudget, st.PortsUsed, st.InsertFailed = 1630, 412, 96, 0.78, 1204
		st.ProfileOff = []string{"net.netfilter.nf_conntrack_tcp_timeout_syn_sent", "net.netfilter.nf_conntrack_tcp_timeout_close_wait"}
		st.Events = append([]relay.Event{
			{At: ago(4 * time.Second), Text: "backend 10.66.0.2:6969 is up; it was down for 31s"},
			{At: ago(95 * time.Second), Text: "backend 10.66.0.3:6969 is down: connect: connection refused; it was up for 2h9m"},
		}, st.Events...)
	case "refusing":
		st.Since = ago(95 * time.Second)
		var whys []string
		for i := range st.Backends {
			fall(i, "no answer within 300ms")
			whys = append(whys, "backend "+st.Backends[i].Addr+" does not answer since 1m35s (probe: no answer within 300ms): connections are refused")
		}
		st.Why = strings.Join(whys, "; ")
		st.Opened, st.RefusedDown, st.RefusedBudget, st.RefusedSource, st.Conntrack = 0, 6894, 0, 0, 246
		for i := range 30 {
			st.Events = append([]relay.Event{{At: ago(time.Duration(95+3*(30-i)) * time.Second), Text: fmt.Sprintf("backend 10.66.0.%d:6969 is down: no answer within 300ms; it was up for %ds", 2+i%3, 90*i)}}, st.Events...)
		}
	default:
		return nil
	}
	switch digits {
	case "proxy":
		st.Mode, st.ModeWhy, st.Masquerade, st.PortsUsed = "proxy", "no CAP_NET_ADMIN: start it as root, or with AmbientCapabilities=CAP_NET_ADMIN, to have the kernel forward", false, 0
		st.Conntrack, st.ConntrackMax, st.Conns, st.ConnsMax, st.Profile = 0, 0, 17204, 20000, "none"
	case "hostile": // what a backend's answer says is somebody else's text
		evil := `<img src=x onerror=document.title="owned">` + "\u202e\x1b[31m" + strings.Repeat("long", 60)
		st.Why, st.ModeWhy, st.Backends[0].Why = evil, evil, evil
		st.Events[0].Text = evil
		st.Backends[1].Addr = "[fd00:1111:2222:3333:4444:5555:6666:7777%a-very-long-name]:65535"
		st.ProfileOff = []string{evil}
		st.Started, st.Since, st.Backends[1].Since = time.Time{}, time.Time{}, time.Time{}
		st.Opened, st.RefusedDown, st.Conntrack, st.InsertFailed = 1.23e6, 9.8e6, math.MaxInt32, math.MaxUint64
	}
	return st
}

// relayHour is an hour with a backend that died for two minutes, and a flood.
func relayHour() *admin.RelayHistory {
	h := new(admin.RelayHistory)
	at := time.Now()
	for i := range 360 {
		x := float64(i)
		st := relay.Status{
			Opened:    2100 + 170*math.Sin(x/25) + 70*math.Sin(x*1.7),
			Conntrack: 30000 + int(1800*math.Sin(x/30)), Conns: 9000 + int(300*math.Sin(x/9)),
			Backends: []relay.BackendStatus{{Up: true, ProbeMS: 0.9 + 0.3*math.Abs(math.Sin(x*0.9))}, {Up: true}, {Up: true}},
		}
		switch {
		case i > 150 && i < 163:
			st.RefusedDown, st.Opened, st.Conntrack = 6900, 0, 300
			st.Backends = st.Backends[:0]
		case i > 262 && i < 300:
			st.RefusedBudget = 900 * math.Abs(math.Sin(x/7))
			st.Backends = st.Backends[:2]
			st.Backends[0].ProbeMS = 90 + 60*math.Sin(x)
		}
		h.Add(at.Add(time.Duration(i-359)*admin.HistoryStep), st)
	}
	return h
}
