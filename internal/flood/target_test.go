package flood

import (
	"context"
	"strings"
	"testing"
)

// A flood is for one's own machine: there is no way to aim it at anybody else.
func TestTargetsOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, err string }{
		{"127.0.0.1:6969", ""},
		{"127.200.3.4:6969", ""},
		{"[::1]:6969", ""},
		{"[::ffff:127.0.0.1]:6969", ""},
		{"localhost:6969", ""},
		{"http://127.0.0.1:6969/announce", ""},
		{"192.0.2.1:6969", "not private"},
		{"1.1.1.1:80", "not private"},
		{"[::ffff:1.1.1.1]:80", "not private"},
		{"[2606:4700::1111]:80", "not private"},
		{"0.0.0.0:6969", "not private"},
		{"169.254.169.254:80", "not private"},
		{"[fe80::1]:80", "not private"},
		{"10.255.254.253:6969", "neither of this machine"},
		{"192.168.254.253:6969", "neither of this machine"},
		{"[fd00::1234:5678]:80", "neither of this machine"},
		{"tracker.example.org:6969", "must be ADDRESS:PORT"},
		{"udp://127.0.0.1:6969", "must be ADDRESS:PORT"},
		{"https://127.0.0.1:6969", "must be ADDRESS:PORT"},
		{"127.0.0.1", "must be ADDRESS:PORT"},
		{"127.0.0.1:0", "must be ADDRESS:PORT"},
		{"", "must be ADDRESS:PORT"},
	} {
		target, _, err := ParseTarget(c.in)
		if err == nil {
			err = checkTarget(target)
		}
		switch {
		case c.err == "" && err != nil:
			t.Errorf("%s: %v", c.in, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: got %v, want %q", c.in, err, c.err)
		}
		if c.err == "" || err == nil || !target.IsValid() {
			continue
		}
		if _, err := Run(context.Background(), Config{Target: target, Rate: 1}); err == nil {
			t.Errorf("%s was flooded", c.in)
		}
	}
	_, path, err := ParseTarget("http://127.0.0.1:6969/announce/passkey")
	if err != nil || path != "/announce/passkey" {
		t.Errorf("path: got %q, %v", path, err)
	}
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in      string
		schemes []string
		target  string // or what the error says
		path    string
	}{
		{"http://127.0.0.1:6969/announce", []string{"http"}, "127.0.0.1:6969", "/announce"},
		{"127.0.0.1:6969", []string{"http"}, "127.0.0.1:6969", ""},
		{"localhost:6969/announce/key", []string{"http"}, "127.0.0.1:6969", "/announce/key"},
		{"ws://127.0.0.1:6969", []string{"ws", "http"}, "127.0.0.1:6969", ""},
		{"http://[::1]:6969/", []string{"ws", "http"}, "[::1]:6969", "/"},
		{"udp://127.0.0.1:6969/announce", []string{"udp"}, "127.0.0.1:6969", "/announce"},
		{"http://127.0.0.1:6969", []string{"udp"}, "must begin with udp://", ""},
		{"wss://127.0.0.1:6969", []string{"ws", "http"}, "must begin with ws:// or http://", ""},
		{"udp://127.0.0.1", []string{"udp"}, "must be ADDRESS:PORT", ""},
		{"udp://http://127.0.0.1:1", []string{"udp"}, "must be ADDRESS:PORT", ""},
		{"", []string{"udp"}, "must be ADDRESS:PORT", ""},
	} {
		target, path, err := ParseURL(c.in, c.schemes...)
		switch {
		case err != nil && !strings.Contains(err.Error(), c.target):
			t.Errorf("%q: got %v, want %q", c.in, err, c.target)
		case err == nil && (target.String() != c.target || path != c.path):
			t.Errorf("%q: got %s and %q, want %s and %q", c.in, target, path, c.target, c.path)
		}
	}
}

func TestConfigsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	target, _, err := ParseTarget("127.0.0.1:6969")
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Config{
		"mode":              {Mode: "quic"},
		"source":            {Source: "spoofed"},
		"no headers":        {Rate: 1, Mode: UDP, Source: SourceHeader},
		"hashes":            {Rate: 1, Mode: Scrape, Hashes: 75},
		"scrapes":           {Rate: 1, Mode: UDP, Scrapes: 1.5},
		"over WebSockets":   {Rate: 1, Mode: WSAnnounce, Torrents: 1001},
		"rate is 0":         {},
		"rate":              {Rate: -1},
		"conns":             {Rate: 1, Conns: 1e9},
		"threads":           {Rate: 1, Threads: 2, Conns: 1},
		"within 10m":        {Rate: 1, Profile: Profile{{Duration: maxDuration + 1, Multiple: 1}}},
		"requests a second": {Rate: 1e6, Profile: Profile{{Duration: 1e9, Multiple: 10}}},
		"widen the prefix":  {Rate: 1, Honest: 1 << 30},
		"header":            {Rate: 1, Header: "X: y\r\nZ"},
		"path":              {Rate: 1, Path: "/a b"},
		"share":             {Rate: 1, Attackers: 1, Share: 2},
		"offers":            {Rate: 1, Offers: 1000},
		"cores":             {Rate: 1, Threads: 2, Cores: []int{0}},
	} {
		c.Target = target
		if _, err := Run(context.Background(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
