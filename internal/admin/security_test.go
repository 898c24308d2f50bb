package admin

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"

	"spillway/internal/logx/logxtest"
)

// A page of another origin learns nothing and may do nothing: no answer says that it might read it, and a preflight is refused.
func TestForeignPagesAreToldNothing(t *testing.T) {
	t.Parallel()
	s, op, _ := startFlooded(t)
	for _, method := range []string{"OPTIONS", "GET", "PUT", "DELETE", "POST", "PATCH", "TRACE"} {
		for _, path := range []string{"/", "/healthz", "/metrics", "/api/v1/status", "/api/v1/switches/ws"} {
			for _, origin := range []string{"http://evil.example", "null", "http://localhost"} {
				code, _, header := s.ask(method, path, "Origin: "+origin, "Access-Control-Request-Method: PUT",
					"Access-Control-Request-Headers: authorization,content-type", "Cookie: token="+token)
				for name := range header {
					if strings.HasPrefix(name, "Access-Control-") || name == "Set-Cookie" || name == "Location" {
						t.Errorf("%s %s from %s: got the header %s: %q", method, path, origin, name, header[name])
					}
				}
				if method != "GET" && code < 400 {
					t.Errorf("%s %s from %s: got %d", method, path, origin, code)
				}
				if header.Get("Cross-Origin-Resource-Policy") != "same-origin" || header.Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("%s %s: got %v", method, path, header)
				}
			}
		}
	}
	if len(op.orders) > 0 {
		t.Errorf("turned: %q", op.orders)
	}
}

// The token is nowhere but in its header: not in the query, not in a cookie, and not in what is answered.
func TestTokenCountsInItsHeaderOnly(t *testing.T) {
	t.Parallel()
	s := start(t, Config{}, "tcp", "127.0.0.1:0")
	for _, path := range []string{"/api/v1/status?token=" + token, "/api/v1/status?access_token=" + token, "/metrics?authorization=Bearer+" + token} {
		if code, _, _ := s.ask("GET", path, "Cookie: token="+token); code != 401 && code != 429 {
			t.Errorf("%s: got %d, want 401", path, code)
		}
	}
	for _, path := range []string{"/", "/healthz", "/metrics", "/api/v1/status", "/nothing", "/debug/pprof/goroutine?debug=2"} {
		_, body, header := s.ask("GET", path, bearer)
		for name, values := range header {
			body += name + strings.Join(values, "")
		}
		if strings.Contains(body, token) {
			t.Errorf("%s: the token is in the answer", path)
		}
	}
}

// A body counts as it came. Expanded, 64 KiB would be 64 MiB.
func TestBodiesAreNotExpanded(t *testing.T) {
	t.Parallel()
	s, op, _ := startFlooded(t)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(`{"mode":"off"}`))
	z.Close()
	if code, answer := s.send("PUT", "/api/v1/switches/ws", zipped.String(), jsonType, "Content-Encoding: gzip"); code != 400 || !strings.Contains(answer, "body: ") {
		t.Errorf("gzip: got %d %s, want 400", code, answer)
	}
	const form = "--x\r\nContent-Disposition: form-data; name=mode\r\n\r\noff\r\n--x--\r\n"
	if code, answer := s.send("PUT", "/api/v1/switches/ws", form, "Content-Type: multipart/form-data; boundary=x"); code != 415 {
		t.Errorf("a form: got %d %s, want 415", code, answer)
	}
	if code, answer := s.send("PUT", "/api/v1/switches/ws", "--x\r\nnot a form", "Content-Type: multipart/form-data; boundary=x", "Authorization: "); code != 401 {
		t.Errorf("a form, no token: got %d %s, want 401", code, answer)
	}
	deep := strings.Repeat("[", 60<<10)
	if code, answer := s.send("PUT", "/api/v1/switches/ws", `{"mode":`+deep, jsonType); code != 400 {
		t.Errorf("sixty thousand brackets: got %d %.100s, want 400", code, answer)
	}
	if len(op.orders) > 0 {
		t.Errorf("turned: %q", op.orders)
	}
}

// One change is one line of the audit log, whatever strangers have put into a value that the operator blocks.
func TestAuditIsALineAChange(t *testing.T) {
	t.Parallel()
	for format, handler := range map[string]func(*logxtest.Buffer) slog.Handler{
		"text": func(b *logxtest.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *logxtest.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		audit := &logxtest.Buffer{}
		op := newFlooded()
		s := start(t, Config{Operator: op, Audit: slog.New(handler(audit))}, "tcp", "127.0.0.1:0")
		const value = "evil%0A%1B%5B31mlevel%3DINFO%20msg%3Dforged%0D%00%E2%80%AE"
		for _, method := range []string{"PUT", "DELETE"} {
			req, _ := http.NewRequest(method, "http://localhost/api/v1/blocks/user-agent/"+value, strings.NewReader("{}"))
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header.Set("Content-Type", "application/json")
			resp, err := s.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode == 200 {
				continue
			}
			t.Logf("%s %s: %s", format, method, resp.Status) // a value that is refused is written down nowhere
		}
		// And a reason cannot have them at all.
		if code, answer := s.send("PUT", "/api/v1/switches/ws", `{"mode":"off","reason":"a\nlevel=INFO msg=forged"}`, jsonType); code != 400 || !strings.Contains(answer, "reason: ") {
			t.Errorf("a reason of two lines: got %d %s, want 400", code, answer)
		}
		if code, answer := s.send("PUT", "/api/v1/switches/ws", `{"mode":"off","reason":"fine"}`, jsonType); code != 200 {
			t.Errorf("got %d %s", code, answer)
		}
		text := audit.String()
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if len(lines) < 1 || len(lines) != strings.Count(text, "operator's change") {
			t.Errorf("%s: %d lines, %d changes:\n%s", format, len(lines), strings.Count(text, "operator's change"), text)
		}
		if strings.ContainsFunc(strings.ReplaceAll(text, "\n", ""), unicode.IsControl) {
			t.Errorf("%s: control characters in %q", format, text)
		}
	}
}

// Whoever connects and says nothing, or a byte at a time, is cut off; he holds one of 256 places for ten seconds.
func TestSlowLorisAtTheAdminListener(t *testing.T) {
	t.Parallel()
	s, err := New(Config{Token: token, Operator: newFlooded()}, new(logxtest.Buffer).Logger())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.http.ReadTimeout; got <= 0 || got > 10*time.Second {
		t.Fatalf("the deadline of a request: got %v, want 10 s at most", got)
	}
	s.http.ReadTimeout = 300 * time.Millisecond // ten seconds are long for a test
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), <-served); err != nil {
			t.Error(err)
		}
	})
	for _, begun := range []string{"", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", "PUT /api/v1/switches/ws HTTP/1.1\r\nHost: localhost\r\n" +
		"Authorization: Bearer " + token + "\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(15 * time.Second))
		_, _ = c.Write([]byte(begun))
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = c.Read(make([]byte, 1))
		}()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for open := true; open; {
			select {
			case <-done:
				open = false
			case <-tick.C:
				if begun != "" {
					_, _ = c.Write([]byte("x"))
				}
			case <-time.After(15 * time.Second):
				t.Fatalf("%.20q: still open", begun)
			}
		}
	}
}
