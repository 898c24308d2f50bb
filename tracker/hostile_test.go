package tracker

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// hostile starts a tracker that must not log a line about anything a stranger does.
func hostile(t *testing.T, change func(*Config)) *server {
	t.Helper()
	s := serve(t, change)
	t.Cleanup(func() {
		if got := s.log.all(); len(got) > 0 {
			t.Errorf("a stranger made it log: %q", got)
		}
		if got := s.tracker.metrics.panics.Get(); got > 0 {
			t.Errorf("panics: %d", got)
		}
	})
	return s
}

// impatient closes what is slow soon. What is not meant to be slow may be, on a busy machine: such a test should be patient.
func impatient(cfg *Config) { cfg.IdleTimeout = 300 * time.Millisecond }

// status sends what may be cut off while it is sent, and returns the status of the answer.
func (s *server) status(raw string) int {
	s.Helper()
	c := s.dial()
	defer c.Close()
	sent := make(chan struct{})
	go func() { defer close(sent); io.WriteString(c.Conn, raw) }() // the answer may come before the end
	defer func() { c.Close(); <-sent }()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		s.Errorf("%.60q: no answer: %v", raw, err)
		return 0
	}
	res.Body.Close()
	if !res.Close && res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusOK {
		s.Errorf("%.60q: the connection stays open", raw)
	}
	return res.StatusCode
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	s := hostile(t, nil)
	long := strings.Repeat("x", 100<<10)
	manyHashes := "GET /scrape?" + strings.Repeat("info_hash="+strings.Repeat("%61", 20)+"&", 10_000) + " HTTP/1.1\r\nHost: x\r\n\r\n"
	for raw, want := range map[string]int{
		"GET /announce?" + long + " HTTP/1.1\r\nHost: x\r\n\r\n": 431,
		"GET " + long + " HTTP/1.1\r\nHost: x\r\n\r\n":           431,
		long: 431,
		"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + long + "\r\n\r\n":          431,
		"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 20_000): 431,
		manyHashes:                              431,
		"GET / HTTP/1.1\r\n\r\n":                400, // HTTP/1.1 wants a Host
		"GET /announce?a b HTTP/1.1\r\n\r\n":    400,
		"GET /announce?a\x00b HTTP/1.1\r\n\r\n": 400,
		"GET /announce?a\x7fb HTTP/1.1\r\n\r\n": 400,
		"GET /announce\r\n\r\n":                 400, // HTTP/0.9
		"GET  HTTP/1.1\r\n\r\n":                 400,
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\xaa", 500) + "\r\n":  400, // TLS on a plain port
		"\x13BitTorrent protocol\x00\x00\x00\x00\x00\x10\x00\x05" + hash20 + hash20 + "\n":     400, // a peer that takes us for one
		"R0VUIC9zY3JhcGU/aW5mb19oYXNoPWFhYWFhYWFhYWFhYWFhYWFhYWFhIEhUVFAvMS4wDQoNCg==\r\n":     400,
		"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n":                              400,
		"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999999999\r\n\r\n":             400,
		"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n":                                        400,
		"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n":                                          400,
		"GET /%zz?%zz HTTP/1.1\r\nHost: x\r\n\r\n":                                             404,
		"GET /announce/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n":                           404,
		"GET /announce?info_hash=%zz HTTP/1.1\r\nHost: x\r\n\r\n":                              200,
		"GET /scrape?" + strings.Repeat("&", 8000) + " HTTP/1.1\r\nHost: x\r\n\r\n":            200,
		"GET /announce?" + strings.Repeat("ip=1.2.3.4&", 300) + " HTTP/1.1\r\nHost: x\r\n\r\n": 200,
		"\r\n\r\nGET /announce HTTP/1.1\r\nHost: x\r\n\r\n":                                    200,
	} {
		if got := s.status(raw); got != want {
			t.Errorf("%.60q: got %d, want %d", raw, got, want)
		}
	}
	if got := s.tracker.metrics.base64.Get(); got != 1 {
		t.Errorf("base64 requests counted: got %d, want 1", got)
	}
	if got := s.tracker.metrics.garbage.Get(); got != 18 {
		t.Errorf("unreadable requests counted: got %d, want 18", got)
	}
	s.announce(announceURI(""))
}

