package proxy

import (
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"
)

// These calls do not tell Go's scheduler that they are made: none of them waits. One that it knows of and that takes over 20 us, as a
// connect on loopback may, makes it hand the other goroutines to another thread, and its monitor look around every 20 us from then on.

func result(n uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func recv(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT, 0, 0)
	return result(n, errno)
}

// send with more of MSG_MORE leaves a segment that is not full to what is sent next, as to the FIN of a shutdown.
func send(fd int, b []byte, more int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		uintptr(unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL|more), 0, 0)
	return result(n, errno)
}

func splice(from, to, n int) (int, error) {
	r, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	return result(r, errno)
}

func socket(family int) (int, error) {
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return result(fd, errno)
}

func shutdown(fd, how int) {
	_, _, _ = unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
}

func closeFD(fd int) {
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}

// reset closes a socket so that its peer is told at once, and nothing of it stays in the kernel.
func reset(fd int) {
	linger := unix.Linger{Onoff: 1}
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&linger)), unsafe.Sizeof(linger), 0)
	closeFD(fd)
}

func setInt(fd, level, option int, value int32) {
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&value)), 4, 0)
}

func epollCtl(ep, op, fd int, events uint32, data, generation int32) error {
	e := unix.EpollEvent{Events: events, Fd: data, Pad: generation}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(ep), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	_, err := result(0, errno)
	return err
}

func epollPoll(ep int, events []unix.EpollEvent) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	return result(n, errno)
}

// address is a socket's address as the kernel takes and gives it.
type address struct {
	raw  unix.RawSockaddrInet6 // or the RawSockaddrInet4 that fits into it
	size uint32
}

func (a *address) family() int { return int(a.raw.Family) }

func (a *address) inet4() *unix.RawSockaddrInet4 {
	return (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw))
}

func (a *address) accept(listener int) (fd int, err error) {
	a.size = uint32(unsafe.Sizeof(a.raw))
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&a.raw)), uintptr(unsafe.Pointer(&a.size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return result(n, errno)
}

func (a *address) connect(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a.raw)), uintptr(a.size))
	_, err := result(0, errno)
	return err
}

func (a *address) bind(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&a.raw)), uintptr(a.size))
	_, err := result(0, errno)
	return err
}

// local is the address of our end of fd.
func (a *address) local(fd int) error {
	a.size = uint32(unsafe.Sizeof(a.raw))
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a.raw)), uintptr(unsafe.Pointer(&a.size)))
	_, err := result(0, errno)
	return err
}

// addrPort is without a zone, and never IPv4 in the guise of IPv6.
func (a *address) addrPort() netip.AddrPort {
	if a.family() == unix.AF_INET {
		in := a.inet4()
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), swapped(in.Port))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.raw.Addr).Unmap(), swapped(a.raw.Port))
}

func addressOf(addr netip.AddrPort) (address, error) {
	var a address
	ip := addr.Addr().Unmap()
	if ip.Is4() {
		*a.inet4() = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: swapped(addr.Port()), Addr: ip.As4()}
		a.size = unix.SizeofSockaddrInet4
		return a, nil
	}
	a.raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: swapped(addr.Port()), Addr: ip.As16()}
	a.size = unix.SizeofSockaddrInet6
	if zone := ip.Zone(); zone != "" {
		index, err := strconv.Atoi(zone)
		if err != nil {
			link, err := net.InterfaceByName(zone)
			if err != nil {
				return a, fmt.Errorf("address %s: zone: %w", addr, err)
			}
			index = link.Index
		}
		a.raw.Scope_id = uint32(index)
	}
	return a, nil
}

// swapped is a port in the other one of the host's and the network's byte order.
func swapped(port uint16) uint16 {
	if cpu.IsBigEndian {
		return port
	}
	return bits.ReverseBytes16(port)
}

// outOfFiles tells that there is no descriptor, or no memory for one: it goes by itself, and not by trying again at once.
func outOfFiles(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}
