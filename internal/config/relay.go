package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ParseRelayListen reads an address of relay.listen: ":80", whose address is zero and means all of the machine's, or "203.0.113.7:80".
func ParseRelayListen(text string) (netip.AddrPort, error) {
	bad := fmt.Errorf("got %q; must be :PORT or ADDRESS:PORT, as :80 or 203.0.113.7:80", text)
	if port, ok := strings.CutPrefix(text, ":"); ok {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return netip.AddrPort{}, bad
		}
		return netip.AddrPortFrom(netip.Addr{}, uint16(n)), nil
	}
	at, err := parseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}, bad
	}
	if at.Addr().IsUnspecified() {
		return netip.AddrPort{}, fmt.Errorf("got %q; for all of this machine's addresses, IPv4 and IPv6, say :%d", text, at.Port())
	}
	return at, nil
}

// ParseRelayBackend reads one of relay.backends: "10.66.0.2:6969", or "[fd00::2]:6969*3", whose weight is 3. There are no names: who
// resolves them dies in the same storm.
func ParseRelayBackend(text string) (addr netip.AddrPort, weight int, err error) {
	bad := fmt.Errorf("got %q; must be ADDRESS:PORT, as 10.66.0.2:6969, or ADDRESS:PORT*WEIGHT with a weight from 1 to 100", text)
	at, times, weighted := strings.Cut(text, "*")
	weight = 1
	if weighted {
		n, err := strconv.ParseUint(times, 10, 8)
		if err != nil || n < 1 || n > 100 {
			return netip.AddrPort{}, 0, bad
		}
		weight = int(n)
	}
	if addr, err = parseAddrPort(at); err != nil || addr.Addr().IsUnspecified() || addr.Addr().IsMulticast() {
		return netip.AddrPort{}, 0, bad
	}
	return addr, weight, nil
}

// parseAddrPort takes what a packet can be sent to from any interface: no port 0, no zone.
func parseAddrPort(text string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if at.Port() == 0 || at.Addr().Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%q: port 0, or a zone", text)
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}