// The same bytes each time, of all kinds: whatever comes, it answers the next one.
func TestNoise(t *testing.T) {
	t.Parallel()
	s := hostile(t, nil)
	random := rand.New(rand.NewPCG(1, 2))
	request := "GET " + announceURI("&ip=1.2.3.4") + " HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\nContent-Length: 0\r\n\r\n"
	for range 300 {
		b := []byte(request)
		for range 1 + random.IntN(4) {
			b[random.IntN(len(b))] = byte(random.Uint32())
		}
		c := s.dial()
		c.send(string(b[:random.IntN(len(b)+1)]))
		c.Conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c.r)
		c.Close()
	}
	s.announce(announceURI(""))
}

// drip sends a byte every 20 ms, for as long as the server lets it, and returns the answer.
func (c *client) drip(raw string) (answer string, took time.Duration) {
	c.Helper()
	began := time.Now()
	var got []byte
	buf := make([]byte, 1024)
	for i := 0; time.Since(began) < 30*time.Second; i++ {
		if _, err := c.Conn.Write([]byte{raw[i%len(raw)]}); err != nil { // the answer may have come since the last look
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			rest, _ := io.ReadAll(c.r)
			return string(got) + string(rest), time.Since(began)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return string(got), time.Since(began)
		}
	}
	c.Fatal("a byte at a time keeps the connection for ever")
	return "", 0
}

// A request has one deadline, however steadily its bytes come.
func TestSlowLoris(t *testing.T) {
	t.Parallel()
	s := hostile(t, func(cfg *Config) { cfg.IdleTimeout = time.Second })
	for _, raw := range []string{"GET /announce?xxxxxxxxxxxxxx", "x", "GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\nX-B: cccccccccc"} {
		for _, before := range []bool{false, true} {
			c := s.dial()
			if before {
				c.get("/healthz")
			}
			answer, took := c.drip(raw)
			// On a connection that has had a reply, fasthttp writes under that reply's deadline, which is over.
			if !strings.HasPrefix(answer, "HTTP/1.1 408 ") && !(before && answer == "") {
				t.Errorf("%q: before %v: got %q after %v", raw, before, answer, took)
			}
		}
	}
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
	if answer, took := c.drip("x"); !strings.HasPrefix(answer, "HTTP/1.1 408 ") {
		t.Errorf("a slow body: got %q after %v", answer, took)
	}
	// Nobody is told anything who has said nothing since the last reply.
	c = s.dial()
	c.get("/healthz")
	if !c.closed() {
		t.Errorf("an idle connection: got something on it")
	}
}

// A reader that never reads holds a connection until the deadline, and no longer.
func TestReaderThatNeverReads(t *testing.T) {
	t.Parallel()
	s := hostile(t, impatient)
	c := s.dial()
	many := strings.Repeat("GET /stats HTTP/1.1\r\nHost: x\r\n\r\n", 1000)
	for {
		if _, err := io.WriteString(c.Conn, many); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection was never closed")
			}
			return
		}
	}
}

// Whoever hangs up in the middle is forgotten.
func TestHangUps(t *testing.T) {
	t.Parallel()
	s := hostile(t, nil)
	request := "GET " + announceURI("") + " HTTP/1.1\r\nHost: x\r\n\r\n"
	for i := range len(request) {
		c := s.dial()
		c.send(request[:i])
		if i%2 == 0 {
			c.Conn.(*net.TCPConn).SetLinger(0) // a reset
		}
		c.Close()
	}
	s.announce(announceURI(""))
}

func TestForgedHeaders(t *testing.T) {
	t.Parallel()
	s := hostile(t, nil)
	for _, header := range []string{
		"X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 127.0.0.1, 203.0.113.9", "X-Real-IP: 203.0.113.9", "CF-Connecting-IP: 203.0.113.9",
		"Forwarded: for=203.0.113.9", "X-Forwarded-For: " + strings.Repeat("1.1.1.1, ", 1000) + "203.0.113.9",
	} {
		if d := s.announce(announceURI("&ip=203.0.113.9&ipv4=203.0.113.9"), header); d.raw["external ip"] != "\x7f\x00\x00\x01" || d.Incomplete != 1 {
			t.Errorf("%.60s: got %v", header, d.raw)
		}
	}
}
