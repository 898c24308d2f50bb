package tracker

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"
	"github.com/valyala/fasthttp"

	"spillway/tracker/swarm"
)

// docs/security.md names the tests of this file.

// A body is read past, 1 KiB at the most: not parsed, not expanded.
func TestBodiesAreNotLookedAt(t *testing.T) {
	t.Parallel()
	s := hostile(t, nil)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 500<<10))
	z.Close()
	if bomb.Len() > 1000 {
		t.Fatalf("the bomb has %d bytes", bomb.Len())
	}
	post := func(headers, body string) string {
		return fmt.Sprintf("POST /announce HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s", len(body), headers, body)
	}
	for what, raw := range map[string]string{
		"gzip":                       post("Content-Encoding: gzip\r\n", bomb.String()),
		"multipart without an end":   post("Content-Type: multipart/form-data; boundary=x\r\n", "--x\r\nContent-Disposition: form-data; name=a\r\n\r\n"),
		"multipart that is a form":   post("Content-Type: multipart/form-data; boundary=x\r\n", "--x\r\nContent-Disposition: form-data; name=a; filename=b\r\n\r\nc\r\n--x--\r\n"),
		"a form":                     post("Content-Type: application/x-www-form-urlencoded\r\n", strings.Repeat("a=&", 300)),
		"multipart of a wrong place": post("Content-Type: multipart/form-data; boundary=\"\"\r\n", "--\r\n"),
	} {
		c := s.dial()
		c.send(raw)
		if r := c.read("POST"); r.StatusCode != fasthttp.StatusMethodNotAllowed {
			t.Errorf("%s: got %s, want 405", what, r.Status)
		}
	}
	if got := s.status("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1025\r\n\r\n" + strings.Repeat("x", 1025)); got != fasthttp.StatusRequestEntityTooLarge {
		t.Errorf("1,025 bytes: got %d, want 413", got)
	}
	s.announce(announceURI(""))
}

// Nobody is listed at an address that is not his own: not by the query, not by a header, not by both, from anywhere, and not with
// tracker.ip_param, which is for private addresses.
func TestNobodyIsListedElsewhere(t *testing.T) {
	t.Parallel()
	const victim = "203.0.113.9"
	everywhere := "&ip=" + victim + "&ipv4=" + victim + ":80&ipv6=%5B2001:db8::9%5D:80&ip=%32%30%33.0.113.9"
	for _, source := range []string{"198.51.100.1", "::ffff:198.51.100.1", "2001:db9::1", "100.64.0.1", "192.0.2.1"} {
		cfg := testConfig()
		cfg.ClaimedIP, cfg.TrustedProxies = true, []string{"10.0.0.1"}
		tr, err := New(cfg, swarm.New(swarm.Config{}), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		announce := func(peer, query string) []netip.AddrPort {
			var ctx fasthttp.RequestCtx
			var req fasthttp.Request
			req.Header.SetRequestURI(query)
			for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "Cf-Connecting-Ip", "Forwarded", "True-Client-Ip", "X-Client-Ip"} {
				req.Header.Add(name, victim)
			}
			ctx.Init(&req, tcp(peer), nil)
			tr.handle(&ctx)
			var d decoded
			if err := bencode.Unmarshal(ctx.Response.Body(), &d.HttpResponse); err != nil || d.FailureReason != "" {
				t.Fatalf("%q: %v", ctx.Response.Body(), err)
			}
			return d.peers()
		}
		announce(source, announceURI(everywhere))
		want := netip.MustParseAddr(source).Unmap()
		if got := announce("198.51.100.77", announceURI("")); len(got) != 1 || got[0].Addr() != want {
			t.Errorf("a client at %s that claims %s: listed as %v", source, victim, got)
		}
		// A proxy that is trusted has its header believed, and the query still not.
		announce("10.0.0.1", announceURI("&ip=198.51.100.200"))
		all := announce("198.51.100.77", announceURI(""))
		if text := fmt.Sprint(all); len(all) != 2 || !strings.Contains(text, victim) || strings.Contains(text, "198.51.100.200") {
			t.Errorf("behind the proxy: listed as %v, want what its header says", all)
		}
	}
}

// A file that is none must not hang a start or a reload.
func TestListsThatAreNoFiles(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, "/dev/zero", os.TempDir()} {
		for key, change := range map[string]func(*Config){
			"tracker.access.file":  func(cfg *Config) { cfg.AccessMode, cfg.AccessFile = AccessDeny, path },
			"tracker.passkeys":     func(cfg *Config) { cfg.PasskeyFile = path },
			"http.cloudflare_file": func(cfg *Config) { cfg.TrustedProxies, cfg.CloudflareFile = []string{"cloudflare"}, path },
		} {
			cfg := testConfig()
			change(&cfg)
			done := make(chan error, 1)
			go func() { _, err := newSettings(cfg); done <- err }()
			select {
			case err := <-done:
				if err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "is not a file") {
					t.Errorf("%s: %s: got %v", key, path, err)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: %s: reading hangs", key, path)
			}
		}
	}
}

