package admin

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/url"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"spillway/shedder"
)

// fuzzServer is a Server without a network, and its operator.
func fuzzServer(t testing.TB) (*Server, *flooded) {
	op := newFlooded()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := New(Config{Token: token, Operator: op}, log)
	if err != nil {
		t.Fatal(err)
	}
	return s, op
}

// answer lets s handle one change.
func (s *Server) answer(method, uri string, body []byte) (*fasthttp.RequestCtx, string) {
	var req fasthttp.Request
	req.Header.SetMethod(method)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.SetHost("localhost")
	req.Header.SetContentType("application/json")
	req.SetRequestURI(uri)
	req.SetBody(body)
	var ctx fasthttp.RequestCtx
	ctx.Init(&req, nil, nil)
	s.changeRate.at = time.Time{} // full again
	s.handle(&ctx)
	return &ctx, string(ctx.Response.Body())
}

// Whatever the body, the answer is JSON, and nothing is turned that was not said.
func FuzzSwitchBody(f *testing.F) {
	for _, body := range []string{`{"mode":"off","for":"10m","reason":"flood"}`, `{"mode":"on"}`, `{"mode":"off","for":"366d"}`, `{"mode":"off","for":"1d12h"}`,
		`{}`, `[]`, `null`, `"off"`, `{"mode":"off"} x`, `{"mode":"off","mode":"on"}`, `{"MODE":"drain"}`, `{"mode":"off","reason":"\ud800"}`, "\xff", ""} {
		f.Add([]byte(body))
	}
	s, op := fuzzServer(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		op.orders = nil
		ctx, answer := s.answer("PUT", "/api/v1/switches/ws", body)
		code := ctx.Response.StatusCode()
		if !json.Valid([]byte(answer)) || code != 200 && code != 400 {
			t.Fatalf("got %d %s", code, answer)
		}
		if (code == 200) != (len(op.orders) == 1) {
			t.Fatalf("got %d, and orders %q", code, op.orders)
		}
		if code != 200 {
			return
		}
		var said struct{ Mode, For, Reason string }
		if err := json.Unmarshal(body, &said); err != nil {
			t.Fatalf("accepted what is no JSON: %v", err)
		}
		state := op.switches[shedder.WS]
		if state.Mode.String() != said.Mode || state.Reason != said.Reason || state.Until.IsZero() != (said.For == "") {
			t.Errorf("got %+v of %+v", state, said)
		}
		if !state.Until.IsZero() && (state.Until.Sub(state.Since) < shedder.MinFor || state.Until.Sub(state.Since) > shedder.MaxFor) {
			t.Errorf("got until %v of %+v", state.Until, said)
		}
	})
}

// Whatever its bytes, a value arrives as it was meant, in the path or in the query.
func FuzzBlockValue(f *testing.F) {
	for _, value := range []string{"qBittorrent/4.1.0", "..", "/", "//", "a/../b", "192.0.2.0/24", "%", "%2F", "?", "#", "+", " ", "\x00", "\xff", "ä", "<script>"} {
		f.Add(value)
	}
	s, op := fuzzServer(f)
	f.Fuzz(func(t *testing.T, value string) {
		for _, uri := range []string{"/api/v1/blocks/user-agent/" + url.PathEscape(value), "/api/v1/blocks/user-agent/?value=" + url.QueryEscape(value)} {
			op.rules = nil
			ctx, answer := s.answer("PUT", uri, []byte("{}"))
			code := ctx.Response.StatusCode()
			if !json.Valid([]byte(answer)) {
				t.Fatalf("%s: got %d %s", uri, code, answer)
			}
			if value == "" || len(value) > maxValueBytes {
				if code != 400 || len(op.rules) > 0 {
					t.Fatalf("%s: got %d %s, want 400", uri, code, answer)
				}
				continue
			}
			if code != 200 || len(op.rules) != 1 || op.rules[0].Value != value {
				t.Fatalf("%s: got %d %s, want %q blocked", uri, code, answer, value)
			}
		}
	})
}

// Whatever the path, the answer is one this listener gives, and without the token nothing is shown.
func FuzzPath(f *testing.F) {
	for _, path := range []string{"/", "/api/v1/status", "/api/v1/blocks/source/%zz", "/api/v1/blocks//", "/api/v1/../../x", "//api/v1/blocks/x/y", "/page/../page/page.js", "/page/index.html", "*", "http://evil/api/v1/status"} {
		f.Add(path)
	}
	s, _ := fuzzServer(f)
	known := map[int]bool{200: true, 400: true, 404: true, 405: true, 421: true}
	f.Fuzz(func(t *testing.T, path string) {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			ctx, answer := s.answer(method, path, []byte("{}"))
			if code := ctx.Response.StatusCode(); !known[code] {
				t.Fatalf("%s %q: got %d %.200s", method, path, code, answer)
			}
		}
	})
}

func FuzzFor(f *testing.F) {
	for _, text := range []string{"10m", "1h30m", "1d", "366d", "1d12h", "0s", "-1s", "+1s", "1e3s", "9999999999h", "d", "1dd", ".5s", "1.5d"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseFor(text)
		if err == nil && (d < shedder.MinFor || d > shedder.MaxFor) {
			t.Errorf("%q: got %v", text, d)
		}
		if err == nil {
			if again, err := parseFor(d.String()); err != nil || again != d {
				t.Errorf("%q: got %v, and of that %v, %v", text, d, again, err)
			}
		}
	})
}
