package sys

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls here are raw: none of them blocks, so the scheduler need not know of them, which keeps a generator cheaper than the server
// it loads, and able to share a core with it.

// Addr is an address and a port as the kernel takes them.
type Addr struct {
	family uintptr
	raw    unix.RawSockaddrInet6 // or the beginning of it
	size   uintptr
}

// NewAddr converts a.
func NewAddr(a netip.AddrPort) *Addr {
	port := a.Port()>>8 | a.Port()<<8 // network order
	if a.Addr().Is4() {
		s := &Addr{family: unix.AF_INET, size: unix.SizeofSockaddrInet4}
		*s.inet4() = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: a.Addr().As4()}
		return s
	}
	return &Addr{unix.AF_INET6, unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: a.Addr().As16()}, unix.SizeofSockaddrInet6}
}

func (a *Addr) inet4() *unix.RawSockaddrInet4 {
	return (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw))
}

// Is6 tells whether it is an IPv6 address.
func (a *Addr) Is6() bool { return a.family == unix.AF_INET6 }

// Set4 replaces the address, which must be an IPv4 one.
func (a *Addr) Set4(host [4]byte) { a.inet4().Addr = host }

// SetHost replaces the last two bytes of the address, in either family.
func (a *Addr) SetHost(n uint16) {
	if a.Is6() {
		binary.BigEndian.PutUint16(a.raw.Addr[14:], n)
	} else {
		binary.BigEndian.PutUint16(a.inet4().Addr[2:], n)
	}
}

// Dial opens a socket of a kind, SOCK_STREAM or SOCK_DGRAM, and begins to connect, from an address unless that is nil. On loopback
// the handshake is over when it returns, or the server's queue is full.
func Dial(kind uintptr, from, to *Addr) (fd int32, errno unix.Errno) {
	f, _, errno := unix.RawSyscall(unix.SYS_SOCKET, to.family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errno != 0 {
		return -1, errno
	}
	if from != nil {
		// The port is chosen when the whole of the connection is known: of each address and server there are 28,000.
		SetInt(int32(f), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		_, _, errno = unix.RawSyscall(unix.SYS_BIND, f, uintptr(unsafe.Pointer(&from.raw)), from.size)
	}
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, f, uintptr(unsafe.Pointer(&to.raw)), to.size)
	}
	if errno != 0 && errno != unix.EINPROGRESS {
		Close(int32(f))
		return -1, errno
	}
	return int32(f), 0
}

// SetInt sets an option of a socket, where it can be set.
func SetInt(fd int32, level, option uintptr, v int32) {
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), level, option, uintptr(unsafe.Pointer(&v)), 4, 0)
}

// Close closes a descriptor.
func Close(fd int32) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// Abort closes with a reset, which leaves nothing behind on this side.
func Abort(fd int32) {
	l := unix.Linger{Onoff: 1}
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
	Close(fd)
}

// Send writes what the kernel takes at once.
func Send(fd int32, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

// Recv reads what is there: 0 bytes are the end, EAGAIN is nothing yet.
func Recv(fd int32, b []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}
