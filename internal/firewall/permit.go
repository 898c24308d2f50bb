package firewall

import (
	"fmt"
	"net/netip"
)

// A wider prefix than these is a mistake: no registry has given one to anybody.
const (
	minBits4 = 8
	minBits6 = 16
)

var loopbacks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// permit returns p in its canonical form, or ErrNever if it must not be dropped: all of it, as the kernel has no exceptions.
// f.mu is held.
func (f *Firewall) permit(p netip.Prefix) (netip.Prefix, error) {
	p = canonical(p)
	switch {
	case !p.IsValid():
		return p, fmt.Errorf("%w: not an address or prefix", ErrNever)
	case p.Addr().Is4() && p.Bits() < minBits4, p.Addr().Is6() && p.Bits() < minBits6:
		return p, fmt.Errorf("%v %w: wider than /%d (IPv4) or /%d (IPv6)", p, ErrNever, minBits4, minBits6)
	}
	if !f.loopback {
		for _, l := range loopbacks {
			if p.Overlaps(l) {
				return p, fmt.Errorf("%v %w: loopback", p, ErrNever)
			}
		}
	}
	for _, n := range f.never {
		if p.Overlaps(n) {
			return p, fmt.Errorf("%v %w: %v is trusted", p, ErrNever, n)
		}
	}
	return p, nil
}

// canonical is p as the kernel sees packets: IPv4 as such, no bits beyond the prefix. An invalid p gives an invalid one.
func canonical(p netip.Prefix) netip.Prefix {
	if addr := p.Addr(); addr.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(addr.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func canonicalAll(ps []netip.Prefix) []netip.Prefix {
	all := make([]netip.Prefix, 0, len(ps))
	for _, p := range ps {
		if p = canonical(p); p.IsValid() {
			all = append(all, p)
		}
	}
	return all
}
