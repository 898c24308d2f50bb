//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// udpURL is in the line with which serve says that it is up.
var udpURL = regexp.MustCompile(`udp://[^\s"]+/announce`)

// serveUDP is serve with UDP, whose announce URL it returns.
func serveUDP(t *testing.T, flags ...string) (tr *tracker, url string) {
	t.Helper()
	tr = serve(t, append([]string{"--udp.listen=127.0.0.1:0"}, flags...)...)
	return tr, tr.udp(t)
}

func (tr *tracker) udp(t *testing.T) string {
	t.Helper()
	url := udpURL.FindString(tr.log())
	if url == "" {
		t.Fatalf("no udp:// URL in the log:\n%s", tr.log())
	}
	return url
}

// wantUDPAlone: no announce came over HTTP, and at least so many over UDP, none of them wrong.
func (tr *tracker) wantUDPAlone(t *testing.T, least float64) {
	t.Helper()
	op := tr.operator(t)
	body, err := getAuthorized(strings.TrimSuffix(op.api, "/api/v1/")+"/metrics", op.token)
	if err != nil {
		t.Fatal(err)
	}
	value := func(name string) (v float64) {
		for line := range strings.Lines(body) {
			if rest, ok := strings.CutPrefix(line, name+" "); ok {
				fmt.Sscan(rest, &v)
				return v
			}
		}
		t.Errorf("no metric %s", name)
		return 0
	}
	http, udp := value(`spillway_announces_total{proto="http",result="served"}`), value(`spillway_announces_total{proto="udp",result="served"}`)
	bad := value(`spillway_announces_total{proto="udp",result="bad"}`) + value(`spillway_udp_dropped_total{reason="garbage"}`) + value("spillway_udp_bad_ids_total")
	if http != 0 || udp < least || bad != 0 {
		t.Errorf("announces: got %v over HTTP, %v over UDP, and %v bad packets; want 0, %v or more, 0", http, udp, bad, least)
	}
}

func TestUDPLibtorrentPair(t *testing.T) {
	t.Parallel()
	tr, url := serveUDP(t)
	moveFile(t, tr, newPayload(t, 16*mib, url), libtorrentOn("127.0.0.1"))
	tr.wantUDPAlone(t, 5)
	tr.stop(t)
}

func TestUDPIPv6Pair(t *testing.T) {
	t.Parallel()
	tr, url := serveUDP(t, "--udp.listen=[::1]:0")
	moveFile(t, tr, newPayload(t, 16*mib, url), libtorrentOn("[::1]"))
	tr.wantUDPAlone(t, 5)
	tr.stop(t)
}

func TestUDPQBittorrentPair(t *testing.T) {
	t.Parallel()
	tr, url := serveUDP(t)
	moveFile(t, tr, newPayload(t, 16*mib, url), func(t *testing.T, p payload, dir string, seed bool) side {
		q := startQBittorrent(t, filepath.Base(dir))
		q.add(t, p, dir, seed)
		return side{
			content: func() {
				q.done(t)
				q.wantTracker(t, p, url)
			},
			leave: func() {
				if !seed {
					q.remove(t)
				}
				q.quit(t, syscall.SIGTERM, 30*time.Second)
			},
		}
	})
	tr.wantUDPAlone(t, 5)
	tr.stop(t)
}

// Transmission asks a tracker on another host; one that listens on all addresses must answer from the one that was asked.
func TestUDPTransmissionPair(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	tr := serve(t, "--http.listen="+ns.outside+":0", "--udp.listen=:0")
	port := regexp.MustCompile(`:(\d+)/`).FindStringSubmatch(tr.udp(t)[len("udp://"):])[1]
	p := newPayload(t, 16*mib, "udp://"+ns.outside+":"+port+"/announce")
	moveFile(t, tr, p, func(t *testing.T, p payload, dir string, seed bool) side {
		addr := ns.inside[0]
		if seed {
			addr = ns.inside[1]
		}
		tm := startTransmission(t, ns, addr, dir)
		tm.add(t, p)
		return side{content: func() { tm.done(t) }, leave: func() { tm.remove(t, p) }}
	})
	tr.wantUDPAlone(t, 5)
	tr.stop(t)
}

func TestUDPAria2Pair(t *testing.T) {
	t.Parallel()
	tr, url := serveUDP(t)
	moveFile(t, tr, newPayload(t, 16*mib, url), aria2(true))
	tr.wantUDPAlone(t, 5)
	tr.stop(t)
}
