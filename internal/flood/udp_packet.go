package flood

import (
	"encoding/binary"
)

// The actions of BEP 15.
const (
	udpConnect  uint32 = 0
	udpAnnounce uint32 = 1
	udpScrape   uint32 = 2
	udpError    uint32 = 3
)

const udpMagic = 0x41727101980

func appendUDPConnect(b []byte, transaction uint32) []byte {
	return appendUDPHead(b, udpMagic, udpConnect, transaction)
}

func appendUDPHead(b []byte, id uint64, action, transaction uint32) []byte {
	b = binary.BigEndian.AppendUint64(b, id)
	b = binary.BigEndian.AppendUint32(b, action)
	return binary.BigEndian.AppendUint32(b, transaction)
}

// udpAnnounce appends one of a source. None says stopped: the reply to that may have no counts, as one that is shed.
func (r *requests) udpAnnounce(b []byte, id uint64, transaction uint32, source int) []byte {
	self, c := r.who(source)
	draw := r.rnd.next()
	hash := InfoHash(r.torrentOf(source, draw>>32))
	b = appendUDPHead(b, id, udpAnnounce, transaction)
	b = append(b, hash[:]...)
	b = append(b, c.peerID...)
	x := mix(self)
	if c == &attacker && r.randomIDs {
		x = r.rnd.next()
	}
	for n := len(c.peerID); n < 20; n++ {
		b = append(b, 'a'+byte(x%26))
		x = x>>5 | x<<59
	}
	left, event := uint64(0), uint32(0)
	if self>>24%10 >= 3 { // three of ten seed
		left = 1 << 20
	}
	switch kind := draw % 100; {
	case kind < 4:
		event = 2 // started
	case kind < 6:
		event, left = 1, 0 // completed
	}
	b = binary.BigEndian.AppendUint64(b, 0) // downloaded
	b = binary.BigEndian.AppendUint64(b, left)
	b = binary.BigEndian.AppendUint64(b, 0) // uploaded
	b = binary.BigEndian.AppendUint32(b, event)
	b = binary.BigEndian.AppendUint32(b, 0) // ip: the packet's
	b = binary.BigEndian.AppendUint32(b, uint32(self>>32))
	b = binary.BigEndian.AppendUint32(b, 50) // num_want
	return binary.BigEndian.AppendUint16(b, uint16(10_000+self>>8%50_000))
}

func (r *requests) udpScrape(b []byte, id uint64, transaction uint32, hashes int) []byte {
	b = appendUDPHead(b, id, udpScrape, transaction)
	for range hashes {
		hash := InfoHash(r.anyTorrent())
		b = append(b, hash[:]...)
	}
	return b
}

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
