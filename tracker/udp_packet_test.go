package tracker

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/torrent/tracker/shared"
	"github.com/anacrolix/torrent/tracker/udp"
	"pgregory.net/rapid"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

func connectPacket(transaction uint32) []byte {
	b := binary.BigEndian.AppendUint64(nil, connectMagic)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, actionConnect), transaction)
}

// encode is by anacrolix's encoder.
func encode(tb testing.TB, id uint64, action udp.Action, transaction int32, body any, tail ...byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := udp.Write(&b, udp.RequestHeader{ConnectionId: id, Action: action, TransactionId: transaction}); err != nil {
		tb.Fatal(err)
	}
	if err := udp.Write(&b, body); err != nil {
		tb.Fatal(err)
	}
	return append(b.Bytes(), tail...)
}

func announcePacket(id uint64, port uint16) []byte {
	var b bytes.Buffer
	_ = udp.Write(&b, udp.RequestHeader{ConnectionId: id, Action: udp.ActionAnnounce, TransactionId: 7})
	_ = udp.Write(&b, udpAnnounceOf(port, 1))
	return b.Bytes()
}

// handler is one without sockets.
func handler(tb testing.TB, change func(*Config)) *udpHandler {
	tb.Helper()
	return handlerOf(filled(tb, change))
}

func handlerOf(t *Tracker) *udpHandler {
	u := &UDP{tracker: t}
	u.register()
	h := newUDPHandler(t, u, &[UDPKeyBytes]byte{1, 2, 3})
	h.begin(time.Now())
	return h
}

var udpSource = netip.MustParseAddr("192.0.2.1")

func TestUDPGoldenPackets(t *testing.T) {
	t.Parallel()
	f := func(name string, got []byte, want string) {
		t.Helper()
		if want = strings.ReplaceAll(want, " ", ""); hex.EncodeToString(got) != want {
			t.Errorf("%s: got %x, want %s", name, got, want)
		}
	}
	f("connect", appendUDPConnect(nil, 0xdeadbeef, 0x0102030405060708), "00000000 deadbeef 0102030405060708")
	f("announce", appendUDPAnnounce(nil, 0xdeadbeef, 1800, &swarm.Counts{Complete: 3, Incomplete: 2}, []byte{1, 2, 3, 4, 0x1a, 0xe1}),
		"00000001 deadbeef 00000708 00000002 00000003 01020304 1ae1")
	f("scrape", appendUDPScrape(nil, 1, []swarm.Counts{{Complete: 1, Downloaded: 2, Incomplete: 3}, {}}),
		"00000002 00000001 00000001 00000002 00000003 00000000 00000000 00000000")
	f("error", appendUDPError(nil, 1, "no"), "00000003 00000001 6e6f")

	var a udpAnnounce
	raw, _ := hex.DecodeString(strings.ReplaceAll("0102030405060708 00000001 deadbeef "+strings.Repeat("61", 20)+strings.Repeat("62", 20)+
		" 0000000000000000 0000000000000000 ffffffffffffffff 00000002 0a000001 12345678 ffffffff 1ae1 02", " ", ""))
	if err := parseUDPAnnounce(raw, &a); err != nil || a.infoHash != udpHash || a.peerID != [20]byte([]byte(strings.Repeat("b", 20))) || !a.seeder ||
		a.event != swarm.EventStarted || a.ip != [4]byte{10, 0, 0, 1} || a.numWant != -1 || a.port != 6881 || len(a.options) != 1 {
		t.Errorf("got %+v, %v", a, err)
	}
}

