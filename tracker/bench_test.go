package tracker

import (
	"bufio"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"spillway/tracker/swarm"
)

// filled is a tracker with peers of both families in the swarm of announceURI.
func filled(t testing.TB, change func(*Config)) *Tracker {
	t.Helper()
	cfg := testConfig()
	if change != nil {
		change(&cfg)
	}
	table := swarm.New(swarm.Config{})
	tracker, err := New(cfg, table, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var r swarm.Reply
	for i := range 400 {
		a := swarm.Announce{InfoHash: swarm.InfoHash([]byte(hash20)), TTL: time.Hour}
		addr := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		if i%4 == 3 {
			addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 8), byte(i)})
		}
		a.SetEndpoint(addr, 6881)
		table.Announce(&a, time.Now(), &r)
	}
	return tracker
}

// requestCtx is a request as fasthttp hands it over.
func requestCtx(t testing.TB, uri, peer, header string) *fasthttp.RequestCtx {
	t.Helper()
	var req fasthttp.Request
	raw := "GET " + uri + " HTTP/1.1\r\nHost: tracker.example\r\nUser-Agent: qBittorrent/5.0.1\r\nAccept-Encoding: gzip\r\n" + header + "\r\n"
	if err := req.Header.Read(bufio.NewReaderSize(strings.NewReader(raw), maxRequestBytes)); err != nil {
		t.Fatal(err)
	}
	ctx := new(fasthttp.RequestCtx)
	ctx.Init(&req, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(peer)), nil)
	return ctx
}

// BenchmarkHandle is the handler alone: what a request costs beyond fasthttp and the kernel.
func BenchmarkHandle(b *testing.B) {
	announce := announceURI("&uploaded=0&downloaded=0&event=started&numwant=50&compact=1&key=ABCD&supportcrypto=1&no_peer_id=1")
	for _, c := range []struct{ name, uri, peer, header string }{
		{"announce", announce, "192.0.2.1:50000", ""},
		{"announce-behind-a-proxy", announce, "10.1.2.3:50000", "X-Forwarded-For: 192.0.2.9\r\n"},
		{"announce-list", strings.Replace(announce, "compact=1", "compact=0", 1), "192.0.2.1:50000", ""},
		{"scrape", "/scrape?info_hash=" + hash20, "192.0.2.1:50000", ""},
		{"scrape-74", "/scrape?" + strings.Repeat("info_hash="+strings.Repeat("%aa", 20)+"&", maxScrape), "192.0.2.1:50000", ""},
		{"bad", "/announce?port=6881", "192.0.2.1:50000", ""},
		{"healthz", "/healthz", "192.0.2.1:50000", ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			tracker := filled(b, func(cfg *Config) { cfg.TrustedProxies = []string{"10.0.0.0/8"} })
			ctx := requestCtx(b, c.uri, c.peer, c.header)
			for b.Loop() {
				ctx.Response.Reset()
				tracker.handle(ctx)
			}
		})
	}
}
