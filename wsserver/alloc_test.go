//go:build linux && !race

package wsserver

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"spillway/tracker/swarm"
)

// bare is a socket without a handshake, and the other end of it.
func bare(tb testing.TB, s *Server) (t *socket, far int) {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		tb.Fatal(err)
	}
	place, why := s.sockets.reserve(loopback, s.MaxConns(), s.cfg.MaxConnsPerIP)
	if why != refusedNot {
		tb.Fatalf("no socket: %v", why)
	}
	s.sockets.adopting.Done()
	t = &socket{server: s, loop: s.loops[0], addr: loopback, place: place, fd: fds[0]}
	tb.Cleanup(func() {
		t.finish(closedPeer)
		_ = unix.Close(fds[1])
	})
	return t, fds[1]
}

// announcing is a server with a swarm of n, and a function with which each of them in turn announces with 5 offers, all of
// which arrive.
func announcing(tb testing.TB, n, sdp int) (announceOne func()) {
	tb.Helper()
	s, err := New(Config{Rate: 1e9, Burst: 1e9}, swarm.New(swarm.Config{}), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		s.stopLoops()
		s.looping.Wait()
	})
	w := s.newWorker()
	sockets, far, frames := make([]*socket, n), make([]int, n), make([][]byte, n)
	for i := range n {
		sockets[i], far[i] = bare(tb, s)
		var offers []string
		for j := range 5 {
			offers = append(offers, fmt.Sprintf(`{"offer":{"type":"offer","sdp":"%s"},"offer_id":"%020d"}`, strings.Repeat(`candidate\r\n`, sdp/12), j))
		}
		m := announce(id("h"), fmt.Sprintf(`"%020d"`, i), `,"numwant":5,"uploaded":0,"downloaded":0,"left":1,"offers":[`+strings.Join(offers, ",")+`]`)
		if frames[i], err = ws.CompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(m)))); err != nil {
			tb.Fatal(err)
		}
	}
	buf, in := make([]byte, 64<<10), make([]byte, 64<<10)
	i := 0
	return func() {
		w.now = time.Now()
		k := copy(in, frames[i%n])
		w.took(sockets[i%n], in[:k])
		w.flush()
		for _, fd := range far {
			for {
				if m, err := unix.Read(fd, buf); err != nil || m == 0 {
					break
				}
			}
		}
		i++
	}
}

func TestAnnounceDoesNotAllocate(t *testing.T) {
	announceOne := announcing(t, 10, 1200)
	for range 100 {
		announceOne()
	}
	if n := testing.AllocsPerRun(1000, announceOne); n != 0 {
		t.Errorf("allocations of an announce with 5 offers: got %g, want 0", n)
	}
}

// BenchmarkAnnounce is an announce with 5 offers, each relayed, over socket pairs, reading them included.
func BenchmarkAnnounce(b *testing.B) {
	for _, sdp := range []int{0, 1200} {
		b.Run(fmt.Sprintf("peers=10/sdp=%d", sdp), func(b *testing.B) {
			announceOne := announcing(b, 10, sdp)
			b.ReportAllocs()
			for b.Loop() {
				announceOne()
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	m := announce(id("h"), id("p"), `,"offers":[{"offer":{"type":"offer","sdp":"`+strings.Repeat(`a=candidate:1 1 udp 2113937151\r\n`, 200)+`"},"offer_id":"x"}]`)
	var msg message
	b.SetBytes(int64(len(m)))
	for b.Loop() {
		if err := parseMessage([]byte(m), &msg, 20); err != nil {
			b.Fatal(err)
		}
	}
}
