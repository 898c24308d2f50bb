package lab

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

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
