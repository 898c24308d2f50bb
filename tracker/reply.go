package tracker

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"

	"spillway/tracker/swarm"
)

// The replies, bencoded by hand into a buffer that is used again. Keys stand in the order of their raw bytes, as BEP 3
// demands; the tests hold all of it against an independent decoder.

// announceReply is what an announce is answered with.
type announceReply struct {
	*swarm.Reply
	intervalSec int
	external    netip.Addr // the client's address as the tracker sees it (BEP 24)
	list        bool       // compact=0
}

// appendAnnounce appends the reply to dst. "peers" is always there, even empty: rTorrent calls a reply without it an
// error. "min interval" is the interval: aria2, rqbit and rTorrent wait for that instead, so less of it is more load.
func appendAnnounce(dst []byte, r *announceReply) []byte {
	dst = append(dst, "d8:completei"...)
	dst = strconv.AppendUint(dst, uint64(r.Complete), 10)
	dst = append(dst, "e10:downloadedi"...)
	dst = strconv.AppendUint(dst, uint64(r.Downloaded), 10)
	dst = append(dst, "e11:external ip"...)
	if r.external.Is4() {
		ip := r.external.As4()
		dst = append(append(dst, "4:"...), ip[:]...)
	} else {
		ip := r.external.As16()
		dst = append(append(dst, "16:"...), ip[:]...)
	}
	dst = append(dst, "10:incompletei"...)
	dst = strconv.AppendUint(dst, uint64(r.Incomplete), 10)
	dst = appendIntervals(append(dst, 'e'), r.intervalSec)
	if r.list {
		return append(appendPeerList(append(dst, "5:peersl"...), r.Reply), "ee"...)
	}
	dst = appendBytes(append(dst, "5:peers"...), r.Peers4)
	if len(r.Peers6) > 0 {
		dst = appendBytes(append(dst, "6:peers6"...), r.Peers6)
	}
	return append(dst, 'e')
}

// appendPeerList appends a dictionary a peer, as BEP 3 had it before compact. There are no peer ids: none are kept.
func appendPeerList(dst []byte, r *swarm.Reply) []byte {
	one := func(ip netip.Addr, port []byte) {
		var text [48]byte
		dst = appendBytes(append(dst, "d2:ip"...), ip.AppendTo(text[:0]))
		dst = append(dst, "4:porti"...)
		dst = strconv.AppendUint(dst, uint64(port[0])<<8|uint64(port[1]), 10)
		dst = append(dst, "ee"...)
	}
	for p := range slices.Chunk(r.Peers4, len(swarm.Endpoint4{})) {
		one(netip.AddrFrom4([4]byte(p)), p[4:])
	}
	for p := range slices.Chunk(r.Peers6, len(swarm.Endpoint6{})) {
		one(netip.AddrFrom16([16]byte(p)), p[16:])
	}
	return dst
}

// appendFailure appends a refusal. It always carries an interval: without one libtorrent waits half an hour and
// Transmission tries again in seconds.
func appendFailure(dst []byte, reason string, intervalSec int) []byte {
	dst = append(dst, "d14:failure reason"...)
	dst = append(strconv.AppendUint(dst, uint64(len(reason)), 10), ':')
	dst = append(dst, reason...)
	return append(appendIntervals(dst, intervalSec), 'e')
}

func appendIntervals(dst []byte, sec int) []byte {
	dst = append(dst, "8:intervali"...)
	dst = strconv.AppendUint(dst, uint64(sec), 10)
	dst = append(dst, "e12:min intervali"...)
	dst = strconv.AppendUint(dst, uint64(sec), 10)
	return append(dst, 'e')
}

// appendScrape appends the counts of each hash; hashes are sorted and without duplicates. A hash nobody has announced
// stands there with zeros: libtorrent takes its absence for an error.
func appendScrape(dst []byte, hashes []swarm.InfoHash, counts []swarm.Counts, intervalSec int) []byte {
	dst = append(dst, "d5:filesd"...)
	for i := range hashes {
		dst = append(append(dst, "20:"...), hashes[i][:]...)
		dst = append(dst, "d8:completei"...)
		dst = strconv.AppendUint(dst, uint64(counts[i].Complete), 10)
		dst = append(dst, "e10:downloadedi"...)
		dst = strconv.AppendUint(dst, uint64(counts[i].Downloaded), 10)
		dst = append(dst, "e11:downloadersi"...) // BEP 21
		dst = strconv.AppendUint(dst, uint64(counts[i].Downloaders), 10)
		dst = append(dst, "e10:incompletei"...)
		dst = strconv.AppendUint(dst, uint64(counts[i].Incomplete), 10)
		dst = append(dst, "ee"...)
	}
	dst = append(dst, "e5:flagsd20:min_request_intervali"...)
	dst = strconv.AppendUint(dst, uint64(intervalSec), 10)
	return append(dst, "eee"...)
}

func appendBytes(dst, b []byte) []byte {
	dst = append(strconv.AppendUint(dst, uint64(len(b)), 10), ':')
	return append(dst, b...)
}

// sortHashes sorts and drops duplicates, in place.
func sortHashes(h []swarm.InfoHash) []swarm.InfoHash {
	slices.SortFunc(h, func(a, b swarm.InfoHash) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(h)
}
