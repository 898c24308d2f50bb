package kernel

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// Netlink attributes: length, type, value, padding to four bytes. nf_tables' numbers are big endian.

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func appendBytes(b []byte, kind uint16, value []byte) []byte {
	if len(value) > 1<<16-1-unix.SizeofNlAttr {
		panic("BUG: netlink attribute of more than 64 KiB")
	}
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return pad(append(b, value...))
}

func appendNest(b []byte, kind uint16, parts ...[]byte) []byte {
	var value []byte
	for _, p := range parts {
		value = append(value, p...)
	}
	return appendBytes(b, kind|unix.NLA_F_NESTED, value)
}

func appendText(b []byte, kind uint16, value string) []byte {
	return appendBytes(b, kind, append([]byte(value), 0))
}

func append32(b []byte, kind uint16, value uint32) []byte {
	return appendBytes(b, kind, binary.BigEndian.AppendUint32(nil, value))
}

func append64(b []byte, kind uint16, value uint64) []byte {
	return appendBytes(b, kind, binary.BigEndian.AppendUint64(nil, value))
}

// attributes yields what is in b, up to the first that is malformed.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofNlAttr || size > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofNlAttr:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// attribute is the first of a kind in b, or nil.
func attribute(b []byte, kinds ...uint16) []byte {
	for _, kind := range kinds {
		found := false
		for k, value := range attributes(b) {
			if k == kind {
				b, found = value, true
				break
			}
		}
		if !found {
			return nil
		}
	}
	return b
}

// text is a value without the zero at its end.
func text(value []byte) string {
	for len(value) > 0 && value[len(value)-1] == 0 {
		value = value[:len(value)-1]
	}
	return string(value)
}

func uint32Of(value []byte) uint32 {
	if len(value) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(value)
}

func uint64Of(value []byte) uint64 {
	if len(value) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(value)
}
