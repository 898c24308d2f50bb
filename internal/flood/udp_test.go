package flood

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anacrolix/torrent/tracker/udp"

	"spillway/internal/sys"
)

func udpAnnounceReply(transaction, leechers, seeders uint32, peers int) []byte {
	b := appendUDPReplyHead(nil, udpAnnounce, transaction)
	for _, v := range []uint32{1800, leechers, seeders} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(b, make([]byte, 6*peers)...)
}

func appendUDPReplyHead(b []byte, action, transaction uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, action)
	return binary.BigEndian.AppendUint32(b, transaction)
}

// udpTracker is one in a test. It gives each address and port an id of its own, and answers whoever has sent it back with answer;
// nil: not at all.
type udpTracker struct {
	mu                sync.Mutex // guards what follows
	ids               map[netip.AddrPort]uint64
	addrs             map[netip.Addr]int // requests
	attackers         map[netip.Addr]int // those of them that say they attack
	connects          int                // of requests
	opened            int                // connects before the flood
	announces, badIDs int
	scrapes           int
}

func serveUDP(t *testing.T, answer func(action, transaction uint32, hashes int) []byte) (*udpTracker, netip.AddrPort) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := &udpTracker{ids: map[netip.AddrPort]uint64{}, addrs: map[netip.Addr]int{}, attackers: map[netip.Addr]int{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 4096); ; {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if reply := s.handle(buf[:n], from, answer); reply != nil {
				_, _ = conn.WriteToUDPAddrPort(reply, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return s, conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func (s *udpTracker) handle(b []byte, from netip.AddrPort, answer func(action, transaction uint32, hashes int) []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, action, transaction := binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	if action == udpConnect {
		if transaction&(udpMaxSlots-1) == udpOpening {
			s.opened++
		} else {
			s.connects++
		}
		if s.ids[from] == 0 { // the same for ever: its requests overtake each other
			s.ids[from] = uint64(s.opened+s.connects) << 32
		}
		return binary.BigEndian.AppendUint64(appendUDPReplyHead(nil, udpConnect, transaction), s.ids[from])
	}
	if id != s.ids[from] {
		s.badIDs++
	}
	s.addrs[from.Addr()]++
	if action == udpScrape {
		s.scrapes++
		return answer(action, transaction, (len(b)-16)/20)
	}
	if s.announces++; bytes.HasPrefix(b[36:], []byte("-FL0001-")) {
		s.attackers[from.Addr()]++
	}
	return answer(action, transaction, 0)
}

// Where the machine floods something else the kernel drops packets on loopback too (net.core.netdev_max_backlog is of all namespaces),
// so these tests bear with lost ones, which time out after udpPatience.
const udpPatience = 2 * time.Second

// Each kind of reply is counted as what it is.
func TestUDPOutcomes(t *testing.T) {
	t.Parallel()
	const n = 100
	for _, c := range []struct {
		name   string
		answer func(action, transaction uint32, hashes int) []byte
		count  func(Side) uint64
	}{
		{"good", func(_, tr uint32, _ int) []byte { return udpAnnounceReply(tr, 1, 0, 0) }, func(s Side) uint64 { return s.Good }},
		{"good, with peers", func(_, tr uint32, _ int) []byte { return udpAnnounceReply(tr, 9, 9, 50) }, func(s Side) uint64 { return s.Good }},
		{"shed", func(_, tr uint32, _ int) []byte { return udpAnnounceReply(tr, 0, 0, 0) }, func(s Side) uint64 { return s.Shed - s.ShedFailure }},
		{"error", func(_, tr uint32, _ int) []byte { return append(appendUDPReplyHead(nil, udpError, tr), "no"...) }, func(s Side) uint64 { return s.ShedFailure }},
		{"cut short", func(_, tr uint32, _ int) []byte { return udpAnnounceReply(tr, 1, 0, 1)[:25] }, func(s Side) uint64 { return s.Malformed }},
		{"another action", func(_, tr uint32, _ int) []byte { return appendUDPReplyHead(nil, udpScrape, tr) }, func(s Side) uint64 { return s.Malformed }},
		{"silent", func(uint32, uint32, int) []byte { return nil }, func(s Side) uint64 { return s.Timeout }},
		{"another's transaction", func(_, tr uint32, _ int) []byte { return udpAnnounceReply(tr^1<<25, 1, 0, 0) }, func(s Side) uint64 { return s.Timeout }},
		{"no packet of a tracker", func(uint32, uint32, int) []byte { return []byte("hello") }, func(s Side) uint64 { return s.Timeout }},
	} {
		for _, mode := range []Mode{UDP, UDPConnect} {
			t.Run(c.name+", "+string(mode), func(t *testing.T) {
				t.Parallel()
				_, addr := serveUDP(t, c.answer)
				r := mustRun(t, Config{
					Target: addr, Mode: mode, Rate: 10 * n, Conns: 20, Good: time.Minute, Patience: time.Minute, Timeout: udpPatience, Threads: 2,
					Profile: Profile{{Duration: 100 * time.Millisecond, Multiple: 1}},
				})
				s := total(r)
				lost := s.Timeout
				if silent := c.count(Side{Timeout: 1}) > 0; silent {
					lost = 0
				}
				if s.Offered != n || c.count(s)+lost != n || c.count(s) < n/2 || s.Good+s.Late+s.Shed+s.Failed != n {
					t.Errorf("got %s; want all %d to be %s, but for those that were lost", s, n, c.name)
				}
			})
		}
	}
}

// A socket asks for an id before the flood and uses it; or, as a client that announces twice an hour, asks before each request. No
// id goes to another socket, scrapes have their share, and the sides have addresses of their own.
func TestUDPConnectionIDs(t *testing.T) {
	t.Parallel()
	// No more than a socket's buffer has room for.
	const n, sockets = 200, 50
	for _, mode := range []Mode{UDP, UDPConnect} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			s, addr := serveUDP(t, func(action, transaction uint32, hashes int) []byte {
				if action == udpScrape {
					return append(appendUDPReplyHead(nil, udpScrape, transaction), bytes.Repeat([]byte{0, 0, 0, 1}, 3*hashes)...)
				}
				return udpAnnounceReply(transaction, 3, 1, 2)
			})
			r := mustRun(t, Config{
				Target: addr, Mode: mode, Rate: n, Conns: sockets, Good: time.Minute, Patience: time.Minute, Timeout: udpPatience, Threads: 2, Scrapes: 0.3,
				Attackers: 5, Share: 0.4, Profile: Profile{{Duration: time.Second, Multiple: 1, Share: -1}},
			})
			if got := total(r); got.Good+got.Timeout != n || got.Good < n/2 || r.ConnsOpen != sockets {
				t.Errorf("got %s, %d of %d sockets", got, r.ConnsOpen, sockets)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if most := map[Mode]int{UDP: 0, UDPConnect: n}[mode]; s.connects > most || s.connects < most/2 || s.opened < sockets {
				t.Errorf("got %d connects of requests and %d before, want %d and %d", s.connects, s.opened, most, sockets)
			}
			if s.badIDs > 0 || s.announces+s.scrapes > n || s.announces+s.scrapes < n/2 || s.scrapes < n/10 || s.scrapes > n/2 {
				t.Errorf("%d announces, %d scrapes, %d of another's id; want three of ten to be scrapes", s.announces, s.scrapes, s.badIDs)
			}
			for from, count := range s.attackers {
				if count > s.addrs[from] {
					t.Errorf("%s attacks and does not", from)
				}
			}
			if len(s.attackers) != 5 || len(s.addrs) < 20 {
				t.Errorf("got %d attackers of %d addresses, want 5 of %d", len(s.attackers), len(s.addrs), 5+sockets*6/10)
			}
		})
	}
}

// Given a connection id of a minute ago, when a request is due, then the socket asks for another first (BEP 15).
func TestUDPIDIsUsedForAMinute(t *testing.T) {
	t.Parallel()
	s, addr := serveUDP(t, func(_, transaction uint32, _ int) []byte { return udpAnnounceReply(transaction, 1, 0, 0) })
	c := Config{Target: addr, Mode: UDP, Rate: 1, Conns: 1}
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	w := newTeam(c, false).workers[0]
	var err error
	if w.poller, err = sys.NewPoller(); err != nil {
		t.Fatal(err)
	}
	e := newUDPEngine(w)
	w.engine = e
	defer e.close()
	// within polls until done, or two seconds: then a packet was lost.
	within := func(done func() bool) bool {
		for deadline := time.Now().Add(udpPatience); !done(); {
			if time.Now().After(deadline) {
				return false
			}
			if err := w.poll(int64(10 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
		}
		return true
	}
	w.base = time.Now()
	for try := int64(0); e.answered == 0; try++ {
		if try == 10 {
			t.Fatal("no id was given")
		}
		e.keepOpen(try * udpAgain)
		within(func() bool { return e.answered == 1 })
	}
	for i, at := range []int64{1e9, 59e9, 61e9} {
		for try := 0; ; try++ {
			e.sockets[0].hasID, e.sockets[0].idAt = true, 0
			w.enqueue(request{due: at}, at)
			e.dispatch(at)
			if within(func() bool { return !e.busy() }) {
				break
			}
			if e.giveUp(at); try == 10 {
				t.Fatalf("after %s: no reply", time.Duration(at))
			}
		}
		s.mu.Lock()
		if asked := s.connects > 0; asked != (i == 2) || s.badIDs > 0 {
			t.Errorf("after %s: %d connects, %d with another's id", time.Duration(at), s.connects, s.badIDs)
		}
		s.mu.Unlock()
	}
}

func TestNobodyListensOnUDP(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	addr := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = conn.Close()
	_, err = Run(context.Background(), Config{Target: addr, Mode: UDP, Rate: 100, Conns: 20})
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v, want why nobody could be asked", err)
	}
}

// A server that goes away: what was on the way is refused or lost, and all is accounted for.
func TestUDPServerGoesAway(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 4096); ; {
			_, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if binary.BigEndian.Uint32(buf[8:]) != udpConnect {
				_ = conn.Close()
				return
			}
			_, _ = conn.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(appendUDPReplyHead(nil, udpConnect, binary.BigEndian.Uint32(buf[12:])), 7), from)
		}
	}()
	r := mustRun(t, Config{
		Target: conn.LocalAddr().(*net.UDPAddr).AddrPort(), Mode: UDP, Rate: 500, Conns: 10, Timeout: 500 * time.Millisecond, Patience: time.Minute,
		Profile: Profile{{Duration: 500 * time.Millisecond, Multiple: 1}},
	})
	<-done
	if s := total(r); s.Offered != 250 || s.Refused+s.Timeout != 250 {
		t.Errorf("got %s; want all 250 to be refused, but for those that were lost before", s)
	}
}

