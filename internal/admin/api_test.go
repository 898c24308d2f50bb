package admin

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/internal/logx/logxtest"
	"spillway/shedder"
)

const jsonType = "Content-Type: application/json"

func startFlooded(t *testing.T) (*server, *flooded, *logxtest.Buffer) {
	t.Helper()
	op, audit := newFlooded(), &logxtest.Buffer{}
	return start(t, Config{Operator: op, History: floodedHour(), Audit: audit.Logger()}, "tcp", "127.0.0.1:0"), op, audit
}

func TestWhatTheAPIShows(t *testing.T) {
	t.Parallel()
	s, _, _ := startFlooded(t)
	for path, want := range map[string][]string{
		"/api/v1/status": {`"version":"v0.9.0"`, `"websockets_max":100000`, `"load":{"state":"overload"`, `"brownout_steps":["new WebSockets are refused"`,
			`"switches":[{"endpoint":"announce","mode":"on","until":null,"reason":"","by":"","since":null}`, `"endpoints":[{"endpoint":"announce","offered":8710`},
		"/api/v1/switches": {`{"switches":[{"endpoint":"announce"`, `{"endpoint":"udp","mode":"on"`},
		"/api/v1/blocks":   {`{"blocks":[],"proposed":[{"kind":"user-agent","value":"qBittorrent/4.1.0","share":0.327,"usual":0.021,"why":"`, `"auto":false}`},
		"/api/v1/talkers":  {`{"seconds":60,"requests":564720,"sources":[{"value":"198.51.100.23","share":0.114,"usual":0.0001}`, `"prefixes":[`, `"user_agents":[`, `"peer_ids":[`, `"info_hashes":[`},
		"/api/v1/history":  {`{"step_seconds":10,"to":`, `"series":{"age_ms":[`, `"websockets":[2310,`},
		"/api/v1/limits":   {`{"limits":[{"name":"http.max_conns","value":20000,"min":1,"max":20000}`},
		"/api/v1/torrents/AB000000000000000000000000000000000000ff": {`{"info_hash":"ab000000000000000000000000000000000000ff","complete":3,"incomplete":2,"downloaded":40,"downloaders":1}`},
	} {
		code, body, _ := s.ask("GET", path, bearer)
		if code != 200 || !json.Valid([]byte(body)) {
			t.Errorf("%s: got %d %s", path, code, body)
		}
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s: got %s, want %s in it", path, body, w)
			}
		}
		if code, _, _ := s.ask("GET", path); code != 401 {
			t.Errorf("%s without token: got %d, want 401", path, code)
		}
	}
}

// empty is an Operator with nothing to show.
type empty struct{ *flooded }

func (empty) Status() Status                  { return Status{} }
func (empty) Switches() []shedder.SwitchState { return nil }
func (empty) Talkers() Talkers                { return Talkers{} }
func (empty) Blocks() Blocks                  { return Blocks{} }
func (empty) Limits() []Limit                 { return nil }

