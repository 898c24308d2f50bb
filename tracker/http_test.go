package tracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"spillway/tracker/swarm"
)

func TestRoutes(t *testing.T) {
	t.Parallel()
	f := func(path string, want route, wantKey string) {
		t.Helper()
		got, key := routeOf([]byte(path))
		if got != want || string(key) != wantKey {
			t.Errorf("%q: got %d with passkey %q, want %d with %q", path, got, key, want, wantKey)
		}
	}
	for word, r := range map[string]route{"announce": routeAnnounce, "scrape": routeScrape} {
		f("/"+word, r, "")
		f("/"+word+"/", r, "")
		f("/"+word+".php", r, "")
		f("/"+word+".php/", r, "")
		f("/"+word+"/key", r, "key")
		f("/"+word+"/key/", r, "key")
		f("/"+word+".php/key", r, "key")
		f("/key/"+word, r, "key")
		f("/key/"+word+"/", r, "key")
		f("/key/"+word+".php", r, "key")
		f("/"+word+"/"+word, r, word)
		f("/"+word+"s", routeNone, "")
		f("/"+word+".asp", routeNone, "")
		f("/"+strings.ToUpper(word), routeNone, "")
		f("/"+word+"//", routeNone, "")
		f("//"+word, routeNone, "")
		f("/"+word+"//key", routeNone, "")
		f("/a/b/"+word, routeNone, "")
		f("/"+word+"/a/b", routeNone, "")
		f("/a/"+word+"/b", routeNone, "")
		f(word, routeNone, "")
		f("/%61nnounce", routeNone, "")
	}
	f("/healthz", routeHealth, "")
	f("/stats", routeStats, "")
	f("/stats/", routeStats, "")
	f("/stats.json", routeStatsJSON, "")
	f("/", routeHome, "")
	f("", routeHome, "")
	f("/stats/key", routeNone, "")
	f("/key/stats", routeNone, "")
	f("//", routeNone, "")
	f("/favicon.ico", routeNone, "")
	f("/../announce", routeAnnounce, "..")
	f("*", routeNone, "")
}

func TestEveryShapeIsAnswered(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.dial()
	query := strings.TrimPrefix(announceURI(""), "/announce")
	for _, path := range []string{"/announce", "/announce/", "/announce.php", "/announce/key", "/key/announce", "http://tracker.example/announce", "http://tracker.example:6969/announce/key"} {
		if d := c.announce(path + query); d.FailureReason != "" || d.Interval == 0 {
			t.Errorf("%s: %+v", path, d)
		}
		path = strings.Replace(path, "announce", "scrape", 1) // as clients do
		if d := c.announce(path + "?info_hash=" + hash20); d.raw["files"] == nil {
			t.Errorf("%s: %+v", path, d)
		}
	}
	for path, want := range map[string]string{
		"/healthz": "text/plain", "/stats": "text/html; charset=utf-8", "/stats.json": "application/json", "/": "text/html; charset=utf-8",
		"http://tracker.example": "text/html; charset=utf-8", "/healthz?x=y": "text/plain",
	} {
		if r := c.get(path); r.StatusCode != 200 || r.Header.Get("Content-Type") != want || r.body == "" {
			t.Errorf("%s: got %s %v %q", path, r.Status, r.Header, r.body)
		}
	}
	if r := c.get("/nothing"); r.StatusCode != 404 || !strings.Contains(r.body, "/announce") {
		t.Errorf("got %s %q", r.Status, r.body)
	}
}