// What anacrolix encodes is read as it was meant, and our replies are read by it as ours.
func TestUDPAgreesWithAnacrolix(t *testing.T) {
	t.Parallel()
	events := map[udp.AnnounceEvent]swarm.Event{shared.None: swarm.EventNone, shared.Completed: swarm.EventCompleted,
		shared.Started: swarm.EventStarted, shared.Stopped: swarm.EventStopped}
	rapid.Check(t, func(t *rapid.T) {
		req := udp.AnnounceRequest{
			InfoHash: [20]byte(rapid.SliceOfN(rapid.Byte(), 20, 20).Draw(t, "hash")), PeerId: [20]byte(rapid.SliceOfN(rapid.Byte(), 20, 20).Draw(t, "id")),
			Downloaded: rapid.Int64().Draw(t, "downloaded"), Left: rapid.SampledFrom([]int64{0, 1, -1, 1 << 62}).Draw(t, "left"), Uploaded: rapid.Int64().Draw(t, "uploaded"),
			Event:     udp.AnnounceEvent(rapid.IntRange(0, 3).Draw(t, "event")),
			IPAddress: rapid.Uint32().Draw(t, "ip"), Key: rapid.Int32().Draw(t, "key"), NumWant: rapid.Int32().Draw(t, "numwant"), Port: rapid.Uint16().Draw(t, "port"),
		}
		url := rapid.StringN(0, 300, 600).Draw(t, "url")
		var b bytes.Buffer
		_ = udp.Write(&b, udp.RequestHeader{ConnectionId: 1, Action: udp.ActionAnnounce})
		_ = udp.Write(&b, req)
		b.Write(udp.Options{RequestUri: url}.Encode())
		var a udpAnnounce
		if err := parseUDPAnnounce(b.Bytes(), &a); err != nil || [20]byte(a.infoHash) != req.InfoHash || a.peerID != req.PeerId || a.seeder != (req.Left == 0) ||
			a.event != events[req.Event] || binary.BigEndian.Uint32(a.ip[:]) != req.IPAddress || a.port != req.Port || a.numWant != int(max(req.NumWant, -1)) {
			t.Fatalf("%+v: got %+v, %v", req, a, err)
		}
		if got := appendURLData(make([]byte, 0, maxURLData), a.options); string(got) != url[:min(len(url), maxURLData)] {
			t.Fatalf("url: got %q, want %q", got, url)
		}
	})
}

func TestURLDataIsReadTolerantly(t *testing.T) {
	t.Parallel()
	f := func(options, want string) {
		t.Helper()
		if got := appendURLData(make([]byte, 0, 8), []byte(options)); string(got) != want {
			t.Errorf("%q: got %q, want %q", options, got, want)
		}
	}
	f("", "")
	f("\x00", "")
	f("\x01\x01\x02\x02/a", "/a")
	f("\x02\x02/a\x02\x01b", "/ab")
	f("\x02\x02/a\x00\x02\x01b", "/a")         // after the end there is nothing
	f("\x02\x02/a\x07\x03xyz\x02\x01b", "/ab") // an option of another BEP
	f("\x02\x02/a\x02", "/a")                  // no length
	f("\x02\x02/a\x02\x05b", "/a")             // cut short
	f("\x02\x00\x02\x01a", "a")
	f("\x02\x0a0123456789", "01234567") // no more than there is room for
	f("\xff", "")
	f("\x02\xff", "")
}

