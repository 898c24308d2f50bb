//go:build e2e

package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// packet is a TCP segment without data.
func packet(from, to netip.AddrPort, flags byte, seq, ack uint32) []byte {
	tcp := binary.BigEndian.AppendUint16(nil, from.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, to.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, seq)
	tcp = binary.BigEndian.AppendUint32(tcp, ack)
	tcp = append(tcp, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	sum := func(parts ...[]byte) uint16 {
		var s uint32
		for _, p := range parts {
			for i, b := range p {
				s += uint32(b) << (8 * (1 - i%2))
			}
		}
		for s > 0xffff {
			s = s>>16 + s&0xffff
		}
		return ^uint16(s)
	}
	pseudo := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(tcp[16:], sum(pseudo, []byte{0, unix.IPPROTO_TCP, 0, byte(len(tcp))}, tcp))
	ip := []byte{0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0}
	ip = append(ip, pseudo...)
	binary.BigEndian.PutUint16(ip[10:], sum(ip))
	return append(ip, tcp...)
}

// send sends IPv4 packets from a namespace, at most so many a second, or as fast as it goes.
func send(t testing.TB, namespace string, perSecond, n int, packet func(i int) []byte) {
	t.Helper()
	within(t, namespace, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for i := range n {
			if perSecond > 0 && i%10 == 9 { // no catching up: after a pause there would be a burst
				time.Sleep(10 * time.Second / time.Duration(perSecond))
			}
			p := packet(i)
			if err := unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: [4]byte(p[16:20])}); err != nil {
				return fmt.Errorf("packet %d: %w", i, err)
			}
		}
		return nil
	})
}

// spoofed are addresses and ports that differ, of those that the client's namespace has.
func spoofed(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 1, byte(1 + i%250)}), uint16(10000+i/250))
}

func fresh(i int) []byte {
	return packet(spoofed(i), netip.MustParseAddrPort(front4), syn, uint32(i), 0)
}

// watch counts what f wants of what arrives in a namespace, before any table there sees it, until the test's end.
func watch(t testing.TB, namespace string, f func(ip []byte) bool) (count func() int) {
	t.Helper()
	var fd int
	within(t, namespace, func() (err error) {
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all)); err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		}
		return err
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	var mu sync.Mutex
	n := 0
	b := make([]byte, 2048)
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		for {
			size, from, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				return n
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING && size >= 40 && f(b[:size]) {
				n++
			}
		}
	}
}

// tcpFlags are a packet's, IPv4 or IPv6 without options.
func tcpFlags(ip []byte) byte {
	switch {
	case ip[0]>>4 == 4 && ip[9] == unix.IPPROTO_TCP:
		return ip[20+13]
	case ip[0]>>4 == 6 && ip[6] == unix.IPPROTO_TCP && len(ip) >= 60:
		return ip[40+13]
	}
	return 0
}

func isSYN(ip []byte) bool { return tcpFlags(ip)&(syn|ack) == syn }
