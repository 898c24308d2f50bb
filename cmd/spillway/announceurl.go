package main

import (
	"net"
	"net/netip"
)

// announceURL is what to paste into a torrent: the first TCP address, with a
// real address of this machine where it listens on all. "" when there are only
// unix sockets, for then a proxy has the name clients use.
func announceURL(addrs []net.Addr, tls bool) string {
	for _, a := range addrs {
		tcp, ok := a.(*net.TCPAddr)
		if !ok {
			continue
		}
		ap := tcp.AddrPort()
		addr := ap.Addr().Unmap().WithZone("") // no URL of a torrent has a zone
		if addr.IsUnspecified() {
			addr = ownAddr()
		}
		scheme := "http"
		if tls {
			scheme = "https"
		}
		return scheme + "://" + netip.AddrPortFrom(addr, ap.Port()).String() + "/announce"
	}
	return ""
}

// ownAddr is the address others in the network know this machine by, as far
// as it can tell: behind a NAT it cannot. Loopback if it has no other.
func ownAddr() netip.Addr {
	// Connecting a UDP socket sends nothing, but the kernel picks the source
	// address its default route has. The other end is for documentation, RFC 5737.
	if c, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	}
	best := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return best
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().IsGlobalUnicast() {
			continue
		}
		if prefix.Addr().Is4() {
			return prefix.Addr()
		}
		best = prefix.Addr()
	}
	return best
}
