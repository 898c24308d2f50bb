//go:build linux

package bench

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// peerTorrents is how many torrents there are at most.
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

func startPeerSpillway(tb testing.TB, over protocol, flags ...string) server {
	tb.Helper()
	all := []string{"--admin.listen=", "--http.max_conns=5000", "--ws.max_conns=12000", "--log.level=error"}
	if over != overUDP {
		all = append(all, "--udp.listen=")
	}
	return startSpillway(tb, append(all, flags...)...)
}

func startPeerOpentracker(tb testing.TB, _ protocol, _ ...string) server {
	tb.Helper()
	s, _ := startOpentracker(tb, peerTorrents)
	return s
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
func startAquatic(name string) func(testing.TB, protocol, ...string) server {
	return func(tb testing.TB, over protocol, _ ...string) server {
		tb.Helper()
		path, err := aquaticProgram(name)
		if err != nil {
			tb.Fatal(err)
		}
		defaults, err := exec.Command(path, "-p").Output()
		if err != nil {
			tb.Fatalf("%s -p: %v", name, err)
		}
		addr := freeAddr(tb)
		config := filepath.Join(tb.TempDir(), "config.toml")
		if err := os.WriteFile(config, aquaticConfig(defaults, addr, over != httpClose), 0o644); err != nil {
			tb.Fatal(err)
		}
		cmd := exec.Command(path, "-c", config)
		cmd.Stderr = os.Stderr
		return startAt(tb, name, addr, cmd, over)
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

func startPeerNPM(tb testing.TB, over protocol, _ ...string) server {
	tb.Helper()
	s, _ := startNPMTracker(tb, over)
	return s
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
