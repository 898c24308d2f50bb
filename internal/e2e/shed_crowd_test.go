//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"spillway/internal/waittest"
)

// crowd are WebSockets that announce with offers, all in one swarm, until they are closed; and one who knocks.
type crowd struct {
	conns []net.Conn
	done  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	last     time.Time  // a text frame came
	closings []closing
	knocks   []knock
}

type closing struct {
	at   time.Time
	code ws.StatusCode // 0: none was told
}

// knock is a handshake.
type knock struct {
	begun  time.Time
	status int // 0: no answer
}

// newCrowd opens n sockets, each from an address of its own, of which each announces every so often.
func newCrowd(t *testing.T, tr *tracker, n int, every time.Duration) *crowd {
	t.Helper()
	c := &crowd{}
	for i := range n {
		from := &net.TCPAddr{IP: net.IPv4(127, 3, byte(i>>8), byte(i))}
		d := ws.Dialer{Timeout: 10 * time.Second, NetDial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: from}).DialContext(ctx, network, addr)
		}}
		conn, br, _, err := d.Dial(context.Background(), tr.webSocket())
		if err != nil {
			t.Fatalf("socket %d: %v", i, err)
		}
		t.Cleanup(func() { conn.Close() })
		if br == nil {
			br = bufio.NewReader(conn)
		}
		c.conns = append(c.conns, conn)
		c.done.Go(func() { c.read(br) })
		go announceAlways(conn, i, every) // ends with the socket
	}
	return c
}

func (c *crowd) read(r *bufio.Reader) {
	var end closing
	for {
		h, err := ws.ReadHeader(r)
		payload := make([]byte, min(h.Length, 64<<10)) // the tracker sends less
		if err == nil {
			_, err = io.ReadFull(r, payload)
		}
		c.mu.Lock()
		if err == nil && h.OpCode == ws.OpText {
			c.last = time.Now()
		}
		if err == nil && h.OpCode == ws.OpClose {
			end.code, _ = ws.ParseCloseFrameData(payload)
			err = net.ErrClosed
		}
		if err != nil {
			end.at = time.Now()
			c.closings = append(c.closings, end)
		}
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func announceAlways(c net.Conn, i int, every time.Duration) {
	// A hash of ASCII is itself in JSON.
	message := fmt.Appendf(nil, `{"action":"announce","info_hash":"a crowd in one swarm","peer_id":"-WW0001-%012d","left":1,"numwant":2,"offers":[`+
		`{"offer_id":"offer 1 %012d","offer":{"type":"offer","sdp":"%s"}},{"offer_id":"offer 2 %012d","offer":{"type":"offer","sdp":"%[3]s"}}]}`, i, i, strings.Repeat("a line of it, ", 50), i)
	for {
		_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
		if wsutil.WriteClientText(c, message) != nil {
			return
		}
		<-time.After(every)
	}
}

// knock tries handshakes one after the other until it is stopped.
func (c *crowd) knock(tr *tracker) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	c.done.Go(func() {
		for ctx.Err() == nil {
			begun := time.Now()
			status, _ := tryHandshake(tr)
			c.mu.Lock()
			c.knocks = append(c.knocks, knock{begun, status})
			c.mu.Unlock()
			<-time.After(2 * time.Millisecond)
		}
	})
	return func() { cancel(); c.done.Wait() }
}

// tryHandshake returns the status a WebSocket handshake is answered with.
func tryHandshake(tr *tracker) (status int, err error) {
	addr := strings.TrimPrefix(tr.webSocket(), "ws://")
	c, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", addr); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

func handshake(t *testing.T, tr *tracker) int {
	t.Helper()
	status, err := tryHandshake(tr)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// wantGone waits until all sockets are closed.
func (c *crowd) wantGone(t *testing.T, within time.Duration) {
	t.Helper()
	waittest.Done(t, within, "sockets closed", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := len(c.closings); n < len(c.conns) {
			return fmt.Errorf("%d of %d", n, len(c.conns))
		}
		return nil
	})

}

func (c *crowd) close() {
	for _, conn := range c.conns {
		conn.Close()
	}
	c.done.Wait()
}

// outage is what a crowd saw after the operator had the answer that ws is off.
type outage struct {
	served   bool          // until then: handshakes and messages, in the last second too
	refused  time.Duration // the last handshake that was begun and still answered 101; 0: none
	messages time.Duration // the last message that still came
	closed   time.Duration // the last socket was closed
	refusals int
	codes    map[ws.StatusCode]int
}

func (c *crowd) outage(answered time.Time) outage {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := outage{messages: max(c.last.Sub(answered), 0), codes: make(map[ws.StatusCode]int)}
	for _, k := range c.knocks {
		switch after := k.begun.Sub(answered); {
		case after > -time.Second && after < 0 && k.status == http.StatusSwitchingProtocols:
			o.served = answered.Sub(c.last) < time.Second
		case after > 0 && k.status == http.StatusSwitchingProtocols:
			o.refused = max(o.refused, after)
		case after > 0 && k.status == http.StatusServiceUnavailable:
			o.refusals++
		}
	}
	for _, end := range c.closings {
		o.closed = max(o.closed, end.at.Sub(answered))
		o.codes[end.code]++
	}
	return o
}

func (o outage) worst() time.Duration { return max(o.refused, o.messages, o.closed/10) }

func (o outage) String() string {
	return fmt.Sprintf("after the answer: last handshake accepted %v (then %d refused), last message %v, last socket closed %v, codes %v",
		o.refused.Round(100*time.Microsecond), o.refusals, o.messages.Round(100*time.Microsecond), o.closed.Round(100*time.Microsecond), o.codes)
}

// check holds it to what the contract promises.
func (o outage) check(t *testing.T) {
	t.Helper()
	if !o.served {
		t.Errorf("before off: handshakes or messages were not answered, so this shows nothing")
	}
	if o.refused > 100*time.Millisecond || o.messages > 100*time.Millisecond || o.closed > time.Second || o.refusals == 0 {
		t.Errorf("off: got %v; want handshakes refused and messages ended within 100 ms, sockets closed within 1 s", o)
	}
	if len(o.codes) != 1 || o.codes[1013] == 0 {
		t.Errorf("off: codes: got %v, want 1013 for all", o.codes)
	}
}
