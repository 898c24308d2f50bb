package flood

import "encoding/binary"

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
	self := mix(uint64(source)*0x9e3779b97f4a7c15 + 1)
	c := &clients[self%uint64(len(clients))]
	attack := source >= r.honest
	if attack {
		c = &attacker
	}
	draw := r.rnd.next()
	hash := InfoHash(r.torrentOf(source, draw>>32))
	b = appendUDPHead(b, id, udpAnnounce, transaction)
	b = append(b, hash[:]...)
	b = append(b, c.peerID...)
	x := mix(self)
	if attack && r.randomIDs {
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
