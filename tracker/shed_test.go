package tracker

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"spillway/shedder"
)

// gated is a gate whose switches and rules are kept nowhere.
func gated(cfg shedder.Config) *shedder.Gate {
	cfg.Interval, cfg.MaxInterval = 30*time.Minute, 90*time.Minute
	return shedder.New(cfg, nil, nil, time.Now())
}

func turn(t testing.TB, g *shedder.Gate, e shedder.Endpoint, m shedder.Mode) {
	t.Helper()
	if _, err := g.Switches.Set(e, m, 0, "", "test"); err != nil {
		t.Fatal(err)
	}
}

// overload has the gate see requests that waited for a second, until it limits them.
func overload(t testing.TB, g *shedder.Gate) {
	t.Helper()
	now := time.Now()
	for range 10 {
		for range 100 {
			g.Observe(time.Second, false)
		}
		now = now.Add(shedder.TickLength)
		g.Step(now)
	}
	if !g.Limited() {
		t.Fatal("no overload")
	}
}

// A relay in front sends less to who says that it is loaded.
func TestHealthTellsTheLoad(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{})
	f := func(s *server, state, shed string) {
		t.Helper()
		r := s.get("/healthz")
		if r.StatusCode != 200 || r.body != "ok\n" || r.Header.Get("Spillway-State") != state || r.Header.Get("Spillway-Shed") != shed {
			t.Errorf("got %s %q %v, want state %q, shed %q", r.Status, r.body, r.Header, state, shed)
		}
	}
	s := serve(t, func(cfg *Config) { cfg.Gate = gate })
	f(s, "calm", "0.00")
	overload(t, gate)
	now := time.Now().Add(time.Second)
	for i := range 100 {
		age := time.Duration(i/25) * time.Second // of four, one has not waited
		gate.Admit(&shedder.Request{Endpoint: shedder.Announce, Class: shedder.Unknown, Now: now, Age: age})
	}
	gate.Observe(time.Second, false)
	gate.Step(now.Add(time.Second))
	f(s, "overload", "0.75")
}

// Which clients wait for a failure's interval, and so go on to their next tracker: docs/shedding.md.
func TestWhichClientsObeyFailures(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{
		"-qB4520-abcdefghijkl": true, "-DE203s-abcdefghijkl": true, "-LT20A0-abcdefghijkl": true, "-BI3400-abcdefghijkl": true,
		"-TR4100-abcdefghijkl": true, "-TR410Z-abcdefghijkl": true, "-TR5000-abcdefghijkl": true,
		"-TR4060-abcdefghijkl": false, "-TR3000-abcdefghijkl": false, "-TR2940-abcdefghijkl": false,
		"-lt0F00-abcdefghijkl": true, "-lt0D80-abcdefghijkl": false, "-lt1000-abcdefghijkl": true, "-ltzz00-abcdefghijkl": false,
		"A2-1-36-0-abcdefghij": false, "-GT0003-abcdefghijkl": false, "-WW0113-abcdefghijkl": false, "-UT3550-abcdefghijkl": false,
		"\x00\x01\x02\x03\x04\x05\x06\x07abcdefghijkl": false, "-qB": false, "": false,
	} {
		if got := obeysFailures([]byte(id)); got != want {
			t.Errorf("%q: got %v, want %v", id, got, want)
		}
	}
}

