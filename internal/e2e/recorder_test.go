//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// recorderAddr is where a recorder's requests come from; a tracker behind one trusts it.
const recorderAddr = "127.0.0.53"

// recorder is a proxy in front of a tracker that keeps every request line, header and reply, for clients whose behaviour is
// the thing under test.
type recorder struct {
	announce string

	mu       sync.Mutex // guards requests
	requests []recorded
}

// recorded is a request as the client sent it.
type recorded struct {
	path   string
	query  map[string]string // first value of each key, unescaped, + left alone
	header http.Header
	reply  []byte // the body, so far
}

// newRecorder needs a tracker started with --http.trusted_proxies=127.0.0.53.
func newRecorder(t *testing.T, tr *tracker) *recorder {
	t.Helper()
	target, err := url.Parse(tr.announce)
	if err != nil {
		t.Fatal(err)
	}
	target.Path = ""
	rec := &recorder{}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport: dialingFrom(recorderAddr),
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(&teeing{w, rec, rec.keep(r)}, r)
	}))
	t.Cleanup(front.Close)
	rec.announce = front.URL + "/announce"
	return rec
}

// teeing keeps what is written to a client.
type teeing struct {
	http.ResponseWriter
	rec     *recorder
	request int
}

func (w *teeing) Write(b []byte) (int, error) {
	w.rec.mu.Lock()
	got := &w.rec.requests[w.request]
	got.reply = append(got.reply, b...)
	w.rec.mu.Unlock()
	return w.ResponseWriter.Write(b)
}

// keep returns the request's number.
func (rec *recorder) keep(r *http.Request) int {
	got := recorded{path: r.URL.Path, query: make(map[string]string), header: r.Header.Clone()}
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		key, value, _ := strings.Cut(pair, "=")
		plain, err := url.PathUnescape(value)
		if err != nil {
			plain = "undecodable: " + value
		}
		if _, twice := got.query[key]; !twice {
			got.query[key] = plain
		}
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.requests = append(rec.requests, got)
	return len(rec.requests) - 1
}

// announced waits for an announce with that event ("" for one without) and returns the first.
func (rec *recorder) announced(t *testing.T, event string) recorded {
	t.Helper()
	var got recorded
	waittest.Done(t, 30*time.Second, fmt.Sprintf("announce with event %q", event), func() error {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		for _, got = range rec.requests {
			if strings.HasPrefix(got.path, "/announce") && got.query["event"] == event {
				return nil
			}
		}
		return fmt.Errorf("%d requests, none like it", len(rec.requests))
	})

	return got
}

// has checks values of the query; "" means that the key must be absent.
func (r recorded) has(t *testing.T, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if got := r.query[key]; got != value {
			t.Errorf("%s in %q announce: got %q, want %q", key, r.query["event"], got, value)
		}
	}
}
