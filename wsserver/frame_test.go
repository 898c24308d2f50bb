package wsserver

import (
	"bytes"
	"testing"

	"github.com/gobwas/ws"
)

// FuzzHeader compares with gobwas/ws, whose reader wants a stream where we have what has come so far.
func FuzzHeader(f *testing.F) {
	for _, length := range []int64{0, 125, 126, 0xffff, 0x10000, 1 << 40} {
		var b bytes.Buffer
		h := ws.Header{Fin: true, OpCode: ws.OpText, Masked: length%2 == 0, Mask: [4]byte{1, 2, 3, 4}, Length: length}
		if err := ws.WriteHeader(&b, h); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n := parseHeader(b)
		r := bytes.NewReader(b)
		want, err := ws.ReadHeader(r)
		switch {
		case err == ws.ErrHeaderLengthMSB:
			if n > 0 && h.Length >= 0 {
				t.Errorf("length with its highest bit set: got %d, want a negative one, which is refused", h.Length)
			}
		case err != nil && n != 0:
			t.Errorf("parse %x: got %d bytes, want none: %v", b, n, err)
		case err == nil && (n != len(b)-r.Len() || h != want):
			t.Errorf("parse %x: got %+v in %d bytes, want %+v in %d", b, h, n, want, len(b)-r.Len())
		}
	})
}

func TestFramesAreReadBack(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 125, 126, 127, 0xffff, 0x10000, 200_000} {
		b := append(beginFrame(nil), bytes.Repeat([]byte("x"), size)...)
		frame := endFrame(b, ws.OpText)
		if got := frameBytes(frame); got != len(frame) {
			t.Errorf("frame of %d: got %d bytes, want %d", size, got, len(frame))
		}
		f, err := readFrame(bytes.NewReader(frame))
		if err != nil || !f.Header.Fin || f.Header.OpCode != ws.OpText || len(f.Payload) != size {
			t.Errorf("frame of %d: read back as %+v (%v)", size, f.Header, err)
		}
	}
}
