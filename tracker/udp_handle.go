package tracker

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// errUDPID is what opentracker says, its spelling and its zero byte included: anacrolix knows it, and it is short enough to
// answer a scrape of one torrent with less than was asked.
const errUDPID = "Connection ID missmatch.\x00"

// udpHandler answers packets, one after the other. Each socket has its own.
type udpHandler struct {
	t   *Tracker
	u   *UDP
	ids *connectionIDs

	// Of the batch of packets in hand.
	now      time.Time
	settings *settings
	crowded  bool // more come than are read

	// What may have to wait is put aside with the way back to who sent it: packet number packet of sock's batch. Nil late: nothing
	// waits.
	late   *udpLate
	spare  *udpAside // for the next
	sock   *udpSocket
	packet int
	from   []byte

	// What one packet needs and the next can use again.
	params   udpAnnounce
	announce swarm.Announce
	reply    swarm.Reply
	hashes   []swarm.InfoHash
	counts   []swarm.Counts
	url      [maxURLData]byte
}

func newUDPHandler(t *Tracker, u *UDP, key *[UDPKeyBytes]byte) *udpHandler {
	return &udpHandler{
		t: t, u: u, ids: newConnectionIDs(key),
		reply:  swarm.Reply{Peers4: make([]byte, 0, maxUDPReply), Peers6: make([]byte, 0, maxUDPReply)},
		hashes: make([]swarm.InfoHash, 0, maxScrape),
		counts: make([]swarm.Counts, 0, maxScrape),
	}
}

// begin takes what holds for a batch of packets.
func (h *udpHandler) begin(now time.Time) {
	h.now, h.settings = now, h.t.settings.Load()
	h.ids.at(now.Unix())
}

// handle appends the reply to one packet to dst, which has room for maxUDPReply bytes, and returns it; nothing is appended where there is to be none.
// age is how long the packet waited, negative where the kernel did not say.
//
// Until a client has sent back the id it was given, a packet's source may be anybody, whom others want flooded. So before that
// no reply is longer than its request.
func (h *udpHandler) handle(dst, in []byte, addr netip.Addr, age time.Duration) []byte {
	if age >= 0 {
		h.t.gate.Observe(age, false)
	}
	if len(in) < udpHeaderBytes {
		h.u.garbage.Inc()
		return dst
	}
	id, action, transaction := binary.BigEndian.Uint64(in), binary.BigEndian.Uint32(in[8:]), binary.BigEndian.Uint32(in[12:])
	switch {
	case action == actionConnect && id == connectMagic:
		return h.connect(dst, transaction, addr)
	case action != actionAnnounce && action != actionScrape:
		h.u.garbage.Inc()
		return dst
	case !h.ids.valid(id, addr):
		return h.refuseID(dst, transaction, len(in))
	case action == actionAnnounce:
		return h.handleAnnounce(dst, in, transaction, addr)
	}
	return h.handleScrape(dst, in, transaction, addr)
}

// connect costs the asker as many bytes as us. With the switch off too all are told an id, for their announce is to be answered:
// who is not comes back sooner.
func (h *udpHandler) connect(dst []byte, transaction uint32, addr netip.Addr) []byte {
	h.u.connects.Inc()
	return appendUDPConnect(dst, transaction, h.ids.id(addr))
}

// refuseID answers an id that is old, or was never given to that address. It is told at once, because it may be a client that is
// not forged, as after a restart with another key: a client that hears nothing waits 15 seconds (libtorrent, anacrolix) or a
// minute (Transmission) before it connects anew.
func (h *udpHandler) refuseID(dst []byte, transaction uint32, asked int) []byte {
	h.u.badIDs.Inc()
	if asked < udpReplyHeader+len(errUDPID) || h.crowded || h.t.gate.Limited() {
		return dst
	}
	return appendUDPError(dst, transaction, errUDPID)
}

