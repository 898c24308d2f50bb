//go:build linux

package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// udpLoad drives one server with announces over UDP, closed loop: Window of them are on the way at any time. It is one thread that
// never sleeps, and sends and receives many packets with one call, so that it is cheaper than the servers it measures.
type udpLoad struct {
	Addr    netip.AddrPort // of the server; IPv4
	NumWant int
	Event   uint32
	Torrent int
	Window  int // a multiple of udpLoadBatch
	Peers   int // in turn: one address, as many ports
	Core    int // the client's
}

// udpLoadBatch is how many announces go out at once.
const udpLoadBatch = 64

// udpLost is after what time a request without a reply is made up for: the kernel drops what does not fit.
const udpLost = 200 * time.Millisecond

// For runs the load for about d.
func (l udpLoad) For(d time.Duration) (Count, error) { return l.run(d, false) }

// Once has every peer announce once.
func (l udpLoad) Once() (Count, error) { return l.run(0, true) }

func (l udpLoad) run(d time.Duration, once bool) (n Count, err error) {
	done := make(chan struct{})
	go func() { // ends with its thread pinned, and the thread with it
		defer close(done)
		if err = PinThread(l.Core); err != nil {
			return
		}
		n, err = l.drive(d, once)
	}()
	<-done
	return n, err
}

// mmsg is struct mmsghdr.
type mmsg struct {
	unix.Msghdr
	n uint32
}

// udpClient is a load at work.
type udpClient struct {
	udpLoad
	fd      int
	peer    int
	in, out [udpLoadBatch]mmsg
	inVec   [udpLoadBatch]unix.Iovec
	outVec  [udpLoadBatch]unix.Iovec
	packets [udpLoadBatch][98]byte
	replies [udpLoadBatch][2048]byte
}

func (l udpLoad) drive(d time.Duration, once bool) (n Count, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return n, err
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(l.Addr.Port()), Addr: l.Addr.Addr().As4()}); err != nil {
		return n, err
	}
	c := &udpClient{udpLoad: l, fd: fd}
	id, err := c.connect()
	if err != nil {
		return n, err
	}
	c.prepare(id)
	start, cpu := time.Now(), threadCPU()
	last, flying, sent := start, 0, 0
	for {
		for flying+udpLoadBatch <= l.Window && (!once || sent < l.Peers) {
			k := udpLoadBatch
			if once {
				k = min(k, l.Peers-sent)
			}
			if err := c.send(k); err != nil {
				return n, err
			}
			sent, flying = sent+k, flying+k
		}
		got, err := c.receive()
		if err != nil {
			return n, err
		}
		now := time.Now()
		if got > 0 {
			n.Replies, flying, last = n.Replies+got, max(flying-got, 0), now
			n.Body = append(n.Body[:0], c.replies[0][:c.in[0].n]...)
		} else if now.Sub(last) > udpLost {
			if now.Sub(start) > d+stallAfter {
				return n, errStalled
			}
			if once {
				return n, fmt.Errorf("%d replies to %d announces", n.Replies, sent)
			}
			flying, last = 0, now
		}
		if once && n.Replies >= l.Peers || !once && now.Sub(start) >= d {
			break
		}
	}
	n.Elapsed, n.CPU = time.Since(start), threadCPU()-cpu
	return n, nil
}

// connect asks for a connection id, which is good for more than a turn.
func (c *udpClient) connect() (id uint64, err error) {
	request := binary.BigEndian.AppendUint64(nil, 0x41727101980)
	request = binary.BigEndian.AppendUint64(request, 77)
	for deadline := time.Now().Add(stallAfter); time.Now().Before(deadline); {
		if _, err := unix.Write(c.fd, request); err != nil {
			return 0, err
		}
		for wait := time.Now().Add(udpLost); time.Now().Before(wait); {
			if n, err := unix.Read(c.fd, c.replies[0][:]); err == nil && n == 16 && binary.BigEndian.Uint64(c.replies[0][:]) == 77 {
				return binary.BigEndian.Uint64(c.replies[0][8:]), nil
			}
		}
	}
	return 0, errStalled
}

func (c *udpClient) prepare(id uint64) {
	for i := range udpLoadBatch {
		p := c.packets[i][:]
		binary.BigEndian.PutUint64(p, id)
		binary.BigEndian.PutUint32(p[8:], 1)
		hash := InfoHash(c.Torrent)
		copy(p[16:], hash[:])
		copy(p[36:], "-qB4650-benchbenchbe")
		binary.BigEndian.PutUint64(p[64:], 1<<20)
		binary.BigEndian.PutUint32(p[80:], c.Event)
		binary.BigEndian.PutUint32(p[92:], uint32(c.NumWant))
		c.outVec[i].Base, c.inVec[i].Base = &c.packets[i][0], &c.replies[i][0]
		c.outVec[i].SetLen(len(p))
		c.inVec[i].SetLen(len(c.replies[i]))
		c.out[i].Iov, c.in[i].Iov = &c.outVec[i], &c.inVec[i]
		c.out[i].SetIovlen(1)
		c.in[i].SetIovlen(1)
	}
}

func (c *udpClient) send(k int) error {
	for i := range k {
		binary.BigEndian.PutUint16(c.packets[i][96:], uint16(minPort+c.peer))
		c.peer = (c.peer + 1) % c.Peers
	}
	for at := 0; at < k; {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&c.out[at])), uintptr(k-at), unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
			return fmt.Errorf("send announces: %w", errno)
		}
		if errno == 0 {
			at += int(n)
		}
	}
	return nil
}

// receive takes what is there, which must be announces' replies with as many peers as were asked for: one that is shed costs less.
func (c *udpClient) receive() (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&c.in[0])), udpLoadBatch, unix.MSG_DONTWAIT, 0, 0)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return 0, nil
	case errno != 0:
		return 0, fmt.Errorf("read replies: %w", errno)
	}
	for i := range int(n) {
		if c.replies[i][3] != 1 || c.Event == 0 && int(c.in[i].n) != 20+6*c.NumWant {
			return 0, fmt.Errorf("not a served announce: %q", c.replies[i][:c.in[i].n])
		}
	}
	return int(n), nil
}
