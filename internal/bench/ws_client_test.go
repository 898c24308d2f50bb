//go:build linux

package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wsLoad drives one server with announces over WebSockets, closed loop: each socket announces again when it has the reply
// to its last announce. What other peers' offers a socket gets, it reads and counts; nobody answers them.
//
// Like Load it is one thread that never sleeps.
type wsLoad struct {
	addr    netip.AddrPort
	sockets int // each with an address of its own, 127.1.x.y, and one peer
	torrent int // the first of
	swarms  int // over which the sockets' peers are spread: socket i is in swarm i modulo swarms
	offers  int // of an announce

	core   int    // the client's; -1: any
	policy uint32 // the client's; 0 is the usual one
	most   int    // announces on the way at once; 0: one for each socket

	turns int   // so far
	fds   []int // of open sockets
}

// wsCount is what a load saw.
type wsCount struct {
	replies, delivered int // delivered: offers
	elapsed            time.Duration
	cpu                time.Duration // of the client, which polls
}

// enterThread moves the calling goroutine to a thread of its own, on one core unless that is -1, in a class of the
// scheduler. As with PinThread, it is not left again.
func enterThread(core int, policy uint32) error {
	if core >= 0 {
		if err := PinThread(core); err != nil {
			return err
		}
	}
	runtime.LockOSThread()
	if policy == unix.SCHED_NORMAL {
		return nil
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy}
	if policy == unix.SCHED_FIFO {
		attr.Priority = 1
	}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("change scheduling policy to %d: %w", policy, err)
	}
	return nil
}

// edge is EPOLLET without its sign.
const edge = 1 << 31

// announce has every socket announce for d, or once when d is zero, and waits for the last reply.
func (l *wsLoad) announce(d time.Duration) (n wsCount, err error) {
	done := make(chan struct{})
	go func() { // ends with its thread pinned, and the thread with it
		defer close(done)
		if err = enterThread(l.core, l.policy); err != nil {
			return
		}
		c := wsClient{wsLoad: l, conns: make([]wsConn, l.sockets), buf: make([]byte, 64<<10), duration: d}
		for i := range l.swarms {
			c.frames = append(c.frames, newWSFrame(l.torrent+i, l.offers))
		}
		start, cpu := time.Now(), threadCPU()
		err = c.run(start)
		n = c.wsCount
		n.elapsed, n.cpu = time.Since(start), threadCPU()-cpu
	}()
	<-done
	l.turns++
	return n, err
}

// wsClient is a load at work.
type wsClient struct {
	*wsLoad
	wsCount
	frames   []*wsFrame // of each swarm
	conns    []wsConn
	buf      []byte
	duration time.Duration
	sent     int
	next     int // socket, when not all announce at once
	over     bool
}

// wsConn is one of its sockets.
type wsConn struct {
	turn int
	skip int                  // bytes of a frame's payload that are still to come
	kept [maxClassified]uint8 // a frame's beginning, too short to tell what it is
	held int
}

func (c *wsClient) run(start time.Time) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	defer unix.Close(ep)
	for i, fd := range c.fds {
		event := unix.EpollEvent{Events: unix.EPOLLIN | edge, Fd: int32(i)}
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			return fmt.Errorf("add socket to epoll: %w", err)
		}
		c.conns[i].turn = c.turns
	}
	most := c.most
	if most == 0 {
		most = c.sockets
	}
	for c.next < min(most, c.sockets) {
		if err := c.send(c.next); err != nil {
			return err
		}
		c.next++
	}
	var events [64]unix.EpollEvent
	progress, progressed := 0, start
	for {
		now := time.Now()
		if c.replies+c.delivered != progress {
			progress, progressed = c.replies+c.delivered, now
		}
		quiet := now.Sub(progressed)
		c.over = c.over || c.duration > 0 && now.Sub(start) >= c.duration
		// Offers come with the replies or soon after.
		if c.replies == c.sent && (c.over || c.duration == 0 && c.sent == c.sockets) && quiet > 20*time.Millisecond {
			return nil
		}
		if quiet > stallAfter {
			return fmt.Errorf("%d announces, %d replies: %w", c.sent, c.replies, errStalled)
		}
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_WAIT, uintptr(ep), uintptr(unsafe.Pointer(&events)), uintptr(len(events)), 0, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return fmt.Errorf("poll: %w", errno)
		}
		for _, e := range events[:n] {
			if err := c.read(int(e.Fd)); err != nil {
				return err
			}
		}
	}
}

