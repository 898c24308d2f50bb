package tracker

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/torrent/tracker/shared"
	"github.com/anacrolix/torrent/tracker/udp"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// udpServer is a tracker that answers UDP on loopback until the test ends.
type udpServer struct {
	*testing.T
	tracker *Tracker
	udp     *UDP
	table   *swarm.Table
	log     *lines
	addr    netip.AddrPort
}

func serveUDP(t *testing.T, change func(*Config)) *udpServer {
	t.Helper()
	return serveUDPOn(t, change, UDPConfig{Addrs: []string{"127.0.0.1:0"}, Sockets: 2})
}

func serveUDPOn(t *testing.T, change func(*Config), ucfg UDPConfig) *udpServer {
	t.Helper()
	table := swarm.New(swarm.Config{})
	s := serveUDPStore(t, change, ucfg, table)
	s.table = table
	return s
}

func serveUDPStore(t *testing.T, change func(*Config), ucfg UDPConfig, store Swarms) *udpServer {
	t.Helper()
	cfg := testConfig()
	if change != nil {
		change(&cfg)
	}
	s := &udpServer{T: t, log: new(lines)}
	var err error
	if s.tracker, err = New(cfg, store, slog.New(s.log)); err != nil {
		t.Fatal(err)
	}
	if ucfg.ReceiveBuffer == 0 {
		ucfg.ReceiveBuffer = 1 << 20
	}
	if s.udp, err = s.tracker.ListenUDP(ucfg); err != nil {
		t.Fatal(err)
	}
	s.addr = s.udp.Addrs()[0]
	done := make(chan error, 1)
	go func() { done <- s.udp.Serve() }()
	t.Cleanup(func() {
		s.udp.Close()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

// udpClient is anacrolix's client, which is not ours, over a socket of its own.
type udpClient struct {
	*udpServer
	*udp.ConnClient
}

// client may be on another loopback address than 127.0.0.1.
func (s *udpServer) client(from string) udpClient {
	s.Helper()
	opts := udp.NewConnClientOpts{Network: "udp", Host: s.addr.String()}
	if from != "" {
		opts.ListenPacket = func(network, _ string) (net.PacketConn, error) { return net.ListenPacket(network, from) }
	}
	c, err := udp.NewConnClient(opts)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { c.Close() })
	return udpClient{s, c}
}

var udpHash = swarm.InfoHash([]byte(hash20))

func udpAnnounceOf(port uint16, left int64) udp.AnnounceRequest {
	return udp.AnnounceRequest{InfoHash: [20]byte(udpHash), PeerId: [20]byte([]byte("-qB4500-abcdefghijkl")), Left: left, NumWant: -1, Port: port}
}

// announce asks, and returns the reply's header and its peers.
func (c udpClient) announce(req udp.AnnounceRequest, url string) (h udp.AnnounceResponseHeader, peers []netip.AddrPort, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	h, list, err := c.ConnClient.Announce(ctx, req, udp.Options{RequestUri: url})
	if err == nil {
		for _, p := range list.NodeAddrs() {
			addr, _ := netip.AddrFromSlice(p.IP)
			peers = append(peers, netip.AddrPortFrom(addr.Unmap(), uint16(p.Port)))
		}
	}
	return h, peers, err
}

func (c udpClient) mustAnnounce(req udp.AnnounceRequest) (udp.AnnounceResponseHeader, []netip.AddrPort) {
	c.udpServer.Helper()
	h, peers, err := c.announce(req, "/announce")
	if err != nil {
		c.Fatal(err)
	}
	return h, peers
}

func (c udpClient) mustScrape(hashes ...swarm.InfoHash) udp.ScrapeResponse {
	c.udpServer.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var ihs []udp.InfoHash
	for _, h := range hashes {
		ihs = append(ihs, h)
	}
	got, err := c.Client.Scrape(ctx, ihs)
	if err != nil {
		c.Fatal(err)
	}
	return got
}

func TestUDPPeersFindEachOther(t *testing.T) {
	t.Parallel()
	s := serveUDP(t, nil)
	a, b := s.client("127.0.0.2:0"), s.client("127.0.0.3:0")
	if h, peers := a.mustAnnounce(udpAnnounceOf(1001, 0)); h.Seeders != 1 || h.Leechers != 0 || len(peers) != 0 || h.Interval < 24*60 || h.Interval > 36*60 {
		t.Errorf("the first: got %+v, %v", h, peers)
	}
	h, peers := b.mustAnnounce(udpAnnounceOf(1002, 5))
	if h.Seeders != 1 || h.Leechers != 1 || fmt.Sprint(peers) != "[127.0.0.2:1001]" {
		t.Errorf("the second: got %+v, %v", h, peers)
	}
	req := udpAnnounceOf(1002, 0)
	req.Event = shared.Completed
	b.mustAnnounce(req)
	if got := b.mustScrape(swarm.InfoHash{1}, udpHash); len(got) != 2 || got[0] != (udp.ScrapeInfohashResult{}) ||
		got[1] != (udp.ScrapeInfohashResult{Seeders: 2, Completed: 1}) {
		t.Errorf("scrape: got %+v", got)
	}
	req.Event = shared.Stopped
	if h, peers := b.mustAnnounce(req); h.Seeders != 1 || len(peers) != 0 {
		t.Errorf("stopped: got %+v, %v", h, peers)
	}
	// Port 0 is answered and not stored; numwant 0 is none.
	if _, peers := b.mustAnnounce(udpAnnounceOf(0, 5)); len(peers) != 1 {
		t.Errorf("port 0: got %v", peers)
	}
	req = udpAnnounceOf(1003, 5)
	req.NumWant = 0
	if h, peers := b.mustAnnounce(req); h.Leechers != 1 || len(peers) != 0 {
		t.Errorf("numwant 0: got %+v, %v", h, peers)
	}
	if got := samplesOf(t, s.tracker)[`spillway_announces_total{proto="udp",result="served"}`]; got != 6 {
		t.Errorf("served: got %v, want 6", got)
	}
	if st := s.tracker.Stats(); st.Announces != 6 || st.Scrapes != 1 {
		t.Errorf("stats: got %+v", st)
	}
}

// HTTP and UDP are two ways to one swarm, and a reply has peers of the client's family alone, as many as it may.
func TestUDPSharesSwarmsWithHTTP(t *testing.T) {
	t.Parallel()
	s := serveUDPOn(t, nil, UDPConfig{Addrs: []string{"[::1]:0", "127.0.0.1:0"}})
	v4 := *s
	v4.addr = s.udp.Addrs()[1]
	var r swarm.Reply
	for i := range 600 {
		a := swarm.Announce{InfoHash: udpHash, TTL: time.Hour}
		addr := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		if i%2 == 1 {
			addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 8), byte(i)})
		}
		a.SetEndpoint(addr, 6881)
		s.table.Announce(&a, time.Now(), &r)
	}
	for _, c := range []struct {
		client         udpClient
		want           int32
		peers          int
		isOfThatFamily func(netip.Addr) bool
	}{
		{v4.client(""), 200, 200, netip.Addr.Is4},
		{v4.client(""), 1 << 30, 200, netip.Addr.Is4},
		{v4.client(""), -1, 50, netip.Addr.Is4},
		{v4.client(""), -1 << 31, 50, netip.Addr.Is4},
		{s.client(""), 200, (maxUDPReply - 20) / 18, netip.Addr.Is6},
		{s.client(""), 10, 10, netip.Addr.Is6},
	} {
		req := udpAnnounceOf(1001, 5)
		req.NumWant = c.want
		h, peers := c.client.mustAnnounce(req)
		if len(peers) != c.peers || h.Leechers < 600 {
			t.Errorf("numwant %d from %v: got %d peers, %+v, want %d", c.want, c.client.addr, len(peers), h, c.peers)
		}
		for _, p := range peers {
			if !c.isOfThatFamily(p.Addr()) {
				t.Fatalf("to %v: got peer %v", c.client.addr, p)
			}
		}
	}
}

