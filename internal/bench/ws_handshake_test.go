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
)

// BenchmarkWebSocketRefusal is the CPU of a handshake that is refused, because there are as many sockets as there may be,
// over that of one that is accepted, with the end of its socket.
func BenchmarkWebSocketRefusal(b *testing.B) {
	client, _ := cores(b)
	for b.Loop() {
		// All come from one address, and ends are seen a while after they come: the loop gives way to handshakes.
		accepts := startWebSockets(b, 1, "--ws.max_conns_per_ip=18000").server
		accepts.name = "accepts"
		refuses := startWebSockets(b, 1, "--ws.max_conns=1").server
		refuses.name = "refuses"
		fd, err := wsDial(refuses.addr, &unix.SockaddrInet4{Addr: [4]byte{127, 3, 0, 1}})
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(fd)
		// As with announces that have a connection each, the server has half of its core: the client is slower.
		start(b, role(b, "spin"))
		servers := []server{refuses, accepts}
		turns := make([][]sample, 2)
		for range *rounds {
			for i, s := range servers {
				turns[i] = append(turns[i], wsHandshakes(b, s, i == 1, client))
			}
		}
		m := wsOutcomes(b, turns, servers)
		ratio := m[0].ratios[1]
		b.ReportMetric(micros(m[0].perAnnounce), "us/refused")
		b.ReportMetric(micros(m[1].perAnnounce), "us/accepted")
		b.ReportMetric(ratio, "ratio")
		results.add(result{"CPU, handshake refused", m[0].String(), "accepted, and closed " + m[1].String(), fmt.Sprintf("%.2f", ratio),
			atMost(b, "refused handshake over accepted", ratio, 0.6, "")})
	}
}

// wsHandshakes shakes hands with s for one turn; wantAccepted says what must come of it.
func wsHandshakes(tb testing.TB, s server, wantAccepted bool, core int) sample {
	tb.Helper()
	before, sleptBefore := usage(tb, s)
	var k knocker
	var elapsed, cpu time.Duration
	var err error
	done := make(chan struct{})
	go func() { // ends with its thread pinned, and the thread with it
		defer close(done)
		if err = PinThread(core); err != nil {
			return
		}
		k = knocker{
			client: client{
				Load: Load{Addr: s.addr, Conns: 120, Core: core}, stopAfter: *turn,
				to: unix.SockaddrInet4{Addr: s.addr.Addr().As4(), Port: int(s.addr.Port())},
			},
			request: wsHandshake(s.addr), wantAccepted: wantAccepted,
		}
		start, before := time.Now(), threadCPU()
		err = k.run()
		elapsed, cpu = time.Since(start), threadCPU()-before
	}()
	<-done
	if err != nil {
		tb.Fatalf("%s: %v", s.name, err)
	}
	wsSettle(tb, s) // the ends of the last sockets are the accepted ones' cost
	after, slept := usage(tb, s)
	return sample{
		perAnnounce: (after - before) / time.Duration(k.replies),
		rate:        float64(k.replies) / elapsed.Seconds(),
		sleeps:      float64(slept-sleptBefore) / float64(k.replies),
		client:      float64(cpu) / float64(elapsed),
	}
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
				_ = unix.Close(conns[i].fd)
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
		from := unix.SockaddrInet4{Addr: [4]byte{127, 2, byte(k.turn >> 4), 1}}
		if c.fd, err = k.dial(&from, unix.SOCK_NONBLOCK); err != nil {
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
	err = unix.Close(c.fd)
	c.fd = -1
	return err
}
