package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"spillway/relay"
)

func TestSlotsAreEven(t *testing.T) {
	t.Parallel()
	const each = 1000
	for name, nth := range map[string]func(i int) netip.Addr{
		"neighbours of IPv4": func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, byte(i >> 16), byte(i >> 8), byte(i)}) },
		"networks of IPv4":   func(i int) netip.Addr { return netip.AddrFrom4([4]byte{byte(i), byte(i >> 8), byte(i >> 16), 1}) },
		"hosts of IPv6": func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		},
		"networks of IPv6": func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 5: byte(i >> 16), 6: byte(i >> 8), 7: byte(i), 15: 1})
		},
	} {
		var got [relay.Slots]int
		for i := range relay.Slots * each {
			got[slotOf(nth(i))]++
		}
		var chi float64 // chi squared of 255 degrees of freedom: above 350 once in 20,000
		for _, n := range got {
			chi += float64((n-each)*(n-each)) / each
		}
		if chi > 350 {
			t.Errorf("%s: chi squared %.0f, slots have %d", name, chi, got)
		}
	}
}

func TestWhoGoesWhere(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	all := func(b int16) (slots [relay.Slots]int16) {
		for i := range slots {
			slots[i] = b
		}
		return slots
	}
	for _, c := range []struct {
		slots4, slots6   int16
		down             []bool
		want4, want6     int16
		serves4, serves6 bool
	}{
		{0, 1, []bool{false, false}, 0, 1, true, true},
		{0, 1, []bool{true, false}, 0, 1, false, true}, // the family has one, so the other's is not for it
		{0, relay.Nobody, []bool{false, false}, 0, 0, true, true},
		{relay.Nobody, 1, []bool{false, false}, 1, 1, true, true},
		{relay.Nobody, 1, []bool{false, true}, 1, 1, false, false},
		{relay.Nobody, relay.Nobody, []bool{false, false}, relay.Nobody, relay.Nobody, false, false},
	} {
		n := &plan{slots4: all(c.slots4), slots6: all(c.slots6), down: c.down}
		if got4, got6 := n.backendFor(v4), n.backendFor(v6); got4 != c.want4 || got6 != c.want6 {
			t.Errorf("%+v: got %d and %d", c, got4, got6)
		}
		if s4, s6 := n.serves(&n.slots4, &n.slots6), n.serves(&n.slots6, &n.slots4); s4 != c.serves4 || s6 != c.serves6 {
			t.Errorf("%+v: serves %v and %v", c, s4, s6)
		}
	}
	n := &plan{slots4: all(0), slots6: all(3), down: []bool{false, true, false, false}}
	n.slots4[(slotOf(v4)+1)%relay.Slots], n.slots4[(slotOf(v4)+2)%relay.Slots] = 1, 2
	if got := n.instead(v4, 0); got != 2 {
		t.Errorf("instead of 0: got %d, want 2: 1 is down", got)
	}
	if got := n.instead(v6, 3); got != relay.Nobody {
		t.Errorf("instead of 3: got %d, want nobody: there is no other of its family", got)
	}
}

func TestBudgetOfBands(t *testing.T) {
	t.Parallel()
	p := open(t, config(relay.Backend{Addr: netip.MustParseAddrPort("127.0.0.1:1")}))
	for open, want := range map[int]int64{0: 187, 1: 187, 2: 375, 3: 750, 4: 1500, 5: 1500} {
		n := planFor(p)
		n.Open[0] = open
		must(t, p.Apply(n))
		if got := p.plan.Load().budget[0]; got != want {
			t.Errorf("%d bands of 1500: got %d, want %d", open, got, want)
		}
	}
	bad := planFor(p)
	bad.Slots6[9] = 1
	for _, n := range []relay.Plan{{}, bad} {
		if err := p.Apply(n); err == nil || !strings.HasPrefix(err.Error(), "BUG") {
			t.Errorf("a plan for other backends: %v", err)
		}
	}
}