func TestUDPRefuses(t *testing.T) {
	t.Parallel()
	s := serveUDP(t, func(cfg *Config) {
		cfg.AccessMode, cfg.AccessFile = AccessDeny, file(t, "deny", hexB)
		cfg.BlockPeerIDs = []string{"-XL0019"}
		cfg.PasskeyFile = file(t, "keys", "sesame\n"+strings.Repeat("k", 300)+"\n")
	})
	c := s.client("")
	denied, blocked := udpAnnounceOf(1, 1), udpAnnounceOf(1, 1)
	denied.InfoHash = [20]byte([]byte(strings.Repeat("b", 20)))
	copy(blocked.PeerId[:], "-XL0019-")
	for _, f := range []struct {
		name string
		req  udp.AnnounceRequest
		url  string
		want failure
	}{
		{"no passkey", udpAnnounceOf(1, 1), "/announce", errPasskey},
		{"no options", udpAnnounceOf(1, 1), "", errPasskey},
		{"a wrong one", udpAnnounceOf(1, 1), "/announce/sesam", errPasskey},
		{"one in the query", udpAnnounceOf(1, 1), "/announce?sesame", errPasskey},
		{"one for a scrape", udpAnnounceOf(1, 1), "/scrape/sesame", errPasskey},
		{"a URL without end", udpAnnounceOf(1, 1), "/announce/sesame" + strings.Repeat("x", 1000), errPasskey},
		{"one denied", denied, "/announce/sesame", errUnregistered},
		{"a client not welcome", blocked, "/announce/sesame", errBlockedClient},
		{"a passkey", udpAnnounceOf(1, 1), "/announce/sesame", ""},
		{"a passkey before", udpAnnounceOf(1, 1), "/sesame/announce", ""},
		{"a passkey and a query", udpAnnounceOf(1, 1), "/announce/sesame?x=/y", ""},
		{"a passkey of two options", udpAnnounceOf(1, 1), "/announce/" + strings.Repeat("k", 300), ""},
	} {
		_, _, err := c.announce(f.req, f.url)
		switch got, isError := err.(udp.ErrorResponse); {
		case f.want == "" && err != nil, f.want != "" && (!isError || got.Message != string(f.want)):
			t.Errorf("%s: got %v, want %q", f.name, err, f.want)
		}
	}
	// A scrape has no way to say a passkey. A failure would bring Transmission's announces back in 20 seconds.
	if got := c.mustScrape(udpHash); len(got) != 1 || got[0] != (udp.ScrapeInfohashResult{}) {
		t.Errorf("scrape: got %+v, want zeros", got)
	}
}

