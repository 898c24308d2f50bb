package wsserver

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// visitAll does what the sweep does, at a time of the test's choice, seconds from now.
func (ts *testServer) visitAll(seconds uint32) {
	w := ts.newWorker()
	w.now = time.Now()
	now := ts.clockNow() + seconds
	ts.sockets.each(0, len(ts.sockets.places), func(s *socket) { s.visit(w, now) })
	w.flush()
}

func TestMessageOneByteOverTheLimit(t *testing.T) {
	t.Parallel()
	const limit = 4096
	ts := serve(t, Config{MaxMessage: limit})
	c := ts.dial(t)
	m := announce(id("h"), id("p"), `,"x":""`)
	m = strings.Replace(m, `"x":""`, `"x":"`+strings.Repeat("y", limit-len(m))+`"`, 1)
	c.send(m)
	if g := c.read(); g.Incomplete != 1 {
		t.Errorf("message of the limit: got %s, want an answer", g.raw)
	}
	c.send(m + " ")
	c.wantClose(ws.StatusMessageTooBig)
	ts.wantCounts(t, 'h', 0, 0)

	// The same in fragments.
	c = ts.dial(t)
	c.frame(false, ws.OpText, m[:limit/2])
	c.frame(true, ws.OpContinuation, m[limit/2:])
	c.read()
	c.frame(false, ws.OpText, m[:limit/2])
	c.frame(true, ws.OpContinuation, m[limit/2:]+" ")
	c.wantClose(ws.StatusMessageTooBig)
}

func TestFramesThatBreakTheProtocol(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	for name, b := range map[string]string{
		"unmasked":               "\x81\x02{}",
		"compressed":             "\xc1\x82\x00\x00\x00\x00{}",
		"unknown opcode":         "\x83\x82\x00\x00\x00\x00{}",
		"continuation of naught": "\x80\x82\x00\x00\x00\x00{}",
		"ping in fragments":      "\x09\x80\x00\x00\x00\x00",
		"long ping":              "\x89\xfe\x00\x7e\x00\x00\x00\x00",
		"text within fragments":  "\x01\x80\x00\x00\x00\x00\x81\x80\x00\x00\x00\x00",
	} {
		c := ts.dial(t)
		if _, err := c.conn.Write([]byte(b)); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		c.wantClose(ws.StatusProtocolError)
	}
	for name, b := range map[string]string{
		"negative length":         "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
		"nine exabytes":           "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
		"by sixty-four kilobytes": "\x81\xff\x00\x00\x00\x00\x00\x01\x00\x01\x00\x00\x00\x00",
	} {
		c := ts.dial(t)
		if _, err := c.conn.Write([]byte(b)); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		c.wantClose(ws.StatusMessageTooBig)
	}
}

// A client that makes no sense is told once, in a form that does not make bittorrent-tracker's client connect again; then it
// is closed.
func TestNonsense(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	for _, bad := range []string{
		`no json`, `[]`, "{\"action\":\"announce\",\"x\":\"\xff\"}", `{}`, `{"action":"dance"}`, `{"action":"announce"}`,
		`{"action":"announce","info_hash":"short","peer_id":` + id("p") + `}`, announce(id("h"), `7`, ``),
		`{"action":"scrape"}`,
	} {
		c := ts.dial(t)
		c.send(bad)
		g := c.read()
		if g.Action == "" || g.Failure == "" || g.Interval != "" {
			t.Errorf("%s: got %s, want an action and a failure reason", bad, g.raw)
		}
		if strings.Contains(bad, id("h")) && g.InfoHash == "" {
			t.Errorf("%s: got %s, want the info_hash", bad, g.raw)
		}
		c.send(bad)
		c.silent()
		c.conn.Close()
	}
	c := ts.dial(t)
	for range maxBad {
		c.send(`{"action":"dance"}`)
	}
	c.wantClose(ws.StatusPolicyViolation)
}

func TestRate(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{Rate: 1.0 / 3600, Burst: 6})
	c := ts.dial(t)
	for range 9 {
		c.send(announce(id("h"), id("p"), ``))
	}
	for range 6 {
		c.read()
	}
	wait(t, "three dropped", func() bool { return ts.metrics.announceSource.Get() == 3 })
	// Many more, and the socket is not read from, but it is not closed either.
	for range pauseAfter {
		c.send(announce(id("h"), id("p"), ``))
	}
	wait(t, "a pause", func() bool { return ts.metrics.paused.Get() == 1 })
	c.send(announce(id("h"), id("p"), ``))
	wait(t, "resumed", func() bool { return ts.metrics.announceSource.Get() > pauseAfter+3 })
	if n := ts.Conns(); n != 1 {
		t.Errorf("sockets: got %d, want 1", n)
	}
	// Pings are messages too: a flood of them is not answered.
	if f := ts.metrics.announceServed.Get(); f != 6 {
		t.Errorf("announces served: got %d, want 6", f)
	}
}

