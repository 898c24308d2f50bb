package kernel

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spillway/relay"
)

func good() Config {
	return Config{
		Listen:   []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:80"), netip.MustParseAddrPort("[2001:db8::1]:443")},
		Backends: []relay.Backend{{Addr: netip.MustParseAddrPort("10.66.0.2:6969"), Weight: 1}, {Addr: netip.MustParseAddrPort("[fd00::2]:6969"), Weight: 3}},
		Budget:   1500,
	}
}

func TestAConfigThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	listen := func(addrs ...string) func(*Config) {
		return func(cfg *Config) {
			cfg.Listen = nil
			for _, a := range addrs {
				l, _ := netip.ParseAddrPort(a)
				if port, ok := strings.CutPrefix(a, "any:"); ok {
					l = netip.AddrPortFrom(netip.Addr{}, netip.MustParseAddrPort("0.0.0.0:"+port).Port())
				}
				cfg.Listen = append(cfg.Listen, l)
			}
		}
	}
	backends := func(addrs ...string) func(*Config) {
		return func(cfg *Config) {
			cfg.Backends = nil
			for _, a := range addrs {
				cfg.Backends = append(cfg.Backends, relay.Backend{Addr: netip.MustParseAddrPort(a), Weight: 1})
			}
		}
	}
	for _, c := range []struct {
		want   string // in the error; empty: none
		change func(*Config)
	}{
		{"", func(*Config) {}},
		{"", listen("any:80")},
		{"", listen("[::]:80", "192.0.2.1:80")},
		{"", backends("[::ffff:10.0.0.1]:80")},
		{"", func(cfg *Config) { cfg.Budget, cfg.PerSource = 16, 1_000_000 }},
		{"", func(cfg *Config) { cfg.Budget = 65536 }},
		{"relay.listen: got 0", listen()},
		{"relay.listen: got 65", func(cfg *Config) { cfg.Listen = make([]netip.AddrPort, 65) }},
		{"relay.listen: 192.0.2.1:0: no port", listen("192.0.2.1:0")},
		{"relay.listen: 127.0.0.1:80", listen("127.0.0.1:80")},
		{"relay.listen: 224.0.0.1:80", listen("224.0.0.1:80")},
		{"relay.listen: [fe80::1%eth0]:80", listen("[fe80::1%eth0]:80")},
		{"relay.listen: [::]:80 is there twice", listen("0.0.0.0:80", "[::]:80")},
		{"relay.listen: [::ffff:192.0.2.1]:80 is there twice", listen("192.0.2.1:80", "[::ffff:192.0.2.1]:80")},
		{"relay.listen has addresses of one family", listen("[2001:db8::1]:80")},
		{"relay.backends: got 0", backends()},
		{"relay.backends: got 17", func(cfg *Config) { cfg.Backends = make([]relay.Backend, 17) }},
		{"relay.backends: 10.0.0.1:0: no port", backends("10.0.0.1:0")},
		{"relay.backends: 0.0.0.0:80", backends("0.0.0.0:80")},
		{"relay.backends: 255.255.255.255:80", backends("255.255.255.255:80")},
		{"set relay.mode to proxy", backends("127.0.0.1:6969")},
		{"set relay.mode to proxy", backends("[fe80::1%wg0]:6969")},
		{"set relay.mode to proxy", backends("[fe80::1]:6969")},
		{"relay.backends: 10.0.0.1:80 is there twice", backends("10.0.0.1:80", "[::ffff:10.0.0.1]:80")},
		{"it would be sent to itself", func(cfg *Config) { listen("10.0.0.1:80")(cfg); backends("10.0.0.1:80")(cfg) }},
		{"weight 0", func(cfg *Config) { cfg.Backends[0].Weight = 0 }},
		{"relay.backends: invalid AddrPort", func(cfg *Config) { cfg.Backends[0].Addr = netip.AddrPort{} }},
		{"relay.budget: got 15; give 16 to 65536", func(cfg *Config) { cfg.Budget = 15 }},
		{"relay.budget: got 65537", func(cfg *Config) { cfg.Budget = 65537 }},
		{"relay.per_source: got -1", func(cfg *Config) { cfg.PerSource = -1 }},
		{"relay.per_source: got 1000001", func(cfg *Config) { cfg.PerSource = 1_000_001 }},
	} {
		cfg := good()
		if c.want == "relay.listen has addresses of one family" {
			cfg.Backends = cfg.Backends[:1]
		}
		c.change(&cfg)
		_, err := cfg.check()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", cfg, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("got %v, want %q", err, c.want)
		}
		if c.want != "" {
			if p, err := Open(cfg, nil); err == nil {
				t.Errorf("open: no error; want %q", c.want)
				_ = p.Close()
			}
		}
	}
}

func TestACheckedConfigIsNotTheCallers(t *testing.T) {
	t.Parallel()
	cfg := good()
	checked, err := cfg.check()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen[0], cfg.Backends[0].Weight = netip.AddrPort{}, 99
	if checked.Listen[0].Port() != 80 || checked.Backends[0].Weight != 1 {
		t.Errorf("changed with the caller's: %+v", checked)
	}
}

func TestBandsMakeUpTheBudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.IntRange(minBudget, maxBudget).Draw(t, "budget")
		sum := 0
		for k, n := range (Config{Budget: budget}).waiting() {
			sum += n
			if want := budget >> (relay.Bands - 1 - k); sum != want || n < 1 {
				t.Fatalf("%d bands of %d: %d, want %d", k+1, budget, sum, want)
			}
		}
	})
}

