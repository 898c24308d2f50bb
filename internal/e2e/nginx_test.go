//go:build e2e

package e2e

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"

	"spillway/internal/waittest"
)

// nginxAddr is the address nginx's connections come from; nobody else uses it.
const nginxAddr = "127.0.0.51"

const nginxConf = `daemon off;
worker_processes 1;
pid %[1]s/nginx.pid;
error_log stderr warn;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  upstream spillway { server %[3]s; keepalive 4; }
  server {
    listen 127.0.0.1:%[2]d;
    location / {
      proxy_pass http://spillway;
      proxy_bind %[4]s;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
  }
}
`

func TestNginxKeepAliveUpstream(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--http.trusted_proxies="+nginxAddr)
	backend, err := url.Parse(tr.announce)
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	conf := filepath.Join(t.TempDir(), "nginx.conf")
	writeFile(t, conf, fmt.Sprintf(nginxConf, filepath.Dir(conf), port, backend.Host, nginxAddr))
	start(t, "nginx", "nginx", "-e", "stderr", "-c", conf)
	tr.announce = fmt.Sprintf("http://127.0.0.1:%d/announce", port)
	waittest.Done(t, 10*time.Second, "nginx up", func() error {
		_, err := get(tr.page("/healthz"))
		return err
	})

	moveFile(t, tr, newPayload(t, 8*mib, tr.announce), libtorrentOn("127.0.0.1"))

	// Two hundred announces one after the other, each on a new connection of its client, share nginx's to us.
	hash := metainfo.HashBytes([]byte(t.Name()))
	for i := range 200 {
		announce{from: fmt.Sprintf("127.0.1.%d", i+1), hash: hash, port: 2000 + i, left: 1}.mustTo(t, tr.announce)
	}
	tr.wantCounts(t, hash, counts{Incomplete: 200})
	for _, peer := range (announce{from: "127.0.2.1", hash: hash, port: 3000}).mustTo(t, tr.announce).peers(t) {
		if !strings.HasPrefix(peer.Addr().String(), "127.0.1.") {
			t.Errorf("peer: got %v, want a client's address", peer)
		}
	}
	if n := connectionsOf(t, nginxAddr); n > 8 {
		t.Errorf("connections of nginx to us: got %d for 200 announces, want at most 8", n)
	}
	tr.stop(t)
}

// connectionsOf counts TCP sockets with a local IPv4 address, those in TIME_WAIT too: the last minute's.
func connectionsOf(t *testing.T, addr string) int {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	// The kernel prints the four bytes as one little-endian number.
	ip := net.ParseIP(addr).To4()
	local := strings.ToUpper(hex.EncodeToString([]byte{ip[3], ip[2], ip[1], ip[0]})) + ":"
	n := 0
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], local) {
			n++
		}
	}
	return n
}
