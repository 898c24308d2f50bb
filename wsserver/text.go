package wsserver

import "unicode/utf8"

// nextRune decodes the first character of what is between the quotes of a string that str accepted. A surrogate is a
// character of its own here: it is compared, never shown.
func nextRune(b []byte) (r rune, n int) {
	if b[0] < utf8.RuneSelf && b[0] != '\\' {
		return rune(b[0]), 1
	}
	if b[0] != '\\' {
		return utf8.DecodeRune(b)
	}
	switch b[1] {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r, _ = hex4(b[2:])
		return r, 6
	}
	return rune(b[1]), 2
}

// parseLatin1 reads 20 bytes written as 20 characters U+0000 to U+00FF, which is how WebTorrent writes info hashes and peer
// ids (bittorrent-tracker's hex2bin; libtorrent's utf8_latin1). span has its quotes.
func parseLatin1(span []byte, dst *[20]byte) bool {
	if len(span) < 22 || span[0] != '"' {
		return false
	}
	b := span[1 : len(span)-1]
	for i := range dst {
		if len(b) == 0 {
			return false
		}
		r, n := nextRune(b)
		if r > 0xff {
			return false
		}
		dst[i] = byte(r)
		b = b[n:]
	}
	return len(b) == 0
}

// appendLatin1 writes what parseLatin1 reads.
func appendLatin1(dst []byte, raw *[20]byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, c := range raw {
		switch {
		case c < 0x20 || c == '"' || c == '\\':
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			dst = append(dst, c)
		default:
			dst = append(dst, 0xc0|c>>6, 0x80|c&0x3f)
		}
	}
	return append(dst, '"')
}

// appendText writes a string's characters, whichever way they were escaped, as bytes to compare.
func appendText(dst, span []byte) []byte {
	for b := span[1 : len(span)-1]; len(b) > 0; {
		r, n := nextRune(b)
		dst = append(dst, byte(r>>16), byte(r>>8), byte(r))
		b = b[n:]
	}
	return dst
}

// isText tells whether a string says word.
func isText(span []byte, word string) bool {
	if len(span) < 2 || span[0] != '"' {
		return false
	}
	b := span[1 : len(span)-1]
	if string(b) == word {
		return true
	}
	for i := range len(word) {
		if len(b) == 0 {
			return false
		}
		r, n := nextRune(b)
		if r != rune(word[i]) {
			return false
		}
		b = b[n:]
	}
	return len(b) == 0
}