// What is rendered is what BEP 15 says: an independent decoder finds all in its place.
func TestUDPAnnouncesAreValid(t *testing.T) {
	t.Parallel()
	r := newTestRequests()
	events := map[udp.AnnounceEvent]int{}
	hashes := map[[20]byte]bool{}
	for i := range 5000 {
		source := i % 2000
		b := bytes.NewReader(r.udpAnnounce(nil, 77, uint32(i), source))
		var head udp.RequestHeader
		var body udp.AnnounceRequest
		if err := udp.Read(b, &head); err != nil {
			t.Fatal(err)
		}
		if err := udp.Read(b, &body); err != nil {
			t.Fatal(err)
		}
		if head.ConnectionId != 77 || head.Action != udp.ActionAnnounce || head.TransactionId != int32(i) || b.Len() != 0 {
			t.Fatalf("head: %+v, %d bytes more", head, b.Len())
		}
		if body.NumWant != 50 || body.Port < 1024 || body.IPAddress != 0 {
			t.Fatalf("body: %+v", body)
		}
		if got := bytes.HasPrefix(body.PeerId[:], []byte("-FL0001-")); got != (source >= r.honest) {
			t.Fatalf("source %d says it is %q", source, body.PeerId)
		}
		events[body.Event]++
		hashes[body.InfoHash] = true
	}
	if events[0] < 4500 || events[2] == 0 || events[1] == 0 || events[3] > 0 || len(hashes) != r.torrents {
		t.Errorf("events %v, %d torrents; want nine of ten to be periodic, none stopped, of %d torrents", events, len(hashes), r.torrents)
	}
	b := r.udpScrape(nil, 77, 5, 3)
	if len(b) != 16+60 || !hashes[[20]byte(b[16:])] || !slices.Equal(b[:16], appendUDPHead(nil, 77, udpScrape, 5)) {
		t.Errorf("scrape: %x", b)
	}
}