// A reply's length is told and it never comes in chunks, compressed or redirected, whatever the request says it would take.
func TestConnections(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)

	c := s.dial()
	for range 3 {
		if r := c.get(announceURI(""), "Accept-Encoding: gzip"); r.Close || r.Header.Get("Server") != "" || r.Header.Get("Date") != "" {
			t.Errorf("keep-alive: got %v, close %v", r.Header, r.Close)
		}
	}
	r := c.get(announceURI(""), "Connection: close", "Accept-Encoding: gzip")
	r.decode(t)
	if !r.Close || !c.closed() {
		t.Errorf("Connection: close was not heeded: %v", r.Header)
	}

	c = s.dial()
	c.send("GET " + announceURI("") + " HTTP/1.0\r\n\r\n")
	r = c.read(http.MethodGet)
	r.decode(t)
	if !c.closed() {
		t.Errorf("HTTP/1.0: the connection stays open")
	}

	c = s.dial()
	for range 2 {
		c.send("GET " + announceURI("") + " HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		if r = c.read(http.MethodGet); !strings.EqualFold(r.Header.Get("Connection"), "keep-alive") {
			t.Errorf("HTTP/1.0 keep-alive: got %v", r.Header)
		}
		r.decode(t)
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.dial()
	for _, path := range []string{announceURI(""), "/scrape?info_hash=" + hash20, "/", "/stats", "/healthz", "/nothing"} {
		want := c.get(path)
		c.send("HEAD " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
		r := c.read(http.MethodHead)
		if r.StatusCode != want.StatusCode || r.body != "" || r.Header.Get("Content-Type") != want.Header.Get("Content-Type") ||
			path == "/healthz" && r.ContentLength != want.ContentLength || r.ContentLength <= 0 {
			t.Errorf("HEAD %s: got %s %v, want %v", path, r.Status, r.Header, want.Header)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"} {
		c.send(method + " " + announceURI("") + " HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
		if r := c.read(method); r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "GET, HEAD" || r.Close {
			t.Errorf("%s: got %s %v", method, r.Status, r.Header)
		}
	}
	// The connection is where it should be: bodies were read past.
	c.announce(announceURI(""))

	c.send("POST /announce HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
	if r := c.read("POST"); r.StatusCode != http.StatusRequestEntityTooLarge || !c.closed() {
		t.Errorf("a large body: got %s %v", r.Status, r.Header)
	}
}

func TestPipelining(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.dial()
	const n = 100
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "GET /announce?info_hash=%s&peer_id=%s&left=1&port=%d&numwant=0 HTTP/1.1\r\nHost: x\r\n\r\n", hash20, hash20, 1+i)
	}
	c.send(all.String())
	for i := range n {
		if d := c.read(http.MethodGet).decode(t); d.Incomplete != int32(i+1) {
			t.Fatalf("reply %d: got %d leechers, want %d", i, d.Incomplete, i+1)
		}
	}
}

// panicking is a store with a bug.
type panicking struct{ Swarms }

func TestPanicIsOneReplyAndOneLine(t *testing.T) {
	t.Parallel()
	s := serveOn(t, nil, "tcp4", "127.0.0.1:0", panicking{})
	for range 3 {
		c := s.dial()
		if r := c.get(announceURI("")); r.StatusCode != 500 || !r.Close || strings.Contains(r.body, "nil") || !c.closed() {
			t.Errorf("got %s %v %q", r.Status, r.Header, r.body)
		}
	}
	if r := s.get("/healthz"); r.StatusCode != 200 {
		t.Errorf("afterwards: got %s", r.Status)
	}
	if got := s.tracker.metrics.panics.Get(); got != 3 {
		t.Errorf("panics counted: got %d, want 3", got)
	}
	for _, line := range s.log.all() {
		if !strings.Contains(line, "BUG: ") || !strings.Contains(line, "handleAnnounce") {
			t.Errorf("log: %s", line)
		}
	}
}

// blocking is a store that takes its time.
type blocking struct {
	*swarm.Table
	entered, release chan struct{}
}

func (b blocking) Announce(a *swarm.Announce, now time.Time, r *swarm.Reply) {
	b.entered <- struct{}{}
	<-b.release
	b.Table.Announce(a, now, r)
}

// Requests under way are answered, idle connections closed, and nobody new is let in.
func TestShutdown(t *testing.T) {
	t.Parallel()
	b := blocking{swarm.New(swarm.Config{}), make(chan struct{}), make(chan struct{})}
	s := serveOn(t, nil, "tcp4", "127.0.0.1:0", b)
	idle, busy := s.dial(), s.dial()
	idle.get("/healthz")
	busy.send("GET " + announceURI("") + " HTTP/1.1\r\nHost: x\r\n\r\n")
	<-b.entered

	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.tracker.Shutdown(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a request under way: got %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- s.tracker.Shutdown(t.Context()) }()
	if !idle.closed() {
		t.Errorf("an idle connection stays open")
	}
	if conn, err := net.Dial("tcp4", s.addr); err == nil {
		conn.Close()
		t.Errorf("a new connection is accepted")
	}
	b.release <- struct{}{}
	busy.read(http.MethodGet).decode(t)
	busy.Close()
	if err := <-done; err != nil {
		t.Errorf("afterwards: got %v", err)
	}
}
