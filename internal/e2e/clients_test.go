//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spillway/internal/waittest"
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

// startAria2 starts a client that seeds what is complete in dir and downloads what is not, then seeds it. It speaks UDP by the
// socket of its DHT alone, which a private torrent has no use for otherwise.
func startAria2(t *testing.T, p payload, dir string, udp bool, more ...string) *process {
	t.Helper()
	port, dht := freePort(t), []string{"--enable-dht=false"}
	if udp {
		dht = []string{"--enable-dht=true", fmt.Sprintf("--dht-listen-port=%d", port), "--dht-file-path=" + filepath.Join(t.TempDir(), "dht.dat")}
	}
	return start(t, "aria2-"+filepath.Base(dir), slices.Concat([]string{"aria2c", "--no-conf", "--interface=lo", "--disable-ipv6=true",
		"--enable-dht6=false", "--enable-peer-exchange=false", "--bt-enable-lpd=false",
		"--file-allocation=none", "--check-integrity=true", "--seed-ratio=0.0", "--summary-interval=0", "--no-proxy=*",
		fmt.Sprintf("--listen-port=%d", port), "--dir=" + dir}, dht, more, []string{p.torrent})...)
}

// aria2 makes clients for moveFile.
func aria2(udp bool) func(t *testing.T, p payload, dir string, seed bool) side {
	return func(t *testing.T, p payload, dir string, _ bool) side {
		t.Helper()
		proc := startAria2(t, p, dir, udp)
		return side{
			content: func() {},
			// On SIGTERM it leaves without a word.
			leave: func() { proc.quit(t, syscall.SIGINT, 15*time.Second) },
		}
	}
}

func TestAria2Pair(t *testing.T) {
	t.Parallel()
	tr := serve(t)
	moveFile(t, tr, newPayload(t, 16*mib, tr.announce), aria2(false))
	tr.stop(t)
}

const rtorrentRC = `system.daemon.set = true
network.bind_address.set = 127.0.0.1
network.port_range.set = %[1]d-%[1]d
network.port_random.set = no
dht.mode.set = disable
protocol.pex.set = no
session.path.set = %[2]s
directory.default.set = %[3]s
load.start = %[4]s
`

// rTorrent announces and leaves as it should; moving a file on one host is something it does three times out of seven.
func TestRTorrentAnnounces(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--http.trusted_proxies="+recorderAddr)
	rec := newRecorder(t, tr)
	p := newPayload(t, 8*mib, rec.announce)
	port := freePort(t)
	rc := filepath.Join(t.TempDir(), "rtorrent.rc")
	writeFile(t, rc, fmt.Sprintf(rtorrentRC, port, t.TempDir(), p.seedDir, p.torrent))

	rt := start(t, "rtorrent", "rtorrent", "-n", "-o", "import="+rc)
	started := rec.announced(t, "started")
	started.has(t, map[string]string{
		"info_hash": string(p.hash[:]), "port": strconv.Itoa(port), "left": "0", "compact": "1",
		"numwant": "", // it leaves the number to us
	})
	if id := started.query["peer_id"]; len(id) != 20 || !strings.HasPrefix(id, "-lt0D80-") {
		t.Errorf("peer_id: got %q, want 20 bytes beginning with -lt0D80-", id)
	}
	tr.wantCounts(t, p.hash, counts{Complete: 1})

	rt.quit(t, syscall.SIGINT, 30*time.Second)
	rec.announced(t, "stopped").has(t, map[string]string{"peer_id": started.query["peer_id"], "port": strconv.Itoa(port)})
	tr.wantCounts(t, p.hash, counts{})
	tr.stop(t)
}

// delugeConf is a configuration file of Deluge 2: a version object, then the settings.
const delugeConf = `{"file": 1, "format": 1}{
  "listen_interface": "127.0.0.1", "outgoing_interface": "lo", "random_port": false, "listen_ports": [%[1]d, %[1]d],
  "dht": false, "utpex": false, "lsd": false, "upnp": false, "natpmp": false, "new_release_check": false,
  "add_paused": false, "download_location": %[2]q
}`

// Deluge announces and leaves as it should; between two of them on one host no file ever moved.
func TestDelugeAnnounces(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--http.trusted_proxies="+recorderAddr)
	rec := newRecorder(t, tr)
	const size = 8 * mib
	p := newPayload(t, size, rec.announce)
	port, rpcPort := freePort(t), freePort(t)
	config, dir := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(config, "core.conf"), fmt.Sprintf(delugeConf, port, dir))
	writeFile(t, filepath.Join(config, "auth"), "e2e:e2e:10\n")

	deluged := start(t, "deluged", "deluged", "--do-not-daemonize", "--config", config, "--port", strconv.Itoa(rpcPort), "--loglevel", "info")
	// Until the daemon answers the console fails; added twice, a torrent is still one.
	waittest.Done(t, 30*time.Second, "torrent added", func() error {
		_, err := output("deluge-console", "--config", config,
			fmt.Sprintf("connect 127.0.0.1:%d e2e e2e; add -p %s %s", rpcPort, dir, p.torrent))
		return err
	})

	started := rec.announced(t, "started")
	started.has(t, map[string]string{
		"info_hash": string(p.hash[:]), "port": strconv.Itoa(port), "left": strconv.Itoa(size), "compact": "1", "numwant": "200",
	})
	if id := started.query["peer_id"]; len(id) != 20 || !strings.HasPrefix(id, "-DE") {
		t.Errorf("peer_id: got %q, want 20 bytes beginning with -DE", id)
	}
	tr.wantCounts(t, p.hash, counts{Incomplete: 1})

	deluged.quit(t, syscall.SIGTERM, 30*time.Second)
	rec.announced(t, "stopped").has(t, map[string]string{"peer_id": started.query["peer_id"], "port": strconv.Itoa(port)})
	tr.wantCounts(t, p.hash, counts{})
	tr.stop(t)
}