// Each answer is a whole HTTP reply that clients obey: an interval that is min interval too, and peers unless it is a failure.
func TestShedRepliesAreWhatClientsObey(t *testing.T) {
	t.Parallel()
	tracker := serve(t, func(cfg *Config) { cfg.Gate = gated(shedder.Config{}) }).tracker
	r := tracker.shed.Load()
	for name, c := range map[string]struct {
		replies     *[shedIntervals]readyReply
		least, most int
		failure     failure
	}{
		"shed":             {&r.success, 1800, 3600, ""},
		"shed, failed":     {&r.failed, 1800, 3600, errOverload},
		"switched":         {&r.off, 3600, 5400, ""},
		"switched, failed": {&r.offFailed, 3600, 5400, errOff},
	} {
		intervals := map[int32]bool{}
		for _, one := range c.replies {
			res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(one.whole)), nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			body := string(one.whole[one.body:])
			d := reply{res, body}.decode(t)
			if int(d.Interval) < c.least || int(d.Interval) > c.most || d.raw["min interval"] != int64(d.Interval) {
				t.Errorf("%s: %q", name, body)
			}
			if peers, there := d.raw["peers"]; d.FailureReason != string(c.failure) || c.failure == "" && (!there || peers != "") {
				t.Errorf("%s: %q", name, body)
			}
			if strings.Contains(body, "registered") || strings.Contains(body, "external ip") {
				t.Errorf("%s: %q stops some clients for good, or passes for one that was served", name, body)
			}
			intervals[d.Interval] = true
		}
		if len(intervals) < shedIntervals/2 {
			t.Errorf("%s: only %d different intervals", name, len(intervals))
		}
	}
}

func TestSwitches(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{})
	s := serve(t, func(cfg *Config) { cfg.Gate = gate })
	aria2 := strings.Replace(announceURI(""), "-qB4500-", "A2-1-36-", 1)
	served := func(d decoded) bool { _, ok := d.raw["external ip"]; return ok }

	turn(t, gate, shedder.Announce, shedder.Off)
	if d := s.announce(announceURI("")); d.FailureReason != string(errOff) || !longInterval(d.Interval) {
		t.Errorf("off, qBittorrent: got %v", d.raw)
	}
	if d := s.announce(aria2); d.FailureReason != "" || served(d) || !longInterval(d.Interval) {
		t.Errorf("off, aria2: got %v", d.raw)
	}
	if d := s.announce("/scrape?info_hash=" + hash20); d.raw["files"] == nil {
		t.Errorf("a scrape while announces are off: got %v", d.raw)
	}

	// For ten minutes: clients are back when it is on again, over an interval.
	if _, err := gate.Switches.Set(shedder.Announce, shedder.Off, 10*time.Minute, "", "test"); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if d := s.announce(aria2); served(d) || d.Interval < 500 || d.Interval > 600+1800 {
			t.Errorf("off for ten minutes: got %v", d.raw)
		}
	}

	turn(t, gate, shedder.Announce, shedder.RejectNew)
	if d := s.announce(announceURI("&event=started")); served(d) {
		t.Errorf("reject-new, started: got %v", d.raw)
	}
	if d := s.announce(announceURI("")); !served(d) {
		t.Errorf("reject-new, periodic: got %v", d.raw)
	}

	turn(t, gate, shedder.Announce, shedder.On)
	if d := s.announce(announceURI("")); !served(d) {
		t.Errorf("on again: got %v", d.raw)
	}

	// Transmission counts failed scrapes as failed announces: they are answered whatever the switch says.
	turn(t, gate, shedder.Scrape, shedder.Off)
	d := s.announce("/scrape?info_hash=" + hash20)
	files, _ := d.raw["files"].(map[string]any)
	if counts, ok := files[hash20].(map[string]any); !ok || counts["incomplete"] != int64(0) {
		t.Errorf("scrape off: got %v, want zeros for the hash", d.raw)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{})
	s := serve(t, func(cfg *Config) { cfg.Gate, cfg.TrustedProxies = gate, []string{"127.0.0.1"} })
	ask := func(header ...string) bool {
		_, served := s.announce(announceURI(""), append(header, "X-Forwarded-For: 198.51.100.7")...).raw["external ip"]
		return served
	}
	for _, r := range []struct {
		kind   shedder.RuleKind
		value  string
		header string
	}{
		{shedder.RuleSource, "198.51.100.0/24", "X: y"},
		{shedder.RulePeerID, "-qB45", "X: y"},
		{shedder.RuleInfoHash, strings.Repeat("61", 20), "X: y"},
		{shedder.RuleUserAgent, "evil/", "User-Agent: evil/1.0"},
	} {
		if !ask(r.header) {
			t.Fatalf("%s: not served before the rule", r.kind)
		}
		if _, err := gate.Rules.Add(r.kind, r.value, time.Hour, "", "test"); err != nil {
			t.Fatal(err)
		}
		if ask(r.header) {
			t.Errorf("%s: served in spite of the rule", r.kind)
		}
		if _, err := gate.Rules.Remove(r.kind, r.value); err != nil {
			t.Fatal(err)
		}
	}
}

