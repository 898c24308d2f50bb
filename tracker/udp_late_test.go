package tracker

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// asks is a store of which tests say what it has to ask others about, and when these have answered.
type asks struct {
	*swarm.Table
	mu      sync.Mutex // guards what follows
	unknown map[swarm.InfoHash]bool
	asked   []func()
}

func (a *asks) Ask(hash *swarm.InfoHash, _ time.Time, done func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unknown[*hash] {
		a.asked = append(a.asked, done)
	}
	return !a.unknown[*hash]
}

// waits returns once n requests wait, with what ends the waits.
func (a *asks) waits(t *testing.T, n int) (done []func()) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		a.mu.Lock()
		if len(a.asked) >= n {
			done, a.asked = a.asked, nil
		}
		a.mu.Unlock()
		if done != nil {
			return done
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d requests do not wait", n)
		}
	}
}

// comes has a peer that announced elsewhere become known.
func (a *asks) comes(hash swarm.InfoHash, addr string, port uint16) {
	announce := swarm.Announce{InfoHash: hash, Seeder: true, TTL: time.Hour}
	announce.SetEndpoint(netip.MustParseAddr(addr), port)
	var r swarm.Reply
	a.Announce(&announce, time.Now(), &r)
	a.mu.Lock()
	delete(a.unknown, hash)
	a.mu.Unlock()
}

func serveAsking(t *testing.T, addr string, most int, unknown ...swarm.InfoHash) (*udpServer, *asks) {
	t.Helper()
	store := &asks{Table: swarm.New(swarm.Config{}), unknown: map[swarm.InfoHash]bool{}}
	for _, h := range unknown {
		store.unknown[h] = true
	}
	cfg := testConfig()
	cfg.Gate = gated(shedder.Config{})
	tracker, err := New(cfg, store, slog.New(new(lines)))
	if err != nil {
		t.Fatal(err)
	}
	u, err := tracker.ListenUDP(UDPConfig{Addrs: []string{addr}, Sockets: 2, ReceiveBuffer: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if most > 0 {
		u.late = newUDPLate(u, store, most)
	}
	s := &udpServer{T: t, tracker: tracker, udp: u, table: store.Table, addr: u.Addrs()[0]}
	done := make(chan error, 1)
	go func() { done <- u.Serve() }()
	t.Cleanup(func() {
		u.Close()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s, store
}

// An announce of a swarm that another node may know waits for that node's peers, and nobody else waits meanwhile.
func TestUDPWaitsForTheStore(t *testing.T) {
	t.Parallel()
	other := swarm.InfoHash([]byte(hashB))
	s, store := serveAsking(t, "127.0.0.1:0", 0, udpHash)
	answered := make(chan string)
	for i, c := range []udpClient{s.client("127.0.0.2:0"), s.client("127.0.0.3:0")} {
		go func() {
			h, peers, err := c.announce(udpAnnounceOf(uint16(1001+i), 5), "/announce")
			answered <- fmt.Sprint(h.Seeders, peers, err)
		}()
	}
	done := store.waits(t, 2)
	near := s.client("127.0.0.4:0")
	req := udpAnnounceOf(1009, 0)
	req.InfoHash = [20]byte(other)
	if h, _ := near.mustAnnounce(req); h.Seeders != 1 {
		t.Errorf("of another swarm, meanwhile: got %+v", h)
	}
	stopped := udpAnnounceOf(1010, 5)
	stopped.Event = 3
	near.mustAnnounce(stopped)
	store.comes(udpHash, "192.0.2.1", 7)
	done[0]()
	if got := <-answered; got != "1 [192.0.2.1:7] <nil>" {
		t.Errorf("the one: got %s", got)
	}
	done[1]()
	if got := <-answered; got != "1 [192.0.2.1:7 127.0.0.2:1001] <nil>" && got != "1 [127.0.0.2:1001 192.0.2.1:7] <nil>" &&
		got != "1 [192.0.2.1:7 127.0.0.3:1002] <nil>" && got != "1 [127.0.0.3:1002 192.0.2.1:7] <nil>" {
		t.Errorf("the other: got %s", got)
	}
	if got := udpSamples(t, s.udp)[`spillway_udp_waits_total{result="asked"}`]; got != 2 {
		t.Errorf("waits: got %v, want 2", got)
	}
}

// A scrape waits until the last of its swarms is known; one of known swarms does not.
func TestUDPScrapeWaitsForTheStore(t *testing.T) {
	t.Parallel()
	known, second := swarm.InfoHash{1}, swarm.InfoHash{2}
	s, store := serveAsking(t, "127.0.0.1:0", 0, udpHash, second)
	c := s.client("")
	if got := c.mustScrape(known); len(got) != 1 || got[0].Seeders != 0 {
		t.Errorf("of a known one: got %v", got)
	}
	answered := make(chan string)
	go func() { answered <- fmt.Sprint(s.client("").mustScrape(udpHash, known, second)) }()
	done := store.waits(t, 2)
	store.comes(udpHash, "192.0.2.1", 7)
	done[0]()
	store.comes(second, "192.0.2.1", 7)
	select {
	case got := <-answered:
		t.Fatalf("answered before all is known: %s", got)
	default:
	}
	done[1]()
	if got := <-answered; got != "[{1 0 0} {0 0 0} {1 0 0}]" {
		t.Errorf("got %s", got)
	}
}

// An answer that was waited for leaves from the address that was asked, too.
func TestUDPLateAnswersFromWhereItWasAsked(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.7.8.9", "::1"} {
		s, store := serveAsking(t, ":0", 0, udpHash)
		s.addr = netip.AddrPortFrom(netip.MustParseAddr(host), s.addr.Port())
		answered := make(chan error)
		c := s.client("") // connected: it hears nobody else
		go func() { _, _, err := c.announce(udpAnnounceOf(8, 1), "/announce"); answered <- err }()
		store.waits(t, 1)[0]()
		if err := <-answered; err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// More than may wait are answered at once; who waits when the tracker ends does not hold it up, and an answer that comes after
// that is nobody's.
func TestUDPWaitsAreBounded(t *testing.T) {
	t.Parallel()
	const most = 3
	s, store := serveAsking(t, "127.0.0.1:0", most, udpHash)
	ids := newConnectionIDs(&s.udp.key)
	ids.at(time.Now().Unix())
	conn, addr := dialUDP(t, s.addr)
	for i := range most {
		if _, err := conn.Write(announcePacket(ids.id(addr), uint16(100+i))); err != nil {
			t.Fatal(err)
		}
	}
	done := store.waits(t, most)
	for range 5 {
		s.client("").mustAnnounce(udpAnnounceOf(9, 1))
	}
	if got := udpSamples(t, s.udp)[`spillway_udp_waits_total{result="refused"}`]; got != 5 {
		t.Errorf("refused: got %v, want 5", got)
	}
	done[0]()
	var buf [100]byte
	if n, err := conn.Read(buf[:]); err != nil || n < 20 {
		t.Errorf("the first: got %d bytes, %v", n, err)
	}
	s.udp.Close()
	for _, f := range done[1:] {
		f()
	}
}

func dialUDP(t *testing.T, to netip.AddrPort) (net.Conn, netip.Addr) {
	t.Helper()
	conn, err := net.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn, conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}
