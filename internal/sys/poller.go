package sys

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Poller is epoll, edge-triggered, of sockets that have numbered places. An event has the place in Fd and its generation in Pad: one
// that was closed meanwhile is told by it.
type Poller struct {
	fd     int32
	events [128]unix.EpollEvent
}

// NewPoller makes one. Close ends it.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	return &Poller{fd: int32(fd)}, nil
}

// Add has fd watched for events until it is closed.
func (p *Poller) Add(fd, place int32, generation, events uint32) unix.Errno {
	e := unix.EpollEvent{Events: events | 1<<31, Fd: place, Pad: int32(generation)} // EPOLLET, which has a sign in x/sys
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.fd), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	return errno
}

// longSleep is one that the scheduler is told of: others in this process may have the processor meanwhile.
const longSleep = time.Millisecond

// Wait is for at most d. The events are good until the next call.
func (p *Poller) Wait(d time.Duration) ([]unix.EpollEvent, unix.Errno) {
	timeout := unix.NsecToTimespec(int64(max(d, 0)))
	var n uintptr
	var errno unix.Errno
	if d < longSleep {
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)),
			uintptr(unsafe.Pointer(&timeout)), 0, 0)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)),
			uintptr(unsafe.Pointer(&timeout)), 0, 0)
	}
	switch errno {
	case 0:
		return p.events[:n], 0
	case unix.EINTR:
		return nil, 0
	}
	return nil, errno
}

// Close ends the poll, not the sockets.
func (p *Poller) Close() { Close(p.fd) }

// None is no place.
const None = int32(-1)

// Flight is a list of places, by their numbers, in the order in which they were pushed: what was begun first is given up first.
type Flight struct {
	First, last int32
	links       []link // of each place
}

type link struct{ prev, next int32 }

// NewFlight is empty, and has room for places 0 to places-1.
func NewFlight(places int) Flight {
	return Flight{First: None, last: None, links: make([]link, places)}
}

// Push adds place i, which must not be there.
func (f *Flight) Push(i int32) {
	f.links[i] = link{prev: f.last, next: None}
	if f.last != None {
		f.links[f.last].next = i
	} else {
		f.First = i
	}
	f.last = i
}

// Remove takes away place i, which must be there.
func (f *Flight) Remove(i int32) {
	l := f.links[i]
	if l.prev != None {
		f.links[l.prev].next = l.next
	} else {
		f.First = l.next
	}
	if l.next != None {
		f.links[l.next].prev = l.prev
	} else {
		f.last = l.prev
	}
}
