//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// libtorrentOn makes clients for moveFile that live on one address.
func libtorrentOn(host string) func(t *testing.T, p payload, dir string, seed bool) side {
	return func(t *testing.T, p payload, dir string, seed bool) side {
		t.Helper()
		return libtorrent(t, p, dir, fmt.Sprintf("%s:%d", host, freePort(t)), seed)
	}
}

// libtorrent starts Debian's python3-libtorrent; a python of the user's own comes without it, hence the full path.
// listen is libtorrent's listen_interfaces: "127.0.0.1:6881,[::1]:6881".
func libtorrent(t *testing.T, p payload, dir, listen string, seed bool) side {
	t.Helper()
	role := "leech"
	if seed {
		role = "seed"
	}
	proc := start(t, "libtorrent-"+role, "/usr/bin/python3", "testdata/session.py", p.torrent, dir, listen, role)
	return side{
		content: func() {
			if log := proc.log(); !seed && !strings.Contains(log, `"finished": true`) {
				t.Errorf("libtorrent: got %q, want it to say that it has finished", log)
			}
		},
		leave: func() { proc.quit(t, syscall.SIGTERM, 15*time.Second) },
	}
}

func TestLibtorrentPair(t *testing.T) {
	t.Parallel()
	tr := serve(t)
	p := newPayload(t, 16*mib, tr.announce)
	moveFile(t, tr, p, libtorrentOn("127.0.0.1"))
	tr.stop(t)
}
