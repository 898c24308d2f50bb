//go:build linux

package bench

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkWebSocketMemory is resident bytes an idle socket, after an announce with five offers, in swarms of ten.
func BenchmarkWebSocketMemory(b *testing.B) {
	for _, sockets := range []int{10_000, 50_000} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) {
			if fits := wsMostSockets(b); sockets > fits {
				b.Logf("a process may have %d sockets here: %d are measured", fits, fits)
				sockets = fits
			}
			for b.Loop() {
				ours := startWebSockets(b, 1, fmt.Sprintf("--ws.max_conns=%d", sockets))
				each := wsBytesASocket(b, ours.server, sockets)
				b.ReportMetric(each, "B/socket")
				r := result{what: fmt.Sprintf("memory, %d idle WebSockets", sockets), spillway: fmt.Sprintf("%.0f B/socket", each)}
				if sockets == 10_000 {
					if s, ok := startNPMTracker(b); ok {
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
	before, err := ResidentBytes(s.pid)
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
	after, err := ResidentBytes(s.pid)
	if err != nil {
		tb.Fatal(err)
	}
	each := float64(after-before) / float64(sockets)
	tb.Logf("%s: %d sockets, %d announces, %d offers delivered: %.0f B a socket, %.1f MiB before the first", s.name, sockets, n.replies, n.delivered, each,
		float64(before)/(1<<20))
	return each
}

// wsSettle waits until the server uses less than a hundredth of a core.
func wsSettle(tb testing.TB, s server) {
	tb.Helper()
	const look = 200 * time.Millisecond
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		before, err := CPUTime(s.pid)
		if err != nil {
			tb.Fatal(err)
		}
		time.Sleep(look)
		after, err := CPUTime(s.pid)
		if err != nil {
			tb.Fatal(err)
		}
		if after-before < look/100 {
			return
		}
	}
	tb.Fatalf("%s: still busy after 30 s", s.name)
}
