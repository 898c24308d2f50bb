package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"spillway/relay"
)

// Bounds of a Config.
const (
	maxListen   = 64
	maxBackends = 16
	minBudget   = 16
	maxBudget   = 1 << 16
	maxSource   = 1_000_000
	maxWeight   = 1_000_000
)

// Config says what is forwarded, and to whom.
type Config struct {
	// Listen is what is forwarded, with the zero or an unspecified address as any of this machine's; 1 to 64.
	Listen []netip.AddrPort

	// Backends are who it is forwarded to, 1 to 16. IPv4 goes to IPv4 backends, IPv6 to IPv6 backends; a family without a backend is
	// left to this machine's own sockets.
	Backends []relay.Backend

	// Masquerade has backends see this machine's address instead of the client's; for backends whose answers would not come back
	// through this machine.
	Masquerade bool

	// Budget is how many connections may wait for one backend's first sign of life; 16 to 65,536.
	Budget int

	// PerSource is how many connections one IPv4 address or IPv6 /64 may open a second. Zero means no bound.
	PerSource int
}

// check returns cfg with addresses in their plain form, or what is wrong with it.
func (cfg Config) check() (Config, error) {
	cfg.Listen, cfg.Backends = slices.Clone(cfg.Listen), slices.Clone(cfg.Backends)
	if n := len(cfg.Listen); n < 1 || n > maxListen {
		return cfg, fmt.Errorf("relay.listen: got %d addresses; give 1 to %d", n, maxListen)
	}
	for i, l := range cfg.Listen {
		addr := l.Addr().Unmap()
		if addr.IsValid() && addr.IsUnspecified() {
			addr = netip.Addr{}
		}
		l = netip.AddrPortFrom(addr, l.Port())
		switch {
		case l.Port() == 0:
			return cfg, fmt.Errorf("relay.listen: %v: no port; give 1 to 65535", cfg.Listen[i])
		case addr.Zone() != "":
			return cfg, fmt.Errorf("relay.listen: %v: an address with a zone cannot be matched; give the port alone", l)
		case addr.IsValid() && (addr.IsMulticast() || addr.IsLoopback()):
			return cfg, fmt.Errorf("relay.listen: %v: nothing for it comes from outside; give an address clients use, or the port alone", l)
		case slices.Contains(cfg.Listen[:i], l):
			return cfg, fmt.Errorf("relay.listen: %v is there twice; remove one", cfg.Listen[i])
		}
		cfg.Listen[i] = l
	}
	if n := len(cfg.Backends); n < 1 || n > maxBackends {
		return cfg, fmt.Errorf("relay.backends: got %d; give 1 to %d", n, maxBackends)
	}
	reached := false
	for i, b := range cfg.Backends {
		b.Addr = netip.AddrPortFrom(b.Addr.Addr().Unmap(), b.Addr.Port())
		addr := b.Addr.Addr()
		same := func(o relay.Backend) bool { return o.Addr == b.Addr }
		switch {
		case !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return cfg, fmt.Errorf("relay.backends: %v: give the address of one host", b.Addr)
		case addr.IsLoopback():
			return cfg, fmt.Errorf("relay.backends: %v: the kernel forwards to other machines only; set relay.mode to proxy", b.Addr)
		case addr.Zone() != "" || addr.IsLinkLocalUnicast() && addr.Is6():
			return cfg, fmt.Errorf("relay.backends: %v: a link-local address cannot be forwarded to; give a global one, or set relay.mode to proxy", b.Addr)
		case b.Addr.Port() == 0:
			return cfg, fmt.Errorf("relay.backends: %v: no port; give 1 to 65535", b.Addr)
		case slices.ContainsFunc(cfg.Backends[:i], same):
			return cfg, fmt.Errorf("relay.backends: %v is there twice; remove one, or give it a weight", b.Addr)
		case slices.Contains(cfg.Listen, b.Addr):
			return cfg, fmt.Errorf("relay.backends: %v is in relay.listen too; it would be sent to itself", b.Addr)
		case b.Weight < 1 || b.Weight > maxWeight:
			return cfg, fmt.Errorf("relay.backends: %v: weight %d; give 1 to %d", b.Addr, b.Weight, maxWeight)
		}
		cfg.Backends[i] = b
		reached = reached || len(cfg.ports(familyOf(addr))) > 0
	}
	if !reached {
		return cfg, errors.New("relay.listen has addresses of one family, relay.backends of the other; give the port alone, or set relay.mode to proxy")
	}
	if cfg.Budget < minBudget || cfg.Budget > maxBudget {
		return cfg, fmt.Errorf("relay.budget: got %d; give %d to %d", cfg.Budget, minBudget, maxBudget)
	}
	if cfg.PerSource < 0 || cfg.PerSource > maxSource {
		return cfg, fmt.Errorf("relay.per_source: got %d; give 0 (no bound) to %d", cfg.PerSource, maxSource)
	}
	return cfg, nil
}

// ports are what f is listened to on, at any address.
func (cfg Config) ports(f *family) []uint16 {
	var ports []uint16
	for _, l := range cfg.Listen {
		if (!l.Addr().IsValid() || familyOf(l.Addr()) == f) && !slices.Contains(ports, l.Port()) {
			ports = append(ports, l.Port())
		}
	}
	return ports
}

// families are those that are forwarded: listened to, and with a backend.
func (cfg Config) families() []*family {
	var all []*family
	for _, f := range []*family{&ipv4, &ipv6} {
		has := slices.ContainsFunc(cfg.Backends, func(b relay.Backend) bool { return familyOf(b.Addr.Addr()) == f })
		if has && len(cfg.ports(f)) > 0 {
			all = append(all, f)
		}
	}
	return all
}

// waiting is how many connections of the budget are in each band: 1/8, 1/8, 1/4 and 1/2, so that 1, 2, 3 or 4 open bands are 1/8,
// 1/4, 1/2 or all of it.
func (cfg Config) waiting() [relay.Bands]int {
	var sizes [relay.Bands]int
	left := cfg.Budget
	for k := relay.Bands - 1; k > 0; k-- {
		sizes[k] = left - left/2
		left /= 2
	}
	sizes[0] = left
	return sizes
}

// share spreads the slots of a family over those backends that are up, in proportion to their weights; over all if none is. It
// serves until the first Apply.
func (cfg Config) share(f *family, down []bool) (slots [relay.Slots]int16) {
	var total int
	weights := make([]int, len(cfg.Backends))
	for _, evenDown := range []bool{false, true} {
		for i, b := range cfg.Backends {
			if familyOf(b.Addr.Addr()) == f && (evenDown || !down[i]) {
				weights[i] = b.Weight
				total += b.Weight
			}
		}
		if total > 0 {
			break
		}
	}
	for s := range slots {
		slots[s] = relay.Nobody
		at := total * s / relay.Slots
		for i, w := range weights {
			if at < w {
				slots[s] = int16(i)
				break
			}
			at -= w
		}
	}
	return slots
}
