//go:build e2e

package e2e

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// udpAnnouncers start a client with a torrent; each is told over UDP what the mode says, and keeps a time for its next announce.
var udpAnnouncers = []struct {
	name   string
	listen func(t *testing.T, p payload) func() (heard, error)
}{
	{"libtorrent 2.0.8", hearLibtorrent},
	{"qBittorrent 4.5", hearUDPQBittorrent},
	{"Transmission 3.00", hearTransmission},
	{"aria2 1.36", hearUDPAria2},
	{"anacrolix 1.61", hearAnacrolix},
}

// A client that has just started, in each mode: served, or told an hour and more, as a success without peers. None shows an error,
// and none is back within minutes, as they are where nobody answers.
func TestUDPSwitch(t *testing.T) {
	t.Parallel()
	for _, c := range udpAnnouncers {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tr, url := serveUDP(t)
			op := tr.operator(t)
			for _, mode := range []string{"on", "reject-new", "drain", "off", "on"} {
				op.turn(t, "udp", mode)
				got := waitHeard(t, c.listen(t, newPayload(t, mib, url)))
				row(t, "udp", mode, c.name, strconv.Quote(got.says), got.next.Round(time.Second))
				bounds := refused
				if mode == "on" {
					bounds = served
				}
				least, most := time.Duration(bounds[0])*time.Second, time.Duration(bounds[1])*time.Second
				if got.says != "" || got.next < least-12*time.Second || got.next > most+12*time.Second {
					t.Errorf("%s: it says %q, next announce in %v, want nothing and %v to %v", mode, got.says, got.next, least, most)
				}
			}
			tr.stop(t)
		})
	}
}

// What cannot be said over UDP, and is why nothing else is: an error has no interval, and nobody's silence is one.
func TestUDPWithoutInterval(t *testing.T) {
	t.Parallel()
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	list := filepath.Join(t.TempDir(), "allow")
	writeFile(t, list, "# none\n")
	tr, denied := serveUDP(t, "--tracker.access.mode=allow", "--tracker.access.file="+list)
	for _, c := range []struct {
		name, client string
		url          string
		listen       func(t *testing.T, p payload) func() (heard, error)
		says         string
		next, give   time.Duration
	}{
		{"an error", "libtorrent 2.0.8", denied, hearLibtorrent, "tracker sent a failure message", 30 * time.Second, 4 * time.Second},
		{"an error", "Transmission 3.00", denied, hearTransmission, "unregistered torrent: this tracker does not serve it", 20 * time.Second, 12 * time.Second},
		{"silence", "libtorrent 2.0.8", "udp://" + silent.LocalAddr().String() + "/announce", hearLibtorrent, "timed out", 30 * time.Second, 4 * time.Second},
	} {
		t.Run(c.name+" "+c.client, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			got := waitHeard(t, c.listen(t, newPayload(t, mib, c.url)))
			row(t, "udp", c.name, c.client, strconv.Quote(got.says), got.next.Round(time.Second), "after", time.Since(began).Round(time.Second))
			if !strings.Contains(got.says, c.says) {
				t.Errorf("it says %q, want %q", got.says, c.says)
			}
			wantAbout(t, "next announce", got.next, c.next, c.give)
		})
	}
	t.Cleanup(func() { tr.stop(t) })
}

// One that is known: served with reject-new, and it hears of off, and of on again, at its next announce.
func TestUDPSwitchOfThoseKnown(t *testing.T) {
	t.Parallel()
	tr, url := serveUDP(t)
	op := tr.operator(t)
	p := newPayload(t, mib, url)
	s := startSession(t, p)
	waitHeard(t, s.nth(1))
	for i, mode := range []string{"reject-new", "off", "on"} {
		op.turn(t, "udp", mode)
		_ = s.cmd.Process.Signal(syscall.SIGUSR1)
		got := waitHeard(t, s.nth(2+i))
		row(t, "udp", mode, "libtorrent 2.0.8, known", strconv.Quote(got.says), got.next)
		if long := got.next >= 59*time.Minute; got.says != "" || long != (mode == "off") {
			t.Errorf("%s: got %+v", mode, got)
		}
	}
	// It was a peer all the time.
	tr.wantCounts(t, p.hash, counts{Incomplete: 1})
	tr.stop(t)
}
