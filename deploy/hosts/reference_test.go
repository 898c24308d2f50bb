//go:build e2e

package hosts_test

import (
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"spillway/internal/waittest"
)

// reference is the set-up of docs/install.md: a client, a relay and a backend, each on a network of its own, and WireGuard between the
// last two. The addresses are those of the files, which are made for examples (RFC 5737) and belong to nobody.
type reference struct {
	internet, client, relay, backend *host
}

func newReference(t *testing.T) reference {
	t.Helper()
	r := reference{newHost(t, "internet"), newHost(t, "client"), newHost(t, "relay"), newHost(t, "backend")}
	for _, end := range []struct {
		*host
		link, net, net6, addr string
	}{
		{r.client, "client", "198.51.100.", "2001:db8:1::", "9"}, {r.relay, "relay", "203.0.113.", "2001:db8:2::", "10"},
		{r.backend, "backend", "192.0.2.", "2001:db8:3::", "20"},
	} {
		join(t, r.internet, end.link, []string{end.net + "1/24", end.net6 + "1/64"}, end.host, "eth0",
			[]string{end.net + end.addr + "/24", end.net6 + end.addr + "/64"})
		// Strict, as some distributions have it: the way back must stand up to that.
		end.run(t, "ip route add default via "+end.net+"1; ip -6 route add default via "+end.net6+"1; sysctl -qw net.ipv4.conf.all.rp_filter=1")
	}
	r.internet.run(t, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	return r
}

// tunnel brings up WireGuard with the shipped files, keys made for the test in place of the words.
func (r reference) tunnel(t *testing.T) {
	t.Helper()
	key := func(stdin string, args ...string) string {
		cmd := exec.Command("wg", args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("wg %v: %v; .ci/install installs it", args, err)
		}
		return strings.TrimSpace(string(out))
	}
	relayKey, backendKey := key("", "genkey"), key("", "genkey")
	words := strings.NewReplacer("RELAY_PRIVATE_KEY", relayKey, "BACKEND_PRIVATE_KEY", backendKey,
		"RELAY_PUBLIC_KEY", key(relayKey, "pubkey"), "BACKEND_PUBLIC_KEY", key(backendKey, "pubkey"), "SHARED_KEY", key("", "genpsk"))
	for _, end := range []struct {
		*host
		file string
	}{{r.relay, "relay.conf"}, {r.backend, "backend.conf"}} {
		conf := words.Replace(read(t, "wireguard/"+end.file))
		if m := regexp.MustCompile(`(?m)^[^#\n]*[A-Z]+_KEY`).FindString(conf); m != "" {
			t.Fatalf("%s: a word that is not replaced: %s", end.file, m)
		}
		conf = strings.ReplaceAll(conf, "\n#6 ", "\n")
		end.write(t, "/etc/wireguard/wg0.conf", conf)
		end.run(t, "wg-quick strip wg0 > /dev/null")
		// Where the kernel has no WireGuard wg-quick takes wireguard-go, which needs /dev/net/tun.
		if out, err := end.try(t, "wg-quick up wg0"); err != nil {
			if strings.Contains(out, "/dev/net/tun") || strings.Contains(out, "Failed to create TUN") {
				t.Skipf("no WireGuard here, neither in the kernel nor beside it:\n%s", out)
			}
			t.Fatalf("wg-quick up on the %s: %v\n%s", end.name, err, out)
		}
	}
	waittest.Done(t, waittest.Patience, "tunnel", func() error {
		out := r.relay.run(t, "wg show wg0 latest-handshakes")
		return errIfNot(!strings.HasSuffix(strings.TrimSpace(out), "\t0"), out)
	})

}

// What curl's exit code is when nothing comes in time, and when the connection is refused.
const silence, refused = "28", "7"

// answers asks all of these at once, and tells how curl ended.
func (h *host) answers(t *testing.T, at ...string) map[string]string {
	t.Helper()
	out := h.run(t, "for at in "+strings.Join(at, " ")+"; do (code=0; curl -s -m 2 -g -o /dev/null http://$at/healthz || code=$?; echo $at $code) & done; wait")
	codes := make(map[string]string)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 {
			codes[f[0]] = f[1]
		}
	}
	if len(codes) != len(at) {
		t.Fatalf("asked %v, got %q", at, out)
	}
	return codes
}

const announceTo = "curl -sS -m 20 -g 'http://%s/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-qB4500-%012d&port=%d&left=%d&compact=0&uploaded=0&downloaded=0'"