// Given sources of both kinds, when more come than fit, then the table has room for who is not known, at no more than the bound.
func TestSourcesAsArithmetic(t *testing.T) {
	t.Parallel()
	s := newSources(10)
	addr := netip.MustParseAddr
	now := int64(time.Hour)
	allowed := func(a string, of int) (n int) {
		for range of {
			if s.allow(addr(a), now) {
				n++
			}
		}
		return n
	}
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1", "::1", "0.0.0.0"} {
		if got := allowed(a, 20); got != 10 {
			t.Errorf("%s: got %d, want 10", a, got)
		}
	}
	if got := allowed("2001:db8::ffff", 20); got != 0 {
		t.Errorf("another host of the /64: got %d, want 0", got)
	}
	now += int64(time.Second) / 2
	if got := allowed("192.0.2.1", 20); got != 5 {
		t.Errorf("half a second later: got %d, want 5", got)
	}
	if want := uint64(6*10 + 20 + 15); s.refused.Load() != want {
		t.Errorf("refused: got %d, want %d", s.refused.Load(), want)
	}
	for i := range 10 * sourceSets * sourceWays {
		s.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	now += int64(time.Hour)
	if got := allowed("192.0.2.1", 20); got != 10 {
		t.Errorf("after a flood: got %d, want 10", got)
	}
}

func TestHeaderAsAnotherDecoderReadsIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ client, local, wantClient, wantLocal string }{
		{"192.0.2.1:1234", "198.51.100.7:80", "192.0.2.1:1234", "198.51.100.7:80"},
		{"[2001:db8::1]:65535", "[2001:db8::2]:443", "[2001:db8::1]:65535", "[2001:db8::2]:443"},
		{"[::ffff:192.0.2.1]:1", "[::ffff:198.51.100.7]:80", "192.0.2.1:1", "198.51.100.7:80"},
		{"[2001:db8::1]:7", "198.51.100.7:80", "[2001:db8::1]:7", "198.51.100.7:80"},
		{"192.0.2.1:7", "[2001:db8::2]:80", "192.0.2.1:7", "[2001:db8::2]:80"},
	} {
		b := appendHeader(nil, netip.MustParseAddrPort(c.client), netip.MustParseAddrPort(c.local))
		if len(b) > maxHeader {
			t.Errorf("%s: %d bytes, want at most %d", c.client, len(b), maxHeader)
		}
		r := bufio.NewReader(io.MultiReader(bytes.NewReader(b), strings.NewReader("rest")))
		h, err := proxyproto.Read(r)
		if err != nil {
			t.Errorf("%s: %v", c.client, err)
			continue
		}
		rest, _ := io.ReadAll(r)
		if h.Version != 2 || h.SourceAddr.String() != c.wantClient || h.DestinationAddr.String() != c.wantLocal || string(rest) != "rest" {
			t.Errorf("%+v: got %+v and then %q", c, h, rest)
		}
	}
}

func TestBackendIsToldTheClient(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	behind := &proxyproto.Listener{Listener: l, ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) { return proxyproto.REQUIRE, nil }}
	told := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := behind.Accept()
			if err != nil {
				return
			}
			told <- c.RemoteAddr().String() + " " + c.LocalAddr().String()
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { must(t, l.Close()); <-done })
	cfg := config(relay.Backend{Addr: l.Addr().(*net.TCPAddr).AddrPort(), Weight: 1})
	cfg.SendProxy = true
	cfg.Listen = []string{":0"}
	p := open(t, cfg)
	_, port, _ := net.SplitHostPort(p.Addrs()[0].String())
	for _, host := range []string{"127.0.0.1", "::1"} {
		for _, text := range []string{"", "hello", strings.Repeat("long", 50000)} {
			c, err := net.Dial("tcp", net.JoinHostPort(host, port))
			must(t, err)
			must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
			want := c.LocalAddr().String() + " " + c.RemoteAddr().String()
			if text == "" { // the backend hears of a client who says nothing
				if got := <-told; got != want {
					t.Errorf("told %q, want %q", got, want)
				}
				say(t, c, "late")
			} else {
				say(t, c, text)
				if got := <-told; got != want {
					t.Errorf("told %q, want %q", got, want)
				}
			}
			must(t, c.Close())
		}
	}
}
