package wsserver

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"spillway/shedder"
)

// handshake returns what a handshake with these header lines gets, in place of the usual ones where there are any.
func (ts *testServer) handshake(t *testing.T, header ...string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp4", ts.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	lines := []string{"Host: x", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ":")
		kept := lines[:0]
		for _, l := range lines {
			if !strings.HasPrefix(l, name+":") {
				kept = append(kept, l)
			}
		}
		if lines = kept; value != "" {
			lines = append(lines, h)
		}
	}
	_ = conn.SetDeadline(time.Now().Add(clientTimeout))
	if _, err := fmt.Fprintf(conn, "GET /announce HTTP/1.1\r\n%s\r\n\r\n", strings.Join(lines, "\r\n")); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestHandshakes(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{AllowOrigins: []string{"https://a.example"}})
	for _, c := range []struct {
		header []string
		want   int
	}{
		{nil, 101},
		{[]string{"Origin: https://a.example"}, 101},
		{[]string{"Origin: https://b.example"}, 403},
		{[]string{"Connection: keep-alive, Upgrade", "Upgrade: WebSocket"}, 101},
		{[]string{"Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: chat"}, 101},
		{[]string{"Sec-WebSocket-Version: 8"}, 426},
		{[]string{"Sec-WebSocket-Key:"}, 426},
		{[]string{"Sec-WebSocket-Key: short"}, 426},
		{[]string{"Connection: keep-alive"}, 426},
	} {
		resp := ts.handshake(t, c.header...)
		if resp.StatusCode != c.want {
			t.Errorf("handshake with %q: got %d, want %d", c.header, resp.StatusCode, c.want)
		}
		if v := resp.Header.Get("Sec-WebSocket-Extensions") + resp.Header.Get("Sec-WebSocket-Protocol"); v != "" {
			t.Errorf("handshake with %q: got extension or protocol %q, want none", c.header, v)
		}
	}
}

func TestBoundsOnSockets(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{MaxConns: 6, MaxConnsPerIP: 2})
	from := func(addr string) []string { return []string{"X-Client: " + addr} }
	a := ts.dial(t, from("192.0.2.1")...)
	ts.dial(t, from("::ffff:192.0.2.1")...)
	if code := ts.handshake(t, from("192.0.2.1")...).StatusCode; code != 503 {
		t.Errorf("third socket of an address: got %d, want 503", code)
	}
	ts.dial(t, from("2001:db8:1:2::1")...)
	ts.dial(t, from("2001:db8:1:2:ffff::1")...)
	if code := ts.handshake(t, from("2001:db8:1:2::3")...).StatusCode; code != 503 {
		t.Errorf("third socket of a /64: got %d, want 503", code)
	}
	a.conn.Close()
	wait(t, "the place given back", func() bool { return ts.Conns() == 3 })
	ts.dial(t, from("192.0.2.1")...)
	ts.dial(t, from("192.0.2.2")...)
	ts.dial(t, from("192.0.2.3")...)
	if code := ts.handshake(t, from("192.0.2.4")...).StatusCode; code != 503 {
		t.Errorf("seventh socket: got %d, want 503", code)
	}
	if n := ts.metrics.refused[refusedSource].Get(); n != 2 {
		t.Errorf("refused by address: got %d, want 2", n)
	}
	if n := ts.metrics.refused[refusedFull].Get(); n != 1 {
		t.Errorf("refused by max_conns: got %d, want 1", n)
	}
}

func TestSwitch(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	c := ts.dial(t)
	ts.SetMode(shedder.RejectNew)
	if code := ts.handshake(t).StatusCode; code != 503 {
		t.Errorf("handshake while new ones are rejected: got %d, want 503", code)
	}
	c.send(announce(id("h"), id("p"), ``))
	c.read()
	ts.SetMode(shedder.Off)
	if code := ts.handshake(t).StatusCode; code != 503 {
		t.Errorf("handshake while off: got %d, want 503", code)
	}
	c.wantClose(statusTryAgainLater)
	ts.SetMode(shedder.On)
	c = ts.dial(t)
	c.send(announce(id("h"), id("p"), ``))
	c.read()
}

// Draining takes its time: of 200 sockets and 4 ticks left, a quarter or so go.
func TestDrainIsSpread(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	for range 200 {
		ts.dial(t)
	}
	ts.SetMode(shedder.RejectNew)
	w := ts.newWorker()
	ts.drain(w, 4)
	if n := ts.metrics.closed[closedDrained].Get(); n < 20 || n > 80 {
		t.Errorf("closed in one of four ticks: got %d of 200", n)
	}
	ts.drain(w, 1)
	// The server's own sweep may have begun to close one.
	wait(t, "all 200 closed", func() bool { return ts.metrics.closed[closedDrained].Get() == 200 })
}

// Sockets that wait cost no goroutine, and fasthttp waits for none of them.
func TestIdleSocketsHaveNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("without epoll each socket has one")
	}
	ts := serve(t, Config{})
	ts.dial(t)
	before := runtime.NumGoroutine()
	const n = 500
	for range n {
		c := ts.dial(t)
		c.send(announce(id("h"), id("p"), ``))
		c.read()
	}
	wait(t, "the handshakes' goroutines ended", func() bool { return runtime.NumGoroutine() < before+n/10 })
	wait(t, "fasthttp counting no connection", func() bool { return ts.http.GetOpenConnectionsCount() <= 0 })
}