// tracker.ip_param means the same as over HTTP.
func TestUDPClaimedAddress(t *testing.T) {
	t.Parallel()
	for _, f := range []struct {
		believe bool
		ip      [4]byte
		want    string
	}{
		{false, [4]byte{8, 8, 8, 8}, "127.0.0.2:7"}, {true, [4]byte{8, 8, 8, 8}, "8.8.8.8:7"}, {true, [4]byte{}, "127.0.0.2:7"},
		{true, [4]byte{10, 0, 0, 1}, "127.0.0.2:7"}, {true, [4]byte{224, 0, 0, 1}, "127.0.0.2:7"},
	} {
		s := serveUDP(t, func(cfg *Config) { cfg.ClaimedIP = f.believe })
		req := udpAnnounceOf(7, 1)
		req.IPAddress = binary.BigEndian.Uint32(f.ip[:])
		s.client("127.0.0.2:0").mustAnnounce(req)
		if _, peers := s.client("127.0.0.3:0").mustAnnounce(udpAnnounceOf(8, 1)); fmt.Sprint(peers) != "["+f.want+"]" {
			t.Errorf("%+v: got %v", f, peers)
		}
	}
}

func TestUDPSwitch(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{})
	s := serveUDP(t, func(cfg *Config) { cfg.Gate = gate })
	s.client("127.0.0.2:0").mustAnnounce(udpAnnounceOf(7, 0))
	c := s.client("")
	started := udpAnnounceOf(8, 1)
	started.Event = shared.Started
	f := func(mode shedder.Mode, req udp.AnnounceRequest, served bool) {
		t.Helper()
		turn(t, gate, shedder.UDP, mode)
		h, peers := c.mustAnnounce(req)
		if (len(peers) > 0) != served || (h.Seeders > 0) != served || !served && (h.Interval < 3600 || h.Interval > 5400) {
			t.Errorf("%v: got %+v, %v", mode, h, peers)
		}
	}
	f(shedder.Off, udpAnnounceOf(8, 1), false)
	f(shedder.Drain, udpAnnounceOf(8, 1), false)
	f(shedder.RejectNew, started, false)
	f(shedder.RejectNew, udpAnnounceOf(8, 1), true)
	turn(t, gate, shedder.UDP, shedder.Off)
	if got := c.mustScrape(udpHash); got[0] != (udp.ScrapeInfohashResult{}) {
		t.Errorf("scrape while off: got %+v", got)
	}
	// Off for ten minutes: clients are back when it is on again, over an interval.
	if _, err := gate.Switches.Set(shedder.UDP, shedder.Off, 10*time.Minute, "", "test"); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if h, _ := c.mustAnnounce(udpAnnounceOf(8, 1)); h.Interval < 500 || h.Interval > 600+1800 {
			t.Errorf("off for ten minutes: got %+v", h)
		}
	}
	f(shedder.On, started, true)
	turn(t, gate, shedder.Announce, shedder.Off) // HTTP's is another
	f(shedder.On, started, true)
}

