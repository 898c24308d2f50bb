package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// SynFlood is SYNs of connections that nobody means to have.
type SynFlood struct {
	Target  netip.AddrPort // IPv4
	Rate    float64        // a second
	Spoofed bool           // from addresses that nobody has, so nobody resets the answers; else from clients', whose host does
	stop    atomic.Bool
	done    <-chan error
	sent    int
}

// SynFlood starts f in the edge. Stop ends it.
func (l *Lab) SynFlood(f *SynFlood) error {
	if !f.Target.Addr().Is4() || f.Rate <= 0 {
		return fmt.Errorf("lab: SYN flood of %s, %g a second: must be IPv4, and above 0", f.Target, f.Rate)
	}
	f.done = l.Edge.Go(l.Cores.Edge, f.run)
	return nil
}

// Stop tells how many were sent.
func (f *SynFlood) Stop() (sent int, err error) {
	f.stop.Store(true)
	err = <-f.done
	return f.sent, err
}

func (f *SynFlood) run() error {
	sys.LockThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("open raw socket: %w", err)
	}
	defer unix.Close(fd)
	from := clients4
	if f.Spoofed {
		from = spoofed4
	}
	to := &unix.SockaddrInet4{Addr: f.Target.Addr().As4()}
	start := time.Now()
	for !f.stop.Load() {
		for due := int(time.Since(start).Seconds() * f.Rate); f.sent < due; f.sent++ {
			n := uint32(f.sent)
			// Each address uses its ports in turn, so none of the first 500 million SYNs is another's repeat.
			source := from.Addr().As4()
			binary.BigEndian.PutUint16(source[2:], uint16(1000+n%50_000))
			port := uint16(1024 + n/50_000*977 + n%50_000*31%60_000)
			p := appendSYN(nil, netip.AddrPortFrom(netip.AddrFrom4(source), port), f.Target, n*2654435761)
			if err := unix.Sendto(fd, p, 0, to); err != nil && err != unix.ENOBUFS {
				return fmt.Errorf("send SYN: %w", err)
			}
		}
		time.Sleep(500 * time.Microsecond)
	}
	return nil
}

// appendSYN writes an IPv4 packet. The kernel fills in its identification and the checksum of its header.
func appendSYN(b []byte, from, to netip.AddrPort, sequence uint32) []byte {
	const length = 20 + 24
	b = append(b, 0x45, 0, 0, length, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0) // don't fragment
	b = append(append(b, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	tcp := len(b)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint32(b, sequence)
	b = append(b, 0, 0, 0, 0, 6<<4, 2, 0xff, 0xff, 0, 0, 0, 0) // SYN, a window
	b = append(b, 2, 4, 0x05, 0xb4)                            // MSS 1460
	// The pseudo header: both addresses, the protocol, the length.
	sum := uint32(unix.IPPROTO_TCP) + 24
	for part := b[tcp-8:]; len(part) > 1; part = part[2:] {
		sum += uint32(binary.BigEndian.Uint16(part))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[tcp+16:], ^uint16(sum))
	return b
}

func TestSYNIsWhole(t *testing.T) {
	t.Parallel()
	from, to := netip.MustParseAddrPort("10.99.4.5:1025"), netip.MustParseAddrPort("198.18.0.1:80")
	b := appendSYN(nil, from, to, 77)
	if len(b) != 44 || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		t.Fatalf("length: got %d, it says %d", len(b), binary.BigEndian.Uint16(b[2:]))
	}
	// A right checksum makes the sum of all of it, with the pseudo header, all ones.
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(b)-20)
	for i := 12; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum != 0xffff {
		t.Errorf("checksum: the sum is %#x", sum)
	}
	if b[33] != 2 || b[32]>>4 != 6 {
		t.Errorf("flags %#x, header of %d words; want a SYN of 6", b[33], b[32]>>4)
	}
}
