// Package hosts_test holds the files of deploy to one another, and sets hosts up with them: a relay, a backend and a client in
// namespaces of their own, proxies in front of a tracker, a Debian package that is installed, upgraded and purged.
package hosts_test

import (
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The files say the same addresses and ports, in four languages: an operator who changes one finds the others by the same value.
func TestHostFilesAgree(t *testing.T) {
	t.Parallel()
	const (
		relayPublic, backendPublic = "203.0.113.10", "192.0.2.20"
		relayTunnel, backendTunnel = "10.66.0.1", "10.66.0.2"
	)
	files := map[string]map[string]string{
		// What of a file is read, and what it must be.
		"wireguard/relay.conf": {
			`(?m)^Address = (\S+)/24$`: relayTunnel, `(?m)^#6 Address = (\S+)/64$`: "fd66::1", `(?m)^ListenPort = (\d+)$`: "51820",
			`(?m)^Endpoint = (\S+):51820$`: backendPublic, `(?m)^AllowedIPs = (\S+)/32$`: backendTunnel, `(?m)^#6 AllowedIPs = (\S+)/128$`: "fd66::2",
			`(?m)^MTU = (\d+)$`: "1420",
		},
		"wireguard/backend.conf": {
			`(?m)^Address = (\S+)/24$`: backendTunnel, `(?m)^#6 Address = (\S+)/64$`: "fd66::2", `(?m)^ListenPort = (\d+)$`: "51820",
			`(?m)^Endpoint = (\S+):51820$`: relayPublic, `(?m)^AllowedIPs = (\S+)$`: "0.0.0.0/0", `(?m)^MTU = (\d+)$`: "1420",
			`(?m)^PostUp = ip -4 rule add from (\S+) `: backendTunnel, `(?m)^PreDown = ip -4 rule del from (\S+) `: backendTunnel,
			`(?m)^#6 PostUp = ip -6 rule add from (\S+) `: "fd66::2", `(?m)^#6 PreDown = ip -6 rule del from (\S+) `: "fd66::2",
		},
		"firewall/relay.nft": {
			`define backend_public = (\S+)`: backendPublic, `define backend_tunnel = { (\S+) }`: backendTunnel, `define backend_tunnel6 = { (\S+) }`: "fd66::2",
			`define backend_port = (\S+)`: "6969", `define public_ports = { (.*) }`: "80, 443", `define ssh_port = (\S+)`: "22",
			`define wireguard_port = (\S+)`: "51820",
		},
		"firewall/backend.nft": {
			`define relay_public = (\S+)`: relayPublic, `define backend_tunnel = (\S+)`: backendTunnel, `define backend_tunnel6 = (\S+)`: "fd66::2",
			`define backend_port = (\S+)`: "6969", `define ssh_port = (\S+)`: "22", `define wireguard_port = (\S+)`: "51820",
		},
		"firewall/relay.ufw.sh": {
			`\nbackend_public=(\S+)`: backendPublic, `\nbackend_tunnel=(\S+)`: backendTunnel, `\nbackend_tunnel6=(\S+)`: "fd66::2",
			`\nbackend_port=(\S+)`: "6969", `to any port (\d+,\d+)`: "80,443", `\nssh_port=(\S+)`: "22", `\nwireguard_port=(\S+)`: "51820",
			`--dport (51820)`: "51820",
		},
		"firewall/backend.ufw.sh": {
			`\nrelay_public=(\S+)`: relayPublic, `\nbackend_tunnel=(\S+)`: backendTunnel, `\nbackend_tunnel6=(\S+)`: "fd66::2",
			`\nbackend_port=(\S+)`: "6969", `\nssh_port=(\S+)`: "22", `\nwireguard_port=(\S+)`: "51820", `--dport (6969)`: "6969",
		},
	}
	known := []string{relayPublic, backendPublic, relayTunnel, backendTunnel, "0.0.0.0", "10.66.0.0", "192.0.2.0"}
	for name, wants := range files {
		text := read(t, name)
		for pattern, want := range wants {
			m := regexp.MustCompile(pattern).FindStringSubmatch(text)
			if m == nil {
				t.Errorf("%s: nothing matches %s", name, pattern)
			} else if m[1] != want {
				t.Errorf("%s: %s: got %s, want %s", name, pattern, m[1], want)
			}
		}
		// Nor is there an address the others do not know.
		for _, a := range regexp.MustCompile(`\d+\.\d+\.\d+\.\d+`).FindAllString(text, -1) {
			if _, err := netip.ParseAddr(a); err != nil || !slices.Contains(known, a) {
				t.Errorf("%s: address %s is in no other file", name, a)
			}
		}
	}
	for _, doc := range []string{"../docs/relay.md", "../docs/install.md"} {
		if text := read(t, doc); !strings.Contains(text, relayTunnel) || !strings.Contains(text, backendTunnel) {
			t.Errorf("%s does not name %s and %s, the tunnel's addresses", doc, relayTunnel, backendTunnel)
		}
	}
}

// The firewall lets in whom the tracker believes.
func TestCDNsRangesAreTheTrackers(t *testing.T) {
	t.Parallel()
	ranges := func(text string) []string {
		text = regexp.MustCompile(`(?m)^#.*$`).ReplaceAllString(text, "")
		found := regexp.MustCompile(`[0-9a-f:.]+/\d+`).FindAllString(text, -1)
		slices.Sort(found)
		return found
	}
	got, want := ranges(read(t, "firewall/cdn-only.nft")), ranges(read(t, "../tracker/cloudflare.txt"))
	if len(want) < 10 || !slices.Equal(got, want) {
		t.Errorf("firewall/cdn-only.nft has the ranges %v, tracker/cloudflare.txt %v", got, want)
	}
}

// read gives a file of deploy, or beside it.
func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
