package tracker

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/anacrolix/torrent/tracker/udp"
	"golang.org/x/sys/unix"

	"spillway/tracker/swarm"
)

func BenchmarkConnectionID(b *testing.B) {
	ids := newConnectionIDs(&[UDPKeyBytes]byte{1})
	ids.at(time.Now().Unix())
	id := ids.id(udpSource)
	for b.Loop() {
		if !ids.valid(id, udpSource) {
			b.Fatal("not valid")
		}
	}
}

// BenchmarkUDPHandle is the handler alone: what a packet costs beyond the kernel.
func BenchmarkUDPHandle(b *testing.B) {
	h := handlerOf(filled(b, nil))
	v6 := netip.MustParseAddr("2001:db9::1")
	dst := make([]byte, 0, maxUDPReply)
	for _, c := range []struct {
		name   string
		packet []byte
		from   netip.Addr
	}{
		{"connect", connectPacket(1), udpSource},
		{"announce", announcePacket(h.ids.id(udpSource), 6881), udpSource},
		{"announce6", announcePacket(h.ids.id(v6), 6881), v6},
		{"scrape", encode(b, h.ids.id(udpSource), udp.ActionScrape, 1, [20]byte{}), udpSource},
		{"scrape-74", encode(b, h.ids.id(udpSource), udp.ActionScrape, 1, [74 * 20]byte{}), udpSource},
		{"forged", announcePacket(1, 6881), udpSource},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h.handle(dst, c.packet, c.from, time.Millisecond)
			}
		})
	}
}

// BenchmarkUDPBatch has batches of announces go through a socket pair, one thread for both sides: what a packet costs, the
// kernel's part of four ends included.
func BenchmarkUDPBatch(b *testing.B) {
	tracker, err := New(testConfig(), swarm.New(swarm.Config{}), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	for _, addr := range []string{"127.0.0.1:0", ":0"} {
		u, err := tracker.ListenUDP(UDPConfig{Addrs: []string{addr}, ReceiveBuffer: 1 << 20})
		if err != nil {
			b.Fatal(err)
		}
		defer u.Close()
		s := u.socks[0]
		w, err := newUDPWorker(u, s)
		if err != nil {
			b.Fatal(err)
		}
		defer w.turn.Close()
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(s.addr.Port()), Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			b.Fatal(err)
		}
		w.handler.begin(time.Now())
		packet := announcePacket(w.handler.ids.id(netip.AddrFrom4([4]byte{127, 0, 0, 1})), 6881)
		var buf [2048]byte
		for _, n := range []int{1, 8, udpBatch} {
			b.Run(fmt.Sprintf("%s/packets=%d", addr, n), func(b *testing.B) {
				var serving time.Duration
				rounds := 0
				for b.Loop() {
					for range n {
						if _, err := unix.Write(fd, packet); err != nil {
							b.Fatal(err)
						}
					}
					start := time.Now()
					if err := s.raw.Read(func(fd uintptr) bool { return !w.serve(fd) }); err != nil {
						b.Fatal(err)
					}
					serving += time.Since(start)
					for range n {
						if _, err := unix.Read(fd, buf[:]); err != nil {
							b.Fatal(err)
						}
					}
					rounds++
				}
				b.ReportMetric(float64(serving)/float64(rounds*n), "ns/packet")
			})
		}
	}
}