func TestUDPRules(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{})
	s := serveUDP(t, func(cfg *Config) { cfg.Gate = gate })
	c := s.client("")
	for _, r := range []struct {
		kind  shedder.RuleKind
		value string
	}{{shedder.RuleSource, "127.0.0.1"}, {shedder.RulePeerID, "-qB45"}, {shedder.RuleInfoHash, strings.Repeat("61", 20)}} {
		if h, _ := c.mustAnnounce(udpAnnounceOf(8, 0)); h.Seeders != 1 {
			t.Fatalf("%s: not served before the rule", r.kind)
		}
		if _, err := gate.Rules.Add(r.kind, r.value, time.Hour, "", "test"); err != nil {
			t.Fatal(err)
		}
		if h, _ := c.mustAnnounce(udpAnnounceOf(8, 0)); h.Seeders != 0 || h.Interval < 3600 {
			t.Errorf("%s: got %+v in spite of the rule", r.kind, h)
		}
		if _, err := gate.Rules.Remove(r.kind, r.value); err != nil {
			t.Fatal(err)
		}
	}
}

// Each socket of a port gets clients, and a second program gets none.
func TestUDPSocketsShareThePort(t *testing.T) {
	t.Parallel()
	s := serveUDPOn(t, nil, UDPConfig{Addrs: []string{":0"}, Sockets: 4})
	if got := s.udp.Addrs(); len(got) != 1 || len(s.udp.socks) != 4 {
		t.Fatalf("got %v of %d sockets", got, len(s.udp.socks))
	}
	at := fmt.Sprintf(":%d", s.addr.Port())
	if _, err := s.tracker.ListenUDP(UDPConfig{Addrs: []string{at}, ReceiveBuffer: 1 << 16}); err == nil || !strings.Contains(err.Error(), "stop the program that has the port") {
		t.Errorf("a second on the port: got %v", err)
	}
	for _, bad := range []string{"192.0.2.1:0", "nonsense", "127.0.0.1:70000"} {
		if u, err := s.tracker.ListenUDP(UDPConfig{Addrs: []string{bad}, ReceiveBuffer: 1 << 16}); err == nil {
			u.Close()
			t.Errorf("%s: no error", bad)
		}
	}
	for i := range 40 {
		s.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), s.addr.Port())
		if i%2 == 1 {
			s.addr = netip.AddrPortFrom(netip.IPv6Loopback(), s.addr.Port())
		}
		s.client("").mustAnnounce(udpAnnounceOf(uint16(1000+i), 1))
	}
	if st := s.table.Stats(); st.Peers4 != 20 || st.Peers6 != 20 {
		t.Errorf("got %+v, want 20 peers of each family", st)
	}
}

// A reply leaves from the address that was asked: clients drop those from another.
func TestUDPAnswersFromWhereItWasAsked(t *testing.T) {
	t.Parallel()
	s := serveUDPOn(t, nil, UDPConfig{Addrs: []string{":0"}})
	only4 := serveUDPOn(t, nil, UDPConfig{Addrs: []string{"0.0.0.0:0"}})
	for _, to := range []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), s.addr.Port()),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 7, 8, 9}), s.addr.Port()),
		netip.AddrPortFrom(netip.IPv6Loopback(), s.addr.Port()),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 7, 8, 9}), only4.addr.Port()),
	} {
		conn, err := net.ListenPacket("udp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.WriteTo(connectPacket(42), net.UDPAddrFromAddrPort(to)); err != nil {
			t.Fatal(err)
		}
		var buf [100]byte
		n, from, err := conn.ReadFrom(buf[:])
		if err != nil {
			t.Fatalf("%v: %v", to, err)
		}
		got := from.(*net.UDPAddr).AddrPort()
		if got = netip.AddrPortFrom(got.Addr().Unmap(), got.Port()); got != to || n != 16 || binary.BigEndian.Uint32(buf[4:]) != 42 {
			t.Errorf("asked %v: got %d bytes from %v", to, n, got)
		}
	}
}

