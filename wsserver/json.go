package wsserver

import (
	"encoding/binary"
	"math/bits"
)

// maxDepth bounds how deep arrays and objects may be nested: the message's own, offers, an offer, what a session
// description may have in it.
const maxDepth = 16

// scanner walks over a JSON text (RFC 8259) and names its parts without decoding them: offers and answers are relayed byte
// for byte. It takes no text that a peer's JSON parser would refuse, for the peer would close its socket, not the
// sender's. That the text is UTF-8 is checked before.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\n' || s.b[s.i] == '\t' || s.b[s.i] == '\r') {
		s.i++
	}
}

// take moves over c and the white space before it, if it is there.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

func (s *scanner) peek() byte {
	s.space()
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

// value moves over any value and returns its bytes.
func (s *scanner) value(depth int) (span []byte, ok bool) {
	c := s.peek()
	from := s.i
	switch {
	case c == '"':
		return s.str()
	case c == '{':
		ok = s.object(depth, nil)
	case c == '[':
		ok = s.array(depth, nil)
	case c == 't':
		ok = s.word("true")
	case c == 'f':
		ok = s.word("false")
	case c == 'n':
		ok = s.word("null")
	case c == '-' || isDigit(c):
		ok = s.number()
	}
	return s.b[from:s.i], ok
}

func (s *scanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}

// object moves over an object. member is called for each member, the scanner standing before its value, and moves over
// it; nil moves over anything.
func (s *scanner) object(depth int, member func(key []byte) bool) bool {
	if depth >= maxDepth || !s.take('{') {
		return false
	}
	if s.take('}') {
		return true
	}
	for {
		s.space()
		key, ok := s.str()
		if !ok || !s.take(':') {
			return false
		}
		if member != nil {
			ok = member(key)
		} else {
			_, ok = s.value(depth + 1)
		}
		if !ok {
			return false
		}
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// array is object for arrays.
func (s *scanner) array(depth int, element func() bool) bool {
	if depth >= maxDepth || !s.take('[') {
		return false
	}
	if s.take(']') {
		return true
	}
	for {
		ok := false
		if element != nil {
			ok = element()
		} else {
			_, ok = s.value(depth + 1)
		}
		if !ok {
			return false
		}
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func (s *scanner) digits() bool {
	from := s.i
	for s.i < len(s.b) && isDigit(s.b[s.i]) {
		s.i++
	}
	return s.i > from
}

func (s *scanner) number() bool {
	if s.b[s.i] == '-' {
		s.i++
	}
	if s.i < len(s.b) && s.b[s.i] == '0' {
		s.i++ // no digits behind a leading zero
	} else if !s.digits() {
		return false
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if !s.digits() {
			return false
		}
	}
	if s.i < len(s.b) && s.b[s.i]|0x20 == 'e' {
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		return s.digits()
	}
	return true
}

const (
	low7  = 0x0101010101010101
	high1 = 0x8080808080808080
)

// plain is how many bytes of b need no look: no quote, backslash or control character. Eight at a time: a session
// description is a kilobyte or more, and this is most of what parsing costs.
func plain(b []byte) int {
	n := 0
	for len(b)-n >= 8 {
		x := binary.LittleEndian.Uint64(b[n:])
		quote, slash := x^(low7*'"'), x^(low7*'\\')
		// A byte's high bit is set where it is zero (below 0x20, for x); above the first one borrows make mistakes.
		hit := ((quote-low7)&^quote | (slash-low7)&^slash | (x-low7*0x20)&^x) & high1
		if hit != 0 {
			return n + bits.TrailingZeros64(hit)/8
		}
		n += 8
	}
	for n < len(b) && b[n] != '"' && b[n] != '\\' && b[n] >= 0x20 {
		n++
	}
	return n
}

// str moves over a string and returns it with its quotes.
func (s *scanner) str() (span []byte, ok bool) {
	from := s.i
	if s.i >= len(s.b) || s.b[s.i] != '"' {
		return nil, false
	}
	s.i++
	for {
		s.i += plain(s.b[s.i:])
		if s.i >= len(s.b) || s.b[s.i] < 0x20 {
			return nil, false
		}
		if s.b[s.i] == '"' {
			s.i++
			return s.b[from:s.i], true
		}
		// Session descriptions have them in pairs: \r\n.
		for s.i < len(s.b) && s.b[s.i] == '\\' {
			if !s.escape() {
				return nil, false
			}
		}
	}
}

func (s *scanner) escape() bool {
	if s.i+1 >= len(s.b) {
		return false
	}
	switch s.b[s.i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i += 2
		return true
	case 'u':
		if _, ok := hex4(s.b[s.i+2:]); ok {
			s.i += 6
			return true
		}
	}
	return false
}

func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}
