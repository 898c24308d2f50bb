package tracker

import (
	"encoding/binary"

	"spillway/tracker/swarm"
)

// The packets of BEP 15, big endian. A request begins with a connection id (8 bytes), an action and a transaction id (4 each);
// a reply with an action and the request's transaction id.
const (
	actionConnect  = 0
	actionAnnounce = 1
	actionScrape   = 2
	actionError    = 3

	// connectMagic stands for the connection id in a connect request.
	connectMagic = 0x41727101980

	udpHeaderBytes   = 16
	udpAnnounceBytes = 98 // and then the options of BEP 41
	udpReplyHeader   = 8  // action, transaction id
	udpCountsBytes   = 12 // of a scrape: seeders, completed, leechers
)

// maxUDPReply is what a datagram carries in the smallest packet that IPv6 lets a network have: 1280 bytes less the headers.
// Fragments of larger ones are what firewalls drop. It has room for 202 peers of IPv4, 67 of IPv6, 74 torrents of a scrape.
const maxUDPReply = 1280 - 40 - 8

// maxUDPRequest is more than a network carries in one packet: 98 bytes and options, or 74 torrents.
const maxUDPRequest = 2048

// udpAnnounce is what an announce says. options points into the packet.
type udpAnnounce struct {
	infoHash swarm.InfoHash
	peerID   [20]byte
	seeder   bool // left is exactly 0
	event    swarm.Event
	ip       [4]byte
	numWant  int // -1: not said
	port     uint16
	options  []byte
}

// parseUDPAnnounce reads an announce, of which uploaded, downloaded and key are of no use here. Longer ones than
// udpAnnounceBytes have options.
func parseUDPAnnounce(b []byte, a *udpAnnounce) error {
	if len(b) < udpAnnounceBytes {
		return errUDPShort
	}
	a.infoHash = swarm.InfoHash(b[16:36])
	a.peerID = [20]byte(b[36:56])
	a.seeder = binary.BigEndian.Uint64(b[64:]) == 0
	a.event = udpEvent(binary.BigEndian.Uint32(b[80:]))
	a.ip = [4]byte(b[84:88])
	a.numWant = max(int(int32(binary.BigEndian.Uint32(b[92:]))), -1) // -1 is the default, and some send other negative ones
	a.port = binary.BigEndian.Uint16(b[96:])
	a.options = b[udpAnnounceBytes:]
	return nil
}

const (
	errUDPShort  failure = "announce is cut short: it must have 98 bytes"
	errUDPScrape failure = "scrape names no torrent"
)

func udpEvent(n uint32) swarm.Event {
	switch n {
	case 1:
		return swarm.EventCompleted
	case 2:
		return swarm.EventStarted
	case 3:
		return swarm.EventStopped
	case 4: // in no BEP; libtorrent numbers its "paused" so
		return swarm.EventPaused
	}
	return swarm.EventNone
}

// The options of BEP 41. All but the first two have a length, of one byte, behind their number.
const (
	optionEnd     = 0
	optionNOP     = 1
	optionURLData = 2
)

// appendURLData appends what the options say of the announce URL, its path and query, as far as dst has room. What is cut short
// or unknown is skipped: it may be of a BEP to come, or no options at all but what a client had in its buffer.
func appendURLData(dst, options []byte) []byte {
	for len(options) > 0 && options[0] != optionEnd {
		if options[0] == optionNOP {
			options = options[1:]
			continue
		}
		if len(options) < 2 || len(options) < 2+int(options[1]) {
			break
		}
		data := options[2 : 2+int(options[1])]
		if options[0] == optionURLData {
			dst = append(dst, data[:min(len(data), cap(dst)-len(dst))]...)
		}
		options = options[2+len(data):]
	}
	return dst
}

// maxURLData is the longest URL that is looked at.
const maxURLData = 512

// appendUDPHeader appends what each reply begins with.
func appendUDPHeader(dst []byte, action uint32, transaction uint32) []byte {
	dst = binary.BigEndian.AppendUint32(dst, action)
	return binary.BigEndian.AppendUint32(dst, transaction)
}

func appendUDPConnect(dst []byte, transaction uint32, id uint64) []byte {
	return binary.BigEndian.AppendUint64(appendUDPHeader(dst, actionConnect, transaction), id)
}

// appendUDPAnnounce appends a reply; peers are 6 bytes each to a client on IPv4, 18 to one on IPv6.
func appendUDPAnnounce(dst []byte, transaction uint32, intervalSec int, c *swarm.Counts, peers []byte) []byte {
	dst = appendUDPHeader(dst, actionAnnounce, transaction)
	dst = binary.BigEndian.AppendUint32(dst, uint32(intervalSec))
	dst = binary.BigEndian.AppendUint32(dst, c.Incomplete)
	dst = binary.BigEndian.AppendUint32(dst, c.Complete)
	return append(dst, peers...)
}

// appendUDPScrape appends the counts of each torrent, in the order asked.
func appendUDPScrape(dst []byte, transaction uint32, counts []swarm.Counts) []byte {
	dst = appendUDPHeader(dst, actionScrape, transaction)
	for i := range counts {
		dst = binary.BigEndian.AppendUint32(dst, counts[i].Complete)
		dst = binary.BigEndian.AppendUint32(dst, counts[i].Downloaded)
		dst = binary.BigEndian.AppendUint32(dst, counts[i].Incomplete)
	}
	return dst
}

func appendUDPError(dst []byte, transaction uint32, text string) []byte {
	return append(appendUDPHeader(dst, actionError, transaction), text...)
}
