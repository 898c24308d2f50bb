//go:build !race

package tracker

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"
)

func TestRequestsAllocateNothing(t *testing.T) {
	tracker := filled(t, func(cfg *Config) {
		cfg.TrustedProxies, cfg.BlockPeerIDs = []string{"10.0.0.0/8", "cloudflare"}, []string{"-XL0019", "-XX"}
		cfg.AccessMode, cfg.AccessFile = AccessDeny, file(t, "deny", hexB)
		cfg.PasskeyFile = file(t, "keys", "key")
	})
	announce := "/announce/key" + announceURI("&uploaded=0&downloaded=0&event=started&numwant=50&compact=1&key=ABCD")[len("/announce"):]
	scrape := "/scrape/key?info_hash=" + hash20 + "&info_hash=bbbbbbbbbbbbbbbbbbbb&info_hash=cccccccccccccccccccc&info_hash=cccccccccccccccccccc"
	for name, c := range map[string]struct{ uri, peer, header, want string }{
		"an announce":           {announce, "192.0.2.1:50000", "", "5:peers"},
		"over IPv6":             {announce, "[2001:db9::1]:50000", "", "6:peers6"},
		"behind a proxy":        {announce, "10.1.2.3:50000", "X-Forwarded-For: 8.8.8.8, 192.0.2.9, 10.0.0.1\r\n", "5:peers"},
		"behind two headers":    {announce, "10.1.2.3:50000", "X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-For: 10.0.0.1:80\r\n", "5:peers"},
		"a hop with a port":     {announce, "10.1.2.3:50000", "X-Forwarded-For: 192.0.2.9:4711\r\n", "5:peers"},
		"a hop in brackets":     {announce, "10.1.2.3:50000", "X-Forwarded-For: [2001:db9::9]:4711\r\n", "5:peers"},
		"compact=0":             {announce[:len(announce)-len("compact=1&key=ABCD")] + "compact=0", "192.0.2.1:50000", "", "5:peersl"},
		"stopped":               {announce[:len(announce)-1] + "&event=stopped", "192.0.2.1:50000", "", "5:peers"},
		"a scrape":              {scrape, "192.0.2.1:50000", "", "5:files"},
		"no info hash":          {"/announce/key?port=1", "192.0.2.1:50000", "", string(errNoInfoHash)},
		"a bad escape":          {"/announce/key?info_hash=%zz", "192.0.2.1:50000", "", string(errEscape)},
		"a wrong passkey":       {"/announce/no?info_hash=%zz", "192.0.2.1:50000", "", string(errPasskey)},
		"a proxy without words": {announce, "10.1.2.3:50000", "", string(errNoHeader)},
		"a forbidden torrent":   {"/announce/key?info_hash=bbbbbbbbbbbbbbbbbbbb&peer_id=" + hash20, "192.0.2.1:50000", "", string(errUnregistered)},
		"a blocked client":      {"/announce/key?info_hash=" + hash20 + "&peer_id=-XXaaaaaaaaaaaaaaaaa", "192.0.2.1:50000", "", string(errBlockedClient)},
		"a full scrape":         {"/scrape/key", "192.0.2.1:50000", "", string(errFullScrape)},
		"a bad scrape":          {"/scrape/key?info_hash=1", "192.0.2.1:50000", "", string(errInfoHash)},
		"a probe":               {"/healthz", "192.0.2.1:50000", "", "ok\n"},
		"nowhere":               {"/nowhere", "192.0.2.1:50000", "", "not found"},
	} {
		ctx := requestCtx(t, c.uri, c.peer, c.header)
		got := testing.AllocsPerRun(200, func() {
			ctx.Response.Reset()
			tracker.handle(ctx)
		})
		if got != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, got)
		}
		if !bytes.Contains(ctx.Response.Body(), []byte(c.want)) {
			t.Errorf("%s: got %q, want %q in it", name, ctx.Response.Body(), c.want)
		}
	}
}

// An announce over a kept connection, the library's and the kernel's parts included.
func TestAnnounceOverTCPAllocatesNothing(t *testing.T) {
	tracker := filled(t, nil)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- tracker.Serve(ln) }()
	defer func() { ln.Close(); <-done }()
	conn, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: tracker.example\r\nUser-Agent: x\r\n\r\n", announceURI("&numwant=50"))
	buf := make([]byte, 16<<10)
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(buf) // the reply is one write
	if err != nil {
		t.Fatal(err)
	}
	if got := testing.AllocsPerRun(500, func() {
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		// How many IPv6 peers are among the 50 is a draw, and with it the length: read what comes.
		if n, err = conn.Read(buf); err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("got %v allocations an announce, want 0", got)
	}
	if !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200 OK\r\n")) {
		t.Errorf("got %q", buf[:n])
	}
}
