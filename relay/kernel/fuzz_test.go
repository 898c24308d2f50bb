//go:build e2e

package kernel

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"spillway/relay"
)

// Whatever the configuration, it is refused with the name of a key, or the kernel takes its table.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("\x03\x05\xdc\x04\x01\x00\x50\x00\x01\x1b\x39\x03\x02\x01"))
	f.Add([]byte("\x01\xff\xff\x02\x00\x50\x00\x01\xbb\x01\xc6\x12\x00\x01\x02\x1b\x39\x03\x02\x01\x1b\x39\x02\xfd\x00\x00\x02\x09"))
	f.Cleanup(func() { must(f, Revert()) })
	f.Fuzz(func(t *testing.T, b []byte) {
		openAndApply(t, anyConfig(b))
	})
}

func openAndApply(t *testing.T, cfg Config) {
	t.Helper()
	p, err := Open(cfg, nil)
	if err != nil {
		if _, wrong := cfg.check(); wrong == nil || !strings.Contains(err.Error(), "relay.") {
			t.Fatalf("%+v: %v", cfg, err)
		}
		return
	}
	must(t, p.Apply(plan(p, func(n *relay.Plan) {
		for i := range n.Down {
			n.Down[i], n.Open[i] = true, 1
		}
	})))
	whole, err := p.cfg.whole(p.socket, &p.plan)
	if err != nil || !whole {
		t.Fatalf("%+v: the table is not whole: %v", cfg, err)
	}
	must(t, p.Close())
	p, err = Open(cfg, nil)
	must(t, err)
	if !p.plan.Down[0] && len(p.cfg.families()) == 2 {
		t.Errorf("%+v: what was down is not taken over", cfg)
	}
	must(t, p.Close())
}

// FuzzOpen seldom gets past the check; this one mostly does.
func TestTheKernelTakesWhatPassesTheCheck(t *testing.T) {
	newLab(t, 0)
	rapid.Check(t, func(r *rapid.T) {
		port := func() uint16 { return uint16(rapid.IntRange(1, 65535).Draw(r, "port")) }
		addr := func(any bool) netip.Addr {
			n := byte(rapid.IntRange(1, 200).Draw(r, "host"))
			switch k := rapid.IntRange(0, 2).Draw(r, "kind"); {
			case k == 0 && any:
				return netip.Addr{}
			case k == 1:
				return netip.AddrFrom16([16]byte{0xfd, 15: n})
			}
			return netip.AddrFrom4([4]byte{10, 0, 0, n})
		}
		cfg := Config{Masquerade: rapid.Bool().Draw(r, "masquerade"), Budget: rapid.IntRange(minBudget, maxBudget).Draw(r, "budget"),
			PerSource: rapid.SampledFrom([]int{0, 1, 1000, maxSource}).Draw(r, "per source")}
		for range rapid.IntRange(1, 5).Draw(r, "listen") {
			cfg.Listen = append(cfg.Listen, netip.AddrPortFrom(addr(true), port()))
		}
		for range rapid.IntRange(1, 5).Draw(r, "backends") {
			cfg.Backends = append(cfg.Backends, relay.Backend{Addr: netip.AddrPortFrom(addr(false), port()), Weight: 1})
		}
		openAndApply(t, cfg)
	})
}

// The largest table there is goes into one transaction.
func TestTheLargestTable(t *testing.T) {
	newLab(t, 0)
	cfg := good()
	cfg.Masquerade, cfg.PerSource, cfg.Budget = true, 10, maxBudget
	cfg.Listen, cfg.Backends = nil, nil
	for i := range maxListen {
		a := backend4(i).Addr()
		if i%2 == 1 {
			a = backend6(i).Addr()
		}
		if i%3 == 2 {
			a = netip.Addr{}
		}
		cfg.Listen = append(cfg.Listen, netip.AddrPortFrom(a, uint16(1000+i)))
	}
	for i := range maxBackends {
		a := backend4(i)
		if i%2 == 1 {
			a = backend6(i)
		}
		cfg.Backends = append(cfg.Backends, relay.Backend{Addr: a, Weight: 1 + i})
	}
	openAndApply(t, cfg)
	p := open(t, cfg)
	size := 0
	for _, m := range p.cfg.install(&p.plan, nil, true).msgs {
		size += len(m.body)
	}
	t.Logf("%d bytes", size)
	counts(t, p)
}