// The files of deploy make the reference set-up: an announce passes, under the client's own address, and nothing else does.
func TestReferenceSetUp(t *testing.T) {
	for _, firewall := range []struct{ name, file, load string }{
		// Twice: a file that is loaded again must not add to what it made before.
		{"nftables", "nft", "nft -c -f /run/firewall; nft -f /run/firewall; nft -f /run/firewall"},
		{"ufw", "ufw.sh", "sh /run/firewall; ufw --force enable"},
	} {
		t.Run(firewall.name, func(t *testing.T) {
			t.Parallel()
			r := newReference(t)
			for _, end := range []*host{r.relay, r.backend} {
				end.write(t, "/run/firewall", read(t, "firewall/"+end.name+"."+firewall.file))
				end.run(t, firewall.load)
			}
			r.tunnel(t)
			said := r.backend.serve(t, "tracker", `/run/bin/spillway serve --data_dir=/run/data --http.listen=10.66.0.2:6969,[fd66::2]:6969 --udp.listen=`)
			waittest.Done(t, waittest.Patience, "tracker up", func() error { return errIfNot(strings.Contains(said(), "msg=serving"), said()) })
			relay := r.relay.serve(t, "relay", `/run/bin/spillway relay --data_dir=/run/data --relay.mode=kernel --relay.backends=10.66.0.2:6969,[fd66::2]:6969`)
			waittest.Done(t, waittest.Patience, "relay up", func() error { return errIfNot(strings.Contains(relay(), "msg=relaying"), relay()) })
			r.works(t, firewall.name, relay)
		})
	}
}

// works tells whether the set-up does what it is for.
func (r reference) works(t *testing.T, firewall string, relay func() string) {
	t.Helper()
	if !strings.Contains(relay(), "not masquerading") {
		t.Errorf("the relay masquerades: the way back of wireguard/backend.conf does not lead through it")
	}
	if strings.Contains(relay(), "a firewall of this machine may drop") {
		t.Errorf("the relay finds fault with its firewall")
	}
	// A peer is stored under the address it came from, and given to the next.
	for i, at := range []string{"203.0.113.10", "[2001:db8:2::10]"} {
		var out string
		waittest.Done(t, waittest.Patience, "announce through the relay", func() (err error) {
			out, err = r.client.try(t, fmt.Sprintf(announceTo, at, 1, 6881, 1))
			return err
		})

		out += r.client.run(t, fmt.Sprintf(announceTo, at, 2, 6882, 0))
		want := []string{"12:198.51.100.9", "13:2001:db8:1::9"}[i]
		if !strings.Contains(out, want) || !strings.Contains(out, "6881") {
			t.Errorf("announce to %s: got %q, want the first peer, at %s", at, out, want)
		}
	}
	if out := r.client.run(t, "curl -sS -m 20 -o /dev/null -w '%{http_code}' http://203.0.113.10:443/healthz"); out != "200" {
		t.Errorf("port 443: got %s, want what port 80 gives", out)
	}
	// The backend cannot be reached around it: not from outside, and not the tunnel's address by way of either host, where somebody
	// on the same wire could send it. (ufw knows no "only what was addressed by NAT", so its relay lets the tunnel's address pass.)
	r.client.run(t, "ip route add 10.66.0.0/24 via 198.51.100.1")
	r.internet.run(t, "ip route add 10.66.0.2 via 192.0.2.20; ip route add 10.66.0.1 via 203.0.113.10")
	answers := r.client.answers(t, "192.0.2.20:6969", "192.0.2.20:80", "[2001:db8:3::20]:6969", "10.66.0.2:6969", "203.0.113.10:7071",
		"203.0.113.10:6969", "192.0.2.20:22", "203.0.113.10:22")
	if firewall == "nftables" {
		r.internet.run(t, "ip route replace 10.66.0.2 via 203.0.113.10")
		maps.Copy(answers, r.client.answers(t, "10.66.0.2:6969"))
	}
	for at, got := range answers {
		if strings.HasSuffix(at, ":22") {
			r.refused(t, at) // there is no ssh here, but its port is open
		} else if got != silence {
			t.Errorf("%s from outside: curl's exit code is %s, want %s", at, got, silence)
		}
	}
	// For the CDN alone: others are refused, whatever the backend would say, and the CDN is served.
	r.relay.write(t, "/run/cdn-only", read(t, "firewall/cdn-only.nft"))
	r.relay.run(t, "nft -f /run/cdn-only; nft -f /run/cdn-only")
	r.refused(t, "203.0.113.10:80", "[2001:db8:2::10]:443")
	r.client.run(t, "ip addr add 173.245.48.1/32 dev lo")
	r.internet.run(t, "ip route add 173.245.48.1 via 198.51.100.9")
	r.client.run(t, "curl -sSf -m 10 --interface 173.245.48.1 http://203.0.113.10/healthz")
	r.relay.run(t, "nft delete table inet spillway_cdn")

	// What is dead is refused, at once, by the relay's kernel; ufw and nftables must not swallow that.
	r.backend.run(t, "pkill -x spillway")
	r.refused(t, "203.0.113.10:80", "[2001:db8:2::10]:443")
	// And the tunnel ends as it began: nothing of it is left.
	r.backend.run(t, "wg-quick down wg0")
	if out := r.backend.run(t, "ip rule; ip -6 rule"); strings.Contains(out, "lookup 66") {
		t.Errorf("rules are left behind:\n%s", out)
	}
}

// refused waits until the client is refused by all of these. A busy machine may take longer than answers waits.
func (r reference) refused(t *testing.T, at ...string) {
	t.Helper()
	waittest.Done(t, waittest.Patience, "refusal", func() error {
		for at, got := range r.client.answers(t, at...) {
			if got != refused {
				return fmt.Errorf("%s: curl's exit code is %s, want %s", at, got, refused)
			}
		}
		return nil
	})

}

func errIfNot(ok bool, said string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("it said: %s", said)
}
