//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"testing"
)

func TestIPv6Pair(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--http.listen=[::1]:0")
	p := newPayload(t, 8*mib, tr.announce)
	moveFile(t, tr, p, libtorrentOn("[::1]"))

	announce{from: "::1", hash: p.hash, port: 1001, left: 1}.mustTo(t, tr.announce)
	reply := announce{from: "::1", hash: p.hash, port: 1002, left: 1}.mustTo(t, tr.announce)
	reply.wantPeers(t, "[::1]:1001")
	if want := netip.IPv6Loopback().As16(); reply.External != string(want[:]) {
		t.Errorf("external ip: got %x, want %x", reply.External, want)
	}
	tr.stop(t)
}

// TestDualStack: a client that announces on both families is found on both, from either.
func TestDualStack(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--http.listen=:0")
	u, err := url.Parse(tr.announce)
	if err != nil {
		t.Fatal(err)
	}
	v4, v6 := "http://127.0.0.1:"+u.Port()+"/announce", "http://[::1]:"+u.Port()+"/announce"
	tr.announce = v4
	p := newPayload(t, 8*mib, v4, v6)

	port := freePort(t)
	seeder := libtorrent(t, p, p.seedDir, fmt.Sprintf("127.0.0.1:%d,[::1]:%[1]d", port), true)
	tr.wantCounts(t, p.hash, counts{Complete: 2})
	seeders := []string{fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("[::1]:%d", port)}
	announce{from: "127.0.0.2", hash: p.hash, port: 1002, left: 1}.mustTo(t, v4).wantPeers(t, seeders...)
	announce{from: "::1", hash: p.hash, port: 1003, left: 1}.mustTo(t, v6).
		wantPeers(t, append(seeders, "127.0.0.2:1002")...)
	announce{from: "127.0.0.2", hash: p.hash, port: 1002, left: 1, event: "stopped"}.mustTo(t, v4)
	announce{from: "::1", hash: p.hash, port: 1003, left: 1, event: "stopped"}.mustTo(t, v6)

	// One that speaks IPv6 alone gets the file of one that speaks both.
	dir := filepath.Join(t.TempDir(), "leech")
	leecher := libtorrentOn("[::1]")(t, p, dir, false)
	tr.wantCounts(t, p.hash, counts{Complete: 3, Downloaded: 1})
	p.arrivesIn(t, dir)
	leecher.leave()
	seeder.leave()
	tr.wantCounts(t, p.hash, counts{Downloaded: 1})
	tr.stop(t)
}
