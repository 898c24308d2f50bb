package flood

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/valyala/fasthttp"
)

// mustRun floods with c, whose mistakes are the test's.
func mustRun(t *testing.T, c Config) *Result {
	t.Helper()
	r, err := Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// total is both sides of all phases.
func total(r *Result) (s Side) {
	for _, p := range r.Phases {
		for _, o := range []Side{p.Honest, p.Attack} {
			s.add(&o)
		}
	}
	return s
}

// Given a server that stalls for a second and few connections, when requests are due all the time, then every request that was due in
// the stall is charged with what was left of it, and not only the few that were on the way: no coordinated omission.
func TestStallIsChargedToAllThatWasDue(t *testing.T) {
	t.Parallel()
	const rate, conns = 200, 10
	var begin sync.Once
	var stall, over atomic.Int64
	addr := serveHTTP(t, func(ctx *fasthttp.RequestCtx) {
		begin.Do(func() {
			now := time.Now()
			stall.Store(now.Add(time.Second).UnixNano())
			over.Store(now.Add(2 * time.Second).UnixNano())
		})
		now := time.Now().UnixNano()
		if now >= stall.Load() && now < over.Load() {
			time.Sleep(time.Duration(over.Load() - now))
		}
		ctx.SetBodyString(servedBody)
	})
	r := mustRun(t, Config{Target: addr, Rate: rate, Conns: conns, Patience: 10 * time.Second, Profile: Profile{{Duration: 3 * time.Second, Multiple: 1}}})
	s := total(r)
	if s.Offered != 3*rate || s.Good+s.Late != s.Offered {
		t.Fatalf("got %s; want %d offered, all of them served", s, 3*rate)
	}
	// 160 were due more than 200 ms before the stall's end. A closed loop would have had 10 late ones.
	if s.Late < 150 {
		t.Errorf("late: got %d, want 150 or more", s.Late)
	}
	l := r.Series.Honest
	first, last := time.Unix(0, stall.Load()).Sub(r.Start)/(100*time.Millisecond)+1, time.Unix(0, over.Load()).Sub(r.Start)/(100*time.Millisecond)-3
	if last-first < 5 {
		t.Errorf("the stall: got %d to %d00 ms", first, last)
	}
	for i := first; i < last; i++ {
		if l.Offered[i] != rate || l.Good[i] != 0 || l.Late[i] != rate {
			t.Errorf("due at %d00 ms: got %g offered, %g good, %g late a second; want all late", i, l.Offered[i], l.Good[i], l.Late[i])
		}
	}
	if most := r.Phases[0].Honest.ServedMax; most < 950 {
		t.Errorf("the first request of the stall: got %g ms, want about 1000", most)
	}
	if p50 := r.Phases[0].Honest.ServedP99; p50 < 800 {
		t.Errorf("p99: got %g ms, want that of the stall", p50)
	}
}

// The same with little patience: what finds no connection is offered, and not good.
func TestWhatFindsNoConnectionIsUnsent(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	var begin sync.Once
	addr := serveHTTP(t, func(ctx *fasthttp.RequestCtx) {
		begin.Do(func() { time.AfterFunc(3*time.Second, func() { close(gate) }) }) // long after the last was due
		<-gate
		ctx.SetBodyString(servedBody)
	})
	r := mustRun(t, Config{
		Target: addr, Rate: 100, Conns: 5, Patience: 100 * time.Millisecond, Timeout: time.Minute, Profile: Profile{{Duration: time.Second, Multiple: 1}},
	})
	if s := total(r); s.Offered != 100 || s.Sent != 5 || s.Late != 5 || s.Unsent != 95 || s.Failed != 95 {
		t.Errorf("got %s, %d sent; want 5 sent and late, 95 unsent", s, s.Sent)
	}
}

// Each kind of reply is counted as what it is, on kept connections and with one for each request.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	const n = 50
	raw := func(f func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			for b := bufio.NewReader(c); ; {
				if _, err := http.ReadRequest(b); err != nil {
					return
				}
				f(c)
			}
		}
	}
	for _, c := range []struct {
		name  string
		serve func(net.Conn)
		count func(Side) uint64
	}{
		{"good", raw(func(c net.Conn) { _, _ = io.WriteString(c, reply(servedBody)) }), func(s Side) uint64 { return s.Good }},
		{"good, in pieces", raw(func(c net.Conn) {
			for _, b := range []byte(reply(servedBody)) {
				_, _ = c.Write([]byte{b})
			}
		}), func(s Side) uint64 { return s.Good }},
		{"late", raw(func(c net.Conn) {
			time.Sleep(30 * time.Millisecond)
			_, _ = io.WriteString(c, reply(servedBody))
		}), func(s Side) uint64 { return s.Late }},
		{"shed", raw(func(c net.Conn) { _, _ = io.WriteString(c, reply(shedBody)) }), func(s Side) uint64 { return s.Shed - s.ShedFailure }},
		{"failure", raw(func(c net.Conn) { _, _ = io.WriteString(c, reply("d14:failure reason4:fulle")) }), func(s Side) uint64 { return s.ShedFailure }},
		{"503", raw(func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n") }), func(s Side) uint64 { return s.Status }},
		{"malformed", raw(func(c net.Conn) { _, _ = io.WriteString(c, reply("<html>")) }), func(s Side) uint64 { return s.Malformed }},
		{"closed", raw(func(c net.Conn) { _ = c.Close() }), func(s Side) uint64 { return s.Reset }},
		{"half a reply, closed", raw(func(c net.Conn) {
			_, _ = io.WriteString(c, reply(servedBody)[:70])
			_ = c.Close()
		}), func(s Side) uint64 { return s.Reset }},
		{"silent", raw(func(net.Conn) {}), func(s Side) uint64 { return s.Timeout }},
	} {
		for _, mode := range []Mode{KeepAlive, Close} {
			t.Run(c.name+", "+string(mode), func(t *testing.T) {
				t.Parallel()
				serve := c.serve
				if mode == Close && c.name != "silent" { // as its request asks, the server closes after one
					serve = func(conn net.Conn) {
						c.serve(&oneRequest{Conn: conn})
					}
				}
				addr := serveConns(t, serve)
				good, timeout := 10*time.Second, time.Minute
				if c.name == "silent" {
					timeout = time.Second
				}
				if c.name == "late" {
					good = 10 * time.Millisecond
				}
				r := mustRun(t, Config{
					Target: addr, Mode: mode, Rate: 10 * n, Conns: n, Good: good, Patience: time.Minute, Timeout: timeout, Threads: 2,
					Profile: Profile{{Duration: 100 * time.Millisecond, Multiple: 1}},
				})
				if s := total(r); s.Offered != n || c.count(s) != n || s.Good+s.Late+s.Shed+s.Failed != n {
					t.Errorf("got %s; want all %d to be %s", s, n, c.name)
				}
			})
		}
	}
}

// oneRequest ends after one request.
type oneRequest struct {
	net.Conn
	asked bool
}

func (c *oneRequest) Read(b []byte) (int, error) {
	if c.asked {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(b)
	c.asked = strings.HasSuffix(string(b[:n]), "\r\n\r\n")
	return n, err
}

// Nobody listens: each request of a connection of its own is refused, and a pool cannot be opened.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	ln, addr := listen(t)
	_ = ln.Close()
	r := mustRun(t, Config{Target: addr, Mode: Close, Rate: 100, Profile: Profile{{Duration: 200 * time.Millisecond, Multiple: 1}}})
	if s := total(r); s.Refused != 20 {
		t.Errorf("got %s, want 20 refused", s)
	}
	for _, mode := range []Mode{KeepAlive, WSMessage} {
		_, err := Run(context.Background(), Config{Target: addr, Mode: mode, Rate: 100, Conns: 20})
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%s: got %v, want why no connection could be opened", mode, err)
		}
	}
}

