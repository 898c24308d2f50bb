package lab

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSYNIsWhole(t *testing.T) {
	t.Parallel()
	from, to := netip.MustParseAddrPort("10.99.4.5:1025"), netip.MustParseAddrPort("198.18.0.1:80")
	b := appendSYN(nil, from, to, 77)
	if len(b) != 44 || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		t.Fatalf("length: got %d, it says %d", len(b), binary.BigEndian.Uint16(b[2:]))
	}
	// A right checksum makes the sum of all of it, with the pseudo header, all ones.
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(b)-20)
	for i := 12; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum != 0xffff {
		t.Errorf("checksum: the sum is %#x", sum)
	}
	if b[33] != 2 || b[32]>>4 != 6 {
		t.Errorf("flags %#x, header of %d words; want a SYN of 6", b[33], b[32]>>4)
	}
}

func TestAFlowsStateIsRead(t *testing.T) {
	t.Parallel()
	attr := func(kind uint16, payload ...byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(payload)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, payload...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		return b
	}
	head := []byte{unix.AF_INET, 0, 0, 0}
	info := attr(ctaProtoInfo|unix.NLA_F_NESTED, attr(ctaProtoInfoTCP|unix.NLA_F_NESTED, attr(ctaProtoInfoTCPState, stateSynSent)...)...)
	flow := append(append(append([]byte{}, head...), attr(1, 1, 2, 3)...), info...)
	if got := flowState(flow); got != stateSynSent {
		t.Errorf("got %d, want %d", got, stateSynSent)
	}
	for i := range flow { // cut anywhere
		if got := flowState(flow[:i]); got != 0 && i < len(flow)-3 {
			t.Errorf("%d of %d bytes: got %d", i, len(flow), got)
		}
	}
}

func FuzzFlowState(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 8, 0, 4, 128, 4, 0, 1, 0})
	f.Fuzz(func(_ *testing.T, b []byte) { flowState(b) })
}
