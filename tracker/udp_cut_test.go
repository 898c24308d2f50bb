package tracker

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"spillway/tracker/swarm"
)

// The kernel drops what comes from those that are cut, of either family, on sockets of one family and of both, and nothing else;
// and no longer than for their time.
func TestUDPCutSourcesAreDropped(t *testing.T) {
	t.Parallel()
	tracker, err := New(testConfig(), swarm.New(swarm.Config{}), slog.New(new(lines)))
	if err != nil {
		t.Fatal(err)
	}
	u, err := tracker.ListenUDP(UDPConfig{Addrs: []string{":0", "127.0.0.1:0", "[::1]:0"}, Sockets: 2, ReceiveBuffer: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- u.Serve() }()
	defer func() {
		u.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	ports := u.Addrs()
	answered := func(from, to string, port uint16) bool {
		t.Helper()
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), port)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		buf := make([]byte, 64)
		dropped := func() float64 { return udpSamples(t, u)[`spillway_udp_dropped_total{reason="kernel"}`] }
		before := dropped()
		if _, err := conn.Write(connectPacket(7)); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			switch n, err := conn.Read(buf); {
			case err == nil:
				return n == 16 && binary.BigEndian.Uint32(buf[4:]) == 7
			case !errors.Is(err, os.ErrDeadlineExceeded):
				t.Fatal(err)
			case dropped() > before:
				return false
			}
		}
		t.Fatalf("%s to %s port %d: neither answered nor dropped", from, to, port)
		return false
	}
	until := func(want bool, from, to string, port uint16) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); answered(from, to, port) != want; {
			if time.Now().After(end) {
				t.Fatalf("%s to %s port %d: answered %v, want %v", from, to, port, !want, want)
			}
		}
	}
	now := time.Now()
	until(true, "127.0.0.9", "127.0.0.1", ports[0].Port())
	u.cut.add(netip.MustParseAddr("127.0.0.8"), now.Add(time.Hour))
	u.cut.add(netip.MustParseAddr("127.0.0.9"), now.Add(time.Hour))
	u.cut.add(netip.MustParseAddr("::1"), now.Add(time.Hour))
	for _, port := range []uint16{ports[0].Port(), ports[1].Port()} {
		until(false, "127.0.0.8", "127.0.0.1", port)
		until(false, "127.0.0.9", "127.0.0.1", port)
		until(true, "127.0.0.1", "127.0.0.1", port)
	}
	until(false, "::1", "::1", ports[0].Port())
	until(false, "::1", "::1", ports[2].Port())

	u.cut.mu.Lock()
	u.cut.sources[0].until = now // 127.0.0.8
	u.cut.mu.Unlock()
	until(true, "127.0.0.8", "127.0.0.1", ports[0].Port())
	until(false, "127.0.0.9", "127.0.0.1", ports[0].Port())
	u.cut.mu.Lock()
	u.cut.sources[0].until, u.cut.sources[1].until = now, now
	u.cut.mu.Unlock()
	until(true, "127.0.0.9", "127.0.0.1", ports[0].Port())
	until(true, "::1", "::1", ports[2].Port())
}

// However many offend, the filter stays as long as the kernel takes, and each source is in it once.
func TestUDPCutIsBounded(t *testing.T) {
	t.Parallel()
	var c udpCut
	now := time.Now()
	for i := range 2000 {
		b := [16]byte{0x20, 1, 0x0d, 0xb8, 0, 0, byte(i >> 8), byte(i)}
		b[15] = byte(i) // another host of the same /64
		for range 3 {
			c.add(netip.AddrFrom16(b), now)
			b[15]++
		}
	}
	if n := len(c.sources); n != maxUDPCut || c.total.Load() != maxUDPCut {
		t.Errorf("got %d, counted %d; want %d", n, c.total.Load(), maxUDPCut)
	}
	p, changed := c.next(now)
	if !changed || len(p) > 4096 {
		t.Errorf("got %d instructions, changed %v", len(p), changed)
	}
	fd, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Skip(err)
	}
	defer fd.Close()
	raw, err := fd.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = attachFilter(int(fd), p) })
	if err != nil {
		t.Errorf("the longest: %v", err)
	}
	if _, changed := c.next(now); changed {
		t.Error("changed, and nothing did")
	}
	if p, changed := c.next(now.Add(udpCutTime)); !changed || p != nil || c.n.Load() != 0 {
		t.Errorf("after its time: %d instructions, %d sources", len(p), c.n.Load())
	}
}