// The sides are kept apart, by what they say and by where they come from.
func TestSidesAreKeptApart(t *testing.T) {
	t.Parallel()
	for _, source := range []string{SourceReal, SourceHeader} {
		for _, mode := range []Mode{KeepAlive, Close} {
			t.Run(source+", "+string(mode), func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex // guards seen
				seen := map[bool]map[string]int{false: {}, true: {}}
				addr := serveHTTP(t, func(ctx *fasthttp.RequestCtx) {
					isAttack := strings.HasPrefix(string(ctx.UserAgent()), "flood/")
					from := ctx.RemoteIP().String()
					if source == SourceHeader {
						from = string(ctx.Request.Header.Peek("X-Forwarded-For"))
					}
					mu.Lock()
					seen[isAttack][from]++
					mu.Unlock()
					ctx.SetBodyString(map[bool]string{false: servedBody, true: shedBody}[isAttack])
				})
				p, err := ParseProfile("300ms@1/0,700ms@1")
				if err != nil {
					t.Fatal(err)
				}
				r := mustRun(t, Config{
					Target: addr, Mode: mode, Rate: 1000, Profile: p, Conns: 200, Source: source, Honest: 60, Attackers: 20, Share: 0.75,
					Good: time.Minute, Patience: time.Minute, Timeout: time.Minute,
				})
				calm, flooded := r.Phases[0], r.Phases[1]
				if calm.Honest.Good != 300 || calm.Attack.Offered != 0 {
					t.Errorf("calm: honest %s; attack %s", calm.Honest, calm.Attack)
				}
				if n := flooded.Attack.Offered; n < 450 || n > 600 || flooded.Attack.Shed != n || flooded.Honest.Good != 700-n {
					t.Errorf("flood: honest %s; attack %s", flooded.Honest, flooded.Attack)
				}
				mu.Lock()
				defer mu.Unlock()
				for from := range seen[true] {
					if seen[false][from] > 0 {
						t.Errorf("%s is on both sides", from)
					}
				}
				if h, a := len(seen[false]), len(seen[true]); h > 60 || h < 40 || a > 20 || a < 15 {
					t.Errorf("got %d honest addresses and %d attackers, want 60 and 20", h, a)
				}
			})
		}
	}
}

