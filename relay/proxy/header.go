package proxy

import (
	"encoding/binary"
	"net/netip"
)

// maxHeader is the longest header: 12 bytes of signature, 4 of kind and length, two IPv6 addresses and ports.
const maxHeader = 16 + 36

// appendHeader appends what tells a backend who its client is: the PROXY protocol, version 2, section 2.2, command PROXY, TCP.
// If the two addresses are of one family, IPv4 in the guise of IPv6 included, they are sent as of that; else both as IPv6.
func appendHeader(dst []byte, client, local netip.AddrPort) []byte {
	dst = append(dst, "\r\n\r\n\x00\r\nQUIT\n\x21"...)
	from, to := client.Addr().Unmap(), local.Addr().Unmap()
	if from.Is4() && to.Is4() {
		a, b := from.As4(), to.As4()
		dst = append(dst, 0x11, 0, 12)
		dst = append(dst, a[:]...)
		dst = append(dst, b[:]...)
	} else {
		a, b := from.As16(), to.As16() // As16 of an IPv4 address is ::ffff:a.b.c.d
		dst = append(dst, 0x21, 0, 36)
		dst = append(dst, a[:]...)
		dst = append(dst, b[:]...)
	}
	dst = binary.BigEndian.AppendUint16(dst, client.Port())
	return binary.BigEndian.AppendUint16(dst, local.Port())
}
