//go:build linux

package bench

import (
	"fmt"
	"io"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ptr is for raw system calls that do not block: the scheduler need not know of them, which keeps the client cheaper
// than the server.
func ptr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// keptConn is one connection of a keep-alive load.
type keptConn struct {
	fd   int
	turn int
	got  int
	buf  []byte
}

// keepAlive polls all connections with epoll; a reply read sends the connection's next request.
func (c *client) keepAlive() error {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	defer unix.Close(epfd)
	conns := make([]keptConn, c.Conns)
	for i := range conns {
		conns[i].fd = -1
		conns[i].buf = c.buf[i*maxReply : (i+1)*maxReply]
	}
	defer func() {
		for i := range conns {
			if conns[i].fd >= 0 {
				_ = unix.Close(conns[i].fd)
			}
		}
	}()
	for i := range conns {
		from := unix.SockaddrInet4{Addr: [4]byte{127, 1, byte(i >> 8), byte(i)}}
		if conns[i].fd, err = c.dial(&from, 0); err != nil {
			return err
		}
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(i)}
		if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, conns[i].fd, &event); err != nil {
			return fmt.Errorf("add connection to epoll: %w", err)
		}
	}
	for i := range conns {
		if err := c.sendNext(i, &conns[i]); err != nil {
			return err
		}
	}
	var events [64]unix.EpollEvent
	for {
		if over, err := c.over(time.Now()); over || err != nil {
			return err
		}
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_WAIT, uintptr(epfd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return fmt.Errorf("poll: %w", errno)
		}
		for _, ev := range events[:n] {
			if err := c.readReply(int(ev.Fd), &conns[ev.Fd]); err != nil {
				return err
			}
		}
	}
}

// sendNext announces the connection's next peer.
func (c *client) sendNext(i int, k *keptConn) error {
	// Peer n of the load is port minPort + n/Conns of connection n%Conns.
	ports := (c.Peers - i + c.Conns - 1) / c.Conns
	if c.once && k.turn >= ports {
		return nil
	}
	b := c.render(minPort + k.turn%max(ports, 1))
	k.turn++
	return send(k.fd, b)
}

// readReply reads until the reply is whole or nothing is left to read: the poll is edge-triggered.
func (c *client) readReply(i int, k *keptConn) error {
	n, err := recv(k.fd, k.buf[k.got:])
	if err != nil || n < 0 {
		return err
	}
	if n == 0 {
		return fmt.Errorf("server closed a kept connection after %d bytes of a reply: %w", k.got, io.ErrUnexpectedEOF)
	}
	k.got += n
	body, err := parseReply(k.buf[:k.got])
	if err == errShort {
		return nil // its rest is an edge of its own
	}
	if err != nil {
		return err
	}
	k.got = 0
	c.body = body
	c.replies++
	return c.sendNext(i, k)
}
