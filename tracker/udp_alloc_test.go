//go:build !race

package tracker

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/anacrolix/torrent/tracker/udp"

	"spillway/tracker/swarm"
)

func TestUDPPacketsAllocateNothing(t *testing.T) {
	h := handler(t, func(cfg *Config) {
		cfg.BlockPeerIDs = []string{"-XL0019", "-XX"}
		cfg.AccessMode, cfg.AccessFile = AccessDeny, file(t, "deny", hexB)
		cfg.PasskeyFile = file(t, "keys", "key")
	})
	v6 := netip.MustParseAddr("2001:db9::1")
	id, id6 := h.ids.id(udpSource), h.ids.id(v6)
	url := string(udp.Options{RequestUri: "/announce/key"}.Encode())
	with := func(packet []byte, url string) []byte { return append(packet, url...) }
	blocked := with(announcePacket(id, 1), url)
	copy(blocked[36:], "-XX")
	dst := make([]byte, 0, maxUDPReply)
	for name, c := range map[string]struct {
		packet []byte
		from   netip.Addr
		want   string
	}{
		"a connect":         {connectPacket(1), udpSource, "\x00\x00\x00\x00"},
		"an announce":       {with(announcePacket(id, 1), url), udpSource, "\x00\x00\x00\x01"},
		"over IPv6":         {with(announcePacket(id6, 1), url), v6, "\x00\x00\x00\x01"},
		"a forged id":       {announcePacket(1, 1), udpSource, errUDPID},
		"no passkey":        {announcePacket(id, 1), udpSource, string(errPasskey)},
		"a blocked client":  {blocked, udpSource, string(errBlockedClient)},
		"one cut short":     {announcePacket(id, 1)[:90], udpSource, string(errUDPShort)},
		"a scrape":          {encode(t, id, udp.ActionScrape, 1, [60]byte{}), udpSource, "\x00\x00\x00\x02"},
		"a scrape of none":  {encode(t, id, udp.ActionScrape, 1, [3]byte{}), udpSource, string(errUDPScrape)},
		"garbage":           {[]byte("GET / HTTP/1.1\r\n\r\n"), udpSource, ""},
		"a foreign connect": {connectPacket(1)[:12], udpSource, ""},
	} {
		var reply []byte
		if got := testing.AllocsPerRun(200, func() { reply = h.handle(dst, c.packet, c.from, time.Millisecond) }); got != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, got)
		}
		if !bytes.Contains(reply, []byte(c.want)) || c.want == "" && len(reply) > 0 {
			t.Errorf("%s: got %q, want %q in it", name, reply, c.want)
		}
	}
}

// A packet over a socket, the kernel's and the poller's parts included.
func TestUDPAnnounceOverASocketAllocatesNothing(t *testing.T) {
	tracker := filled(t, nil)
	u, err := tracker.ListenUDP(UDPConfig{Addrs: []string{":0"}, ReceiveBuffer: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- u.Serve() }()
	defer func() {
		u.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(u.Addrs()[0].Port())})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	ids := newConnectionIDs(&u.key)
	ids.at(time.Now().Unix())
	packet := announcePacket(ids.id(netip.AddrFrom4([4]byte{127, 0, 0, 1})), 1)
	buf := make([]byte, 2048)
	n := 0
	ask := func() {
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
		if n, err = conn.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	if got := testing.AllocsPerRun(500, ask); got != 0 {
		t.Errorf("got %v allocations an announce, want 0", got)
	}
	if n != 20+50*len(swarm.Endpoint4{}) {
		t.Errorf("got %d bytes", n)
	}
}