func (h *udpHandler) handleAnnounce(dst, in []byte, transaction uint32, addr netip.Addr) []byte {
	t, s, p := h.t, h.settings, &h.params
	err := parseUDPAnnounce(in, p)
	if err == nil {
		err = h.checkPasskey(p.options)
	}
	if err != nil {
		t.metrics.udpAnnounce.bad.Inc()
		return appendUDPError(dst, transaction, err.Error())
	}
	switch {
	case !s.access.allows(&p.infoHash):
		t.metrics.udpAnnounce.off.Inc()
		return appendUDPError(dst, transaction, string(errUnregistered))
	case len(s.blocked) > 0 && s.blocks(&p.peerID):
		t.metrics.udpAnnounce.off.Inc()
		return appendUDPError(dst, transaction, string(errBlockedClient))
	}
	verdict := h.decide(addr)
	numWant := min(s.numWant(p.numWant), maxPeersOf(addr))
	switch verdict {
	case shedder.Serve:
	case shedder.Trim:
		numWant = min(numWant, trimmedNumWant)
	default:
		return h.refuse(dst, transaction)
	}
	interval := t.interval()
	a := &h.announce
	*a = swarm.Announce{
		InfoHash:     p.infoHash,
		Event:        p.event,
		Seeder:       p.seeder,
		Unreachable:  p.port == 0,
		NumWant:      numWant,
		TTL:          s.ttl(interval),
		PreferFamily: swarm.Family6,
		OneFamily:    true,
	}
	if addr.Is4() {
		a.PreferFamily = swarm.Family4
	}
	a.SetEndpoint(h.believed(addr), p.port)
	if h.announceLater(transaction, interval, verdict) {
		return dst
	}
	return h.answerAnnounce(dst, transaction, a, interval, verdict)
}

// answerAnnounce has an announce that is admitted meet its swarm.
func (h *udpHandler) answerAnnounce(dst []byte, transaction uint32, a *swarm.Announce, interval int, verdict shedder.Verdict) []byte {
	t := h.t
	t.swarms.Announce(a, h.now, &h.reply)
	if err := checkReply(a, &h.reply); err != nil {
		t.erred(shedder.UDP, err)
		return appendUDPAnnounce(dst, transaction, interval, &swarm.Counts{}, nil) // an error would bring some clients back soon
	}
	peers := h.reply.Peers4
	if a.PreferFamily == swarm.Family6 {
		peers = h.reply.Peers6
	}
	if verdict == shedder.Serve {
		t.metrics.udpAnnounce.served.Inc()
	} else {
		t.metrics.udpAnnounce.trimmed.Inc()
	}
	return appendUDPAnnounce(dst, transaction, interval, &h.reply.Counts, peers)
}

// maxPeersOf is how many peers fit into a reply to addr.
func maxPeersOf(addr netip.Addr) int {
	const room = maxUDPReply - udpReplyHeader - 12
	if addr.Is4() {
		return room / len(swarm.Endpoint4{})
	}
	return room / len(swarm.Endpoint6{})
}

// believed is where a client is: at the address its packet came from, unless that is a private one whose word counts
// (tracker.ip_param).
func (h *udpHandler) believed(addr netip.Addr) netip.Addr {
	if !h.settings.cfg.ClaimedIP || h.params.ip == [4]byte{} || !isLocal(addr) {
		return addr
	}
	if claimed := netip.AddrFrom4(h.params.ip); isReachable(claimed) {
		return claimed
	}
	return addr
}

// checkPasskey reads the URL's path off the options, where one is asked for.
func (h *udpHandler) checkPasskey(options []byte) error {
	if h.settings.passkeys == nil {
		return nil
	}
	path := appendURLData(h.url[:0], options)
	for i, c := range path {
		if c == '?' {
			path = path[:i]
			break
		}
	}
	r, passkey := routeOf(path)
	if _, ok := h.settings.passkeys[string(passkey)]; !ok || r != routeAnnounce {
		return errPasskey
	}
	return nil
}

