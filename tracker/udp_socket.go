package tracker

import (
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"
)

// udpBatch is how many packets are read, and answered, with one system call each. One by one an announce takes 6.1 us, in batches
// of 8 3.7 us, of 32 3.4 us (BenchmarkUDPBatch); beyond there is next to nothing to gain, and all other goroutines of the core
// wait for as long as a batch takes.
const udpBatch = 32

// udpSocket is one of several that share a port, with the memory for one batch of packets: what came, and the replies.
//
// Not golang.org/x/net's ReadBatch and WriteBatch: those make a net.UDPAddr of each source, two allocations of 52 bytes, and parse
// it again for the reply. Here the kernel's own form of an address is handed back as it came.
type udpSocket struct {
	file *os.File // waits for packets
	raw  syscall.RawConn
	addr netip.AddrPort
	info bool // replies say which of the machine's addresses they come from

	in, out  [udpBatch]mmsghdr
	inVec    [udpBatch]unix.Iovec
	outVec   [udpBatch]unix.Iovec
	names    [udpBatch]unix.RawSockaddrInet6 // large enough for IPv4's too
	controls [udpBatch][controlWords]uint64  // aligned as control messages are
	requests [udpBatch][maxUDPRequest]byte
	replies  [udpBatch][maxUDPReply]byte
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	length uint32
}

// controlWords are enough for a time (32 bytes) and a packet info (40).
const controlWords = 12

// bindUDP opens count sockets on one port.
func bindUDP(addr string, all []string, count, buffer int) (socks []*udpSocket, err error) {
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	where := at.AddrPort()
	if where.Addr().Is4In6() || where.Addr().Is4() {
		where = netip.AddrPortFrom(where.Addr().Unmap(), where.Port())
	}
	defer func() {
		if err != nil {
			for _, s := range socks {
				_ = s.file.Close()
			}
		}
	}()
	only6 := slices.Contains(all, "0.0.0.0:"+strconv.Itoa(int(where.Port()))) // tcpNetwork of internal/listen has the same rule
	for range count {
		s, err := bindOne(where, only6, len(socks) > 0, buffer)
		switch {
		case errors.Is(err, unix.EADDRINUSE):
			return socks, fmt.Errorf("%s: %w; stop the program that has the port (ss -lunp), or choose another port", addr, err)
		case errors.Is(err, unix.EACCES):
			return socks, fmt.Errorf("%s: %w; choose a port from 1024 up, or give CAP_NET_BIND_SERVICE", addr, err)
		case errors.Is(err, unix.EADDRNOTAVAIL):
			return socks, fmt.Errorf("%s: %w; choose an address of this machine (ip addr)", addr, err)
		case err != nil:
			return socks, fmt.Errorf("%s: %w", addr, err)
		}
		socks, where = append(socks, s), s.addr // the others share the port the kernel chose for ":0"
	}
	return socks, nil
}

// bindOne opens one socket. No address means all of the machine's: of both families, if it has IPv6.
func bindOne(where netip.AddrPort, only6, shared bool, buffer int) (*udpSocket, error) {
	addr, any := where.Addr(), !where.Addr().IsValid() || where.Addr().IsUnspecified()
	family := unix.AF_INET6
	if addr.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == unix.EAFNOSUPPORT && !addr.IsValid() {
		where = netip.AddrPortFrom(netip.IPv4Unspecified(), where.Port())
		return bindOne(where, only6, shared, buffer)
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &udpSocket{info: any}
	if err := s.configure(fd, family, where, any && !only6, shared, buffer); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	s.file = os.NewFile(uintptr(fd), "udp")
	if s.raw, err = s.file.SyscallConn(); err != nil {
		_ = s.file.Close()
		return nil, err
	}
	s.point()
	return s, nil
}

func (s *udpSocket) configure(fd, family int, where netip.AddrPort, both, shared bool, buffer int) error {
	set := func(name string, level, option, value int) error {
		if err := unix.SetsockoptInt(fd, level, option, value); err != nil {
			return os.NewSyscallError("setsockopt "+name, err)
		}
		return nil
	}
	// The kernel's queue is what is waited in, so it is bounded.
	if err := setUDPRoom(fd, buffer); err != nil {
		return os.NewSyscallError("setsockopt SO_RCVBUF", err)
	}
	if err := set("SO_TIMESTAMPNS", unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return err
	}
	var name unix.Sockaddr
	if family == unix.AF_INET {
		name = &unix.SockaddrInet4{Port: int(where.Port()), Addr: where.Addr().As4()}
		if s.info {
			if err := set("IP_PKTINFO", unix.IPPROTO_IP, unix.IP_PKTINFO, 1); err != nil {
				return err
			}
		}
	} else {
		to := &unix.SockaddrInet6{Port: int(where.Port())}
		if where.Addr().IsValid() {
			to.Addr = where.Addr().As16()
		}
		if zone := where.Addr().Zone(); zone != "" {
			if i, err := net.InterfaceByName(zone); err == nil {
				to.ZoneId = uint32(i.Index)
			}
		}
		name = to
		if err := set("IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, b2i(!both)); err != nil {
			return err
		}
		if s.info {
			if err := set("IPV6_RECVPKTINFO", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1); err != nil {
				return err
			}
		}
	}
	// The first one binds without SO_REUSEPORT: a second program on the port is an error, as it should be. It shares from then on.
	if shared {
		if err := set("SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, name); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := set("SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		s.addr = netip.AddrPortFrom(netip.AddrFrom4(b.Addr), uint16(b.Port))
	case *unix.SockaddrInet6:
		s.addr = netip.AddrPortFrom(netip.AddrFrom16(b.Addr).WithZone(where.Addr().Zone()), uint16(b.Port))
	}
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// point has the headers point to their memory, once and for all.
func (s *udpSocket) point() {
	for i := range udpBatch {
		s.inVec[i].Base = &s.requests[i][0]
		s.inVec[i].SetLen(maxUDPRequest)
		s.outVec[i].Base = &s.replies[i][0]
		in, out := &s.in[i], &s.out[i]
		in.Iov, out.Iov = &s.inVec[i], &s.outVec[i]
		in.SetIovlen(1)
		out.SetIovlen(1)
		in.Name = (*byte)(unsafe.Pointer(&s.names[i]))
		in.Control = (*byte)(unsafe.Pointer(&s.controls[i]))
		s.rewind(i)
	}
}

// rewind makes a header ready for the next packet: the kernel has written lengths into it.
func (s *udpSocket) rewind(i int) {
	s.in[i].Namelen = unix.SizeofSockaddrInet6
	s.in[i].SetControllen(controlWords * 8)
}

// These calls do not tell the scheduler that they are made; internal/listen/socket_linux.go has why. They never block.

// receive reads a batch of what is there.
func (s *udpSocket) receive(fd uintptr) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&s.in[0])), udpBatch, unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// send writes n replies, and returns how many the kernel did not take: those whose receiver cannot be reached, and all that are
// left where its memory for this socket is full.
func (s *udpSocket) send(fd uintptr, n int) (lost int) {
	for at := 0; at < n; {
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&s.out[at])), uintptr(n-at),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN || errno == unix.ENOBUFS:
			return lost + n - at
		case errno != 0:
			lost++
			at++ // the error is the first one's
		default:
			at += int(sent)
		}
	}
	return lost
}

