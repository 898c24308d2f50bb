package relay

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// What relay.backends may hold.
const (
	MaxBackends = 64
	MaxWeight   = 100
)

// ParseBackend reads an entry of relay.backends: 10.66.0.2:6969, or [fd00::2]:6969*3 for weight 3. A name is an error: the resolver
// it would need dies in the storm this package is for.
func ParseBackend(text string) (Backend, error) {
	addrText, weightText, weighted := strings.Cut(text, "*")
	b := Backend{Weight: 1}
	if weighted {
		n, err := strconv.ParseUint(weightText, 10, 16)
		if err != nil || n < 1 || n > MaxWeight {
			return Backend{}, fmt.Errorf("backend %.80q: weight %.20q: must be 1 to %d, as in 10.66.0.2:6969*3", text, weightText, MaxWeight)
		}
		b.Weight = int(n)
	}
	addr, err := netip.ParseAddrPort(addrText)
	switch {
	case err != nil:
		return Backend{}, fmt.Errorf("backend %.80q: must be an address and a port, as 10.66.0.2:6969 or [fd00::2]:6969; names are not looked up", text)
	case addr.Addr().Zone() != "":
		return Backend{}, fmt.Errorf("backend %.80q: has a zone, which the kernel cannot forward to; give it an address of the tunnel", text)
	case addr.Port() == 0:
		return Backend{}, fmt.Errorf("backend %.80q: port 0: give the port the backend listens on", text)
	}
	b.Addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if ip := b.Addr.Addr(); ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return Backend{}, fmt.Errorf("backend %.80q: is no host's address; give the backend's in the tunnel", text)
	}
	return b, nil
}

// ParseListen reads an entry of relay.listen: :80 and [::]:80 are all addresses of this machine, 0.0.0.0:80 all its IPv4 ones,
// 203.0.113.7:443 one. The first two give the same.
func ParseListen(text string) (netip.AddrPort, error) {
	full := text
	if strings.HasPrefix(text, ":") {
		full = "[::]" + text
	}
	addr, err := netip.ParseAddrPort(full)
	switch {
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("listen %.80q: must be a port, as :80, or an address and a port, as 203.0.113.7:80 or [2001:db8::7]:80", text)
	case addr.Addr().Zone() != "":
		return netip.AddrPort{}, fmt.Errorf("listen %.80q: has a zone; leave it out", text)
	case addr.Port() == 0:
		return netip.AddrPort{}, fmt.Errorf("listen %.80q: port 0: give the port that users connect to", text)
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if ip := addr.Addr(); ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.AddrPort{}, fmt.Errorf("listen %.80q: nobody can connect to that address; give one of this machine", text)
	}
	return addr, nil
}
