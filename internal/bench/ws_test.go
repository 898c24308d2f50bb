//go:build linux

package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// The swarms of the first WebSocket measure.
const (
	wsSockets = 1000
	wsSwarms  = wsSockets / 10
	wsOffers  = 5
)

// BenchmarkWebSocketAnnounce is the CPU of an announce with five offers, delivered to five of the nine other peers of the
// swarm, over that of bittorrent-tracker. The messages are the same.
func BenchmarkWebSocketAnnounce(b *testing.B) {
	client, _ := cores(b)
	for b.Loop() {
		// Each socket is far above what ws.rate allows: a thousand have to keep a core busy.
		servers := []server{startSpillway(b, "--ws.rate=1000000", "--ws.burst=1000000")}
		if s, ok := startNPMTracker(b, overWS); ok {
			servers = append(servers, s)
		}
		var all []entrant
		for _, s := range servers {
			l := &wsLoad{sockets: wsSockets, torrent: 1, swarms: wsSwarms, offers: wsOffers, core: client}
			fillWS(b, l, s)
			all = append(all, l.at(s))
		}
		m := contest(b, all...)
		b.ReportMetric(micros(m[0].perAnnounce), "us/announce")
		r := result{what: "CPU, WebSocket, 5 offers", spillway: m[0].String(), beside: npmTracker + " is not there"}
		if len(servers) > 1 {
			ratio := m[0].ratios[1]
			b.ReportMetric(micros(m[1].perAnnounce), "us/bittorrent-tracker")
			b.ReportMetric(ratio, "ratio")
			r.beside, r.ratio = "bittorrent-tracker "+m[1].String(), fmt.Sprintf("%.2f", ratio)
			r.verdict = atMost(b, "announce over bittorrent-tracker", ratio, 0.5, "")
		}
		results.add(r)
	}
}

// at has a server loaded for a turn.
func (l *wsLoad) at(s server) entrant {
	return entrant{s, func() (Count, error) {
		n, err := l.announce(*turn)
		if want := n.Replies * l.offers; err == nil && n.Delivered < want*99/100 {
			err = fmt.Errorf("offers delivered of %d announces: got %d, want %d", n.Replies, n.Delivered, want)
		}
		return n, err
	}}
}

// fillWS opens the load's sockets, and has each announce.
func fillWS(tb testing.TB, l *wsLoad, s server) {
	tb.Helper()
	l.addr = s.addr
	tb.Cleanup(l.close)
	if err := l.open(); err != nil {
		tb.Fatalf("%s: %v", s.name, err)
	}
	l.mustAnnounce(tb, 0)
}

// BenchmarkWebSocketMemory is resident bytes an idle socket, after an announce with five offers, in swarms of ten.
func BenchmarkWebSocketMemory(b *testing.B) {
	for _, sockets := range []int{10_000, 50_000} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) {
			if fits := wsMostSockets(b); sockets > fits {
				b.Logf("a process may have %d sockets here: %d are measured", fits, fits)
				sockets = fits
			}
			for b.Loop() {
				ours := startSpillway(b, "--http.max_conns=500", fmt.Sprintf("--ws.max_conns=%d", sockets), "--udp.listen=")
				each := wsBytesASocket(b, ours, sockets)
				b.ReportMetric(each, "B/socket")
				r := result{what: fmt.Sprintf("memory, %d idle WebSockets", sockets), spillway: fmt.Sprintf("%.0f B/socket", each)}
				if sockets == 10_000 {
					if s, ok := startNPMTracker(b, overWS); ok {
						other := wsBytesASocket(b, s, sockets)
						b.ReportMetric(other, "B/bittorrent-tracker")
						r.beside, r.ratio = fmt.Sprintf("bittorrent-tracker %.0f B", other), fmt.Sprintf("%.2f", each/other)
					}
				}
				r.verdict = atMost(b, "resident memory a socket", each, 2560, " B")
				results.add(r)
			}
		})
	}
}

// wsMostSockets is how many sockets this process, and a server it starts, can have open.
func wsMostSockets(tb testing.TB) int {
	tb.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		tb.Fatalf("read limit of open files: %v", err)
	}
	return int(limit.Max) - 2000 // http.max_conns, and what programs have open
}

// wsBytesASocket opens sockets, has each announce once, waits until the server has nothing more to do and returns what
// its resident memory has grown by. Nothing asks for a garbage collection.
func wsBytesASocket(tb testing.TB, s server, sockets int) float64 {
	tb.Helper()
	client, _ := cores(tb)
	before, err := residentBytes(s.pid)
	if err != nil {
		tb.Fatal(err)
	}
	l := &wsLoad{addr: s.addr, sockets: sockets, torrent: 1, swarms: sockets / 10, offers: wsOffers, core: client, most: 64}
	defer l.close()
	if err := l.open(); err != nil {
		tb.Fatal(err)
	}
	n := l.mustAnnounce(tb, 0)
	wsSettle(tb, s)
	after, err := residentBytes(s.pid)
	if err != nil {
		tb.Fatal(err)
	}
	each := float64(after-before) / float64(sockets)
	tb.Logf("%s: %d sockets, %d announces, %d offers delivered: %.0f B a socket, %.1f MiB before the first", s.name, sockets, n.Replies, n.Delivered, each,
		float64(before)/(1<<20))
	return each
}