func TestEmptyListsAreListsInJSON(t *testing.T) {
	t.Parallel()
	s := start(t, Config{Operator: empty{}}, "tcp", "127.0.0.1:0")
	for path, want := range map[string]string{
		"/api/v1/status":   `"listen":[]|"brownout_steps":[]|"switches":[]|"endpoints":[]`,
		"/api/v1/switches": `{"switches":[]}`,
		"/api/v1/blocks":   `{"blocks":[],"proposed":[],"auto":false}`,
		"/api/v1/talkers":  `"sources":[]|"prefixes":[]|"user_agents":[]|"peer_ids":[]|"info_hashes":[]`,
		"/api/v1/limits":   `{"limits":[]}`,
		"/api/v1/history":  `"offered":[]|"memory_bytes":[]|"to":0`,
	} {
		_, body, _ := s.ask("GET", path, bearer)
		for w := range strings.SplitSeq(want, "|") {
			if !strings.Contains(body, w) {
				t.Errorf("%s: got %s, want %s in it", path, body, w)
			}
		}
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	s, op, _ := startFlooded(t)
	long := strings.Repeat("x", maxReasonBytes+1)
	for _, c := range []struct {
		method, path, body string
		code               int
		answer             string // in it
		order              string // that reached the operator; "": none
	}{
		{"PUT", "/api/v1/switches/ws", `{"mode":"off","for":"10m","reason":"flood"}`, 200, `{"endpoint":"ws","mode":"off","until":"2`, `turn ws off 10m0s "flood" api 127.0.0.1`},
		{"PUT", "/api/v1/switches/ws", ` {"mode":"on"} `, 200, `"mode":"on","until":null,"reason":""`, `turn ws on 0s "" api 127.0.0.1`},
		{"PUT", "/api/v1/switches/scrape", `{"mode":"reject-new","for":"","reason":""}`, 200, `"mode":"reject-new","until":null`, `turn scrape reject-new 0s "" api 127.0.0.1`},
		{"PUT", "/api/v1/switches/udp", `{"mode":"drain","for":"1d"}`, 200, `"mode":"drain"`, `turn udp drain 24h0m0s "" api 127.0.0.1`},
		{"PUT", "/api/v1/switches/http", `{"mode":"off"}`, 400, `endpoint \"http\": must be announce, scrape, ws or udp`, ""},
		{"PUT", "/api/v1/switches/", `{"mode":"off"}`, 400, `endpoint \"\": must be`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"of"}`, 400, `mode \"of\": must be on, reject-new, drain or off`, ""},
		{"PUT", "/api/v1/switches/ws", `{}`, 400, `"mode: missing; must be`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":null}`, 400, `"mode: missing; must be`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":1}`, 400, `"mode: must be a string, not a number"`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"off","fro":"10m"}`, 400, `body: unknown field \"fro\"`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"off"}{"mode":"on"}`, 400, `"body: must end after the JSON object"`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"off"`, 400, `"body: unexpected EOF"`, ""},
		{"PUT", "/api/v1/switches/ws", `["off"]`, 400, `"body: must be a JSON object, not a array"`, ""},
		{"PUT", "/api/v1/switches/ws", `null`, 400, `"mode: missing`, ""},
		{"PUT", "/api/v1/switches/ws", ``, 400, `"body: empty; must be a JSON object"`, ""},
		{"PUT", "/api/v1/switches/ws", `mode=off`, 400, `"body: invalid character`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"off","for":"10"}`, 400, `for: got \"10\"; must be a time from 1s to 366d, as 10m, 1h30m or 1d`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"off","for":"-10m"}`, 400, `for: got`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"off","for":"0s"}`, 400, `for: got`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"off","for":"367d"}`, 400, `for: got`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"off","for":600}`, 400, `"for: must be a string, not a number"`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"on","for":"10m"}`, 400, `for: goes with a mode that ends`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"off","reason":"` + long + `"}`, 400, `reason: must be one line of at most 200 bytes`, ""},
		{"PUT", "/api/v1/switches/ws", `{"mode":"off","reason":"a\nlevel=INFO msg=forged"}`, 400, `reason: must be one line`, ""},

		{"PUT", "/api/v1/blocks/source/192.0.2.0%2F24", `{"for":"1h","reason":"scanner"}`, 200, `{"kind":"source","value":"192.0.2.0/24","until":"2`, `block source "192.0.2.0/24" 1h0m0s "scanner" api 127.0.0.1`},
		{"PUT", "/api/v1/blocks/source/192.0.2.0/24", `{}`, 200, `"value":"192.0.2.0/24","until":null`, `block source "192.0.2.0/24" 0s "" api 127.0.0.1`},
		{"PUT", "/api/v1/blocks/source/2001:db8::%2F32", `{}`, 200, `"value":"2001:db8::/32"`, `block source "2001:db8::/32" 0s "" api 127.0.0.1`},
		{"PUT", "/api/v1/blocks/user-agent/a%2F..%2Fb+%20%25", `{}`, 200, `"value":"a/../b+ %"`, `block user-agent "a/../b+ %" 0s "" api 127.0.0.1`},
		{"PUT", "/api/v1/blocks/user-agent/..//../x", `{}`, 200, `"value":"..//../x"`, `block user-agent "..//../x" 0s "" api 127.0.0.1`},
		{"PUT", "/api/v1/blocks/user-agent/?value=..", `{}`, 200, `"value":".."`, `block user-agent ".." 0s "" api 127.0.0.1`},
		{"PUT", "/api/v1/blocks/peer-id/-XL0019", `{"for":"1d"}`, 200, `"hits":0`, `block peer-id "-XL0019" 24h0m0s "" api 127.0.0.1`},
		{"PUT", "/api/v1/blocks/info-hash/ab", `{}`, 200, `"kind":"info-hash"`, `block info-hash "ab" 0s "" api 127.0.0.1`},
		{"PUT", "/api/v1/blocks/source/all", `{}`, 400, `"value: must be an address or a CIDR"`, `block source "all" 0s "" api 127.0.0.1`},
		{"PUT", "/api/v1/blocks/agent/x", `{}`, 400, `kind \"agent\": must be info-hash, peer-id, user-agent or source`, ""},
		{"PUT", "/api/v1/blocks/source", `{}`, 400, `"value: missing; ask for`, ""},
		{"PUT", "/api/v1/blocks/source/", `{}`, 400, `"value: missing; ask for`, ""},
		{"PUT", "/api/v1/blocks/user-agent/" + strings.Repeat("x", maxValueBytes+1), `{}`, 400, `"value: must have at most 512 bytes"`, ""},
		{"PUT", "/api/v1/blocks/source/192.0.2.1", ``, 400, `"body: empty`, ""},
		{"PUT", "/api/v1/blocks/source/192.0.2.1", `{"mode":"off"}`, 400, `unknown field \"mode\"`, ""},
		{"DELETE", "/api/v1/blocks/source/192.0.2.0%2F24", ``, 200, `{"removed":true}`, `unblock source "192.0.2.0/24"`},
		{"DELETE", "/api/v1/blocks/source/192.0.2.0%2F24", ``, 404, `"value: no such block"`, `unblock source "192.0.2.0/24"`},
		{"DELETE", "/api/v1/blocks/user-agent/?value=..", `{}`, 200, `{"removed":true}`, `unblock user-agent ".."`},
		{"DELETE", "/api/v1/blocks/agent/x", ``, 400, `kind \"agent\"`, ""},

		{"PUT", "/api/v1/limits/http.max_conns", `{"value":1000}`, 200, `{"name":"http.max_conns","value":1000,"min":1,"max":20000}`, `limit http.max_conns 1000`},
		{"PUT", "/api/v1/limits/http.max_conns", `{"value":20000}`, 200, `"value":20000`, `limit http.max_conns 20000`},
		{"PUT", "/api/v1/limits/http.max_conns", `{"value":20001}`, 400, `"value: must be a number from 1 to 20000"`, ""},
		{"PUT", "/api/v1/limits/http.max_conns", `{"value":0}`, 400, `value: must be`, ""},
		{"PUT", "/api/v1/limits/http.max_conns", `{}`, 400, `value: must be`, ""},
		{"PUT", "/api/v1/limits/http.max_conns", `{"value":10.5}`, 400, `"value: must be a whole number, not a number 10.5"`, ""},
		{"PUT", "/api/v1/limits/http.max_conns", `{"value":"10"}`, 400, `"value: must be a whole number, not a string"`, ""},
		{"PUT", "/api/v1/limits/http.conns", `{"value":10}`, 404, `no limit \"http.conns\"; there are http.max_conns, http.backlog, ws.max_conns`, ""},

		{"GET", "/api/v1/torrents/abc", ``, 400, `"hash: must be an info hash of 40 hex digits"`, ""},
		{"GET", "/api/v1/torrents/zz000000000000000000000000000000000000ff", ``, 400, `"hash: must be`, ""},
		{"GET", "/api/v1/torrents/cd000000000000000000000000000000000000ff", ``, 404, `"hash: no such torrent here"`, ""},
		{"GET", "/api/v1/switches/ws", ``, 405, "only PUT", ""},
		{"PUT", "/api/v1/status", `{}`, 405, "only GET and HEAD", ""},
		{"POST", "/api/v1/switches/ws", `{"mode":"off"}`, 405, "only PUT", ""},
		{"GET", "/api/v1/blocks/source/192.0.2.1", ``, 405, "only PUT and DELETE", ""},
		{"GET", "/api/v1/", ``, 404, "no such path", ""},
		{"GET", "/api/v1/passwords", ``, 404, "no such path", ""},
		{"PUT", "/api/v1/history/now", `{}`, 404, "no such path", ""},
	} {
		s.changeRate.mu.Lock()
		s.changeRate.at = time.Time{} // full again: the rate is another test's
		s.changeRate.mu.Unlock()
		op.orders = nil
		code, answer := s.send(c.method, c.path, c.body, jsonType)
		if code != c.code || !strings.Contains(answer, c.answer) || !json.Valid([]byte(answer)) {
			t.Errorf("%s %s %.80s: got %d %s, want %d %s", c.method, c.path, c.body, code, answer, c.code, c.answer)
		}
		if got := strings.Join(op.orders, "; "); got != c.order {
			t.Errorf("%s %s %.80s: order: got %s, want %s", c.method, c.path, c.body, got, c.order)
		}
	}
}

func TestChangesAskForTokenTypeAndOrigin(t *testing.T) {
	t.Parallel()
	s, op, _ := startFlooded(t)
	const path, body = "/api/v1/switches/ws", `{"mode":"off"}`
	for _, c := range []struct {
		headers []string
		want    int
	}{
		{[]string{jsonType}, 200},
		{[]string{"Content-Type: application/json; charset=utf-8"}, 200},
		{[]string{jsonType, "Origin: http://localhost"}, 200},
		{[]string{jsonType, "Origin: http://LOCALHOST:7070", "Host: localhost:7070"}, 200},
		{[]string{jsonType, "Origin: https://localhost:7070", "Host: localhost:7070"}, 200}, // TLS ends in front of us
		{[]string{jsonType, "Origin: http://localhost:8080", "Host: localhost:7070"}, 403},
		{[]string{jsonType, "Origin: http://evil.example"}, 403},
		{[]string{jsonType, "Origin: http://localhost.evil.example"}, 403},
		{[]string{jsonType, "Origin: http://evil.example@localhost"}, 403},
		{[]string{jsonType, "Origin: null"}, 403},
		{[]string{jsonType, "Origin: chrome-extension://localhost"}, 403},
		{[]string{jsonType, "Host: evil.example"}, 421},
		{[]string{"Content-Type: text/plain"}, 415},
		{[]string{"Content-Type: application/x-www-form-urlencoded"}, 415},
		{[]string{"Content-Type: application/json5"}, 415},
		{nil, 415},
		{[]string{jsonType, "Authorization: Bearer wrong"}, 401},
		{[]string{jsonType, "Authorization: "}, 401},
	} {
		op.orders = nil
		code, answer := s.send("PUT", path, body, c.headers...)
		if code != c.want {
			t.Errorf("%q: got %d %s, want %d", c.headers, code, answer, c.want)
		}
		if got := len(op.orders) > 0; got != (c.want == 200) {
			t.Errorf("%q: turned: got %v", c.headers, got)
		}
	}
	if code, _ := s.send("DELETE", "/api/v1/blocks/source/192.0.2.1", ""); code != 415 {
		t.Errorf("DELETE without a type: got %d, want 415", code)
	}
}

func TestEachChangeIsWrittenDown(t *testing.T) {
	t.Parallel()
	s, op, audit := startFlooded(t)
	s.send("PUT", "/api/v1/switches/ws", `{"mode":"off","for":"10m","reason":"a flood"}`, jsonType)
	s.send("PUT", "/api/v1/switches/ws", `{"mode":"drain"}`, jsonType)
	s.send("PUT", "/api/v1/blocks/user-agent/evil%2F1", `{"for":"1h"}`, jsonType)
	s.send("PUT", "/api/v1/blocks/user-agent/evil%2F1", `{}`, jsonType)
	s.send("DELETE", "/api/v1/blocks/user-agent/evil%2F1", ``, jsonType)
	s.send("PUT", "/api/v1/limits/ws.max_conns", `{"value":5}`, jsonType)
	s.send("PUT", "/api/v1/switches/ws", `{"mode":"nonsense"}`, jsonType)
	s.send("PUT", "/api/v1/blocks/source/nonsense", `{}`, jsonType)
	op.mu.Lock()
	op.fail = errFull
	op.mu.Unlock()
	code, answer := s.send("PUT", "/api/v1/switches/announce", `{"mode":"off"}`, jsonType)
	if code != 500 || !strings.Contains(answer, "in force, but not saved") {
		t.Errorf("a full disk: got %d %s, want 500 and what it means", code, answer)
	}

	want := `level=INFO msg="operator's change" who="api 127.0.0.1" what="switch ws" from=on to=off for=10m0s reason="a flood"
level=INFO msg="operator's change" who="api 127.0.0.1" what="switch ws" from=off to=drain
level=INFO msg="operator's change" who="api 127.0.0.1" what="block user-agent evil/1" from="not blocked" to=blocked for=1h0m0s
level=INFO msg="operator's change" who="api 127.0.0.1" what="block user-agent evil/1" from=blocked to=blocked
level=INFO msg="operator's change" who="api 127.0.0.1" what="block user-agent evil/1" from=blocked to="not blocked"
level=INFO msg="operator's change" who="api 127.0.0.1" what="limit ws.max_conns" from=100000 to=5
level=ERROR msg="operator's change is in force but not saved; make room in data_dir" who="api 127.0.0.1" what="switch announce" from=on to=off err="` + errFull.Error() + `"
`
	var got strings.Builder
	for line := range strings.Lines(audit.String()) {
		_, rest, _ := strings.Cut(line, " ") // without the time
		got.WriteString(rest)
	}
	if got.String() != want {
		t.Errorf("audit: got\n%swant\n%s", &got, want)
	}
}

func TestChangesOfAllNodes(t *testing.T) {
	t.Parallel()
	s, op, audit := startFlooded(t)
	for _, c := range [][3]string{
		{"PUT", "/api/v1/switches/ws", `{"mode":"off","cluster":true}`},
		{"PUT", "/api/v1/blocks/user-agent/evil", `{"cluster":true}`},
		{"DELETE", "/api/v1/blocks/user-agent/evil", `{"cluster":true}`},
		{"DELETE", "/api/v1/blocks/user-agent/elsewhere", `{"cluster":true}`}, // maybe another node has it
	} {
		op.orders = nil
		if code, answer := s.send(c[0], c[1], c[2], jsonType); code != 200 {
			t.Errorf("%v: got %d %s, want 200", c, code, answer)
		}
		if len(op.orders) != 1 || !strings.HasSuffix(op.orders[0], " on all nodes") {
			t.Errorf("%v: got %q, want it for all nodes", c, op.orders)
		}
	}
	if code, answer := s.send("PUT", "/api/v1/switches/ws", `{"mode":"off","cluster":"yes"}`, jsonType); code != 400 || !strings.Contains(answer, "cluster: must be a bool") {
		t.Errorf("cluster that is a word: got %d %s, want 400 that names it", code, answer)
	}
	op.mu.Lock()
	op.fail = fmt.Errorf("%w: not told to the others", ErrNotShared)
	op.mu.Unlock()
	code, answer := s.send("PUT", "/api/v1/switches/ws", `{"mode":"on","cluster":true}`, jsonType)
	if code != 503 || !strings.Contains(answer, "in force on this node: not told to the others") {
		t.Errorf("no Redis: got %d %s, want 503 and what it means", code, answer)
	}
	if log := audit.String(); !strings.Contains(log, "cluster=true") || !strings.Contains(log, "in force on this node and not on the others") {
		t.Errorf("audit: got\n%s", log)
	}
}

func TestChangesAreLimited(t *testing.T) {
	t.Parallel()
	s, op, _ := startFlooded(t)
	codes := map[int]int{}
	for range 3 * changesBurst {
		code, _ := s.send("PUT", "/api/v1/switches/ws", `{"mode":"off"}`, jsonType)
		codes[code]++
	}
	if codes[200] < changesBurst || codes[429] == 0 || codes[200]+codes[429] != 3*changesBurst {
		t.Errorf("codes: got %v, want at least %d times 200, and 429", codes, changesBurst)
	}
	if code, _, _ := s.ask("GET", "/api/v1/status", bearer); code != 200 {
		t.Errorf("status: got %d, want 200: to look is not limited", code)
	}
	op.mu.Lock()
	defer op.mu.Unlock()
	if len(op.orders) != codes[200] {
		t.Errorf("orders: got %d, want %d", len(op.orders), codes[200])
	}
}

func TestBucketFillsAtItsRate(t *testing.T) {
	t.Parallel()
	b := bucket{perSecond: 20, burst: 40}
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 40}, {50 * time.Millisecond, 1}, {time.Second, 20}, {time.Hour, 40}, {-time.Hour, 0}, {time.Second, 20}} {
		now = now.Add(c.after)
		got := 0
		for range 100 {
			if b.take(now) {
				got++
			}
		}
		if got != c.want {
			t.Errorf("after %v: got %d, want %d", c.after, got, c.want)
		}
	}
}

