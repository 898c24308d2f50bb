package tracker

import (
	"bytes"
	_ "embed"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unsafe"

	"github.com/gaissmai/bart"
	"github.com/valyala/fasthttp"
)

// proxies are the addresses that are believed when they say who the client is.
type proxies struct {
	table bart.Lite
}

// cloudflareRanges are https://www.cloudflare.com/ips-v4 and ips-v6.
//
//go:embed cloudflare.txt
var cloudflareRanges string

// parseProxies reads addresses, CIDRs and the word cloudflare. cloudflareFile, if not empty, is read for its ranges
// instead of the list that came with the program.
func parseProxies(list []string, cloudflareFile string) (*proxies, error) {
	p := new(proxies)
	for _, word := range list {
		if word != "cloudflare" {
			if err := p.add(word); err != nil {
				return nil, fmt.Errorf("http.trusted_proxies: %w", err)
			}
			continue
		}
		if cloudflareFile != "" {
			if err := eachLine(cloudflareFile, p.add); err != nil {
				return nil, fmt.Errorf("http.cloudflare_file: %w", err)
			}
			continue
		}
		for line := range strings.Lines(cloudflareRanges) {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			if err := p.add(line); err != nil {
				panic("BUG: the list of Cloudflare's ranges: " + err.Error())
			}
		}
	}
	return p, nil
}

func (p *proxies) add(word string) error {
	prefix, err := netip.ParsePrefix(word)
	if err != nil {
		addr, addrErr := netip.ParseAddr(word)
		if addrErr != nil {
			return fmt.Errorf("%q is no address, no CIDR such as 10.0.0.0/8, and not the word cloudflare", word)
		}
		addr = addr.Unmap().WithZone("")
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
		// Addresses are looked up unmapped.
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	p.table.Insert(prefix.Masked())
	return nil
}

func (p *proxies) contains(addr netip.Addr) bool { return p.table.Contains(addr) }

// ProxyPrefixes are http.trusted_proxies as they stand now.
func (t *Tracker) ProxyPrefixes() (prefixes []netip.Prefix) {
	for p := range t.settings.Load().proxies.table.All() {
		prefixes = append(prefixes, p)
	}
	return prefixes
}

const (
	errNoHeader   failure = "the proxy in front of this tracker did not say who you are (tracker's operator: see http.real_ip_header)"
	errBadAddress failure = "no usable client address"
)

// clientAddr returns who is asking: the TCP peer, unless that is a trusted proxy, or came over a unix socket; then the
// nearest address of the header that is not itself trusted. A proxy's own address is never returned: it would enter
// swarms in place of everybody behind it.
func (s *settings) clientAddr(ctx *fasthttp.RequestCtx) (netip.Addr, error) {
	if tcp, ok := ctx.RemoteAddr().(*net.TCPAddr); ok {
		addr, ok := netip.AddrFromSlice(tcp.IP)
		if !ok {
			return netip.Addr{}, errBadAddress
		}
		if addr = addr.Unmap(); !s.proxies.contains(addr) {
			return addr, nil
		}
	}
	values := ctx.Request.Header.PeekAll(s.realIPHeader)
	for i := len(values) - 1; i >= 0; i-- {
		if addr, found, err := s.nearest(values[i]); found || err != nil {
			return addr, err
		}
	}
	return netip.Addr{}, errNoHeader
}

// nearest returns the last address of a header's value that is not a trusted proxy's. The nearest hop is the last one: each
// proxy appends whom it heard it from.
func (s *settings) nearest(value []byte) (addr netip.Addr, found bool, err error) {
	for rest := value; len(rest) > 0; {
		var hop []byte
		if comma := bytes.LastIndexByte(rest, ','); comma >= 0 {
			hop, rest = rest[comma+1:], rest[:comma]
		} else {
			hop, rest = rest, nil
		}
		addr, ok := parseHop(bytes.TrimSpace(hop))
		if !ok {
			return netip.Addr{}, false, errBadAddress
		}
		if !s.proxies.contains(addr) {
			return addr, true, nil
		}
	}
	return netip.Addr{}, false, nil
}

// parseHop reads an address as proxies write them: bare, in brackets, or with a port, which is dropped.
func parseHop(hop []byte) (netip.Addr, bool) {
	addr, _, ok := parseEndpoint(hop)
	return addr, ok && !addr.IsUnspecified() && !addr.IsMulticast()
}

// claimed reads what ip=, ipv4= and ipv6= claim, which is believed only of clients with a private address, who cannot
// know better how others reach them, and only where it is an address others could reach: anybody else could point a
// swarm at a victim. BEP 7 allows a port behind it.
func claimed(value []byte) (addr netip.Addr, port uint16, ok bool) {
	var text [maxEndpoint]byte
	plain, ok := unescape(text[:0], value)
	if !ok {
		return netip.Addr{}, 0, false
	}
	addr, port, ok = parseEndpoint(plain)
	return addr, port, ok && isReachable(addr)
}

// isReachable tells an address that a client may claim.
func isReachable(addr netip.Addr) bool { return addr.IsGlobalUnicast() && !addr.IsPrivate() }

// maxEndpoint is the length of the longest address and port.
const maxEndpoint = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%interface]:65535")

// parseEndpoint reads an address, bare or in brackets, and the port behind it, 0 if there is none. It is unmapped and
// without zone.
func parseEndpoint(b []byte) (addr netip.Addr, port uint16, ok bool) {
	if len(b) == 0 || len(b) > maxEndpoint {
		return netip.Addr{}, 0, false
	}
	// Not netip.ParseAddrPort: trying one form and then the other allocates an error a request behind proxies that add
	// ports, as Azure's do.
	ip, behind := b, []byte(nil)
	if b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 {
			return netip.Addr{}, 0, false
		}
		ip, behind = b[1:end], b[end+1:]
	} else if colon := bytes.IndexByte(b, ':'); colon >= 0 && bytes.IndexByte(b[colon+1:], ':') < 0 {
		ip, behind = b[:colon], b[colon:] // one colon: IPv4 and a port
	}
	if len(behind) > 0 {
		n, ok := parseUint(behind[1:], 65535)
		if behind[0] != ':' || !ok {
			return netip.Addr{}, 0, false
		}
		port = uint16(n)
	}
	if len(ip) == 0 {
		return netip.Addr{}, 0, false
	}
	// The string shares b's bytes, which spares an allocation a request; it does not outlive this call.
	addr, err := netip.ParseAddr(unsafe.String(&ip[0], len(ip)))
	return addr.Unmap().WithZone(""), port, err == nil
}

// unescape undoes percent-encoding as far as dst has room.
func unescape(dst, v []byte) ([]byte, bool) {
	for i := 0; i < len(v); i++ {
		c := v[i]
		if c == '%' && i+2 < len(v) && unhex[v[i+1]]|unhex[v[i+2]] <= 15 {
			c = unhex[v[i+1]]<<4 | unhex[v[i+2]]
			i += 2
		}
		if len(dst) == cap(dst) {
			return nil, false
		}
		dst = append(dst, c)
	}
	return dst, true
}

// isLocal tells an address that only a network of one's own can have.
func isLocal(addr netip.Addr) bool {
	return addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast()
}