// request is what packet i says.
func (s *udpSocket) request(i int) []byte {
	return s.requests[i][:min(int(s.in[i].length), maxUDPRequest)]
}

// source is where packet i comes from. Port 0 is one that nobody can have.
func (s *udpSocket) source(i int) (addr netip.Addr, port uint16) {
	name := &s.names[i]
	port = name.Port // at the same place in both forms
	if !cpu.IsBigEndian {
		port = bits.ReverseBytes16(port)
	}
	if name.Family == unix.AF_INET {
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr), port
	}
	return netip.AddrFrom16(name.Addr).Unmap(), port
}

// meta reads what the kernel says of packet i: when it had it, in nanoseconds of Unix time, 0 if it does not say; and the control
// message that has a reply leave from the address the packet was sent to.
func (s *udpSocket) meta(i int) (stamp int64, from []byte) {
	control := unsafe.Slice((*byte)(unsafe.Pointer(&s.controls[i])), min(uint64(s.in[i].Controllen), controlWords*8))
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(control) {
			break
		}
		data := control[unix.CmsgLen(0):size]
		switch {
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(data) >= int(unsafe.Sizeof(unix.Timespec{})):
			ts := (*unix.Timespec)(unsafe.Pointer(&data[0]))
			stamp = ts.Nano()
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// The route decides by which interface a reply leaves: the one the packet came in by may be no way back.
			(*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0])).Ifindex = 0
			from = control[:size]
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			(*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0])).Ifindex = 0
			from = control[:size]
		}
		control = control[min(unix.CmsgSpace(len(data)), len(control)):]
	}
	return stamp, from
}

// reply makes the nth reply of the batch one of size bytes, to who sent packet i.
func (s *udpSocket) reply(n, i, size int, from []byte) {
	out := &s.out[n]
	out.Name, out.Namelen = s.in[i].Name, s.in[i].Namelen
	out.Control = unsafe.SliceData(from)
	out.SetControllen(len(from))
	s.outVec[n].SetLen(size)
}

// udpQueue is how the kernel's queue of a socket is.
type udpQueue struct{ bytes, max, dropped uint32 }

// queue asks the kernel; all zeros once the socket is closed. SO_MEMINFO's figures are those of enum sk_meminfo in linux/sock_diag.h.
func (s *udpSocket) queue() (q udpQueue) {
	_ = s.raw.Control(func(fd uintptr) { q = udpQueueOf(fd) })
	return q
}

func udpQueueOf(fd uintptr) (q udpQueue) {
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno == 0 {
		q = udpQueue{bytes: info[0], max: info[1], dropped: info[8]}
	}
	return q
}

// ageOfStamp is how long ago the kernel had a packet. Clocks are set, and then a stamp says nothing.
func ageOfStamp(stamp int64, now time.Time) time.Duration {
	age := time.Duration(now.UnixNano() - stamp)
	if stamp == 0 || age < 0 || age > 10*time.Second {
		return -1
	}
	return age
}
