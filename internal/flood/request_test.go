package flood

import (
	"bufio"
	"bytes"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"spillway/internal/sys"
)

// No two sources have one address, none is the network's or the broadcast address, and neighbours are strangers.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for prefix, all := range map[string]int{"10.0.0.0/20": 16 * 254, "192.168.7.0/24": 254, "127.0.0.0/8": 1 << 15 * 254} {
		p := netip.MustParsePrefix(prefix)
		a, err := newAddresses(p, all)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newAddresses(p, all+1); err == nil {
			t.Errorf("%s: one address too many: got no error", prefix)
		}
		seen := map[netip.Addr]bool{}
		last := netip.Prefix{}
		for i := range min(all, 300_000) {
			addr := netip.AddrFrom4(a.at(i))
			b := addr.As4()
			if seen[addr] || !p.Contains(addr) || b[3] == 0 || b[3] == 255 || b[0] == 127 && b[1] == 0 {
				t.Fatalf("%s: address %d is %s; seen before: %t", prefix, i, addr, seen[addr])
			}
			seen[addr] = true
			if last.IsValid() && p.Bits() < 24 && last.Contains(addr) {
				t.Fatalf("%s: addresses %d and before are both in %s", prefix, i, last)
			}
			last = netip.PrefixFrom(addr, 24).Masked()
		}
	}
	for _, prefix := range []string{"10.0.0.0/25", "fd00::/8"} {
		if _, err := newAddresses(netip.MustParsePrefix(prefix), 1); err == nil {
			t.Errorf("%s: got no error", prefix)
		}
	}
}

func newTestRequests() *requests {
	rnd := random(7)
	sources, _ := newAddresses(netip.MustParsePrefix("10.0.0.0/8"), 2000)
	return &requests{
		path: "/announce", scrapePath: "/scrape", upgradePath: "/", hashes: 10, host: "127.0.0.1:6969", header: "X-Forwarded-For", torrents: 10, sources: sources, honest: 1000,
		rnd: &rnd, buf: make([]byte, 0, 2048),
	}
}

// What is rendered is what clients say: an independent parser finds it whole, with what a tracker needs.
func TestAnnouncesAreValid(t *testing.T) {
	t.Parallel()
	r := newTestRequests()
	events, ids, hashes, ips := map[string]int{}, map[string]bool{}, map[string]bool{}, map[string]string{}
	const n = 5000
	for i := range n {
		source := i % 2000
		r.randomIDs = i%4 == 3
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(r.announce(source))))
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(req.URL.RawQuery, " +;") {
			t.Fatalf("query: %q", req.URL.RawQuery)
		}
		q, err := url.ParseQuery(req.URL.RawQuery)
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.Atoi(q.Get("port"))
		if err != nil || port < 1024 || port > 65535 || len(q.Get("peer_id")) != 20 || len(q.Get("info_hash")) != 20 || q.Get("compact") != "1" || q.Get("numwant") != "50" {
			t.Fatalf("announce: %q", req.URL.RawQuery)
		}
		if _, err := strconv.ParseInt(q.Get("left"), 10, 64); err != nil {
			t.Fatal(err)
		}
		events[q.Get("event")]++
		hashes[q.Get("info_hash")] = true
		isAttack := source >= r.honest
		if got := strings.HasPrefix(req.UserAgent(), "flood/"); got != isAttack {
			t.Fatalf("source %d says it is %q", source, req.UserAgent())
		}
		if isAttack {
			continue
		}
		ids[q.Get("peer_id")[:8]] = true
		ip := req.Header.Get("X-Forwarded-For")
		if old, ok := ips[ip]; ok && old != q.Get("peer_id") {
			t.Fatalf("%s has two peer ids: %q, %q", ip, old, q.Get("peer_id"))
		}
		ips[ip] = q.Get("peer_id")
	}
	if len(ids) != len(clients) || len(hashes) != 10 || len(ips) != 1000 {
		t.Errorf("got %d clients, %d torrents, %d addresses, want %d, 10, 1000", len(ids), len(hashes), len(ips), len(clients))
	}
	for event, share := range map[string]float64{"": 0.9, "started": 0.04, "stopped": 0.04, "completed": 0.02} {
		if got := float64(events[event]) / n; got < share*0.7 || got > share*1.3 {
			t.Errorf("event %q: got %.3f of requests, want %.3f", event, got, share)
		}
	}
}

// A scrape is one whose torrents an independent parser finds.
func TestScrapesAreValid(t *testing.T) {
	t.Parallel()
	r := newTestRequests()
	known := map[string]bool{}
	for i := range r.torrents {
		hash := InfoHash(i)
		known[string(hash[:])] = true
	}
	for source := range 2000 {
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(r.scrape(source))))
		if err != nil {
			t.Fatal(err)
		}
		hashes := req.URL.Query()["info_hash"]
		if req.URL.Path != "/scrape" || len(hashes) != 10 || req.Header.Get("X-Forwarded-For") == "" {
			t.Fatalf("source %d: %s with %d torrents", source, req.URL.Path, len(hashes))
		}
		if got := strings.HasPrefix(req.UserAgent(), "flood/"); got != (source >= r.honest) {
			t.Fatalf("source %d says it is %q", source, req.UserAgent())
		}
		for _, h := range hashes {
			if !known[h] {
				t.Fatalf("%x is none of the torrents", h)
			}
		}
	}
	for announce, want := range map[string]string{
		"/announce": "/scrape", "/x/announce": "/x/scrape", "/announce.php": "/scrape.php", "/announce/key": "/announce/key", "/a": "/a",
	} {
		if got := scrapePath(announce); got != want {
			t.Errorf("%s: got %s, want %s", announce, got, want)
		}
	}
}

// While a flood runs nothing is allocated: a collection would be charged to the server.
func TestRequestsAllocateNothing(t *testing.T) {
	r := newTestRequests()
	served := []byte(reply(servedBody))
	key := []byte("external ip")
	tally := newTally(Profile{{Duration: 1e9, Multiple: 1}})
	packet := make([]byte, 0, 2048)
	udpServed := udpAnnounceReply(0, 1, 2, 50)
	talk, wsServed := newWSTalk(10, 5), serverFrame(`{"action":"announce","interval":1800,"complete":1}`)
	p, err := sys.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if n := testing.AllocsPerRun(1000, func() {
		r.announce(5)
		r.scrape(5)
		r.upgrade(5)
		packet = r.udpAnnounce(packet[:0], 1, 2, 5)
		packet = r.udpScrape(packet[:0], 1, 2, 10)
		if u, ok := parseUDPReply(udpServed); !ok || u.judge(udpAnnounce, 0, false) != good {
			t.Error("a reply over UDP is not good")
		}
		talk.announce(3, attack, 7, 8)
		if f, ok := parseFrame(wsServed); !ok || talk.hear(-1, f) != good {
			t.Error("a reply on a WebSocket is not good")
		}
		req := request{due: 5e8}
		tally.offer(req)
		tally.record(req, classify(served, key, false), 1e6, 2e8)
		if _, errno := p.Wait(0); errno != 0 {
			t.Error(errno)
		}
	}); n != 0 {
		t.Errorf("got %g allocations a request", n)
	}
}
