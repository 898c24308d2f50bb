package flood

import "encoding/binary"

// udpReply is a packet of a tracker (BEP 15).
type udpReply struct {
	action      uint32
	transaction uint32
	body        []byte
}

// parseUDPReply reads any packet that may be a reply: its head is whole, its action is one, and a connect has an id.
func parseUDPReply(b []byte) (r udpReply, ok bool) {
	if len(b) < 8 {
		return udpReply{}, false
	}
	r = udpReply{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), b[8:]}
	if r.action > udpError || r.action == udpConnect && len(r.body) < 8 {
		return udpReply{}, false
	}
	return r, true
}

// id is a connect's.
func (r udpReply) id() uint64 { return binary.BigEndian.Uint64(r.body) }

// judge tells what a reply is worth to who asked for an action, of so many torrents if that was a scrape.
//
// Over UDP a refusal that clients obey is a success with nothing in it: an announce without counts and peers, a scrape of zeros. The
// counts of an announce that is served have its own peer in them.
func (r udpReply) judge(asked uint32, hashes int, v6 bool) outcome {
	switch {
	case r.action == udpError:
		return shedFailure
	case r.action != asked:
		return malformed
	case asked == udpScrape:
		if len(r.body) != 12*hashes {
			return malformed
		}
		for _, c := range r.body {
			if c != 0 {
				return good
			}
		}
		return shed
	}
	peer := 6
	if v6 {
		peer = 18
	}
	const fields = 12 // interval, leechers, seeders
	if asked != udpAnnounce || len(r.body) < fields || (len(r.body)-fields)%peer != 0 {
		return malformed
	}
	if len(r.body) == fields && binary.BigEndian.Uint64(r.body[4:]) == 0 {
		return shed
	}
	return good
}