// wsSettle waits until the server uses less than a hundredth of a core.
func wsSettle(tb testing.TB, s server) {
	tb.Helper()
	const look = 200 * time.Millisecond
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		before, err := sys.ProcessCPU(s.pid)
		if err != nil {
			tb.Fatal(err)
		}
		time.Sleep(look)
		after, err := sys.ProcessCPU(s.pid)
		if err != nil {
			tb.Fatal(err)
		}
		if after-before < look/100 {
			return
		}
	}
	tb.Fatalf("%s: still busy after 30 s", s.name)
}

// BenchmarkWebSocketRefusal is the CPU of a handshake that is refused, because there are as many sockets as there may be,
// over that of one that is accepted, with the end of its socket.
func BenchmarkWebSocketRefusal(b *testing.B) {
	client, _ := cores(b)
	for b.Loop() {
		// All come from one address, and ends are seen a while after they come: the loop gives way to handshakes.
		accepts := startSpillway(b, "--ws.max_conns_per_ip=16000")
		accepts.name = "accepts"
		refuses := startSpillway(b, "--ws.max_conns=1")
		refuses.name = "refuses"
		fd, err := wsDial(refuses.addr, [4]byte{127, 3, 0, 1})
		if err != nil {
			b.Fatal(err)
		}
		defer sys.Close(fd)
		// As with announces that have a connection each, the server has half of its core: the client is slower.
		start(b, role(b, "spin"))
		m := contest(b, knocks(b, refuses, false, client), knocks(b, accepts, true, client))
		ratio := m[0].ratios[1]
		b.ReportMetric(micros(m[0].perAnnounce), "us/refused")
		b.ReportMetric(micros(m[1].perAnnounce), "us/accepted")
		b.ReportMetric(ratio, "ratio")
		results.add(result{"CPU, handshake refused", m[0].String(), "accepted, and closed " + m[1].String(), fmt.Sprintf("%.2f", ratio),
			atMost(b, "refused handshake over accepted", ratio, 0.6, "")})
	}
}

// knocks has s shaken hands with for a turn; wantAccepted says what must come of it.
func knocks(tb testing.TB, s server, wantAccepted bool, core int) entrant {
	return entrant{s, func() (n Count, err error) {
		err = pinned(core, func() error {
			k := knocker{
				client:  client{Load: Load{Addr: s.addr, Conns: 120, Core: core}, stopAfter: *turn},
				request: wsHandshake(s.addr), wantAccepted: wantAccepted,
			}
			start, cpu := time.Now(), sys.ThreadCPU()
			err := k.run()
			n = Count{Replies: k.replies, Elapsed: time.Since(start), CPU: sys.ThreadCPU() - cpu}
			return err
		})
		if err == nil {
			wsSettle(tb, s) // the ends of the last sockets are the accepted ones' cost
		}
		return n, err
	}}
}

// knocker opens a connection for each handshake, and closes it when it has the answer.
type knocker struct {
	client
	request      []byte
	wantAccepted bool
	turn         int
}

func (k *knocker) run() error {
	conns := make([]closedConn, k.Conns)
	for i := range conns {
		conns[i] = closedConn{fd: -1, buf: make([]byte, 1024)}
	}
	defer func() {
		for i := range conns {
			if conns[i].fd >= 0 {
				sys.Close(conns[i].fd)
			}
		}
	}()
	for {
		if over, err := k.over(time.Now()); over || err != nil {
			return err
		}
		for i := range conns {
			if err := k.visit(&conns[i]); err != nil {
				return err
			}
		}
	}
}

func (k *knocker) visit(c *closedConn) (err error) {
	if c.fd < 0 {
		// Addresses in turn: the ports of one would be used up by connections that the client closes first.
		k.turn++
		if c.fd, err = dial(k.Addr, [4]byte{127, 2, byte(k.turn >> 4), 1}); err != nil {
			return err
		}
		c.sent, c.got = false, 0
	}
	if !c.sent {
		err := send(c.fd, k.request)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		c.sent = err == nil
		return err
	}
	n, err := recv(c.fd, c.buf[c.got:])
	if err != nil || n < 0 {
		return err
	}
	c.got += n
	answer := c.buf[:c.got]
	switch accepted := bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")); {
	case n == 0 && (k.wantAccepted || !bytes.HasPrefix(answer, []byte("HTTP/1.1 503 "))):
		return fmt.Errorf("server closed after %q: %w", answer, io.ErrUnexpectedEOF)
	case accepted && !k.wantAccepted || len(answer) > 13 && !accepted && k.wantAccepted:
		return fmt.Errorf("answer to handshake: got %q", answer)
	case n > 0 && !(accepted && bytes.HasSuffix(answer, endOfHead)):
		return nil // more is to come, or the server's end after a 503
	}
	k.replies++
	sys.Close(c.fd)
	c.fd = -1
	return nil
}