// The page a stranger's Host header is put into, and every answer, whatever path and headers: nothing of the request comes back in a header.
func TestNothingOfARequestComesBackInAHeader(t *testing.T) {
	t.Parallel()
	s := hostile(t, nil)
	for _, path := range []string{"/", "/stats", "/healthz", "/nothing%0d%0aX-Forged:%201", "/announce?info_hash=%0d%0aX-Forged:%201", "/scrape?x=%0d%0aX-Forged:%201"} {
		c := s.dial()
		c.send("GET " + path + " HTTP/1.1\r\nHost: forged.example\r\nX-Forwarded-Proto: https\r\nUser-Agent: forged\r\nOrigin: http://forged.example\r\n\r\n")
		r := c.read("GET")
		for name, values := range r.Header {
			if text := strings.ToLower(name + strings.Join(values, " ")); strings.Contains(text, "forged") || strings.HasPrefix(text, "access-control") {
				t.Errorf("%s: got the header %s: %q", path, name, values)
			}
		}
	}
}

// A request that a proxy in front may read as another length than we do is refused, or is the last of its connection: else what follows it
// would be answered to somebody else's question.
func TestRequestsOfTwoReadings(t *testing.T) {
	t.Parallel()
	s := hostile(t, impatient)
	const next = "GET /healthz HTTP/1.1\r\nHost: smuggled.example\r\n\r\n"
	for _, head := range []string{
		"Content-Length: 47\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n",
		"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"Transfer\x00-Encoding: chunked\r\n\r\n",
		"Content-Length: 0\r\nContent-Length: 42\r\n\r\n",
		"Content-Length: 42\r\nContent-Length: 0\r\n\r\n",
		"Content-Length: 0, 42\r\n\r\n",
		"Content-Length: +0\r\n\r\n",
		"Content-Length : 42\r\n\r\n",
		"X: y\rContent-Length: 42\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\n0;a=b\nc\r\n\r\n",
	} {
		for _, line := range []string{"POST / HTTP/1.1", "GET /announce HTTP/1.1"} {
			c := s.dial()
			sent := make(chan struct{})
			go func() { defer close(sent); io.WriteString(c.Conn, line+"\r\nHost: x\r\n"+head+next) }()
			all, _ := io.ReadAll(c.r)
			c.Close()
			<-sent
			if n := strings.Count(string(all), "HTTP/1.1 "); n > 1 || strings.Contains(string(all), "\r\n\r\nok\n") {
				t.Errorf("%s %q: got %d answers: %q", line, head, n, all)
			}
		}
	}
}

// FuzzHost: whatever Host says becomes one that is harmless, or one that names nothing; and doing it again changes nothing.
func FuzzHost(f *testing.F) {
	for _, host := range []string{"tracker.example:6969", "::1:6969", "[::1]", "2001:db8:1:2:3:4:5:6", "<b>", "", ":", "]:", "[]:1", "::ffff:1.2.3.4:80", "fe80::1%eth0:80"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if strings.ContainsAny(host, "\r\n\x00") {
			return // never gets so far
		}
		var h fasthttp.RequestHeader
		h.SetHost(host)
		repairHost(&h)
		once := string(h.Host())
		if strings.ContainsAny(once, "<>\"'& /\\@?#") {
			t.Errorf("%q: got %q", host, once)
		}
		if repairHost(&h); string(h.Host()) != once {
			t.Errorf("%q: got %q, and then %q", host, once, h.Host())
		}
	})
}

// FuzzRoute: a path is read within its bytes, and a passkey is one element of it.
func FuzzRoute(f *testing.F) {
	for _, path := range []string{"/announce", "/announce/", "/announce.php", "/key/announce", "/announce/key", "/scrape/key", "//announce", "/a/b/announce", "", "/", "/stats/"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, passkey := routeOf([]byte(path))
		if len(passkey) > 0 && (r != routeAnnounce && r != routeScrape || !strings.Contains(path, string(passkey)) || strings.Contains(string(passkey), "/")) {
			t.Errorf("%q: got %v with the passkey %q", path, r, passkey)
		}
	})
}

// FuzzList: a list file is read to its end or refused by the number of a line.
func FuzzList(f *testing.F) {
	f.Add("# comment\n" + strings.Repeat("ab", 20) + " # one\r\n\n")
	f.Add(strings.Repeat("x", 70_000))
	f.Add("key\nk/y\n")
	path := filepath.Join(f.TempDir(), "list")
	f.Fuzz(func(t *testing.T, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := readAccess(AccessDeny, path)
		if err == nil && len(a.hashes) > strings.Count(content, "\n")+1 {
			t.Errorf("%q: got %d hashes", content, len(a.hashes))
		}
		keys, err := readPasskeys(path)
		for key := range keys {
			if key == "" || strings.ContainsAny(key, "/?&# \t\n") || err != nil {
				t.Errorf("%q: got the passkey %q, %v", content, key, err)
			}
		}
	})
}
