//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"

	"spillway/internal/waittest"
)

// haproxyAddr is the address the proxy's connections come from; nobody else uses it.
const haproxyAddr = "127.0.0.50"

const haproxyConf = `global
  maxconn 200
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen tracker
  bind 127.0.0.1:%d
  %s
  source %s
  server spillway %s %s
`

// startHAProxy puts HAProxy in front of tr and makes everyone talk to it, as a CDN's customers do.
// option and server are lines of its configuration.
func startHAProxy(t *testing.T, tr *tracker, option, server string) {
	t.Helper()
	backend, err := url.Parse(tr.announce)
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	conf := filepath.Join(t.TempDir(), "haproxy.cfg")
	writeFile(t, conf, fmt.Sprintf(haproxyConf, port, option, haproxyAddr, backend.Host, server))
	start(t, "haproxy", "haproxy", "-db", "-f", conf)
	tr.announce = fmt.Sprintf("http://127.0.0.1:%d/announce", port)
	waittest.Done(t, 10*time.Second, "HAProxy up", func() error {
		_, err := get(tr.page("/healthz"))
		return err
	})

}

func TestHAProxyForwardedFor(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--http.trusted_proxies="+haproxyAddr)
	direct := tr.announce
	startHAProxy(t, tr, "option forwardfor", "")
	moveFile(t, tr, newPayload(t, 8*mib, tr.announce), libtorrentOn("127.0.0.1"))

	// A client is listed under its own address, also when it claims another: HAProxy's entry is the last.
	hash := metainfo.HashBytes([]byte(t.Name()))
	forged := http.Header{"X-Forwarded-For": {"203.0.113.9"}}
	announce{from: "127.0.0.9", hash: hash, port: 1009, left: 1}.mustTo(t, tr.announce)
	announce{from: "127.0.0.10", hash: hash, port: 1010, left: 1, header: forged}.mustTo(t, tr.announce)
	// One that goes around the proxy is its TCP address, whatever it says.
	announce{from: "127.0.0.11", hash: hash, port: 1011, left: 1, header: forged}.mustTo(t, direct)
	// The proxy itself, naming nobody, is refused and not stored.
	reply, err := announce{from: haproxyAddr, hash: hash, port: 1050, left: 1}.to(direct)
	if err != nil || reply.Failure == "" {
		t.Errorf("announce of the proxy itself: got %+v, %v, want a failure reason", reply, err)
	}

	announce{from: "127.0.0.12", hash: hash, port: 1012}.mustTo(t, tr.announce).
		wantPeers(t, "127.0.0.9:1009", "127.0.0.10:1010", "127.0.0.11:1011")
	tr.wantCounts(t, hash, counts{Complete: 1, Incomplete: 3})
	tr.stop(t)
}

func TestHAProxyProxyProtocol(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--http.trusted_proxies="+haproxyAddr, "--http.proxy_protocol=true")
	direct := tr.announce
	startHAProxy(t, tr, "# the address travels in the PROXY header", "send-proxy-v2")
	moveFile(t, tr, newPayload(t, 8*mib, tr.announce), libtorrentOn("127.0.0.1"))

	hash := metainfo.HashBytes([]byte(t.Name()))
	announce{from: "127.0.0.9", hash: hash, port: 1009, left: 1}.mustTo(t, tr.announce)
	// Who goes around the proxy is its TCP address; with a PROXY header of its own making it is shown out.
	announce{from: "127.0.0.11", hash: hash, port: 1011, left: 1}.mustTo(t, direct)
	if reply := forgeProxyHeader(t, direct, "127.0.0.13"); reply != "" {
		t.Errorf("PROXY header of a stranger: got %.200q, want a closed connection", reply)
	}
	announce{from: "127.0.0.12", hash: hash, port: 1012}.mustTo(t, tr.announce).
		wantPeers(t, "127.0.0.9:1009", "127.0.0.11:1011")
	tr.stop(t)
}

// forgeProxyHeader claims, from an address nobody trusts, to speak for another, and returns what is answered.
func forgeProxyHeader(t *testing.T, announce, from string) string {
	t.Helper()
	u, err := url.Parse(announce)
	if err != nil {
		t.Fatal(err)
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	conn, err := dialer.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "PROXY TCP4 203.0.113.9 127.0.0.1 4000 80\r\nGET /healthz HTTP/1.1\r\nHost: tracker\r\n\r\n")
	reply, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("connection with a forged PROXY header: still open after 10 s")
	}
	return string(reply)
}