func TestManyClosedAtOnce(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{MaxConnsPerIP: 2000})
	var clients []*client
	for i := range 1500 {
		c := ts.dial(t)
		c.send(announce(id("h"), fmt.Sprintf(`"%020d"`, i), ``))
		clients = append(clients, c)
	}
	ts.wantCounts(t, 'h', 0, 1500)
	for i, c := range clients {
		if i%2 == 0 {
			_ = c.conn.(*net.TCPConn).SetLinger(0) // a reset
		}
		c.conn.Close()
	}
	ts.wantCounts(t, 'h', 0, 0)
	wait(t, "no sockets", func() bool { return ts.Conns() == 0 })
	if n := ts.members.len(); n != 0 {
		t.Errorf("members: got %d, want 0", n)
	}
}

// certificate makes a pair for 127.0.0.1.
func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: roots}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	server, clientTLS := certificate(t)
	ts := serveTLS(t, Config{MaxQueue: 32 << 10, Rate: 1e6, Burst: 1e6}, server, clientTLS)
	a, b := ts.dial(t), ts.dial(t)
	a.send(announce(id("h"), id("a"), ``))
	a.read()
	b.send(announce(id("h"), id("b"), `,"x":"`+strings.Repeat("x", 60_000)+`"`+offers(1)))
	if g := b.read(); g.Incomplete != 2 {
		t.Errorf("reply: got %s", g.raw)
	}
	g := a.read()
	a.send(announce(id("h"), id("a"), `,"to_peer_id":`+id("b")+`,"offer_id":"`+g.OfferID+`","answer":{}`))
	if g = b.read(); string(g.Answer) != `{}` {
		t.Errorf("answer: got %s", g.raw)
	}
	// One that does not read.
	_ = a.conn.(*tls.Conn).NetConn().(*net.TCPConn).SetReadBuffer(4 << 10)
	big := fmt.Sprintf(`,"offers":[{"offer":{"sdp":"%s"},"offer_id":"x"}]`, strings.Repeat("s", 10_000))
	wait(t, "offers dropped", func() bool {
		b.send(announce(id("h"), id("b"), big))
		b.read()
		return ts.metrics.dropped[dropQueue].Get() > 20
	})
	wait(t, "nobody else blocked", func() bool { // b's writer is a goroutine
		n := 0
		ts.sockets.each(0, len(ts.sockets.places), func(s *socket) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.blocked {
				n++
			}
		})
		return n == 1
	})
	ts.visitAll(31)
	ts.wantCounts(t, 'h', 0, 1)
	wait(t, "nothing buffered", func() bool { return ts.buffered.used.Load() == 0 })
	c := ts.dial(t)
	c.frame(true, ws.OpClose, "\x03\xe8")
	f, err := c.next()
	if err != nil || f.Header.OpCode != ws.OpClose {
		t.Errorf("close: got %+v (%v), want a close frame", f.Header, err)
	}
	c.wantEnd()
	ts.SetMode(shedder.Off)
	b.wantClose(statusTryAgainLater)
}

// Everything at once, for the race detector: sockets of several loops that announce, answer, scrape, leave and come back
// while others are closed, and a server that ends amidst of it.
func TestStress(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{Loops: 3, Rate: 1e6, Burst: 1e6, MaxQueue: 8 << 10})
	stop := make(chan struct{})
	var peers sync.WaitGroup
	for i := range 24 {
		peers.Go(func() {
			for n := 0; ; n++ {
				c, err := ts.tryDial(t)
				if err != nil {
					select {
					case <-stop:
						return
					case <-time.After(5 * time.Millisecond):
						continue // switched off, or ended
					}
				}
				peer := fmt.Sprintf(`"%010d%010d"`, i, n)
				for j := range 20 {
					select {
					case <-stop:
						c.conn.Close()
						return
					default:
					}
					hash := id(string(rune('a' + (i+j)%3)))
					for _, m := range []string{
						announce(hash, peer, `,"left":1`+offers(5)),
						announce(hash, peer, `,"to_peer_id":`+peer+`,"offer_id":"offer000000000000001","answer":{}`),
						`{"action":"scrape","info_hash":[` + hash + `]}`,
					} {
						frame, _ := ws.CompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(m))))
						_ = c.conn.SetDeadline(time.Now().Add(clientTimeout))
						if _, err := c.conn.Write(frame); err != nil {
							break
						}
					}
					if i%4 != 0 { // the others do not read
						if _, err := c.next(); err != nil {
							break
						}
					}
				}
				for err = nil; i%4 == 1 && err == nil; { // until it is closed
					_, err = c.next()
				}
				c.conn.Close()
			}
		})
	}
	wait(t, "some traffic", func() bool { return ts.metrics.offers.Get() > 1000 })
	ts.SetMode(shedder.Off)
	wait(t, "sockets closed", func() bool { return ts.metrics.closed[closedDrained].Get() > 0 })
	ts.SetMode(shedder.On)
	ts.stop()
	close(stop)
	peers.Wait()
	for _, h := range "abc" {
		ts.wantCounts(t, byte(h), 0, 0)
	}
}
