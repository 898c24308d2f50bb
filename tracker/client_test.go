package tracker

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

// clientOf says whom a request comes from that the peer sent with these header lines.
func clientOf(t *testing.T, s *settings, peer net.Addr, header ...string) string {
	t.Helper()
	var ctx fasthttp.RequestCtx
	ctx.Init(&fasthttp.Request{}, peer, nil)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		ctx.Request.Header.Add(name, value)
	}
	addr, err := s.clientAddr(&ctx)
	if err != nil {
		if addr.IsValid() {
			t.Errorf("%v %q: got both %v and %v", peer, header, addr, err)
		}
		return err.Error()
	}
	return addr.String()
}

func tcp(addr string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 1234))
}

func TestWhoIsAsking(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.TrustedProxies = []string{"10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "fe80::/10", "cloudflare"}
	s, err := newSettings(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := func(peer, want string, header ...string) {
		t.Helper()
		if got := clientOf(t, s, tcp(peer), header...); got != want {
			t.Errorf("from %s with %q: got %s, want %s", peer, header, got, want)
		}
	}
	const xff = "X-Forwarded-For: "

	// Nobody in front: what the header says is forged, or of no interest.
	f("198.51.100.1", "198.51.100.1")
	f("198.51.100.1", "198.51.100.1", xff+"203.0.113.9")
	f("198.51.100.1", "198.51.100.1", xff+"garbage")
	f("::ffff:198.51.100.1", "198.51.100.1", xff+"203.0.113.9")
	f("2001:db9::1", "2001:db9::1", xff+"203.0.113.9")
	f("192.0.2.2", "192.0.2.2", xff+"203.0.113.9") // beside the one trusted

	// Behind one proxy, or several.
	f("10.1.2.3", "203.0.113.9", xff+"203.0.113.9")
	f("::ffff:10.1.2.3", "203.0.113.9", xff+"203.0.113.9")
	f("192.0.2.1", "203.0.113.9", xff+"203.0.113.9")
	f("2001:db8::7", "203.0.113.9", xff+"203.0.113.9")
	f("173.245.48.1", "203.0.113.9", xff+"203.0.113.9") // Cloudflare's
	f("2606:4700::1", "203.0.113.9", xff+"203.0.113.9")
	f("10.1.2.3", "203.0.113.9", xff+"203.0.113.9, 10.0.0.1,10.0.0.2")
	f("10.1.2.3", "203.0.113.9", xff+"8.8.8.8, 203.0.113.9, 10.0.0.1") // 8.8.8.8 is what the client claimed
	f("10.1.2.3", "203.0.113.9", xff+"8.8.8.8", xff+"203.0.113.9", xff+"10.0.0.1")
	f("10.1.2.3", "203.0.113.9", xff+"garbage, 203.0.113.9")
	f("10.1.2.3", "203.0.113.9", xff+"10.9.9.9, 203.0.113.9") // nor is a trusted one that the client claimed
	f("10.1.2.3", "203.0.113.9", "x-forwarded-for: 203.0.113.9")

	// As proxies write addresses.
	f("10.1.2.3", "203.0.113.9", xff+" \t203.0.113.9 ")
	f("10.1.2.3", "203.0.113.9", xff+"203.0.113.9:4711")
	f("10.1.2.3", "2001:db9::1", xff+"2001:db9::1")
	f("10.1.2.3", "2001:db9::1", xff+"2001:DB9:0:0::1")
	f("10.1.2.3", "2001:db9::1", xff+"[2001:db9::1]")
	f("10.1.2.3", "2001:db9::1", xff+"[2001:db9::1]:4711")
	f("10.1.2.3", "203.0.113.9", xff+"::ffff:203.0.113.9")
	f("10.1.2.3", "203.0.113.9", xff+"[::ffff:203.0.113.9]:4711")
	f("10.1.2.3", "203.0.113.9", xff+"203.0.113.9, ::ffff:10.0.0.1")
	f("10.1.2.3", "2001:db9::1", xff+"2001:db9::1%eth0")

	// A proxy's own address must never enter a swarm.
	f("10.1.2.3", string(errNoHeader))
	f("10.1.2.3", string(errNoHeader), "X-Real-Ip: 203.0.113.9") // another header than the one configured
	f("10.1.2.3", string(errNoHeader), xff)
	f("10.1.2.3", string(errNoHeader), xff+"10.0.0.1")
	f("10.1.2.3", string(errNoHeader), xff+"10.0.0.1, 10.0.0.2", xff+"2001:db8::1")
	f("10.1.2.3", string(errNoHeader), xff+"fe80::1%eth0")

	// The nearest hop is no address: the one behind it is anybody's word.
	for _, hop := range []string{
		"unknown", "_hidden", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.4:x", "1.2.3.4:", "1.2.3.4:65536", "[::1", "::1]", "[]", "[]:80", ":80",
		"[::1]x", "[::1]80", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "for=203.0.113.9", "\"203.0.113.9\"", "203.0.113.9;", ",", "203.0.113.9,",
		strings.Repeat("1", 5000), "01.2.3.4", "%",
	} {
		f("10.1.2.3", string(errBadAddress), xff+"198.51.100.1, "+hop)
	}

	// Whoever speaks through a unix socket is a proxy.
	unix := &net.UnixAddr{Name: "@", Net: "unix"}
	if got := clientOf(t, s, unix, xff+"8.8.8.8, 203.0.113.9, 10.0.0.1"); got != "203.0.113.9" {
		t.Errorf("unix: got %s", got)
	}
	if got := clientOf(t, s, unix); got != string(errNoHeader) {
		t.Errorf("unix, no header: got %s", got)
	}
}

func TestOtherHeader(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.TrustedProxies, cfg.RealIPHeader = []string{"::ffff:10.0.0.0/104", "127.0.0.1"}, "CF-Connecting-IP"
	s, err := newSettings(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"CF-Connecting-IP", "Cf-Connecting-Ip", "cf-connecting-ip"} {
		if got := clientOf(t, s, tcp("127.0.0.1"), name+": 203.0.113.9", "X-Forwarded-For: 8.8.8.8"); got != "203.0.113.9" {
			t.Errorf("%s: got %s", name, got)
		}
	}
	if got := clientOf(t, s, tcp("10.1.1.1")); got != string(errNoHeader) {
		t.Errorf("a prefix written as IPv4-mapped: got %s", got)
	}
}

func TestProxyLists(t *testing.T) {
	t.Parallel()
	f := func(want string, list ...string) {
		t.Helper()
		if _, err := parseProxies(list, ""); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "http.trusted_proxies") {
			t.Errorf("%q: got %v", list, err)
		}
	}
	f(`"cloudfare"`, "cloudfare")
	f(`"10.0.0.0/33"`, "10.0.0.0/33")
	f(`""`, "10.0.0.1", "")

	own := file(t, "cf.txt", "# ranges\n192.0.2.0/24 # one\n\n2001:db8::/32\n")
	p, err := parseProxies([]string{"cloudflare"}, own)
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{"192.0.2.7": true, "2001:db8::7": true, "173.245.48.1": false, "192.0.3.1": false} {
		if got := p.contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %v, want %v", addr, got, want)
		}
	}
	bad := file(t, "cf.txt", "192.0.2.0/24\nnonsense\n")
	if _, err := parseProxies([]string{"cloudflare"}, bad); err == nil || !strings.Contains(err.Error(), bad+": line 2") {
		t.Errorf("got %v", err)
	}
	if _, err := parseProxies([]string{"cloudflare"}, bad+".gone"); err == nil || !strings.Contains(err.Error(), "http.cloudflare_file") {
		t.Errorf("got %v", err)
	}
	if p, err := parseProxies(nil, bad); err != nil || p.contains(netip.MustParseAddr("192.0.2.1")) {
		t.Errorf("a file nobody asked for: got %v", err)
	}
}

