package wsserver

import (
	"encoding/binary"

	"github.com/gobwas/ws"
)

// statusTryAgainLater is the IANA registry's 1013, which RFC 6455 does not have: come back later.
const statusTryAgainLater ws.StatusCode = 1013

// maxHeader is the longest frame header: two bytes, eight of length, four of mask (RFC 6455, 5.2).
const maxHeader = 14

// parseHeader reads a frame's header. n is its length, 0 when b ends before the header does.
func parseHeader(b []byte) (h ws.Header, n int) {
	if len(b) < 2 {
		return h, 0
	}
	h.Fin = b[0]&0x80 != 0
	h.Rsv = b[0] >> 4 & 7
	h.OpCode = ws.OpCode(b[0] & 15)
	h.Masked = b[1]&0x80 != 0
	n = 2
	switch length := b[1] & 0x7f; {
	case length < 126:
		h.Length = int64(length)
	case length == 126:
		if len(b) < 4 {
			return h, 0
		}
		h.Length = int64(binary.BigEndian.Uint16(b[2:]))
		n = 4
	default:
		if len(b) < 10 {
			return h, 0
		}
		// The sign bit must be 0; a negative length is refused as too long.
		h.Length = int64(binary.BigEndian.Uint64(b[2:]))
		n = 10
	}
	if h.Masked {
		if len(b) < n+4 {
			return h, 0
		}
		copy(h.Mask[:], b[n:])
		n += 4
	}
	return h, n
}

// appendHeader begins an unmasked frame, whole in itself, as servers send them.
func appendHeader(dst []byte, op ws.OpCode, length int) []byte {
	dst = append(dst, 0x80|byte(op))
	switch {
	case length < 126:
		return append(dst, byte(length))
	case length <= 0xffff:
		return append(dst, 126, byte(length>>8), byte(length))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(length))
}

// frameBytes is the length of the frame that b begins with, one of appendHeader's, header and all.
func frameBytes(b []byte) int {
	h, n := parseHeader(b)
	return n + int(h.Length)
}

// beginFrame leaves room for the longest header; endFrame writes the header before the payload and returns the frame.
// b is beginFrame's with a payload appended.
func beginFrame(b []byte) []byte { return append(b[:0], make([]byte, maxHeader)...) }

func endFrame(b []byte, op ws.OpCode) []byte {
	var header [maxHeader]byte
	h := appendHeader(header[:0], op, len(b)-maxHeader)
	frame := b[maxHeader-len(h):]
	copy(frame, h)
	return frame
}