// head is a request as it comes.
func head(uri string, headers ...string) []byte {
	return []byte("GET " + uri + " HTTP/1.1\r\nHost: tracker.example\r\nUser-Agent: qBittorrent/4.5.2\r\n" + strings.Join(append(headers, "\r\n"), "\r\n"))
}

var someone net.Addr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4711}

func TestEarlyAnswersWhatIsRefused(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{PerSource: shedder.Budget{Rate: 1, Burst: 1}})
	tracker := serve(t, func(cfg *Config) { cfg.Gate, cfg.TrustedProxies = gate, []string{"10.0.0.0/8"} }).tracker
	now := time.Now()
	if reply, decided := tracker.Early(someone, head(announceURI("")), now, 0); reply != nil || decided {
		t.Errorf("calm: got %q, %v", reply, decided)
	}
	overload(t, gate)
	if _, decided := tracker.Early(someone, head(announceURI("")), now, 0); !decided {
		t.Error("overload: not decided")
	}
	reply, decided := tracker.Early(someone, head(announceURI("")), now, 0)
	if !decided || !bytes.Contains(reply, []byte("5:peers0:")) {
		t.Errorf("over its budget: got %q, %v", reply, decided)
	}
	if reply, _ := tracker.Early(someone, head(announceURI("&event=started")), now, 0); !bytes.Contains(reply, []byte(errOverload)) {
		t.Errorf("started, over its budget: got %q", reply)
	}
	proxy := &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3)}
	if reply, decided := tracker.Early(proxy, head(announceURI(""), "x-forwarded-for: 198.51.100.1"), now, 0); reply != nil || !decided {
		t.Errorf("another client, behind a proxy: got %q, %v", reply, decided)
	}
	if reply, _ := tracker.Early(proxy, head(announceURI(""), "X-Forwarded-For: 198.51.100.2"), now, time.Second); !bytes.Contains(reply, []byte("5:peers0:")) {
		t.Errorf("one that has waited for a second: got %q", reply)
	}
	for name, h := range map[string][]byte{
		"a scrape":              head("/scrape?info_hash=" + hash20),
		"a page":                head("/stats"),
		"no peer id":            head("/announce?info_hash=" + hash20),
		"aria2, which is not":   head(strings.Replace(announceURI(""), "-qB4500-", "A2-1-36-", 1)),
		"a body":                head(announceURI(""), "Content-Length: 5"),
		"a body, chunked":       head(announceURI(""), "Transfer-Encoding: chunked"),
		"a handshake":           head(announceURI(""), "Upgrade: websocket"),
		"the connection's last": head(announceURI(""), "Connection: close"),
		"HTTP/1.0":              bytes.Replace(head(announceURI("")), []byte("HTTP/1.1"), []byte("HTTP/1.0"), 1),
		"a folded header":       head(announceURI(""), " folded"),
	} {
		if reply, decided := tracker.Early(someone, h, now, 0); reply != nil || decided {
			t.Errorf("%s: got %q, %v; want it left to who parses", name, reply, decided)
		}
	}
	for name, headers := range map[string][]string{
		"a proxy that says nothing": nil,
		"one that says it twice":    {"X-Forwarded-For: 192.0.2.9", "X-Forwarded-For: 192.0.2.10"},
		"one that says nonsense":    {"X-Forwarded-For: me"},
		"one that names proxies":    {"X-Forwarded-For: 10.0.0.1"},
	} {
		if reply, decided := tracker.Early(proxy, head(announceURI(""), headers...), now, 0); reply != nil || decided {
			t.Errorf("%s: got %q, %v", name, reply, decided)
		}
	}
}

