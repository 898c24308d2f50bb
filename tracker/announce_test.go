package tracker

import (
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/tracker/swarm"
)

func TestTwoLeechersMeet(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	first := s.dialFrom("127.0.0.2").announce(announceURI("&event=started"))
	if len(first.peers()) != 0 || first.Incomplete != 1 || first.Complete != 0 {
		t.Errorf("first: got %+v", first)
	}
	second := s.dialFrom("127.0.0.3").announce(announceURI("&event=started"))
	if got := second.peers(); len(got) != 1 || got[0] != netip.MustParseAddrPort("127.0.0.2:6881") || !second.Peers.Compact {
		t.Errorf("second: got %+v", second)
	}
	if got := second.raw["external ip"]; got != "\x7f\x00\x00\x03" {
		t.Errorf("external ip: got %q", got)
	}
	gone := s.dialFrom("127.0.0.2").announce(announceURI("&event=stopped"))
	if len(gone.peers()) != 0 || gone.Incomplete != 1 || gone.raw["peers"] != "" {
		t.Errorf("stopped: got %+v", gone)
	}
}

func TestSeedersAreNotHandedSeeders(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	seed := strings.Replace(announceURI(""), "left=1", "left=0", 1)
	s.dialFrom("127.0.0.2").announce(seed)
	if d := s.dialFrom("127.0.0.3").announce(seed); len(d.peers()) != 0 || d.Complete != 2 {
		t.Errorf("got %+v", d)
	}
	// A left that is missing, or no number, is a leecher's.
	for i, left := range []string{"", "&left=", "&left=null", "&left=-1", "&left=NaN"} {
		uri := "/announce?info_hash=" + hash20 + "&peer_id=" + hash20 + "&port=1" + left
		if d := s.dialFrom("127.0.0.4").announce(uri); len(d.peers()) != 2 || d.Incomplete != 1 {
			t.Errorf("%d: left %q: got %+v", i, left, d)
		}
	}
}

func TestPortZeroIsAnsweredAndNotStored(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.dialFrom("127.0.0.2").announce(announceURI(""))
	for _, port := range []string{"0", "", "00"} {
		uri := strings.Replace(announceURI(""), "port=6881", "port="+port, 1)
		if d := s.dialFrom("127.0.0.3").announce(uri); len(d.peers()) != 1 || d.Incomplete != 1 {
			t.Errorf("port=%s: got %+v", port, d)
		}
	}
	if d := s.dialFrom("127.0.0.3").announce(strings.Replace(announceURI(""), "&port=6881", "", 1)); len(d.peers()) != 1 || d.Incomplete != 1 {
		t.Errorf("no port: got %+v", d)
	}
}

func TestPausedIsIncompleteAndNoDownloader(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.announce(announceURI("&event=paused"))
	if got := scrapeOf(s, hash20); got != "map[complete:0 downloaded:0 downloaders:0 incomplete:1]" {
		t.Errorf("got %s", got)
	}
	s.announce(announceURI("&event=update")) // unknown: none
	if got := scrapeOf(s, hash20); got != "map[complete:0 downloaded:0 downloaders:1 incomplete:1]" {
		t.Errorf("got %s", got)
	}
}

func scrapeOf(s *server, hash string) string {
	files, _ := s.announce("/scrape?info_hash=" + hash).raw["files"].(map[string]any)
	return fmt.Sprint(files[hash])
}

func TestNumWant(t *testing.T) {
	t.Parallel()
	s := serve(t, func(cfg *Config) { cfg.NumWant, cfg.MaxNumWant = 20, 30 })
	var r swarm.Reply
	for i := range 100 {
		a := swarm.Announce{InfoHash: swarm.InfoHash([]byte(hash20)), TTL: time.Hour}
		a.SetEndpoint(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1)
		s.table.Announce(&a, time.Now(), &r)
	}
	c := s.dial()
	for param, want := range map[string]int{
		"": 20, "&numwant=": 20, "&numwant=-1": 20, "&numwant=many": 20, "&numwant=0": 0, "&numwant=1": 1, "&numwant=30": 30, "&numwant=31": 30,
		"&numwant=200": 30, "&numwant=99999999999999999999": 30, "&numwant=5&event=stopped": 0,
	} {
		if got := len(c.announce(announceURI(param)).peers()); got != want {
			t.Errorf("%s: got %d peers, want %d", param, got, want)
		}
	}
}

