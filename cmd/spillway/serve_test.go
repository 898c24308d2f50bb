package main

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestAnnounceURL(t *testing.T) {
	t.Parallel()
	tcp := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	unix := &net.UnixAddr{Name: "/run/s", Net: "unix"}
	f := func(want string, tls bool, addrs ...net.Addr) {
		t.Helper()
		if got := httpURL(addrs, tls); got != want {
			t.Errorf("%v: got %q, want %q", addrs, got, want)
		}
	}
	f("http://192.0.2.7:6969/announce", false, tcp("192.0.2.7:6969"))
	f("https://[2001:db8::1]:443/announce", true, unix, tcp("[2001:db8::1]:443"), tcp("192.0.2.7:80"))
	f("http://192.0.2.7:80/announce", false, tcp("[::ffff:192.0.2.7]:80"))
	f("http://[fe80::1]:80/announce", false, tcp("[fe80::1%eth0]:80"))
	f("", false, unix)

	got := httpURL([]net.Addr{tcp("[::]:6969")}, false)
	if strings.Contains(got, "[::]") || !strings.HasSuffix(got, ":6969/announce") {
		t.Errorf("all addresses: got %q, want one of this machine", got)
	}
}
