package config

import (
	"net/netip"
	"testing"
)

func TestParseRelayListen(t *testing.T) {
	t.Parallel()
	f := func(text, want string) {
		t.Helper()
		got, err := ParseRelayListen(text)
		if text := got.String(); want == "" && err == nil {
			t.Errorf("%q: got %s, want an error", text, got)
		} else if want != "" && (err != nil || text != want) {
			t.Errorf("%q: got %s, %v, want %s", text, got, err, want)
		}
	}
	f(":80", "invalid AddrPort")
	f("203.0.113.7:80", "203.0.113.7:80")
	f("[2001:db8::7]:443", "[2001:db8::7]:443")
	f("[::ffff:203.0.113.7]:80", "203.0.113.7:80")
	for _, bad := range []string{"", ":", ":0", ":65536", ":http", "80", "0.0.0.0:80", "[::]:80", "203.0.113.7", "203.0.113.7:0", "[fe80::1%eth0]:80", "example.org:80", ":80 "} {
		f(bad, "")
	}
}

func TestParseRelayBackend(t *testing.T) {
	t.Parallel()
	f := func(text, want string, weight int) {
		t.Helper()
		got, w, err := ParseRelayBackend(text)
		if want == "" && err == nil {
			t.Errorf("%q: got %s*%d, want an error", text, got, w)
		} else if want != "" && (err != nil || got.String() != want || w != weight) {
			t.Errorf("%q: got %s*%d, %v, want %s*%d", text, got, w, err, want, weight)
		}
	}
	f("10.66.0.2:6969", "10.66.0.2:6969", 1)
	f("[fd00::2]:6969*3", "[fd00::2]:6969", 3)
	f("10.66.0.2:6969*100", "10.66.0.2:6969", 100)
	for _, bad := range []string{"", "10.66.0.2", "10.66.0.2:6969*", "10.66.0.2:6969*0", "10.66.0.2:6969*101", "10.66.0.2:6969*-1", "*3",
		"0.0.0.0:1", "224.0.0.1:80", "backend:6969", "10.66.0.2:6969*3*3", "10.66.0.2:6969 *3"} {
		f(bad, "", 0)
	}
}

// Whatever is accepted can be written down and read again.
func FuzzParseRelayBackend(f *testing.F) {
	f.Add("10.66.0.2:6969*3")
	f.Add("[fd00::2]:6969")
	f.Fuzz(func(t *testing.T, text string) {
		addr, weight, err := ParseRelayBackend(text)
		if err != nil {
			return
		}
		again, _, err := ParseRelayBackend(addr.String())
		if err != nil || again != addr || weight < 1 || weight > 100 || !addr.IsValid() || addr.Addr() == (netip.Addr{}) {
			t.Errorf("%q: got %s*%d, then %s, %v", text, addr, weight, again, err)
		}
	})
}
