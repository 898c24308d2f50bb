package relay

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseBackend(t *testing.T) {
	t.Parallel()
	f := func(text, addr string, weight int) {
		t.Helper()
		b, err := ParseBackend(text)
		if err != nil || b.Addr.String() != addr || b.Weight != weight {
			t.Errorf("backend %q: got %v, %v, want %s*%d", text, b, err, addr, weight)
		}
	}
	bad := func(text, wantInError string) {
		t.Helper()
		if b, err := ParseBackend(text); err == nil || !strings.Contains(err.Error(), wantInError) || len(err.Error()) > 600 {
			t.Errorf("backend %q: got %v, %v, want an error with %q", text, b, err, wantInError)
		}
	}
	f("10.66.0.2:6969", "10.66.0.2:6969", 1)
	f("[fd00::2]:6969*3", "[fd00::2]:6969", 3)
	f("[::ffff:10.66.0.2]:6969", "10.66.0.2:6969", 1)
	f("127.0.0.1:1*100", "127.0.0.1:1", 100)
	for _, text := range []string{"", ":6969", "10.66.0.2", "backend:6969", "fd00::2:6969", "10.66.0.2:http", "10.66.0.2:70000", "010.66.0.2:1",
		" 10.66.0.2:6969", strings.Repeat("x", 100_000)} {
		bad(text, "names are not looked up")
	}
	for _, text := range []string{"10.66.0.2:6969*", "10.66.0.2:6969*0", "10.66.0.2:6969*101", "10.66.0.2:6969*+3", "10.66.0.2:6969* 3",
		"10.66.0.2:6969*3*3", "10.66.0.2:6969*1.5"} {
		bad(text, "must be 1 to 100")
	}
	bad("10.66.0.2:0", "port 0")
	bad("[fe80::1%wg0]:6969", "zone")
	bad("0.0.0.0:6969", "no host's address")
	bad("[::]:6969", "no host's address")
	bad("[::ffff:0.0.0.0]:6969", "no host's address")
	bad("224.0.0.1:6969", "no host's address")
	bad("255.255.255.255:6969", "no host's address")
}

func TestParseListen(t *testing.T) {
	t.Parallel()
	f := func(text, want string) {
		t.Helper()
		if got, err := ParseListen(text); err != nil || got.String() != want {
			t.Errorf("listen %q: got %v, %v, want %s", text, got, err, want)
		}
	}
	bad := func(text, wantInError string) {
		t.Helper()
		if got, err := ParseListen(text); err == nil || !strings.Contains(err.Error(), wantInError) || len(err.Error()) > 600 {
			t.Errorf("listen %q: got %v, %v, want an error with %q", text, got, err, wantInError)
		}
	}
	f(":80", "[::]:80")
	f("[::]:80", "[::]:80")
	f("0.0.0.0:80", "0.0.0.0:80")
	f("203.0.113.7:443", "203.0.113.7:443")
	f("[::ffff:203.0.113.7]:443", "203.0.113.7:443")
	bad("", "as :80")
	bad("80", "as :80")
	bad(":http", "as :80")
	bad("relay:80", "as :80")
	bad(strings.Repeat(":", 100_000), "as :80")
	bad(":0", "port 0")
	bad("[fe80::1%eth0]:80", "zone")
	bad("224.0.0.1:80", "nobody can connect")
}

func FuzzAddresses(f *testing.F) {
	f.Add("10.66.0.2:6969")
	f.Add("[fd00::2]:6969*3")
	f.Add(":80")
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := ParseBackend(text); err == nil {
			again, err := ParseBackend(fmt.Sprintf("%s*%d", b.Addr, b.Weight))
			if err != nil || again != b || b.Weight < 1 || b.Weight > MaxWeight || b.Addr.Port() == 0 || b.Addr.Addr().Is4In6() {
				t.Errorf("backend %q: got %v, and from that %v, %v", text, b, again, err)
			}
		}
		if l, err := ParseListen(text); err == nil {
			if again, err := ParseListen(l.String()); err != nil || again != l || l.Port() == 0 {
				t.Errorf("listen %q: got %v, and from that %v, %v", text, l, again, err)
			}
		}
	})
}