func (c *wsClient) send(i int) error {
	k := &c.conns[i]
	k.turn++
	c.sent++
	return send(c.fds[i], c.frames[i%c.swarms].of(i, k.turn))
}

// read reads all there is: the poll is edge-triggered.
func (c *wsClient) read(i int) error {
	k := &c.conns[i]
	for {
		held := copy(c.buf, k.kept[:k.held])
		n, err := recv(c.fds[i], c.buf[held:])
		if err != nil || n < 0 {
			return err
		}
		if n == 0 {
			return fmt.Errorf("server closed a WebSocket: %w", io.ErrUnexpectedEOF)
		}
		replies, err := c.frame(k, c.buf[:held+n])
		if err != nil {
			return err
		}
		for range replies {
			if err := c.replied(i); err != nil {
				return err
			}
		}
		if held+n < len(c.buf) {
			return nil
		}
	}
}

func (c *wsClient) replied(i int) error {
	c.replies++
	switch {
	case c.over:
		return nil
	case c.duration > 0:
		return c.send(i)
	case c.next < c.sockets:
		c.next++
		return c.send(c.next - 1)
	}
	return nil
}

// What a frame is, is told by its first bytes, which are the writer's own: JSON.parse would make the client slower than
// the servers.
var (
	wsOffer   = []byte(`{"action":"announce","offer":`)
	wsAquatic = []byte(`{"action":"announce","peer_id":`)                                                                                 // aquatic_ws's offer
	wsReplies = [][]byte{[]byte(`{"action":"announce","interval":`), []byte(`{"complete":`), []byte(`{"action":"announce","info_hash":`)} // spillway's, bittorrent-tracker's, aquatic_ws's
)

// maxClassified is more than the header and the bytes that tell.
const maxClassified = 64

// frame goes over the frames in b and counts the replies among them.
func (c *wsClient) frame(k *wsConn, b []byte) (replies int, err error) {
	k.held = 0
	for len(b) > 0 {
		if k.skip > 0 {
			n := min(k.skip, len(b))
			k.skip -= n
			b = b[n:]
			continue
		}
		length, header := wsHeader(b)
		if header == 0 || len(b)-header < min(length, maxClassified-10) {
			k.held = copy(k.kept[:], b)
			return replies, nil
		}
		payload := b[header:]
		switch opcode := b[0] & 15; {
		case opcode == 9: // ping
		case opcode != 1:
			return replies, fmt.Errorf("got a frame of type %d: %q", opcode, payload[:min(length, len(payload))])
		case bytes.HasPrefix(payload, wsOffer) || bytes.HasPrefix(payload, wsAquatic):
			c.delivered++
		case bytes.HasPrefix(payload, wsReplies[0]) || bytes.HasPrefix(payload, wsReplies[1]) || bytes.HasPrefix(payload, wsReplies[2]):
			replies++
		default:
			return replies, fmt.Errorf("neither a reply nor an offer: %q", payload[:min(length, len(payload))])
		}
		k.skip = length
		b = payload
	}
	return replies, nil
}

// wsHeader reads a server's frame header; header is 0 while it is cut short.
func wsHeader(b []byte) (length, header int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch n := b[1] & 0x7f; {
	case n < 126:
		return int(n), 2
	case n == 126 && len(b) >= 4:
		return int(binary.BigEndian.Uint16(b[2:])), 4
	case n == 127 && len(b) >= 10:
		return int(binary.BigEndian.Uint64(b[2:])), 10
	}
	return 0, 0
}

// mustAnnounce is announce for benchmarks.
func (l *wsLoad) mustAnnounce(tb testing.TB, d time.Duration) wsCount {
	tb.Helper()
	n, err := l.announce(d)
	if err != nil {
		tb.Fatalf("announce over WebSockets: %v", err)
	}
	return n
}
