//go:build linux

package bench

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/internal/flood"
)

// peerTorrents is how many torrents there are at most, for opentracker's list.
const peerTorrents = 10_000

// allPeers are those that can be measured. Each is as its authors ship it.
func allPeers() []peer {
	return []peer{
		{
			name: "spillway", speaks: []protocol{httpKept, httpClose, overUDP, overWS}, goodKey: "external ip",
			version: func() string { return "this tree" }, start: startPeerSpillway,
		},
		{
			// It closes every connection.
			name: "opentracker", speaks: []protocol{httpClose, overUDP}, goodKey: "interval",
			version: debianVersion("opentracker"), start: startPeerOpentracker,
		},
		{name: "aquatic_udp", speaks: []protocol{overUDP}, version: aquaticVersion("aquatic_udp"), start: startAquatic("aquatic_udp")},
		// The two bytes after its dictionaries are no bencoding to the generator of floods, so it is not flooded.
		{name: "aquatic_http", speaks: []protocol{httpKept, httpClose}, most: 100_000, version: aquaticVersion("aquatic_http"), start: startAquatic("aquatic_http")},
		{name: "aquatic_ws", speaks: []protocol{overWS}, version: aquaticVersion("aquatic_ws"), start: startAquatic("aquatic_ws")},
		{
			name: "bittorrent-tracker", speaks: []protocol{httpKept, httpClose, overUDP, overWS}, goodKey: "interval", most: 100_000,
			version: npmVersion, start: startPeerNPM,
		},
	}
}

func startPeerSpillway(tb testing.TB, over protocol, flags ...string) (server, func()) {
	tb.Helper()
	path := *program
	if path == "" {
		var err error
		if path, err = build(); err != nil {
			tb.Fatal(err)
		}
	}
	s := server{name: "spillway", addr: freeAddr(tb)}
	udp := ""
	if over == overUDP {
		udp = s.addr.String()
	}
	cmd := exec.Command(path, append([]string{"serve", "--data_dir=" + tb.TempDir(), "--http.listen=" + s.addr.String(), "--udp.listen=" + udp, "--admin.listen=",
		"--http.max_conns=5000", "--ws.max_conns=12000", "--store.memory.max=2GiB", "--store.snapshot.every=0s", "--log.level=error"}, flags...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	stop := startStoppable(tb, cmd)
	waitListening(tb, s.addr)
	s.pid = cmd.Process.Pid
	return s, stop
}

// startPeerOpentracker gives it the torrents of all measures: Debian builds it with a list of those it serves.
func startPeerOpentracker(tb testing.TB, _ protocol, _ ...string) (server, func()) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "opentracker-peer-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // it drops to nobody
		tb.Fatal(err)
	}
	var list []byte
	for i := range floodTorrents {
		list = fmt.Appendf(list, "%x\n", flood.InfoHash(i))
	}
	for i := range peerTorrents {
		list = fmt.Appendf(list, "%x\n", InfoHash(i))
	}
	if err := os.WriteFile(filepath.Join(dir, "whitelist"), list, 0o644); err != nil {
		tb.Fatal(err)
	}
	s := server{name: "opentracker", addr: freeAddr(tb)}
	port := fmt.Sprint(s.addr.Port())
	cmd := exec.Command("opentracker", "-i", "127.0.0.1", "-p", port, "-P", port, "-d", dir, "-w", "whitelist")
	stop := startStoppable(tb, cmd)
	waitListening(tb, s.addr)
	waitWhitelist(tb, s.addr, peerTorrents-1)
	s.pid = cmd.Process.Pid
	return s, stop
}

// peersRoot is where .ci/install-peers puts aquatic.
func peersRoot() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "spillway-peers")
}

func aquaticProgram(name string) (string, error) {
	return exec.LookPath(filepath.Join(peersRoot(), "bin", name))
}

// startAquatic starts one of aquatic's three programs with its own default configuration, which it prints: one worker of each kind.
func startAquatic(name string) func(testing.TB, protocol, ...string) (server, func()) {
	return func(tb testing.TB, over protocol, _ ...string) (server, func()) {
		tb.Helper()
		path, err := aquaticProgram(name)
		if err != nil {
			tb.Fatal(err)
		}
		defaults, err := exec.Command(path, "-p").Output()
		if err != nil {
			tb.Fatalf("%s -p: %v", name, err)
		}
		s := server{name: name, addr: freeAddr(tb)}
		config := filepath.Join(tb.TempDir(), "config.toml")
		if err := os.WriteFile(config, aquaticConfig(defaults, s.addr, over != httpClose), 0o644); err != nil {
			tb.Fatal(err)
		}
		cmd := exec.Command(path, "-c", config)
		cmd.Stderr = os.Stderr
		stop := startStoppable(tb, cmd)
		if over == overUDP {
			waitUDP(tb, s.addr)
		} else {
			waitListening(tb, s.addr)
		}
		s.pid = cmd.Process.Pid
		return s, stop
	}
}