func TestBehindAProxy(t *testing.T) {
	t.Parallel()
	s := serve(t, func(cfg *Config) { cfg.TrustedProxies = []string{"127.0.0.1"} })
	c := s.dial()
	for i := range 3 {
		d := c.announce(announceURI(""), fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", 1+i))
		if d.Incomplete != int32(i+1) || d.raw["external ip"] != "\xcb\x00\x71"+string(rune(1+i)) {
			t.Errorf("client %d: got %+v", i, d)
		}
	}
	if d := c.announce(announceURI("")); d.FailureReason != string(errNoHeader) {
		t.Errorf("no header: got %+v", d)
	}
	if d := c.announce("/scrape?info_hash=" + hash20); d.FailureReason != string(errNoHeader) {
		t.Errorf("no header: got %+v", d)
	}
	if got := s.tracker.metrics.noHeader.Get(); got != 2 {
		t.Errorf("missing headers counted: got %d, want 2", got)
	}
	// From anywhere else the header says nothing.
	d := s.dialFrom("127.0.0.2").announce(announceURI(""), "X-Forwarded-For: 203.0.113.77")
	if d.raw["external ip"] != "\x7f\x00\x00\x02" || d.Incomplete != 4 {
		t.Errorf("forged: got %+v", d)
	}
	if !s.tracker.Trusted(netip.MustParseAddr("::ffff:127.0.0.1")) || s.tracker.Trusted(netip.MustParseAddr("127.0.0.2")) {
		t.Errorf("Trusted does not know 127.0.0.1 from 127.0.0.2")
	}
}

func TestClaimedAddresses(t *testing.T) {
	t.Parallel()
	f := func(value, want string) {
		t.Helper()
		addr, port, ok := claimed([]byte(value))
		got := "refused"
		if ok {
			got = fmt.Sprint(netip.AddrPortFrom(addr, port))
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", value, got, want)
		}
	}
	f("203.0.113.9", "203.0.113.9:0")
	f("203.0.113.9:6881", "203.0.113.9:6881")
	f("203%2e0.113.9%3A6881", "203.0.113.9:6881")
	f("2001:db9::1", "[2001:db9::1]:0")
	f("[2001:db9::1]:6881", "[2001:db9::1]:6881") // as uTorrent does
	f("%5B2001%3Adb9%3A%3A1%5D%3A6881", "[2001:db9::1]:6881")
	f("[2001:db9::1]", "[2001:db9::1]:0")
	f("::ffff:203.0.113.9", "203.0.113.9:0")
	for _, value := range []string{
		"", "10.0.0.1", "192.168.1.1", "172.16.0.1", "127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
		"fd00::1", "ff02::1", "::ffff:10.0.0.1", "[::ffff:127.0.0.1]:6881", "203.0.113.9:99999", "abcdefghijklmnop.b32.i2p", "tracker.example", "%", "%zz",
		strings.Repeat("1", 100), strings.Repeat("%31", 100), "203.0.113.9 ",
	} {
		f(value, "refused")
	}
}

func TestClaimsAreIgnoredUnlessAllowed(t *testing.T) {
	t.Parallel()
	const claims = "&ip=203.0.113.9&ipv6=%5B2001:db9::1%5D:7000&ip=203.0.113.10&ipv4=198.51.100.1&ipv6=2001:db9::2"
	f := func(s *server, from, want string, header ...string) {
		t.Helper()
		s.dialFrom(from).announce(announceURI(claims), header...)
		c := s.dialFrom("127.0.0.99")
		if got := fmt.Sprint(c.announce(announceURI(""), "X-Forwarded-For: 192.0.2.99").peers()); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f(serve(t, nil), "127.0.0.2", "[127.0.0.2:6881]")
	allowed := func(cfg *Config) { cfg.ClaimedIP = true }
	f(serve(t, allowed), "127.0.0.2", "[203.0.113.9:6881 [2001:db9::1]:7000]")
	// Of an address that others can reach, never.
	f(serve(t, func(cfg *Config) { allowed(cfg); cfg.TrustedProxies = []string{"127.0.0.0/8"} }), "127.0.0.2", "[192.0.2.1:6881]", "X-Forwarded-For: 192.0.2.1")
	f(serve(t, func(cfg *Config) { allowed(cfg); cfg.TrustedProxies = []string{"127.0.0.0/8"} }), "127.0.0.2", "[203.0.113.9:6881 [2001:db9::1]:7000]", "X-Forwarded-For: 10.1.1.1")

	// What cannot be reached is not believed even then.
	s := serve(t, allowed)
	s.dialFrom("127.0.0.2").announce(announceURI("&ip=127.0.0.3&ip=10.0.0.1&ipv6=fe80::1&ip=garbage"))
	if got := fmt.Sprint(s.dialFrom("127.0.0.99").announce(announceURI("")).peers()); got != "[127.0.0.2:6881]" {
		t.Errorf("got %s", got)
	}
}

func FuzzParseHop(f *testing.F) {
	for _, seed := range []string{"1.2.3.4", "1.2.3.4:80", "[::1]:80", "::1", "::ffff:1.2.3.4", "fe80::1%eth0", "[::", "]", ":", "1:2", "[1.2.3.4]:1", "%", ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, hop []byte) {
		text := string(hop)
		got, ok := parseHop(hop)
		if string(hop) != text {
			t.Fatalf("the header was changed: %q", hop)
		}
		if ok && (!got.IsValid() || got.Is4In6() || got.Zone() != "" || got.IsUnspecified() || got.IsMulticast()) {
			t.Errorf("%q: got %v", hop, got)
		}
		// net/netip reads it too, as an address or as an address and a port.
		want, err := netip.ParseAddr(text)
		if err != nil {
			var ap netip.AddrPort
			if ap, err = netip.ParseAddrPort(text); err == nil {
				want = ap.Addr()
			}
		}
		want = want.Unmap().WithZone("")
		if err == nil && len(hop) <= maxEndpoint && !want.IsUnspecified() && !want.IsMulticast() {
			if !ok || got != want {
				t.Errorf("%q: got %v %v, want %v", hop, got, ok, want)
			}
		} else if ok && text[0] != '[' {
			t.Errorf("%q: got %v, net/netip says %v", hop, got, err)
		}
	})
}

func FuzzClaimed(f *testing.F) {
	for _, seed := range []string{"1.2.3.4", "[2001::1]:80", "%5B2001::1%5D%3a80", "10.0.0.1", "%", "%3", "%31%", "::ffff:127.0.0.1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		addr, _, ok := claimed(value)
		if ok && (addr.Is4In6() || isLocal(addr) || addr.IsMulticast() || addr.IsUnspecified() || addr.Zone() != "") {
			t.Errorf("%q: got %v", value, addr)
		}
	})
}
