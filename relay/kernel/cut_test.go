package kernel

import (
	"encoding/binary"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// A checksum is right when all words together are a multiple of 65535, as one number of any length shows.
func sumsUp(parts ...[]byte) bool {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	n := new(big.Int).SetBytes(all)
	return n.Sign() > 0 && n.Mod(n, big.NewInt(0xffff)).Sign() == 0
}

func TestASYNIsWhole(t *testing.T) {
	t.Parallel()
	anyAddr := func(is4 bool) netip.Addr {
		var a [16]byte
		for i := range a {
			a[i] = byte(rand.Uint32())
		}
		if is4 {
			return netip.AddrFrom4([4]byte(a[:4]))
		}
		return netip.AddrFrom16(a)
	}
	for i := range 20_000 {
		is4 := i%2 == 0
		from := netip.AddrPortFrom(anyAddr(is4), uint16(rand.Uint32()))
		to := netip.AddrPortFrom(anyAddr(is4), uint16(rand.Uint32()))
		if i < 8 { // sums of many ones, and of few
			ends := [][2]string{{"255.255.255.255:65535", "255.255.255.255:65535"}, {"[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
				{"0.0.0.0:0", "0.0.0.0:0"}, {"[::]:0", "[::]:0"}}[i%4]
			from, to = netip.MustParseAddrPort(ends[0]), netip.MustParseAddrPort(ends[1])
			is4 = from.Addr().Is4()
		}
		seq := rand.Uint32()
		p := appendSYN([]byte("kept"), from, to, seq)[4:]
		header, version := 40, byte(6)
		src, dst := p[8:24], p[24:40]
		if is4 {
			header, version = 20, 4
			src, dst = p[12:16], p[16:20]
		}
		ip, tcp := p[:header], p[header:]
		if len(tcp) != 20 || ip[0]>>4 != version || string(src) != string(from.Addr().AsSlice()) || string(dst) != string(to.Addr().AsSlice()) {
			t.Fatalf("%v to %v: header % x", from, to, ip)
		}
		if is4 && (!sumsUp(ip) || int(binary.BigEndian.Uint16(ip[2:])) != len(p) || ip[9] != 6) {
			t.Fatalf("%v to %v: IPv4 header % x", from, to, ip)
		}
		if !is4 && (int(binary.BigEndian.Uint16(ip[4:])) != len(tcp) || ip[6] != 6) {
			t.Fatalf("%v to %v: IPv6 header % x", from, to, ip)
		}
		if binary.BigEndian.Uint16(tcp) != from.Port() || binary.BigEndian.Uint16(tcp[2:]) != to.Port() || binary.BigEndian.Uint32(tcp[4:]) != seq ||
			tcp[12]>>4 != 5 || tcp[13] != syn {
			t.Fatalf("%v to %v: segment % x", from, to, tcp)
		}
		if !sumsUp(src, dst, []byte{0, 6, 0, byte(len(tcp))}, tcp) {
			t.Fatalf("%v to %v: checksum of % x", from, to, tcp)
		}
	}
}