// A connection keeps its place from its SYN until it is collected after the answer, so a budget also bounds how many a second get through. In
// an attack a backend that sheds has half of it open, and is not to be kept from serving: twice the attack's 5,000 a second, repeats and all.
func TestHalfOfTheBudgetIsNoBrake(t *testing.T) {
	t.Parallel()
	for n := 1; n <= maxBackends; n++ {
		cfg := good()
		cfg.Backends = nil
		for i := range n {
			cfg.Backends = append(cfg.Backends, relay.Backend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 66, 0, byte(i + 2)}), 6969), Weight: 1})
		}
		cfg, err := cfg.check()
		if err != nil {
			t.Fatal(err)
		}
		for bands, want := range map[int]float64{relay.Bands - 1: 10_000, relay.Bands: 25_000} {
			rate := 0.0
			for _, s := range cfg.sets() {
				var i, band int
				if k, _ := fmt.Sscanf(s.name, "unanswered_%d_%d", &i, &band); k == 2 && band <= bands {
					rate += float64(s.size) / (answered + s.collect).Seconds()
				}
			}
			if rate < want {
				t.Errorf("%d backends, %d bands of %d: %.0f connections a second find room, want %.0f", n, bands, cfg.Budget, rate, want)
			}
		}
	}
}

func TestSlotsAreSharedByWeight(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var cfg Config
		n := rapid.IntRange(1, maxBackends).Draw(t, "backends")
		down := rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "down")
		total, total6, someUp := 0, 0, false
		for i := range n {
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i)}), 80)
			if rapid.IntRange(0, 3).Draw(t, "family") == 0 {
				addr = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 15: byte(1 + i)}), 80)
			}
			cfg.Backends = append(cfg.Backends, relay.Backend{Addr: addr, Weight: rapid.IntRange(1, 5).Draw(t, "weight")})
			if addr.Addr().Is6() {
				total6++
			}
			someUp = someUp || addr.Addr().Is4() && !down[i]
		}
		for i, b := range cfg.Backends {
			if b.Addr.Addr().Is4() && (!down[i] || !someUp) {
				total += b.Weight
			}
		}
		got := make([]int, n)
		for _, i := range cfg.share(&ipv4, down) {
			if i == relay.Nobody {
				if total > 0 {
					t.Fatal("nobody in a slot, in spite of backends")
				}
				continue
			}
			got[i]++
		}
		for i, b := range cfg.Backends {
			want := 0.
			if b.Addr.Addr().Is4() && (!down[i] || !someUp) {
				want = float64(relay.Slots*b.Weight) / float64(total)
			}
			if d := float64(got[i]) - want; d < -1 || d > 1 {
				t.Fatalf("backend %d of %+v, down %v: %d slots, want %.1f", i, cfg.Backends, down, got[i], want)
			}
		}
	})
}

func TestAPlanForOthersIsRefused(t *testing.T) {
	t.Parallel()
	cfg, err := good().check()
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*relay.Plan){
		"":                          func(*relay.Plan) {},
		"3 backends down or not":    func(p *relay.Plan) { p.Down = make([]bool, 3) },
		"1 open":                    func(p *relay.Plan) { p.Open = p.Open[:1] },
		"0 bands open":              func(p *relay.Plan) { p.Open[1] = 0 },
		"5 bands open":              func(p *relay.Plan) { p.Open[1] = 5 },
		"slot 7 of IPv4: backend 1": func(p *relay.Plan) { p.Slots4[7] = 1 },
		"slot 7 of IPv6: backend 0": func(p *relay.Plan) { p.Slots6[7] = 0 },
		"backend 2 is not":          func(p *relay.Plan) { p.Slots4[0] = 2 },
		"backend -2 is not":         func(p *relay.Plan) { p.Slots4[0] = -2 },
	} {
		p := cfg.first(make([]time.Duration, 2))
		change(&p)
		if err := cfg.checkPlan(&p); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// anyConfig makes a Config of whatever bytes say: often one that is refused, and otherwise at the bounds.
func anyConfig(b []byte) Config {
	next := func() byte {
		if len(b) == 0 {
			return 0
		}
		v := b[0]
		b = b[1:]
		return v
	}
	addr := func() netip.AddrPort {
		port := uint16(next())<<8 | uint16(next())
		switch next() % 4 {
		case 0:
			return netip.AddrPortFrom(netip.Addr{}, port)
		case 1:
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{next(), next(), next(), next()}), port)
		case 2:
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte{next(), next(), 14: next(), 15: next()}), port)
		default:
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, next()}), port)
		}
	}
	flags := next()
	cfg := Config{Masquerade: flags&1 != 0, Budget: int(next())<<8 + int(next()) + int(flags>>7)}
	if flags&2 != 0 {
		cfg.PerSource = 1 << (next() % 21)
	}
	for range next() % 68 {
		cfg.Listen = append(cfg.Listen, addr())
	}
	for range next() % 18 {
		cfg.Backends = append(cfg.Backends, relay.Backend{Addr: addr(), Weight: int(next())})
	}
	return cfg
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("\x03\x05\xdc\x04\x01\x00\x50\x00\x01\x1b\x39\x03\x02\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg, err := anyConfig(b).check()
		if err != nil {
			if !strings.Contains(err.Error(), "relay.") {
				t.Errorf("the error names no key: %v", err)
			}
			return
		}
		p := cfg.first(make([]time.Duration, len(cfg.Backends)))
		if err := cfg.checkPlan(&p); err != nil {
			t.Errorf("the first plan: %v", err)
		}
		checkBatch(t, cfg, cfg.install(&p, nil, true))
	})
}