// decide asks the rules and the gate about the announce in h.params. Its source has proven that it receives what is sent there;
// still it is never the firewall's to drop: whoever sees a client's packets pass could have it cut off from everything.
func (h *udpHandler) decide(addr netip.Addr) shedder.Verdict {
	p, gate := &h.params, h.t.gate
	rules := gate.Rules
	if !rules.Empty() && (rules.MatchSource(addr) || rules.MatchPeerID(&p.peerID) || rules.MatchInfoHash((*[20]byte)(&p.infoHash))) {
		return shedder.Refuse
	}
	if gate.Sample() {
		gate.Talkers.Note(addr, nil, &p.peerID, (*[20]byte)(&p.infoHash))
	}
	r := shedder.Request{Endpoint: shedder.UDP, Class: classOf(p.event, p.seeder), Source: addr, Now: h.now, Crowded: h.crowded}
	verdict := gate.Admit(&r)
	if r.Offends {
		h.u.cut.add(addr, h.now)
	}
	if verdict == shedder.Serve && gate.Trims() {
		return shedder.Trim
	}
	return verdict
}

// refuse answers an announce that a switch or a rule does not let in: with a success without peers and a long interval, the only
// answer over UDP that has an interval, and that clients obey. While there is no time for it, it is none: who hears nothing asks
// again after 15 seconds, then 30, then 60.
func (h *udpHandler) refuse(dst []byte, transaction uint32) []byte {
	h.t.metrics.udpAnnounce.off.Inc()
	if h.busy() {
		h.u.overload.Inc()
		return dst
	}
	return appendUDPAnnounce(dst, transaction, clampInterval(h.t.toldUDPOff(h.now)), &swarm.Counts{}, nil)
}

// busy tells whether refusals are to cost as little as can be.
func (h *udpHandler) busy() bool {
	state, _ := h.t.gate.Pressure()
	return h.crowded || state == shedder.Escalated
}

// toldOff is the interval of an announce that a switch or a rule refuses. While a switch is off for a time it is what is left of
// that, and up to an interval more.
func (t *Tracker) toldUDPOff(now time.Time) int {
	off := t.gate.ToldOff()
	if until := t.udpOffUntil.Load(); until > 0 {
		left := int(max(until-now.Unix(), 0))
		off = min(left+rand.IntN(t.gate.Interval()+1), off)
	}
	return off
}

func (h *udpHandler) handleScrape(dst, in []byte, transaction uint32, addr netip.Addr) []byte {
	t, s := h.t, h.settings
	h.hashes, h.counts = h.hashes[:0], h.counts[:0]
	for rest := in[udpHeaderBytes:]; len(rest) >= 20 && len(h.hashes) < maxScrape; rest = rest[20:] {
		h.hashes = append(h.hashes, swarm.InfoHash(rest[:20]))
	}
	if len(h.hashes) == 0 {
		t.metrics.udpScrape.bad.Inc()
		return appendUDPError(dst, transaction, string(errUDPScrape))
	}
	r := shedder.Request{Endpoint: shedder.UDP, Class: shedder.Scrapes, Source: addr, Now: h.now, Crowded: h.crowded}
	// BEP 41 has no options for a scrape, and so no passkey: it is told zeros, which is no failure. A failed scrape is a failed
	// announce to Transmission.
	verdict := t.gate.Admit(&r)
	if r.Offends {
		h.u.cut.add(addr, h.now)
	}
	if verdict > shedder.Trim || t.gate.Rules.MatchSource(addr) || s.passkeys != nil {
		t.metrics.udpScrape.shed.Inc()
		if h.busy() {
			h.u.overload.Inc()
			return dst
		}
		h.counts = h.counts[:len(h.hashes)]
		clear(h.counts)
		return appendUDPScrape(dst, transaction, h.counts)
	}
	if h.scrapeLater(transaction) {
		return dst
	}
	return h.answerScrape(dst, transaction, h.hashes)
}

// answerScrape answers a scrape that is admitted.
func (h *udpHandler) answerScrape(dst []byte, transaction uint32, hashes []swarm.InfoHash) []byte {
	h.counts = h.t.swarms.Scrape(hashes, h.counts[:0])
	if err := checkCounts(hashes, h.counts); err != nil {
		h.t.erred(shedder.UDP, err)
		h.counts = make([]swarm.Counts, len(hashes))
	}
	for i := range hashes {
		if !h.settings.access.allows(&hashes[i]) {
			h.counts[i] = swarm.Counts{}
		}
	}
	h.t.metrics.udpScrape.served.Inc()
	return appendUDPScrape(dst, transaction, h.counts)
}
