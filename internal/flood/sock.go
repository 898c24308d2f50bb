package flood

import (
	"fmt"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls here are raw: none of them blocks, or for a millisecond at most, so the scheduler need not know of them, which keeps
// the generator cheaper than the server.

// remote is a target's address as the kernel takes it.
type remote struct {
	kind   uintptr // SOCK_STREAM or SOCK_DGRAM
	family uintptr
	addr   unix.RawSockaddrInet6 // or the beginning of it
	size   uintptr
}

func newRemote(a netip.AddrPort, kind uintptr) *remote {
	r := &remote{kind: kind, family: unix.AF_INET, size: unix.SizeofSockaddrInet4}
	port := a.Port()>>8 | a.Port()<<8 // network order
	if a.Addr().Is4() {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&r.addr)) = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: a.Addr().As4()}
		return r
	}
	r.family, r.size = unix.AF_INET6, unix.SizeofSockaddrInet6
	r.addr = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: a.Addr().As16()}
	return r
}

// dial begins to connect, from an address of its own unless that is zero. On loopback the handshake is over when it returns, or
// the server's queue is full.
func (r *remote) dial(from [4]byte) (fd int32, errno unix.Errno) {
	f, _, errno := unix.RawSyscall(unix.SYS_SOCKET, r.family, r.kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errno != 0 {
		return -1, errno
	}
	if from != ([4]byte{}) && r.family == unix.AF_INET {
		// The port is chosen when the whole of the connection is known: of each address and server there are 28,000.
		setInt(int32(f), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		local := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: from}
		if _, _, errno = unix.RawSyscall(unix.SYS_BIND, f, uintptr(unsafe.Pointer(&local)), unix.SizeofSockaddrInet4); errno != 0 {
			closeFD(int32(f))
			return -1, errno
		}
	}
	if _, _, errno = unix.RawSyscall(unix.SYS_CONNECT, f, uintptr(unsafe.Pointer(&r.addr)), r.size); errno != 0 && errno != unix.EINPROGRESS {
		closeFD(int32(f))
		return -1, errno
	}
	return int32(f), 0
}

func setInt(fd int32, level, option uintptr, v int32) {
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), level, option, uintptr(unsafe.Pointer(&v)), 4, 0)
}

func closeFD(fd int32) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// abortFD closes with a reset, which leaves nothing behind on this side.
func abortFD(fd int32) {
	l := unix.Linger{Onoff: 1}
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
	closeFD(fd)
}

func send(fd int32, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

func recv(fd int32, b []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// poller is epoll, edge-triggered. An event names a place and its generation: one that was closed meanwhile is told by it.
type poller struct {
	fd     int32
	events [128]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	return &poller{fd: int32(fd)}, nil
}

func (p *poller) add(fd, place int32, generation uint32, events uint32) unix.Errno {
	e := unix.EpollEvent{Events: events | 1<<31, Fd: place, Pad: int32(generation)} // EPOLLET, which has a sign in x/sys
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.fd), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	return errno
}

// longSleep is one that the scheduler is told of: others in this process may have the processor meanwhile.
const longSleep = int64(time.Millisecond)

// wait is for at most d nanoseconds.
func (p *poller) wait(d int64) ([]unix.EpollEvent, unix.Errno) {
	timeout := struct{ sec, nsec int64 }{d / int64(time.Second), d % int64(time.Second)}
	var n uintptr
	var errno unix.Errno
	if d < longSleep {
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)),
			uintptr(unsafe.Pointer(&timeout)), 0, 0)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)),
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

// enterThread gives the calling goroutine a thread of its own, as the configuration says. It is not left again: the runtime throws
// the thread away when the goroutine ends.
func enterThread(c *Config, worker int) error {
	runtime.LockOSThread()
	if len(c.Cores) > 0 {
		var set unix.CPUSet
		set.Set(c.Cores[worker])
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("pin to core %d: %w", c.Cores[worker], err)
		}
	}
	// Short sleeps end when they should.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
	switch {
	case c.First:
		attr.Policy, attr.Priority = unix.SCHED_FIFO, 1
	case c.Idle:
		attr.Policy = unix.SCHED_IDLE
	default:
		return nil
	}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("change scheduling policy: %w", err)
	}
	return nil
}

// threadCPU is the CPU time of the calling thread.
func threadCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic("BUG: no thread clock: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
