package wsserver

import (
	"errors"
	"unicode/utf8"

	"spillway/tracker/swarm"
)

// action is what a message asks for.
type action uint8

const (
	actionNone action = iota
	actionAnnounce
	actionScrape
)

// message is a client's message. Its slices are spans of the bytes it was parsed from, strings with their quotes: what is
// relayed is relayed as it came.
type message struct {
	action      action
	infoHashRaw []byte
	peerIDRaw   []byte
	toPeerIDRaw []byte
	infoHash    swarm.InfoHash
	peerID      [20]byte
	toPeerID    [20]byte
	hasInfoHash bool
	hasPeerID   bool
	hasToPeerID bool

	event   swarm.Event
	seeder  bool
	numWant int // -1: not said

	offers    []offer // at most as many as parseMessage was told
	surplus   int     // offers above that
	isOffers  bool    // there was an array of offers, empty perhaps
	answer    []byte  // an object
	offerID   []byte  // of the answer
	hashCount int     // of a scrape of several: elements of infoHashRaw, valid or not
}

// offer is one of an announce's offers.
type offer struct {
	description []byte // an object
	id          []byte // a string
}

// maxOfferID bounds an offer's name, in bytes as written: 20 characters, all escaped, are 122.
const maxOfferID = 256

// errNotJSON is a message that no parser would take.
var errNotJSON = errors.New("message is not a JSON object in UTF-8")

// parseMessage reads b into m, which may be used again. Only what is not JSON is an error; fields that make no sense are
// as good as absent, because clients differ: a parser that insisted on all fields shut trystero out of a public tracker.
// Of fields that are there twice the last one counts, as with JSON.parse.
func parseMessage(b []byte, m *message, maxOffers int) error {
	*m = message{offers: m.offers[:0], numWant: -1}
	if !utf8.Valid(b) {
		return errNotJSON
	}
	s := scanner{b: b}
	if !s.object(0, func(key []byte) bool { return s.field(key, m, maxOffers) }) {
		return errNotJSON
	}
	if s.space(); s.i != len(b) {
		return errNotJSON
	}
	if len(m.infoHashRaw) > 0 && m.infoHashRaw[0] == '"' {
		m.hasInfoHash = parseLatin1(m.infoHashRaw, (*[20]byte)(&m.infoHash))
	}
	m.hasPeerID = parseLatin1(m.peerIDRaw, &m.peerID)
	m.hasToPeerID = parseLatin1(m.toPeerIDRaw, &m.toPeerID)
	return nil
}

// field reads the value of one of the message's members.
func (s *scanner) field(key []byte, m *message, maxOffers int) bool {
	switch {
	case isText(key, "offers"):
		return s.offersField(m, maxOffers)
	case isText(key, "info_hash"):
		return s.infoHashField(m)
	}
	v, ok := s.value(1)
	if !ok {
		return false
	}
	switch {
	case isText(key, "action"):
		m.action = actionNone
		if isText(v, "announce") {
			m.action = actionAnnounce
		} else if isText(v, "scrape") {
			m.action = actionScrape
		}
	case isText(key, "peer_id"):
		m.peerIDRaw = v
	case isText(key, "to_peer_id"):
		m.toPeerIDRaw = v
	case isText(key, "offer_id"):
		m.offerID = offerID(v)
	case isText(key, "answer"):
		m.answer = objectOf(v)
	case isText(key, "event"):
		m.event = eventOf(v)
	case isText(key, "left"):
		// null (WebTorrent, for magnets), absent (trystero), -1 (anacrolix) are leechers.
		m.seeder = isZero(v)
	case isText(key, "numwant"):
		m.numWant = smallInt(v)
	}
	return true
}

// infoHashField reads a string, or counts the elements of an array, as a scrape may have.
func (s *scanner) infoHashField(m *message) bool {
	m.infoHashRaw, m.hashCount = nil, 0
	if s.peek() != '[' {
		v, ok := s.value(1)
		m.infoHashRaw = v
		return ok
	}
	from := s.i
	ok := s.array(1, func() bool {
		m.hashCount++
		_, ok := s.value(2)
		return ok
	})
	m.infoHashRaw = s.b[from:s.i]
	return ok
}

// offersField reads an array of offers. Elements that are none, null say, are passed over: bittorrent-tracker's server
// would throw.
func (s *scanner) offersField(m *message, maxOffers int) bool {
	m.offers, m.surplus, m.isOffers = m.offers[:0], 0, false
	if s.peek() != '[' {
		// As bittorrent-tracker does: offers are sent only when the field is an array.
		_, ok := s.value(1)
		return ok
	}
	m.isOffers = true
	return s.array(1, func() bool {
		if s.peek() != '{' {
			_, ok := s.value(2)
			return ok
		}
		var o offer
		ok := s.object(2, func(key []byte) bool {
			v, ok := s.value(3)
			if isText(key, "offer") {
				o.description = objectOf(v)
			} else if isText(key, "offer_id") {
				o.id = offerID(v)
			}
			return ok
		})
		switch {
		case o.description == nil || o.id == nil:
		case len(m.offers) >= maxOffers:
			m.surplus++
		default:
			m.offers = append(m.offers, o)
		}
		return ok
	})
}

// eachHash calls f with each info hash of a scrape, at most n.
func (m *message) eachHash(n int, f func(*swarm.InfoHash)) {
	var hash [20]byte
	if m.hasInfoHash {
		f(&m.infoHash)
		return
	}
	if len(m.infoHashRaw) == 0 || m.infoHashRaw[0] != '[' {
		return
	}
	s := scanner{b: m.infoHashRaw}
	s.array(1, func() bool {
		v, ok := s.value(2)
		if ok && n > 0 && parseLatin1(v, &hash) {
			f((*swarm.InfoHash)(&hash))
			n--
		}
		return ok
	})
}

func objectOf(v []byte) []byte {
	if len(v) > 0 && v[0] == '{' {
		return v
	}
	return nil
}

func offerID(v []byte) []byte {
	if len(v) > 0 && v[0] == '"' && len(v) <= maxOfferID {
		return v
	}
	return nil
}

// eventOf takes an unknown event for none, bittorrent-tracker's "update" with it.
func eventOf(v []byte) swarm.Event {
	switch {
	case isText(v, "started"):
		return swarm.EventStarted
	case isText(v, "stopped"):
		return swarm.EventStopped
	case isText(v, "completed"):
		return swarm.EventCompleted
	case isText(v, "paused"):
		return swarm.EventPaused
	}
	return swarm.EventNone
}

// isZero tells whether v is a number of which every digit before the exponent is 0.
func isZero(v []byte) bool {
	if len(v) == 0 || v[0] != '-' && !isDigit(v[0]) {
		return false
	}
	for _, c := range v {
		if c|0x20 == 'e' {
			break
		}
		if isDigit(c) && c != '0' {
			return false
		}
	}
	return true
}

// smallInt reads a whole number up to 9999, which stands for all above it; -1 is anything else.
func smallInt(v []byte) int {
	n := 0
	for _, c := range v {
		if !isDigit(c) {
			return -1
		}
		n = min(10*n+int(c-'0'), 9999)
	}
	if len(v) == 0 {
		return -1
	}
	return n
}
