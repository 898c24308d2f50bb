package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// spoofer sends bare SYNs in the name of others.
type spoofer struct {
	fd4, fd6 int // raw; fd6 is -1 without IPv6

	mu   sync.Mutex // guards what follows, over a batch and its pause: the pace is that of all who send
	last time.Time  // when the last batch began
	buf  []byte
	to4  unix.SockaddrInet4
	to6  unix.SockaddrInet6
}

func newSpoofer() (*spoofer, error) {
	s := &spoofer{fd6: -1}
	var err error
	if s.fd4, err = rawSocket(unix.AF_INET); err != nil {
		return nil, err
	}
	if s.fd6, err = rawSocket(unix.AF_INET6); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, errors.Join(err, unix.Close(s.fd4))
	}
	return s, nil
}

// rawSocket is for packets with their IP header: IPPROTO_RAW implies IP_HDRINCL, and IPV6_HDRINCL. It receives nothing.
func rawSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		return -1, fmt.Errorf("raw socket: %w; give the program CAP_NET_RAW", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, CutMark); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("mark packets: %w; give the program CAP_NET_ADMIN", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20) // a batch, as a slow link holds it
	return fd, nil
}

func (s *spoofer) close() error {
	err := unix.Close(s.fd4)
	if s.fd6 >= 0 {
		err = errors.Join(err, unix.Close(s.fd6))
	}
	return err
}

// send sends a SYN for each flow that pick gives ends for, at its pace, and tells how many flows it had no time for. What the kernel
// does not take at once is lost, as it could be on its way.
func (s *spoofer) send(flows []flow, end time.Time, cancelled <-chan struct{}, pick func(*flow) (from, to netip.AddrPort, ok bool)) (left int) {
	for len(flows) > 0 && goesOn(end, cancelled) {
		s.mu.Lock()
		most := min(max(cutBatch, int(cutBatch*time.Since(s.last)/cutPause)), cutBatchMost)
		s.last = time.Now()
		sent := 0
		for len(flows) > 0 && sent < most {
			if from, to, ok := pick(&flows[0]); ok {
				s.syn(from, to)
				sent++
			}
			flows = flows[1:]
		}
		if sent == most {
			wait(cutPause, cancelled)
		}
		s.mu.Unlock()
	}
	return len(flows)
}

func (s *spoofer) syn(from, to netip.AddrPort) {
	s.buf = appendSYN(s.buf[:0], from, to, rand.Uint32())
	if to.Addr().Is4() {
		s.to4.Addr = to.Addr().As4()
		_ = unix.Sendto(s.fd4, s.buf, unix.MSG_DONTWAIT, &s.to4)
	} else if s.fd6 >= 0 {
		s.to6.Addr = to.Addr().As16() // and no port, which a raw socket takes for a protocol
		_ = unix.Sendto(s.fd6, s.buf, unix.MSG_DONTWAIT, &s.to6)
	}
}

const (
	ttl       = 64
	tcpHeader = 20
)

// appendSYN appends a bare SYN without options, with its IP header. Both ends are of one family.
func appendSYN(b []byte, from, to netip.AddrPort, seq uint32) []byte {
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	start := len(b)
	if from.Addr().Is4() {
		b = append(b, 4<<4|5, 0, 0, 20+tcpHeader, // version and words of header, service, length
			0, 0, 0x40, 0, // id, don't fragment
			ttl, unix.IPPROTO_TCP, 0, 0)
		b = append(append(b, src...), dst...)
		binary.BigEndian.PutUint16(b[start+10:], ^fold(sum(0, b[start:])))
	} else {
		b = append(b, 6<<4, 0, 0, 0, 0, tcpHeader, unix.IPPROTO_TCP, ttl)
		b = append(append(b, src...), dst...)
	}
	tcp := len(b)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0, // acknowledges nothing
		tcpHeader/4<<4, syn, 0xff, 0xff, // window
		0, 0, 0, 0)
	pseudo := sum(sum(uint32(unix.IPPROTO_TCP+tcpHeader), src), dst)
	binary.BigEndian.PutUint16(b[tcp+16:], ^fold(sum(pseudo, b[tcp:])))
	return b
}

// sum adds words of an even number of bytes (RFC 1071), which fold makes a checksum's.
func sum(n uint32, b []byte) uint32 {
	for i := 0; i < len(b); i += 2 {
		n += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return n
}

func fold(n uint32) uint16 {
	n = n>>16 + n&0xffff
	return uint16(n>>16 + n)
}
