package tracker

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"spillway/tracker/swarm"
)

var handshake = []string{"Connection: Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x"}

// upgrades takes handshakes by answering 418 with the client's address.
func upgrades(cfg *Config) {
	cfg.Upgrade = func(ctx *fasthttp.RequestCtx, client netip.Addr) {
		ctx.SetStatusCode(http.StatusTeapot)
		ctx.SetBodyString(client.String())
	}
}

func TestUpgradeAtAnyPath(t *testing.T) {
	t.Parallel()
	s := serve(t, upgrades)
	for _, path := range []string{"/", "/announce", "/announce/", "/tracker/socket", "/a?b=c"} {
		if r := s.get(path, handshake...); r.StatusCode != http.StatusTeapot || r.body != "127.0.0.1" {
			t.Errorf("handshake at %s: got %d %q, want it handed over", path, r.StatusCode, r.body)
		}
	}
	if r := s.get(announceURI("")); r.StatusCode != http.StatusOK {
		t.Errorf("announce: got %d, want 200", r.StatusCode)
	}
	if r := serve(t, nil).get("/announce", handshake...); r.StatusCode != http.StatusOK {
		t.Errorf("handshake where there are no WebSockets: got %d, want what an announce gets", r.StatusCode)
	}
}

func TestUpgradeBehindAProxy(t *testing.T) {
	t.Parallel()
	s := serve(t, func(cfg *Config) {
		upgrades(cfg)
		cfg.TrustedProxies = []string{"127.0.0.1"}
	})
	if r := s.get("/", append(handshake, "X-Forwarded-For: 198.51.100.7")...); r.body != "198.51.100.7" {
		t.Errorf("client: got %q, want the one the proxy names", r.body)
	}
	if r := s.get("/", handshake...); r.StatusCode != http.StatusForbidden {
		t.Errorf("handshake of the proxy itself: got %d, want 403", r.StatusCode)
	}
}

func TestUpgradeWantsThePasskey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "passkeys")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(cfg *Config) {
		upgrades(cfg)
		cfg.PasskeyFile = file
	})
	if r := s.get("/announce/secret", handshake...); r.StatusCode != http.StatusTeapot {
		t.Errorf("handshake with the passkey: got %d, want it handed over", r.StatusCode)
	}
	if r := s.get("/announce", handshake...); r.StatusCode != http.StatusForbidden {
		t.Errorf("handshake without: got %d, want 403", r.StatusCode)
	}
}

func TestPortForUpgradesAlone(t *testing.T) {
	t.Parallel()
	s := serve(t, upgrades)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.tracker.ServeUpgrades(ln) }()
	s.addr = ln.Addr().String()
	if r := s.get("/x", handshake...); r.StatusCode != http.StatusTeapot || r.body != "127.0.0.1" {
		t.Errorf("handshake: got %d %q, want it handed over", r.StatusCode, r.body)
	}
	if r := s.get(announceURI("")); r.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("announce: got %d, want 426", r.StatusCode)
	}
	if r := s.get("/healthz"); r.StatusCode != http.StatusOK {
		t.Errorf("/healthz: got %d, want 200", r.StatusCode)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.tracker.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "hashes")
	if err := os.WriteFile(file, []byte("6161616161616161616161616161616161616161\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(cfg *Config) {
		cfg.AccessMode, cfg.AccessFile = AccessDeny, file
		cfg.BlockPeerIDs = []string{"-XL0019"}
	})
	denied, served := swarm.InfoHash([]byte("aaaaaaaaaaaaaaaaaaaa")), swarm.InfoHash{1}
	good, blocked := [20]byte([]byte("-WW0001-abcdefghijkl")), [20]byte([]byte("-XL0019-abcdefghijkl"))
	for _, c := range []struct {
		hash swarm.InfoHash
		peer *[20]byte
		want string
	}{{denied, &good, string(errUnregistered)}, {denied, nil, string(errUnregistered)}, {served, &blocked, string(errBlockedClient)}, {served, &good, ""}, {served, nil, ""}} {
		if got := s.tracker.Refuses(&c.hash, c.peer); got != c.want {
			t.Errorf("refuses %x of %v: got %q, want %q", c.hash, c.peer, got, c.want)
		}
	}
}