// Whatever comes, a packet is read without a panic, is judged the same again, and a cut one is never better than the whole.
func FuzzUDPReply(f *testing.F) {
	f.Add(udpAnnounceReply(1, 2, 3, 4), uint8(1), uint8(0))
	f.Add(udpAnnounceReply(1, 0, 0, 0), uint8(1), uint8(0))
	f.Add(binary.BigEndian.AppendUint64(appendUDPReplyHead(nil, udpConnect, 9), 1), uint8(0), uint8(0))
	f.Add(append(appendUDPReplyHead(nil, udpScrape, 9), make([]byte, 24)...), uint8(2), uint8(2))
	f.Add(append(appendUDPReplyHead(nil, udpError, 9), "no"...), uint8(1), uint8(0))
	f.Add([]byte("hello"), uint8(1), uint8(0))
	f.Add([]byte("hello, this is no tracker"), uint8(1), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, asked, hashes uint8) {
		reply, ok := parseUDPReply(b)
		want := len(b) >= 8
		if want {
			action := binary.BigEndian.Uint32(b)
			want = action <= udpError && (action != udpConnect || len(b) >= 16)
		}
		if ok != want {
			t.Fatalf("%x: read %t, %+v", b, ok, reply)
		}
		if !ok {
			return
		}
		if reply.action == udpConnect {
			reply.id()
		}
		for _, v6 := range []bool{false, true} {
			o := reply.judge(uint32(asked%4), int(hashes)%(maxHashes+1), v6)
			switch o {
			case good:
				if uint32(asked%4) != reply.action || reply.action != udpAnnounce && reply.action != udpScrape {
					t.Errorf("%x is good for action %d", b, asked%4)
				}
			case shed, shedFailure, malformed:
			default:
				t.Errorf("%x: outcome %d", b, o)
			}
		}
	})
}
