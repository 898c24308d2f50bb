//go:build linux

package bench

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
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

	core int  // the client's; -1: any
	idle bool // it gets what others leave
	most int  // announces on the way at once; 0: one for each socket

	turns int     // so far
	fds   []int32 // of open sockets
}

// announce has every socket announce for d, or once when d is zero, and waits for the last reply.
func (l *wsLoad) announce(d time.Duration) (n Count, err error) {
	err = pinned(l.core, func() error {
		if l.idle {
			if err := sys.SetPolicy(unix.SCHED_IDLE); err != nil {
				return err
			}
		}
		c := wsClient{wsLoad: l, conns: make([]wsConn, l.sockets), buf: make([]byte, 64<<10), duration: d}
		for i := range l.swarms {
			c.frames = append(c.frames, newWSFrame(l.torrent+i, l.offers))
		}
		start, cpu := time.Now(), sys.ThreadCPU()
		err := c.run(start)
		n = c.Count
		n.Elapsed, n.CPU = time.Since(start), sys.ThreadCPU()-cpu
		return err
	})
	l.turns++
	return n, err
}

// wsClient is a load at work.
type wsClient struct {
	*wsLoad
	Count
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
	poller, err := sys.NewPoller()
	if err != nil {
		return err
	}
	defer poller.Close()
	for i, fd := range c.fds {
		if errno := poller.Add(fd, int32(i), 0, unix.EPOLLIN); errno != 0 {
			return fmt.Errorf("poll socket: %w", errno)
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
	progress, progressed := 0, start
	for {
		now := time.Now()
		if c.Replies+c.Delivered != progress {
			progress, progressed = c.Replies+c.Delivered, now
		}
		quiet := now.Sub(progressed)
		c.over = c.over || c.duration > 0 && now.Sub(start) >= c.duration
		// Offers come with the replies or soon after.
		if c.Replies == c.sent && (c.over || c.duration == 0 && c.sent == c.sockets) && quiet > 20*time.Millisecond {
			return nil
		}
		if quiet > stallAfter {
			return fmt.Errorf("%d announces, %d replies: %w", c.sent, c.Replies, errStalled)
		}
		events, errno := poller.Wait(0)
		if errno != 0 {
			return fmt.Errorf("poll: %w", errno)
		}
		for _, e := range events {
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
	c.Replies++
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
			c.Delivered++
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
func (l *wsLoad) mustAnnounce(tb testing.TB, d time.Duration) Count {
	tb.Helper()
	n, err := l.announce(d)
	if err != nil {
		tb.Fatalf("announce over WebSockets: %v", err)
	}
	return n
}

// open opens the sockets, one after the other.
func (l *wsLoad) open() error {
	for i := len(l.fds); i < l.sockets; i++ {
		fd, err := wsDial(l.addr, [4]byte{127, 1, byte(i >> 8), byte(i)})
		if err != nil {
			return fmt.Errorf("open WebSocket %d: %w", i, err)
		}
		l.fds = append(l.fds, fd)
	}
	return nil
}

func (l *wsLoad) close() {
	for _, fd := range l.fds {
		sys.Close(fd)
	}
	l.fds = nil
}

// wsHandshake is Chromium's, less what says nothing to a tracker.
func wsHandshake(addr netip.AddrPort) []byte {
	return []byte("GET / HTTP/1.1\r\nHost: " + addr.String() + "\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36\r\n" +
		"Upgrade: websocket\r\nOrigin: https://webtorrent.io\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br\r\n" +
		"Accept-Language: en-US,en;q=0.9\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n")
}

// wsDial opens a WebSocket from an address, and waits for it.
func wsDial(to netip.AddrPort, from [4]byte) (fd int32, err error) {
	if fd, err = connect(to, from); err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			sys.Close(fd)
		}
	}()
	if err := send(fd, wsHandshake(to)); err != nil {
		return -1, err
	}
	var buf [2048]byte
	for got, deadline := 0, time.Now().Add(stallAfter); time.Now().Before(deadline); {
		n, err := recv(fd, buf[got:])
		if err != nil || n == 0 {
			return -1, fmt.Errorf("read answer to handshake after %q: %w", buf[:got], cmp.Or(err, io.ErrUnexpectedEOF))
		}
		if n < 0 {
			_, _ = unix.Poll([]unix.PollFd{{Fd: fd, Events: unix.POLLIN}}, 100)
			continue
		}
		got += n
		if bytes.HasSuffix(buf[:got], endOfHead) {
			if !bytes.HasPrefix(buf[:got], []byte("HTTP/1.1 101 ")) {
				return -1, fmt.Errorf("handshake refused: %q", buf[:got])
			}
			return fd, nil
		}
	}
	return -1, fmt.Errorf("answer to handshake: %w", errStalled)
}