func TestFindPeakAndProgress(t *testing.T) {
	t.Parallel()
	addr := serveHTTP(t, func(ctx *fasthttp.RequestCtx) {
		time.Sleep(10 * time.Millisecond)
		ctx.SetBodyString(servedBody)
	})
	c := Config{Target: addr, Conns: 100, PeakConns: 10}
	peak, err := FindPeak(context.Background(), c, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if peak < 100 || peak > 1000 {
		t.Errorf("10 connections of 10 ms a request: got a peak of %g/s, want somewhat below 1000", peak)
	}
	var seen atomic.Int64
	c.Rate, c.Profile = 100, Profile{{Duration: 1100 * time.Millisecond, Multiple: 1}}
	c.Progress = func(p Progress) { seen.Store(int64(p.Offered)) }
	mustRun(t, c)
	if n := seen.Load(); n < 50 || n > 150 {
		t.Errorf("progress: got %d offered a second, want 100", n)
	}
	c.Mode = WSMessage
	if _, err := FindPeak(context.Background(), c, time.Second); err == nil {
		t.Error("the peak of messages: got no error")
	}
}

// A flood that is interrupted ends at once, with what there was.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	addr := serveHTTP(t, func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString(servedBody) })
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	start := time.Now()
	r, err := Run(ctx, Config{
		Target: addr, Rate: 1000, Conns: 10, Profile: Profile{{Duration: 5 * time.Minute, Multiple: 1}}, Progress: func(Progress) { cancel() },
	})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > time.Minute || total(r).Offered == 0 {
		t.Errorf("after %s: %s", took, total(r))
	}
}

// Floods over WebSockets: messages arrive whole, in all modes, and slow sockets are not read from.
func TestWebSocketFloods(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{WSHandshake, WSMessage, WSOffers, WSSlow} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			var upgrades, messages, bytes atomic.Int64
			addr := serveConns(t, func(c net.Conn) {
				if _, err := ws.Upgrade(c); err != nil {
					return
				}
				upgrades.Add(1)
				for {
					_, payload, err := readFrame(c)
					if err != nil {
						return
					}
					messages.Add(1)
					bytes.Add(int64(len(payload)))
					if err := ws.WriteFrame(c, ws.NewTextFrame([]byte(`{"action":"announce"}`))); err != nil {
						return
					}
				}
			})
			const n, sockets = 200, 20
			r := mustRun(t, Config{
				Target: addr, Mode: mode, Rate: n, Conns: sockets, Good: 10 * time.Second, Patience: 10 * time.Second,
				Profile: Profile{{Duration: time.Second, Multiple: 1}},
			})
			s := total(r)
			if mode == WSHandshake {
				if s.Good != n || upgrades.Load() != n {
					t.Errorf("got %s, %d upgrades; want %d", s, upgrades.Load(), n)
				}
				return
			}
			want := int64(n)
			if mode == WSSlow {
				want += sockets / 2 // each says once that it is there
			}
			if s.Sent != n || s.Unsent != 0 {
				t.Errorf("got %s, %d sent; want all sent", s, s.Sent)
			}
			if o := r.Sockets; o.Opened != sockets || o.OpenAtEnd != sockets || o.Refused+o.ClosedByIt != 0 || o.FramesIn == 0 || o.BytesOut == 0 {
				t.Errorf("sockets: %+v", o)
			}
			// The last may be on the way still when the sockets are aborted.
			if got := messages.Load(); got > want || got < want/4 {
				t.Errorf("messages: got %d, want %d", got, want)
			}
			if mode != WSMessage && bytes.Load() < messages.Load()*5*offerBytes*8/10 {
				t.Errorf("%d messages of %d bytes are without offers", messages.Load(), bytes.Load())
			}
		})
	}
}
