//go:build linux

package wsserver

import (
	"log/slog"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"spillway/tracker/swarm"
)

// FuzzStream feeds a socket whatever bytes there are, whole and cut into pieces: it must make the same of them.
func FuzzStream(f *testing.F) {
	masked := func(fin bool, op ws.OpCode, payload string) string {
		b, err := ws.CompileFrame(ws.MaskFrameWith(ws.NewFrame(op, fin, []byte(payload)), [4]byte{1, 2, 3, 4}))
		if err != nil {
			f.Fatal(err)
		}
		return string(b)
	}
	m := announce(id("h"), id("p"), offers(2))
	f.Add([]byte(masked(true, ws.OpText, m)+masked(true, ws.OpPing, "x")+masked(true, ws.OpBinary, `{"action":"scrape","info_hash":`+id("h")+`}`)), uint8(7))
	f.Add([]byte(masked(false, ws.OpText, m[:9])+masked(true, ws.OpPong, "")+masked(true, ws.OpContinuation, m[9:])+masked(true, ws.OpClose, "\x03\xe8")), uint8(1))
	f.Add([]byte(masked(true, ws.OpText, `{`)+"\x81\xff\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"), uint8(3))
	s, err := New(Config{MaxMessage: 4096, Rate: 1e9, Burst: 1e9}, swarm.New(swarm.Config{}), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		s.stopLoops()
		s.looping.Wait()
	})
	f.Fuzz(func(t *testing.T, b []byte, piece uint8) {
		whole, cut := s.feed(t, b, len(b)+1), s.feed(t, b, int(piece)+1)
		if whole != cut {
			t.Errorf("%x: whole %+v, in pieces of %d %+v", b, whole, int(piece)+1, cut)
		}
		if n := s.buffered.used.Load(); n != 0 {
			t.Errorf("buffered after %x: got %d bytes, want 0", b, n)
		}
	})
}

// made is what a server made of some bytes.
type made struct {
	served, bad, scraped uint64
	frames               int // answered
	failed               bool
}

func (s *Server) feed(t *testing.T, b []byte, piece int) (m made) {
	place, _ := s.sockets.reserve(loopback, 1, 1)
	s.sockets.adopting.Done()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	sock, far := &socket{server: s, loop: s.loops[0], addr: loopback, place: place, fd: fds[0]}, fds[1]
	before := made{served: s.metrics.announceServed.Get(), bad: s.metrics.announceBad.Get(), scraped: s.metrics.scrapeServed.Get()}
	w := s.newWorker()
	w.now = time.Now()
	for len(b) > 0 {
		space := w.readBuffer()
		if sock.in != nil {
			space = sock.space()
		}
		n := copy(space, b[:min(piece, len(b))])
		w.took(sock, space[:n])
		b = b[n:]
	}
	w.flush()
	m = made{s.metrics.announceServed.Get() - before.served, s.metrics.announceBad.Get() - before.bad, s.metrics.scrapeServed.Get() - before.scraped, 0, sock.closing.Load()}
	sock.finish(closedPeer)
	all := make([]byte, 0, 256<<10)
	for {
		n, err := unix.Read(far, all[len(all):cap(all)])
		if n <= 0 || err != nil {
			break
		}
		all = all[:len(all)+n]
	}
	_ = unix.Close(far)
	for len(all) > 0 {
		all = all[frameBytes(all):]
		m.frames++
	}
	return m
}
