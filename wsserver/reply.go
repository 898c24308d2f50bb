package wsserver

import (
	"strconv"

	"spillway/tracker/swarm"
)

// appendAnnounce writes the reply to an announce. The interval is a JSON integer: libtorrent closes on anything else.
// infoHash is echoed as it came, in quotes.
func appendAnnounce(dst, infoHash []byte, c *swarm.Counts, intervalSec int) []byte {
	dst = append(dst, `{"action":"announce","interval":`...)
	dst = strconv.AppendInt(dst, int64(intervalSec), 10)
	dst = append(dst, `,"info_hash":`...)
	dst = append(dst, infoHash...)
	dst = append(dst, `,"complete":`...)
	dst = strconv.AppendUint(dst, uint64(c.Complete), 10)
	dst = append(dst, `,"incomplete":`...)
	dst = strconv.AppendUint(dst, uint64(c.Incomplete), 10)
	return append(dst, '}')
}

// appendRefusal is the reply to a peer that may not announce: shaped as a success, with zeros and a long interval, and
// the reason as a warning. After a failure WebTorrent comes back in 30 seconds, for ever.
func appendRefusal(dst, infoHash []byte, reason string, intervalSec int) []byte {
	dst = appendAnnounce(dst, infoHash, new(swarm.Counts), intervalSec)
	dst = append(dst[:len(dst)-1], `,"warning message":`...)
	return append(strconv.AppendQuoteToASCII(dst, reason), '}')
}

// appendFailure answers a message that makes no sense. It names an action: without one bittorrent-tracker's client
// destroys the socket and connects again. infoHash may be nil; libtorrent closes then.
func appendFailure(dst, infoHash []byte, act action, reason string) []byte {
	if act == actionScrape {
		dst = append(dst, `{"action":"scrape","failure reason":`...)
	} else {
		dst = append(dst, `{"action":"announce","failure reason":`...)
	}
	dst = strconv.AppendQuoteToASCII(dst, reason)
	if infoHash != nil {
		dst = append(dst, `,"info_hash":`...)
		dst = append(dst, infoHash...)
	}
	return append(dst, '}')
}

// appendRelayed writes an offer or an answer for another peer, kind being which. All parts are as they came.
func appendRelayed(dst []byte, kind string, description, offerID, peerID, infoHash []byte) []byte {
	dst = append(dst, `{"action":"announce","`...)
	dst = append(dst, kind...)
	dst = append(dst, `":`...)
	dst = append(dst, description...)
	dst = append(dst, `,"offer_id":`...)
	dst = append(dst, offerID...)
	dst = append(dst, `,"peer_id":`...)
	dst = append(dst, peerID...)
	dst = append(dst, `,"info_hash":`...)
	dst = append(dst, infoHash...)
	return append(dst, '}')
}

// appendScrape writes the reply to a scrape. hashes has no hash twice.
func appendScrape(dst []byte, hashes []swarm.InfoHash, counts []swarm.Counts, intervalSec int) []byte {
	dst = append(dst, `{"action":"scrape","files":{`...)
	for i := range hashes {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendLatin1(dst, (*[20]byte)(&hashes[i]))
		dst = append(dst, `:{"complete":`...)
		dst = strconv.AppendUint(dst, uint64(counts[i].Complete), 10)
		dst = append(dst, `,"incomplete":`...)
		dst = strconv.AppendUint(dst, uint64(counts[i].Incomplete), 10)
		dst = append(dst, `,"downloaded":`...)
		dst = strconv.AppendUint(dst, uint64(counts[i].Downloaded), 10)
		dst = append(dst, '}')
	}
	dst = append(dst, `},"flags":{"min_request_interval":`...)
	dst = strconv.AppendInt(dst, int64(intervalSec), 10)
	return append(dst, '}', '}')
}