// broken is an Operator with a bug.
type broken struct{ *flooded }

func (broken) Talkers() Talkers { panic("index out of range") }
func (broken) Status() Status   { return Status{Load: Load{Level: 0 / zero}} }

var zero float64

func TestABugInTheOperatorsListenerStopsNothing(t *testing.T) {
	t.Parallel()
	s := start(t, Config{Operator: broken{newFlooded()}}, "tcp", "127.0.0.1:0")
	for _, path := range []string{"/api/v1/talkers", "/api/v1/status"} {
		if code, body, _ := s.ask("GET", path, bearer); code != 500 || !strings.Contains(body, "internal error") {
			t.Errorf("%s: got %d %s, want 500", path, code, body)
		}
	}
	if code, _, _ := s.ask("GET", "/api/v1/switches", bearer); code != 200 {
		t.Errorf("afterwards: got %d, want 200", code)
	}
	if n := strings.Count(s.log.String(), "BUG: "); n < 2 {
		t.Errorf("log: got %d lines with BUG, want 2: %s", n, s.log)
	}
}

func TestChangesComeOneAtATime(t *testing.T) {
	t.Parallel()
	audit := &logxtest.Buffer{}
	s := start(t, Config{Operator: newFlooded(), Audit: slog.New(slog.NewTextHandler(audit, nil))}, "tcp", "127.0.0.1:0")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if code, answer := s.send("PUT", "/api/v1/limits/ws.max_conns", fmt.Sprintf(`{"value":%d}`, i+1), jsonType); code != 200 {
				t.Errorf("got %d %s", code, answer)
			}
		})
	}
	wg.Wait()
	// Each line's from is the to of the line before.
	last := "100000"
	for line := range strings.Lines(audit.String()) {
		var from, to string
		for field := range strings.FieldsSeq(line) {
			if v, ok := strings.CutPrefix(field, "from="); ok {
				from = v
			}
			if v, ok := strings.CutPrefix(field, "to="); ok {
				to = v
			}
		}
		if from != last {
			t.Errorf("from: got %s, want %s", from, last)
		}
		last = to
	}
}