func TestListOfDictionaries(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.dialFrom("127.0.0.2").announce(announceURI(""))
	for _, more := range []string{"&compact=0", "&compact=0&no_peer_id=1"} {
		d := s.dialFrom("127.0.0.3").announce(announceURI(more))
		if got := fmt.Sprint(d.raw["peers"]); got != "[map[ip:127.0.0.2 port:6881]]" {
			t.Errorf("got %s", got)
		}
	}
	if d := s.dialFrom("127.0.0.3").announce(announceURI("&compact=0&numwant=0")); fmt.Sprint(d.raw["peers"]) != "[]" {
		t.Errorf("got %v", d.raw)
	}
}

func TestRawBytesInTheQuery(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	var hash string
	for b := 0x80; b < 0x94; b++ {
		hash += string([]byte{byte(b)})
	}
	for _, uri := range []string{
		"/announce?info_hash=" + hash + "&peer_id=" + hash + "&port=1&left=1",
		"/announce?peer_id=++++++++++++++++++++&info_hash=++++++++++++++++++++&port=1&left=1",
	} {
		if d := s.announce(uri); d.FailureReason != "" || d.Incomplete != 1 {
			t.Errorf("%q: %+v", uri, d)
		}
	}
	if got := scrapeOf(s, hash); !strings.Contains(got, "incomplete:1") {
		t.Errorf("got %s", got)
	}
	if got := scrapeOf(s, "++++++++++++++++++++"); !strings.Contains(got, "incomplete:1") {
		t.Errorf("got %s", got)
	}
}

func TestMistakesAreFailuresWithAnInterval(t *testing.T) {
	t.Parallel()
	s := serve(t, func(cfg *Config) { cfg.Interval = 10 * time.Minute })
	c := s.dial()
	for uri, want := range map[string]failure{
		"/announce":                            errNoInfoHash,
		"/announce?":                           errNoInfoHash,
		"/announce?info_hash=" + hash20:        errNoPeerID,
		"/announce?info_hash=%zz":              errEscape,
		announceURI("&info_hash=" + hash20):    errManyInfoHashes,
		"/announce?port=65536":                 errPort,
		"/scrape":                              errFullScrape,
		"/scrape?":                             errFullScrape,
		"/scrape?info_hash=":                   errInfoHash,
		announceURI(strings.Repeat("x", 4096)): errTooLong,
		"/scrape?" + strings.Repeat("x", 8192): errTooLong,
	} {
		d := c.announce(uri)
		if d.FailureReason != string(want) || d.Interval < 480 || d.Interval > 720 || d.raw["min interval"] != int64(d.Interval) || len(d.raw) != 3 {
			t.Errorf("%.80s: got %v, want %q", uri, d.raw, want)
		}
	}
	if got := s.tracker.metrics.announceBad.Get(); got != 7 {
		t.Errorf("bad announces: got %d, want 7", got)
	}
	if got := s.tracker.metrics.scrapeBad.Get(); got != 4 {
		t.Errorf("bad scrapes: got %d, want 4", got)
	}
}

func TestIPv6(t *testing.T) {
	t.Parallel()
	s := serveOn(t, nil, "tcp6", "[::1]:0", nil)
	if d := s.announce(announceURI("")); d.raw["external ip"] != strings.Repeat("\x00", 15)+"\x01" || d.raw["peers"] != "" || d.raw["peers6"] != nil {
		t.Errorf("got %+v", d)
	}
	d := s.announce(strings.Replace(announceURI(""), "6881", "6882", 1))
	if got := d.peers(); d.raw["peers"] != "" || len(got) != 1 || got[0] != netip.MustParseAddrPort("[::1]:6881") {
		t.Errorf("got %+v", d)
	}
	d = s.announce(strings.Replace(announceURI("&compact=0"), "6881", "6882", 1))
	if got := fmt.Sprint(d.raw["peers"]); got != "[map[ip:::1 port:6881]]" {
		t.Errorf("got %s", got)
	}
}

// On a socket of both families, an IPv4 client is an IPv4 peer, and each family hears of the other.
func TestBothFamilies(t *testing.T) {
	t.Parallel()
	s := serveOn(t, nil, "tcp", "[::]:0", nil)
	port := netip.MustParseAddrPort(s.addr).Port()
	s.addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String()
	if d := s.announce(announceURI("")); len(d.raw["external ip"].(string)) != 4 {
		t.Errorf("an IPv4 client on a socket of both families: got %v", d.raw)
	}
	s.addr = netip.AddrPortFrom(netip.IPv6Loopback(), port).String()
	if got := s.announce(announceURI("")).peers(); fmt.Sprint(got) != "[127.0.0.1:6881]" {
		t.Errorf("over IPv6: got %v", got)
	}
	if got := s.announce(strings.Replace(announceURI(""), "6881", "6882", 1)).peers(); fmt.Sprint(got) != "[127.0.0.1:6881 [::1]:6881]" {
		t.Errorf("a third: got %v", got)
	}
}