// Nobody gets an id that is not his, and each is good for two to four minutes.
func TestConnectionIDs(t *testing.T) {
	t.Parallel()
	key := [UDPKeyBytes]byte{9}
	a, other := newConnectionIDs(&key), newConnectionIDs(&[UDPKeyBytes]byte{8})
	addrs := []netip.Addr{udpSource, netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db9::1"), netip.MustParseAddr("2001:db9::2")}
	start := int64(1_700_000_000) / udpSliceSec * udpSliceSec
	seen := map[uint64]bool{}
	for i, addr := range addrs {
		for _, age := range []int64{0, 1, udpSliceSec - 1} { // when in its slice it is given out
			a.at(start + age)
			id := a.id(addr)
			for after := int64(0); after < 6*60; after += 5 {
				a.at(start + age + after)
				want := (age+after)/udpSliceSec <= 1
				if got := a.valid(id, addr); got != want || after <= 120 && !got || after > 240 && got {
					t.Fatalf("given at %d s, used %d s later: valid is %v", age, after, got)
				}
			}
			a.at(start + age)
			for j, foreign := range addrs {
				if j != i && a.valid(id, foreign) {
					t.Errorf("%v has the id of %v", foreign, addr)
				}
			}
			other.at(start + age)
			if other.valid(id, addr) || a.valid(0, addr) || a.valid(id^1, addr) || a.valid(connectMagic, addr) {
				t.Error("a forged id is valid")
			}
			seen[id] = true
		}
	}
	if len(seen) != len(addrs) {
		t.Errorf("got %d ids of %d addresses in one slice", len(seen), len(addrs))
	}
	again := newConnectionIDs(&key) // as after a restart
	again.at(start + 5)
	a.at(start)
	if !again.valid(a.id(udpSource), udpSource) {
		t.Error("an id does not outlive a restart with the same key")
	}
}

// Until the source of a packet has proven that it is there, no reply is longer than its request: else anybody could have us
// flood anybody.
func TestUDPAmplifiesNothingUnproven(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{})
	h := handler(t, func(cfg *Config) { cfg.Gate, cfg.PasskeyFile = gate, file(t, "keys", "k") })
	check := func(t *rapid.T) {
		packet := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "packet")
		if rapid.Bool().Draw(t, "formed") && len(packet) >= 16 {
			binary.BigEndian.PutUint32(packet[8:], uint32(rapid.IntRange(0, 4).Draw(t, "action")))
			if rapid.Bool().Draw(t, "magic") {
				binary.BigEndian.PutUint64(packet, connectMagic)
			}
		}
		if len(packet) >= 8 && h.ids.valid(binary.BigEndian.Uint64(packet), udpSource) {
			t.Skip("guessed")
		}
		if reply := h.handle(nil, packet, udpSource, time.Millisecond); len(reply) > len(packet) {
			t.Fatalf("%d bytes are answered with %d: %x, %x", len(packet), len(reply), packet, reply)
		}
	}
	rapid.Check(t, check)
	for n := range 200 { // each length of each action, and ids that are stale
		h.ids.at(h.now.Unix() - 5*60)
		stale := h.ids.id(udpSource)
		h.ids.at(h.now.Unix())
		for _, id := range []uint64{connectMagic, stale, 0} {
			for action := range uint32(5) {
				packet := make([]byte, max(n, 16))
				binary.BigEndian.PutUint64(packet, id)
				binary.BigEndian.PutUint32(packet[8:], action)
				reply := h.handle(nil, packet[:n], udpSource, -1)
				if len(reply) > n || len(reply) > 0 && binary.BigEndian.Uint32(reply) != actionError && binary.BigEndian.Uint32(reply) != actionConnect {
					t.Fatalf("action %d, %d bytes: got %x", action, n, reply)
				}
			}
		}
	}
	if got := string(h.handle(nil, announcePacket(1, 1), udpSource, 0)); got[8:] != udp.ConnectionIdMissmatchNul {
		t.Errorf("a forged id: got %q, want what anacrolix knows", got)
	}
	if h.handle(nil, announcePacket(h.ids.id(udpSource), 1), netip.MustParseAddr("192.0.2.9"), 0)[3] != actionError {
		t.Error("another's id is accepted")
	}
}

func FuzzUDPPacket(f *testing.F) {
	h := handler(f, func(cfg *Config) { cfg.PasskeyFile = file(f, "keys", "k") })
	id := h.ids.id(udpSource)
	f.Add([]byte{}, false)
	f.Add(connectPacket(1), false)
	f.Add(announcePacket(id, 1), true)
	f.Add(append(announcePacket(id, 1), "\x02\x0b/announce/k"...), true)
	f.Add(encode(f, id, udp.ActionScrape, 1, [40]byte{}), true)
	f.Fuzz(func(t *testing.T, packet []byte, proven bool) {
		if proven && len(packet) >= 8 {
			packet = bytes.Clone(packet)
			binary.BigEndian.PutUint64(packet, id)
		}
		reply := h.handle(make([]byte, 0, maxUDPReply), packet, udpSource, time.Millisecond)
		if len(reply) > maxUDPReply {
			t.Fatalf("a reply of %d bytes", len(reply))
		}
		if !proven && len(reply) > len(packet) && !h.ids.valid(binary.BigEndian.Uint64(packet), udpSource) {
			t.Fatalf("%d bytes are answered with %d", len(packet), len(reply))
		}
		if len(reply) == 0 {
			return
		}
		if !bytes.Equal(reply[4:8], packet[12:16]) {
			t.Fatalf("transaction id: got %x, want %x", reply[4:8], packet[12:16])
		}
		switch body := reply[8:]; binary.BigEndian.Uint32(reply) {
		case actionConnect:
			if len(body) != 8 {
				t.Fatalf("connect: %x", reply)
			}
		case actionAnnounce:
			if len(packet) < udpAnnounceBytes || len(body) < 12 || (len(body)-12)%6 != 0 {
				t.Fatalf("announce: %x", reply)
			}
		case actionScrape:
			if want := min((len(packet)-16)/20, maxScrape); len(body) != 12*want {
				t.Fatalf("scrape of %d: %x", want, reply)
			}
		case actionError:
			if len(body) == 0 {
				t.Fatal("an error without words")
			}
		default:
			t.Fatalf("action: %x", reply)
		}
	})
}

