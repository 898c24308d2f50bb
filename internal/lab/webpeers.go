package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// WebPeers are WebTorrent's: each keeps a WebSocket, announces on it again and again, and opens another when it ends.
type WebPeers struct {
	Target  netip.AddrPort
	N       int
	Every   time.Duration // between a peer's announces
	Timeout time.Duration
	Header  func(who int) string                   // lines of its handshake, each with its end
	Message func(who int) []byte                   // its announce, JSON
	Retry   func(who int, fails int) time.Duration // until it tries to open again

	lab   *Lab
	start time.Time
	stop  chan struct{}
	wg    sync.WaitGroup
	open  atomic.Int64

	mu       sync.Mutex // guards what follows
	conns    map[net.Conn]bool
	attempts Attempts
}

// WebPeers starts p in the edge. Stop ends it. Attempts are dated since start.
func (l *Lab) WebPeers(p *WebPeers, start time.Time) {
	p.lab, p.start, p.stop, p.conns = l, start, make(chan struct{}), make(map[net.Conn]bool)
	for who := range p.N {
		p.wg.Go(func() { p.live(who) })
	}
}

// Open is how many have a socket.
func (p *WebPeers) Open() int { return int(p.open.Load()) }

// Stop returns what became of their announces, and of their handshakes that failed.
func (p *WebPeers) Stop() Attempts {
	close(p.stop)
	p.mu.Lock()
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
	return p.attempts
}

// sleep tells whether there is something to go on for.
func (p *WebPeers) sleep(d time.Duration) bool {
	select {
	case <-p.stop:
		return false
	case <-time.After(d):
		return true
	}
}

func (p *WebPeers) judge(at time.Time, o Outcome, try int) {
	p.mu.Lock()
	p.attempts = append(p.attempts, Attempt{At: at.Sub(p.start), Took: time.Since(at), Outcome: o, Try: uint8(min(try, maxTry))})
	p.mu.Unlock()
}

// comeWithin is the time over which they come, one after the other.
const comeWithin = 2 * time.Second

// live is a peer's life.
func (p *WebPeers) live(who int) {
	if !p.sleep(min(p.Every, comeWithin) * time.Duration(who) / time.Duration(p.N)) {
		return
	}
	for fails := 0; ; {
		at := time.Now()
		conn, in, o := p.connect(who)
		if o != OK {
			p.judge(at, o, fails)
			fails++
			if !p.sleep(p.Retry(who, fails)) {
				return
			}
			continue
		}
		fails = 0
		p.open.Add(1)
		p.announce(who, conn, in)
		p.open.Add(-1)
		p.forget(conn)
		fails++
		if !p.sleep(p.Retry(who, fails)) {
			return
		}
	}
}

// connect opens a socket and shakes hands.
func (p *WebPeers) connect(who int) (net.Conn, *bufio.Reader, Outcome) {
	var conn net.Conn
	err := p.lab.Edge.Do(func() error {
		from := sys.NewAddr(netip.AddrPortFrom(clients4.Addr(), 0))
		from.SetHost(uint16(0x8000 + who%0x7000))
		fd, errno := sys.Dial(unix.SOCK_STREAM, from, sys.NewAddr(p.Target))
		if errno != 0 {
			return errno
		}
		f := os.NewFile(uintptr(fd), "")
		defer f.Close()
		var err error
		conn, err = net.FileConn(f)
		return err
	})
	if err != nil {
		return nil, nil, ended(err)
	}
	p.mu.Lock()
	p.conns[conn] = true
	p.mu.Unlock()
	in := bufio.NewReader(conn)
	o := p.shake(who, conn, in)
	if o != OK {
		p.forget(conn)
	}
	return conn, in, o
}

func (p *WebPeers) forget(conn net.Conn) {
	_ = conn.Close()
	p.mu.Lock()
	delete(p.conns, conn)
	p.mu.Unlock()
}

// shake writes as soon as the connection is made: until then the kernel takes nothing.
func (p *WebPeers) shake(who int, conn net.Conn, in *bufio.Reader) Outcome {
	_ = conn.SetDeadline(time.Now().Add(p.Timeout))
	_, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", p.Target, p.Header(who))
	if err != nil {
		return ended(err)
	}
	status := ""
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return ended(err)
		}
		if status == "" {
			status = string(line)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			return judgeUpgrade(status)
		}
	}
}

// JudgeUpgrade is Load.Judge for handshakes.
func JudgeUpgrade(b []byte) Outcome { return judgeUpgrade(string(b[:min(len(b), 16)])) }

func judgeUpgrade(status string) Outcome {
	if len(status) < 12 {
		return Bad
	}
	switch status[9:12] {
	case "101":
		return OK
	case "503":
		return Shed
	case "502":
		return Refused
	case "504":
		return Timeout
	}
	return Bad
}

// ended is what the end of a connection is to a client.
func ended(err error) Outcome {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return Timeout
	case errors.Is(err, unix.ECONNREFUSED):
		return Refused
	}
	return Reset
}

// announce goes on until the socket ends.
func (p *WebPeers) announce(who int, conn net.Conn, in *bufio.Reader) {
	message := ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame(p.Message(who))))
	for {
		at := time.Now()
		_ = conn.SetDeadline(at.Add(p.Timeout))
		_, err := conn.Write(message)
		for replied := false; err == nil && !replied; {
			replied, err = readFrame(conn, in)
		}
		select {
		case <-p.stop:
			return
		default:
		}
		if err != nil {
			p.judge(at, ended(err), 0)
			return
		}
		p.judge(at, OK, 0)
		_ = conn.SetDeadline(at.Add(p.Every))
		for err == nil {
			_, err = readFrame(conn, in)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

var interval = []byte(`"interval"`)

// readFrame tells whether a frame is the reply to an announce. A ping is answered.
func readFrame(conn net.Conn, in *bufio.Reader) (reply bool, err error) {
	if _, err := in.Peek(2); err != nil { // nothing is lost if the time is over before it begins
		return false, err
	}
	h, err := ws.ReadHeader(in)
	if err != nil {
		return false, err
	}
	if h.Length < 0 || h.Length > maxFrame {
		return false, fmt.Errorf("frame of %d bytes", h.Length)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(in, payload); err != nil {
		return false, err
	}
	switch h.OpCode {
	case ws.OpClose:
		return false, io.EOF
	case ws.OpPing:
		err = ws.WriteFrame(conn, ws.MaskFrame(ws.NewPongFrame(payload)))
	}
	return bytes.Contains(payload, interval), err
}

const maxFrame = 64 << 10