// A client without the other family could use none of its peers: half of a reply is of the asker's own where there are as many.
func TestOwnFamilyGetsItsHalf(t *testing.T) {
	t.Parallel()
	fill := func(table *swarm.Table, addr netip.Addr, n int) {
		var r swarm.Reply
		for range n {
			a := swarm.Announce{InfoHash: swarm.InfoHash([]byte(hash20)), TTL: time.Hour}
			a.SetEndpoint(addr, 1)
			table.Announce(&a, time.Now(), &r)
			addr = addr.Next()
		}
	}
	v4, v6 := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")
	for _, asker := range []struct {
		peer       string
		few4, few6 int
	}{{"192.0.2.1:1", 25, 400}, {"[2001:db9::1]:1", 400, 25}} {
		table := swarm.New(swarm.Config{})
		fill(table, v4, asker.few4)
		fill(table, v6, asker.few6)
		tracker, err := New(testConfig(), table, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx := requestCtx(t, announceURI("&numwant=50"), asker.peer, "")
		tracker.handle(ctx)
		v := reencode(t, ctx.Response.Body())
		n4, n6 := len(v["peers"].(string))/6, len(v["peers6"].(string))/18
		if n4 != 25 || n6 != 25 {
			t.Errorf("%s: got %d IPv4 and %d IPv6 peers, want 25 of each", asker.peer, n4, n6)
		}
	}
}

// Each reply's interval is drawn evenly from the configured one give or take a fifth, and min interval is the same.
func TestIntervalIsSpread(t *testing.T) {
	t.Parallel()
	tracker := serve(t, nil).tracker
	tracker.gate.SetIntervals(30*time.Minute, 30*time.Minute)
	const draws, bins = 210_000, 7 // of 103 seconds each
	var counts [bins]int
	for range draws {
		sec := tracker.interval()
		if sec < 1440 || sec > 2160 {
			t.Fatalf("got %d, want 1440 to 2160", sec)
		}
		counts[(sec-1440)/103]++
	}
	chi2 := 0.0
	for _, n := range counts {
		chi2 += math.Pow(float64(n)-draws/bins, 2) / (draws / bins)
	}
	if chi2 > 60 { // 6 degrees of freedom: never by chance; twice as many in one bin make it thousands
		t.Errorf("uneven: %v, chi squared %.1f", counts, chi2)
	}

	for configured, want := range map[int][2]int{300: {300, 360}, 0: {300, 300}, 10800: {8640, 10800}, 1_000_000: {10800, 10800}} {
		d := time.Duration(configured) * time.Second
		tracker.gate.SetIntervals(d, d)
		for range 2000 {
			if sec := tracker.interval(); sec < want[0] || sec > want[1] {
				t.Fatalf("%d: got %d, want %v", configured, sec, want)
			}
		}
	}
}

func TestIntervalsTold(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	c := s.dial()
	var told []int32
	for range 50 {
		d := c.announce(announceURI(""))
		if d.raw["min interval"] != int64(d.Interval) || d.Interval < 1440 || d.Interval > 2160 {
			t.Fatalf("got interval %d, min interval %v", d.Interval, d.raw["min interval"])
		}
		told = append(told, d.Interval)
	}
	slices.Sort(told)
	if len(slices.Compact(told)) < 25 {
		t.Errorf("50 replies told few intervals: %v", told)
	}
}

// A peer is believed alive for twice the interval it was told, or as long as the operator says.
func TestPeerLifetime(t *testing.T) {
	t.Parallel()
	s := &settings{}
	if got := s.ttl(1500); got != 50*time.Minute {
		t.Errorf("got %v, want twice 25 minutes", got)
	}
	s.cfg.PeerTTL = time.Hour
	if got := s.ttl(1500); got != time.Hour {
		t.Errorf("got %v, want 1h", got)
	}
}

// ailing is a store that cannot do all of its work.
type ailing struct {
	*swarm.Table
	by float64
}

func (a ailing) Stretch() float64 { return a.by }

// A store that is ill has its clients come back later, within tracker.max_interval.
func TestStoreStretchesTheInterval(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		by          float64
		least, most int
	}{{1, 1440, 2160}, {1.5, 2160, 3240}, {100, 5400, 5400}} {
		tr, err := New(Config{Interval: 30 * time.Minute, MaxInterval: 90 * time.Minute, NumWant: 50, MaxNumWant: 200, AccessMode: "open"},
			ailing{swarm.New(swarm.Config{}), c.by}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			if got := tr.interval(); got < c.least || got > c.most {
				t.Fatalf("by %v: got %d s, want %d to %d", c.by, got, c.least, c.most)
			}
		}
	}
}
