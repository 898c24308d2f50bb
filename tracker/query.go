package tracker

import (
	"bytes"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// failure is a mistake of the client's, worded for the person who reads it in a torrent client. None of them says
// "unregistered": Transmission and rTorrent stop for ever at that word, so it is kept for torrents that are not allowed.
type failure string

func (f failure) Error() string { return string(f) }

const (
	errNoInfoHash     failure = "info_hash is missing"
	errManyInfoHashes failure = "info_hash is given twice; one announce is for one torrent"
	errInfoHash       failure = "info_hash must be 20 bytes"
	errNoPeerID       failure = "peer_id is missing"
	errPeerID         failure = "peer_id must be 20 bytes"
	errPort           failure = "port must be a number from 0 to 65535"
	errEscape         failure = "invalid escape: % must be followed by two hex digits"
	errTooLong        failure = "request line is too long"
)

// announceParams is what an announce's query says. The byte slices point into the query.
type announceParams struct {
	infoHash swarm.InfoHash
	peerID   [20]byte
	port     uint16
	event    swarm.Event
	seeder   bool // left is exactly 0
	numWant  int  // -1: not said, or not a number of peers
	list     bool // compact=0: peers as a list of dictionaries
	ips      [maxIPParams][]byte
	ipCount  int
}

// maxIPParams bounds how many of ip=, ipv4= and ipv6= are looked at. libtorrent repeats them, one an interface.
const maxIPParams = 8

// maxNumWant is where numwant is cut before the operator's own bound, so that the number cannot overflow.
const maxNumWant = 1 << 20

// The parameters that are looked at, as bits of those seen: the first of each counts.
const (
	seenInfoHash = 1 << iota
	seenPeerID
	seenPort
	seenLeft
	seenEvent
	seenNumWant
	seenCompact
)

// parseAnnounce reads an announce's query into p. It is neither url.ParseQuery nor fasthttp.Args: a "+" is a plus, as
// opentracker and bittorrent-tracker have it, and no client means a space by it; ";" does not separate. What is not
// needed to answer is never an error: an unknown event is none, a left that is no number is a leecher's.
func parseAnnounce(query []byte, p *announceParams) error {
	*p = announceParams{numWant: -1}
	seen := 0
	for len(query) > 0 {
		var key, value []byte
		key, value, query = nextParam(query)
		switch string(key) {
		case "info_hash":
			if seen&seenInfoHash != 0 {
				return errManyInfoHashes
			}
			seen |= seenInfoHash
			if err := decode20((*[20]byte)(&p.infoHash), value, errInfoHash); err != nil {
				return err
			}
		case "peer_id":
			if seen&seenPeerID == 0 {
				seen |= seenPeerID
				if err := decode20(&p.peerID, value, errPeerID); err != nil {
					return err
				}
			}
		case "port":
			if seen&seenPort == 0 && len(value) > 0 {
				seen |= seenPort
				n, ok := parseUint(value, 65535)
				if !ok {
					return errPort
				}
				p.port = uint16(n)
			}
		case "left":
			if seen&seenLeft == 0 {
				seen |= seenLeft
				// Anything else, missing, negative or nonsense, is a leecher: bittorrent-tracker reads null as 0 and
				// counts magnets as seeders, opentracker does so for letters; both hand out wrong counts.
				n, ok := parseUint(value, 0)
				p.seeder = ok && n == 0
			}
		case "event":
			if seen&seenEvent == 0 {
				seen |= seenEvent
				p.event = parseEvent(value)
			}
		case "numwant":
			if seen&seenNumWant == 0 {
				seen |= seenNumWant
				// Some clients send -1 for "as you like". A number however large is one, and is capped later.
				if n, ok := parseUint(value, maxNumWant); ok || n > maxNumWant {
					p.numWant = min(n, maxNumWant)
				}
			}
		case "compact":
			if seen&seenCompact == 0 {
				seen |= seenCompact
				p.list = string(value) == "0"
			}
		case "ip", "ipv4", "ipv6":
			if p.ipCount < maxIPParams {
				p.ips[p.ipCount] = value
				p.ipCount++
			}
		}
	}
	switch {
	case seen&seenInfoHash == 0:
		return errNoInfoHash
	case seen&seenPeerID == 0:
		return errNoPeerID
	}
	return nil
}

// class is what the announce says of itself.
func (p *announceParams) class() shedder.Class { return classOf(p.event, p.seeder) }

// parseScrape appends the query's info hashes to dst, at most maxScrape of them, and returns it. Those beyond are left
// out of the answer, as opentracker does at 64.
func parseScrape(query []byte, dst []swarm.InfoHash) ([]swarm.InfoHash, error) {
	for len(query) > 0 && len(dst) < maxScrape {
		var key, value []byte
		key, value, query = nextParam(query)
		if string(key) != "info_hash" {
			continue
		}
		var h swarm.InfoHash
		if err := decode20((*[20]byte)(&h), value, errInfoHash); err != nil {
			return dst, err
		}
		dst = append(dst, h)
	}
	return dst, nil
}

// maxScrape is how many torrents one scrape is answered for: what fits a UDP packet (BEP 15), and Transmission asks 60.
const maxScrape = 74

// nextParam cuts the first key and value off a query.
func nextParam(query []byte) (key, value, rest []byte) {
	if i := bytes.IndexByte(query, '&'); i >= 0 {
		query, rest = query[:i], query[i+1:]
	}
	if i := bytes.IndexByte(query, '='); i >= 0 {
		return query[:i], query[i+1:], rest
	}
	return query, nil, rest
}

func parseEvent(v []byte) swarm.Event {
	switch string(v) {
	case "started":
		return swarm.EventStarted
	case "stopped":
		return swarm.EventStopped
	case "completed":
		return swarm.EventCompleted
	case "paused": // BEP 21, sent by libtorrent and Transmission for partial seeds
		return swarm.EventPaused
	}
	return swarm.EventNone
}

// parseUint reads decimal digits. A number above most is not ok and comes back as some number above most, however long
// it is; anything but digits is not ok and comes back as 0.
func parseUint(v []byte, most int) (n int, ok bool) {
	if len(v) == 0 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n <= most {
			n = n*10 + int(c-'0')
		}
	}
	return n, n <= most
}

// decode20 undoes percent-encoding; wrong is returned unless exactly 20 bytes come out.
func decode20(dst *[20]byte, v []byte, wrong error) error {
	n := 0
	for i := 0; i < len(v); i++ {
		c := v[i]
		if c == '%' {
			if i+2 >= len(v) {
				return errEscape
			}
			hi, lo := unhex[v[i+1]], unhex[v[i+2]]
			if hi|lo > 15 {
				return errEscape
			}
			c = hi<<4 | lo
			i += 2
		}
		if n == len(dst) {
			return wrong
		}
		dst[n] = c
		n++
	}
	if n != len(dst) {
		return wrong
	}
	return nil
}

// unhex maps a hex digit to its value, everything else to 255.
var unhex = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i := range byte(10) {
		t['0'+i] = i
	}
	for i := range byte(6) {
		t['a'+i], t['A'+i] = 10+i, 10+i
	}
	return t
}()