var (
	aquaticAddress = regexp.MustCompile(`(?m)^(address|address_ipv4) = .*$`)
	aquaticIPv6    = regexp.MustCompile(`(?m)^(use_ipv6|only_ipv6) = .*$`)
	aquaticKeep    = regexp.MustCompile(`(?m)^keep_alive = .*$`)
	aquaticPeers   = regexp.MustCompile(`(?m)^max_response_peers = .*$`)
)

// aquaticConfig is its defaults on another address, and with as many peers in a reply as others (its default over UDP is 30). Kept
// connections are a setting: it does not look at what a request says.
func aquaticConfig(defaults []byte, addr netip.AddrPort, keep bool) []byte {
	b := aquaticAddress.ReplaceAll(defaults, fmt.Appendf(nil, `$1 = "%s"`, addr))
	b = aquaticIPv6.ReplaceAll(b, []byte("$1 = false"))
	b = aquaticPeers.ReplaceAll(b, fmt.Appendf(nil, "max_response_peers = %d", numWant))
	return aquaticKeep.ReplaceAll(b, fmt.Appendf(nil, "keep_alive = %t", keep))
}

// waitUDP waits for an answer to a connect.
func waitUDP(tb testing.TB, addr netip.AddrPort) {
	tb.Helper()
	request := binary.BigEndian.AppendUint64(nil, 0x41727101980)
	request = binary.BigEndian.AppendUint64(request, 7)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(addr))
		if err != nil {
			tb.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, err = c.Write(request)
		if err == nil {
			_, err = c.Read(make([]byte, 64))
		}
		_ = c.Close()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("nothing answers at udp://%s: %v", addr, err)
		}
	}
}

// peerNPMServer is bittorrent-tracker's server with what is asked for of its protocols, on a port given.
const peerNPMServer = `
import Server from 'bittorrent-tracker/server'
const [port, udp, ws] = [Number(process.env.PORT), process.env.UDP === '1', process.env.WS === '1']
const server = new Server({ udp, http: !udp && !ws, ws, stats: false })
server.on('error', err => { console.error(err); process.exit(1) })
server.on('warning', () => {}) // in a flood, thousands: of clients that are gone
server.listen(port, { http: '127.0.0.1', udp: '127.0.0.1', udp6: '::1' })
`

func startPeerNPM(tb testing.TB, over protocol, _ ...string) (server, func()) {
	tb.Helper()
	dir, err := installNPMTracker()
	if err != nil {
		tb.Fatal(err)
	}
	s := server{name: "bittorrent-tracker", addr: freeAddr(tb)}
	flag := func(name string, p protocol) string {
		return fmt.Sprintf("%s=%d", name, map[bool]int{true: 1}[over == p])
	}
	cmd := exec.Command("node", "--input-type=module", "-e", peerNPMServer)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), fmt.Sprintf("PORT=%d", s.addr.Port()), flag("UDP", overUDP), flag("WS", overWS))
	stop := startStoppable(tb, cmd)
	if over == overUDP {
		waitUDP(tb, s.addr)
	} else {
		waitListening(tb, s.addr)
	}
	s.pid = cmd.Process.Pid
	return s, stop
}

func npmVersion() string {
	if _, err := installNPMTracker(); err != nil {
		return ""
	}
	node, err := exec.Command("node", "--version").Output()
	if err != nil {
		return ""
	}
	_, version, _ := strings.Cut(npmTracker, "@")
	return version + ", node " + strings.TrimSpace(string(node))
}

func debianVersion(name string) func() string {
	return func() string {
		if _, err := exec.LookPath(name); err != nil {
			return ""
		}
		out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", name).Output()
		if err != nil {
			return "of unknown version"
		}
		return string(out)
	}
}

// aquaticVersion reads what cargo notes of what it has installed.
func aquaticVersion(name string) func() string {
	return func() string {
		if _, err := aquaticProgram(name); err != nil {
			return ""
		}
		notes, _ := os.ReadFile(filepath.Join(peersRoot(), ".crates.toml"))
		return crateVersion(string(notes), name)
	}
}

// crateVersion finds a line such as "aquatic_ws 0.9.0 (registry+https://...)" = ["aquatic_ws"].
func crateVersion(notes, name string) string {
	for line := range strings.Lines(notes) {
		f := strings.Fields(strings.TrimLeft(line, `"`))
		if i := slices.Index(f, name); i == 0 && len(f) > 1 {
			return f[1]
		}
	}
	return "of unknown version"
}
