package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls here are raw, as in internal/flood: none of them blocks, so the scheduler need not know of them, which keeps the
// crowd cheap enough to share its core with the tracker.

// sockaddr is an address as the kernel takes it.
type sockaddr struct {
	family uintptr
	raw    unix.RawSockaddrInet6 // or the beginning of it
	size   uintptr
}

func newSockaddr(a netip.AddrPort) *sockaddr {
	port := a.Port()>>8 | a.Port()<<8 // network order
	if a.Addr().Is4() {
		s := &sockaddr{family: unix.AF_INET, size: unix.SizeofSockaddrInet4}
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&s.raw)) = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: a.Addr().As4()}
		return s
	}
	return &sockaddr{unix.AF_INET6, unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: a.Addr().As16()}, unix.SizeofSockaddrInet6}
}

// setHost replaces the last two bytes of the address, which number a crowd's sources.
func (s *sockaddr) setHost(n uint16) {
	if s.family == unix.AF_INET {
		binary.BigEndian.PutUint16((*unix.RawSockaddrInet4)(unsafe.Pointer(&s.raw)).Addr[2:], n)
	} else {
		binary.BigEndian.PutUint16(s.raw.Addr[14:], n)
	}
}

// dial begins to connect.
func dial(from, to *sockaddr) (fd int32, errno unix.Errno) {
	f, _, errno := unix.RawSyscall(unix.SYS_SOCKET, to.family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errno != 0 {
		return -1, errno
	}
	// The port is chosen when the whole of the connection is known.
	one := int32(1)
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, f, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, uintptr(unsafe.Pointer(&one)), 4, 0)
	if _, _, errno = unix.RawSyscall(unix.SYS_BIND, f, uintptr(unsafe.Pointer(&from.raw)), from.size); errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, f, uintptr(unsafe.Pointer(&to.raw)), to.size)
	}
	if errno != 0 && errno != unix.EINPROGRESS {
		closeFD(int32(f))
		return -1, errno
	}
	return int32(f), 0
}

func closeFD(fd int32) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func send(fd int32, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

func recv(fd int32, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// poller is epoll, edge-triggered. An event names a place and its generation: one that was closed meanwhile is told by it.
type poller struct {
	fd     int32
	events [256]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	return &poller{fd: int32(fd)}, nil
}

func (p *poller) add(fd, place, generation int32) unix.Errno {
	// EPOLLET has a sign in x/sys.
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | 1<<31, Fd: place, Pad: generation}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.fd), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	return errno
}

// wait is for at most d.
func (p *poller) wait(d time.Duration) ([]unix.EpollEvent, unix.Errno) {
	timeout := unix.NsecToTimespec(int64(max(d, 0)))
	var n uintptr
	var errno unix.Errno
	if d > 0 { // others in this process may have the processor meanwhile
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)),
			uintptr(unsafe.Pointer(&timeout)), 0, 0)
	} else {
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)),
			uintptr(unsafe.Pointer(&timeout)), 0, 0)
	}
	if errno == unix.EINTR {
		return nil, 0
	}
	if errno != 0 {
		return nil, errno
	}
	return p.events[:n], 0
}