// A peer that never reads costs max_queue and what the kernel holds, and is closed when it has taken nothing for half a
// minute; others do not feel it.
func TestReaderThatNeverReads(t *testing.T) {
	t.Parallel()
	const queue = 32 << 10
	ts := serve(t, Config{MaxQueue: queue, Rate: 1e6, Burst: 1e6})
	deaf := ts.dial(t)
	deaf.send(announce(id("h"), id("d"), ``))
	deaf.read()
	_ = deaf.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	c := ts.dial(t)
	big := fmt.Sprintf(`,"offers":[{"offer":{"sdp":"%s"},"offer_id":"x"}]`, strings.Repeat("s", 10_000))
	wait(t, "offers dropped", func() bool {
		c.send(announce(id("h"), id("c"), big))
		c.read()
		return ts.metrics.dropped[dropQueue].Get() > 20
	})
	if n := ts.buffered.used.Load(); n > queue || n < queue/2 {
		t.Errorf("buffered: got %d bytes, want nearly %d", n, queue)
	}
	ts.visitAll(29)
	if n := ts.Conns(); n != 2 {
		t.Errorf("sockets after 29 s: got %d, want 2", n)
	}
	ts.visitAll(31)
	wait(t, "the deaf one closed", func() bool { return ts.Conns() == 1 })
	ts.wantCounts(t, 'h', 0, 1)
	if n := ts.buffered.used.Load(); n != 0 {
		t.Errorf("buffered: got %d bytes, want 0", n)
	}
	c.silent()
}

// What a slow reader does read is whole frames, the newest ones.
func TestSlowReaderGetsWholeFrames(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{MaxQueue: 40 << 10, Rate: 1e6, Burst: 1e6})
	slow := ts.dial(t)
	slow.send(announce(id("h"), id("d"), ``))
	slow.read()
	_ = slow.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	c := ts.dial(t)
	last := 0
	for ts.metrics.dropped[dropQueue].Get() < 50 {
		last++
		c.send(announce(id("h"), id("c"), fmt.Sprintf(`,"offers":[{"offer":{"sdp":"%s"},"offer_id":"%d"}]`, strings.Repeat("s", 3_000+last%100), last)))
		c.read()
	}
	n, g := 0, got{}
	for g.OfferID != fmt.Sprint(last) {
		g = slow.read()
		n++
	}
	if n+50 > last {
		t.Errorf("offers: got %d of %d, 50 of which were dropped", n, last)
	}
	wait(t, "nothing buffered", func() bool { return ts.buffered.used.Load() == 0 })
	slow.silent()
}

func TestHalfOpenSocket(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	c := ts.dial(t)
	c.send(announce(id("h"), id("p"), ``))
	c.read()
	ts.visitAll(61)
	f, err := c.next()
	if err != nil || f.Header.OpCode != ws.OpPing {
		t.Errorf("after a minute: got %+v (%v), want a ping", f.Header, err)
	}
	ts.visitAll(62) // one is enough
	c.silent()
	ts.visitAll(241)
	c.wantClose(ws.StatusGoingAway)
	ts.wantCounts(t, 'h', 0, 0)

	// One that does not answer the close either.
	c = ts.dial(t)
	c.send(announce(id("h"), id("p"), ``))
	ts.wantCounts(t, 'h', 0, 1)
	ts.visitAll(241)
	ts.visitAll(241 + closeWait)
	ts.wantCounts(t, 'h', 0, 0)
	c.wantEnd()
}

func TestMessageThatNeverEnds(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	for _, begun := range []string{"\x81", "\x81\xfe\xff\xff\x00\x00\x00\x00{\"action", "\x01\x81\x00\x00\x00\x00{"} {
		c := ts.dial(t)
		if _, err := c.conn.Write([]byte(begun)); err != nil {
			t.Fatal(err)
		}
		wait(t, "the beginning read", func() bool { return ts.buffered.used.Load() > 0 })
		if n := ts.buffered.used.Load(); n > 1<<10 {
			t.Errorf("a frame begun by %d bytes: got %d bytes of memory, want at most 1 KiB", len(begun), n)
		}
		c.frame(true, ws.OpPing, "") // is a part of the message, or not: no matter
		ts.visitAll(31)
		c.wantEnd()
		c.conn.Close()
		wait(t, "the memory back", func() bool { return ts.buffered.used.Load() == 0 })
	}
}

func TestMemoryOfAllSockets(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{MaxBuffered: 100 << 10})
	c := ts.dial(t)
	c.send(announce(id("h"), id("p"), ``))
	c.read()
	for i := range 20 {
		d := ts.dial(t)
		h := ws.Header{Fin: true, OpCode: ws.OpText, Masked: true, Length: 60 << 10}
		if err := ws.WriteHeader(d.conn, h); err != nil {
			t.Fatal(err)
		}
		_, _ = d.conn.Write(make([]byte, 30<<10)) // some are closed meanwhile
		if n := ts.buffered.used.Load(); n > 100<<10 {
			t.Fatalf("buffered after %d sockets: got %d bytes, want 100 KiB at most", i, n)
		}
	}
	wait(t, "some closed", func() bool { return ts.metrics.closed[closedMemory].Get() > 0 })
	c.silent()
}

// Bytes that come with the handshake are in fasthttp's buffer: not lost.
func TestFrameTogetherWithTheHandshake(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{})
	conn, err := net.Dial("tcp4", ts.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	frame, err := ws.CompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(announce(id("h"), id("p"), ``)))))
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Write(append([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"), append(frame, frame[:9]...)...))
	if err != nil {
		t.Fatal(err)
	}
	const want = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n" // RFC 6455, 1.3
	_ = conn.SetDeadline(time.Now().Add(clientTimeout))
	b := make([]byte, len(want))
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != want {
		t.Fatalf("handshake: got %q (%v)", b, err)
	}
	for range 2 {
		if f, err := readFrame(conn); err != nil || !strings.Contains(string(f.Payload), `"incomplete":1`) {
			t.Errorf("reply: got %q (%v)", f.Payload, err)
		}
		_, _ = conn.Write(frame[9:])
	}
}