func TestUDPScrapeOfMany(t *testing.T) {
	t.Parallel()
	h := handler(t, nil)
	id := h.ids.id(udpSource)
	for hashes, want := range map[int]int{1: 1, 74: 74, 75: 74, 100: 74} {
		packet := encode(t, id, udp.ActionScrape, 3, make([]byte, 20*hashes), 1, 2, 3)
		copy(packet[16+20*(min(hashes, 74)-1):], hash20)
		reply := h.handle(make([]byte, 0, maxUDPReply), packet, udpSource, 0)
		if len(reply) != 8+12*want || binary.BigEndian.Uint32(reply[len(reply)-4:]) != 400 {
			t.Errorf("%d torrents: got %d bytes, %x", hashes, len(reply), reply[len(reply)-12:])
		}
	}
	if reply := h.handle(nil, encode(t, id, udp.ActionScrape, 3, [19]byte{}), udpSource, 0); string(reply[8:]) != string(errUDPScrape) {
		t.Errorf("none: got %q", reply)
	}
	if reply := h.handle(nil, announcePacket(id, 1)[:97], udpSource, 0); string(reply[8:]) != string(errUDPShort) {
		t.Errorf("cut short: got %q", reply)
	}
}

// In an overload all that was read is answered, however old and from whomever: a refusal costs as much. What is refused by a rule is
// refused in silence, and sources far above their budget are left to the kernel.
func TestUDPOverload(t *testing.T) {
	t.Parallel()
	gate := gated(shedder.Config{PerSource: shedder.Budget{Rate: 1, Burst: 2}})
	tracker := filled(t, func(cfg *Config) { cfg.Gate = gate })
	h := handlerOf(tracker)
	source := netip.MustParseAddr("198.51.100.9")
	id := h.ids.id(source)
	ask := func(addr netip.Addr, packet []byte, age time.Duration) []byte {
		h.begin(time.Now())
		return h.handle(make([]byte, 0, maxUDPReply), packet, addr, age)
	}
	peersOf := func(reply []byte) int { return (len(reply) - 20) / 6 }
	if got := peersOf(ask(source, announcePacket(id, 1), time.Second)); got != 50 {
		t.Fatalf("calm: got %d peers", got)
	}
	if reply := ask(source, announcePacket(0, 1), 0); len(reply) == 0 {
		t.Error("calm, a forged id: got nothing")
	}
	overload(t, gate)
	h.crowded = true
	for range 5 {
		if reply := ask(source, announcePacket(id, 1), time.Second); peersOf(reply) == 0 {
			t.Errorf("one that has waited, over its budget: got %x", reply)
		}
	}
	if h.u.cut.n.Load() != 0 {
		t.Error("cut for a few announces")
	}
	if reply := ask(source, connectPacket(1), time.Second); len(reply) != 16 {
		t.Errorf("a connect that has waited: got %x", reply)
	}
	if reply := ask(source, announcePacket(0, 1), 0); len(reply) != 0 {
		t.Errorf("a forged id: got %x", reply)
	}
	// Forged announces of a victim's address take nothing off its budget.
	victim := netip.MustParseAddr("203.0.113.1")
	for range 100 {
		ask(victim, announcePacket(12345, 1), 0)
	}
	for range 3 {
		ask(victim, announcePacket(h.ids.id(victim), 1), 0)
	}
	for range 20 {
		ask(source, announcePacket(id, 1), 0)
	}
	if got := h.u.cut.sources; len(got) != 1 || got[0].source != netip.PrefixFrom(source, 32) {
		t.Errorf("cut: got %v, want %s alone", got, source)
	}
	if _, err := gate.Rules.Add(shedder.RuleSource, "198.51.100.0/24", time.Minute, "", "test"); err != nil {
		t.Fatal(err)
	}
	if reply := ask(source, announcePacket(id, 1), 0); len(reply) != 0 {
		t.Errorf("blocked: got %x", reply)
	}
	if got := h.u.overload.Get(); got != 1 {
		t.Errorf("dropped: got %d, want 1", got)
	}
}