// What Early understands of a request, the parsers understand likewise; or one could be told from the other, and a client
// refused in another's name.
func FuzzEarlyUnderstandsWhatTheParsersDo(f *testing.F) {
	tracker, err := New(func() Config { c := testConfig(); c.TrustedProxies = []string{"10.0.0.0/8"}; return c }(), nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	s := tracker.settings.Load()
	for _, seed := range [][]byte{
		head(announceURI("&event=started")), head(announceURI("&event=stopped&left=0&event=x")), head(announceURI("&left=00")),
		head(announceURI(""), "X-Forwarded-For: 192.0.2.1, 10.0.0.2"), head(announceURI(""), "X-Forwarded-For: [2001:db8::1]:80"),
		head(announceURI(""), "user-agent: second"), head("/announce/key?peer_id=%2d" + hash20[1:]), head(announceURI(""), "Content-Length : 3"),
		head("//announce?peer_id=" + hash20), head("/announce?peer_id=" + hash20 + "#f"),
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, proxied bool) {
		if !bytes.HasPrefix(b, []byte("GET ")) || bytes.Index(b, []byte("\r\n\r\n")) != len(b)-4 || len(b) < 8 {
			return // internal/listen asks for nothing else
		}
		remote := someone
		if proxied {
			remote = &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3)}
		}
		var e earlyAnnounce
		if !e.parse(b, s, remote) {
			return
		}
		var ctx fasthttp.RequestCtx
		ctx.Init2(&addrConn{remote: remote}, nil, false)
		if err := ctx.Request.Header.Read(bufio.NewReaderSize(bytes.NewReader(b), maxRequestBytes)); err != nil {
			return // answered with 400 and the end of the connection: to shed it instead costs less
		}
		if n := ctx.Request.Header.ContentLength(); n > 0 || n == -1 {
			t.Fatalf("a body of %d bytes behind %q", n, b)
		}
		path, query, _ := bytes.Cut(ctx.Request.Header.RequestURI(), []byte("?"))
		if r, _ := routeOf(path); r != routeAnnounce {
			t.Fatalf("route %d of %q", r, b)
		}
		addr, err := s.clientAddr(&ctx)
		if err != nil || addr != e.client || e.direct == proxied {
			t.Fatalf("client: got %v, direct %v; the parser says %v, %v, of %q", e.client, e.direct, addr, err, b)
		}
		var p announceParams
		if parseAnnounce(query, &p) != nil {
			return
		}
		if p.peerID != e.peerID || p.class() != e.class {
			t.Fatalf("got peer id %q, class %d; the parser says %q, %d, of %q", e.peerID, e.class, p.peerID, p.class(), b)
		}
	})
}

// addrConn is a connection that has an address.
type addrConn struct {
	net.Conn
	remote net.Addr
}

func (c *addrConn) RemoteAddr() net.Addr { return c.remote }
func (c *addrConn) LocalAddr() net.Addr  { return someone }

// In an overload an aria2 leecher is given peers all the same: without, it is back after two minutes whatever it is told.
func TestAria2IsGivenPeersInAnOverload(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{})
	s := serve(t, func(cfg *Config) { cfg.Gate = gate })
	for i := range 30 {
		s.announce(strings.Replace(announceURI("&event=started"), "port=6881", fmt.Sprintf("port=%d", 7000+i), 1))
	}
	overload(t, gate)
	c := s.dial()
	trimmed := 0
	for range 3000 {
		d := c.announce(strings.Replace(announceURI(""), "-qB4500-", "A2-1-36-", 1))
		if n := len(d.peers()); n == 0 {
			t.Fatalf("got %v", d.raw)
		} else if n <= trimmedNumWant {
			trimmed++
		}
	}
	if trimmed == 0 {
		t.Error("the gate refused none; there was no overload to be seen")
	}
}