// The kernel drops what does not fit into its queue, and that is counted.
func TestUDPCountsWhatTheKernelDrops(t *testing.T) {
	t.Parallel()
	tracker, err := New(testConfig(), swarm.New(swarm.Config{}), slog.New(new(lines)))
	if err != nil {
		t.Fatal(err)
	}
	u, err := tracker.ListenUDP(UDPConfig{Addrs: []string{"127.0.0.1:0"}, ReceiveBuffer: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	conn, err := net.Dial("udp", u.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 1000 {
		if _, err := conn.Write(connectPacket(1)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, open bool) {
		t.Helper()
		got := udpSamples(t, u)
		if got[`spillway_udp_dropped_total{reason="kernel"}`] < 100 || (got["spillway_udp_queue_bytes"] > 0) != open || (got["spillway_udp_queue_bytes_max"] > 0) != open {
			t.Errorf("%s: got %v", when, got)
		}
	}
	check("full", true)
	u.Close()
	check("closed", false)
}

func udpSamples(t *testing.T, u *UDP) map[string]float64 {
	t.Helper()
	var text strings.Builder
	u.WriteMetrics(&text)
	samples := map[string]float64{}
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var value float64
		at := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		if _, err := fmt.Sscan(line[at:], &value); err != nil {
			t.Errorf("not a sample: %q", line)
		}
		samples[line[:at]] = value
	}
	return samples
}

// A packet that meets a bug ends neither the process nor the rest of its batch.
func TestUDPSurvivesPanics(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{})
	s := serveUDPStore(t, func(cfg *Config) { cfg.Gate = gate }, UDPConfig{Addrs: []string{"127.0.0.1:0"}}, panics{swarm.New(swarm.Config{})})
	c := s.client("")
	got := c.mustScrape(swarm.InfoHash{2})
	conn, err := net.Dial("udp", s.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ids := newConnectionIDs(&s.udp.key)
	ids.at(time.Now().Unix())
	for range 20 {
		if _, err := conn.Write(announcePacket(ids.id(netip.AddrFrom4([4]byte{127, 0, 0, 1})), 9)); err != nil {
			t.Fatal(err)
		}
	}
	// It is switched off by itself then, and so answers politely.
	for deadline := time.Now().Add(20 * time.Second); ; {
		if gate.Closed(shedder.UDP) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not switched off")
		}
		c.mustScrape(swarm.InfoHash{2})
	}
	if h, _ := c.mustAnnounce(udpAnnounceOf(9, 1)); h.Interval == 0 || len(got) != 1 {
		t.Errorf("after the panics: got %+v, %v", h, got)
	}
	if all := strings.Join(s.log.all(), "\n"); !strings.Contains(all, "BUG: a packet panicked") {
		t.Errorf("log: %s", all)
	}
}

// Nor does one whose store answers what makes no sense; and clients are told nothing that would bring them back soon.
func TestUDPErrorLoopTurnsItOff(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{})
	store := &senseless{Table: swarm.New(swarm.Config{})}
	s := serveUDPStore(t, func(cfg *Config) { cfg.Gate = gate }, UDPConfig{Addrs: []string{"127.0.0.1:0"}}, store)
	c := s.client("")
	announce := func(when string, seeds int32) {
		t.Helper()
		if h, peers := c.mustAnnounce(udpAnnounceOf(9, 0)); h.Seeders != seeds || h.Interval < 1000 || len(peers) != 0 {
			t.Errorf("%s: got %+v, %v; want %d seeders", when, h, peers, seeds)
		}
	}
	announce("before", 1)
	store.broken.Store(true)
	for i := range 10 {
		if mode := gate.Switches.Mode(shedder.UDP); mode != shedder.On {
			t.Fatalf("after %d errors: got %v, want on", i, mode)
		}
		if i%2 == 0 {
			announce("in the loop", 0)
		} else if got := c.mustScrape(udpHash); len(got) != 1 || got[0].Seeders != 0 {
			t.Errorf("in the loop: got %+v", got)
		}
	}
	if state := gate.Switches.State(shedder.UDP); state.Mode != shedder.Off || !strings.Contains(state.Reason, "error") {
		t.Errorf("after ten errors: got %+v, want off, because of them", state)
	}
}

// panics is a store with a bug.
type panics struct{ *swarm.Table }

func (panics) Announce(*swarm.Announce, time.Time, *swarm.Reply) { panic("a bug") }
