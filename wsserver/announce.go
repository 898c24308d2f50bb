package wsserver

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/gobwas/ws"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// maxBad is how many messages without sense a socket may send.
const maxBad = 16

// maxScrape bounds the hashes of one scrape, as over HTTP.
const maxScrape = 74

func (w *worker) handleMessage(t *socket, payload []byte) {
	if w.s.Mode() == shedder.Off {
		return // the socket is about to be closed
	}
	m := &w.msg
	w.payload = payload
	if err := parseMessage(payload, m, w.s.cfg.MaxOffers); err != nil {
		w.bad(t, err.Error())
		return
	}
	if m.surplus > 0 {
		w.s.metrics.dropped[dropOffers].Add(m.surplus)
	}
	switch {
	case m.action == actionScrape:
		w.handleScrape(t)
	case m.action != actionAnnounce:
		w.bad(t, "action must be announce or scrape")
	case !m.hasInfoHash:
		w.bad(t, "info_hash must be 20 characters from U+0000 to U+00FF")
	case !m.hasPeerID:
		w.bad(t, "peer_id must be 20 characters from U+0000 to U+00FF")
	case m.answer != nil:
		w.handleAnswer(t)
	default:
		w.handleAnnounce(t)
	}
}

// recover ends the socket whose message panicked, and not the process. An endpoint that does so in a loop switches itself off.
func (w *worker) recover(t *socket) {
	v := recover()
	if v == nil {
		return
	}
	s := w.s
	s.metrics.panics.Inc()
	s.log.Error("BUG: a WebSocket message panicked", "panic", v, "stack", string(debug.Stack()))
	if s.cfg.Gate != nil {
		s.cfg.Gate.Fault(shedder.WS, time.Now())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.abort(closedError)
}

// erred tells of an error of our own, which no peer can cause. An endpoint that errs in a loop switches itself off.
func (s *Server) erred(err error) {
	s.log.Error("BUG: a WebSocket met an error of our own", "err", err)
	if s.cfg.Gate != nil {
		s.cfg.Gate.Erred(shedder.WS, time.Now())
	}
}

// bad answers the first message of a socket that makes no sense, and closes at the sixteenth: whoever sends those reads
// no answers.
func (w *worker) bad(t *socket, reason string) {
	w.s.metrics.announceBad.Inc()
	if t.bad++; t.bad >= maxBad {
		w.fail(t, ws.StatusPolicyViolation, closedProtocol)
		return
	}
	if t.bad > 1 {
		return
	}
	var hash []byte
	if w.msg.hasInfoHash {
		hash = w.msg.infoHashRaw
	}
	w.send(t, appendFailure(beginFrame(w.frame), hash, w.msg.action, reason))
}

// send pushes a text frame, made of beginFrame.
func (w *worker) send(t *socket, b []byte) {
	w.frame = b
	w.push(t, endFrame(b, ws.OpText))
}

func (w *worker) handleAnnounce(t *socket) {
	s, m := w.s, &w.msg
	if s.cfg.Refuses != nil {
		if reason := s.cfg.Refuses(&m.infoHash, &m.peerID); reason != "" {
			s.metrics.announceOff.Inc()
			w.send(t, appendRefusal(beginFrame(w.frame), m.infoHashRaw, reason, jitter(int64(s.cfg.MaxInterval/time.Second))))
			return
		}
	}
	verdict := w.decide(t)
	if verdict == shedder.Refuse {
		s.metrics.announceOff.Inc()
		w.send(t, appendRefusal(beginFrame(w.frame), m.infoHashRaw, refusedByRule, jitter(int64(s.cfg.MaxInterval/time.Second))))
		return
	}
	interval := s.interval.Load()
	a := &w.announce
	*a = swarm.Announce{
		InfoHash: m.infoHash,
		Event:    m.event,
		Seeder:   m.seeder,
		NumWant:  len(m.offers),
		// Long enough for an announce to be lost; the end of the socket ends it sooner.
		TTL: 3 * time.Duration(interval) * time.Second,
	}
	if m.numWant >= 0 {
		a.NumWant = min(a.NumWant, m.numWant)
	}
	told := interval
	switch verdict {
	case shedder.Trim:
		a.NumWant = min(a.NumWant, trimmedOffers)
	case shedder.Shed, shedder.OverBudget:
		// To relay the offers is what an announce costs: it is counted, so that its peer stays known, and told to come back later.
		a.NumWant, told = 0, 2*interval
	}
	place, known := t.member(&m.infoHash, &m.peerID)
	if !known && m.event != swarm.EventStopped {
		place, known = t.join(&m.infoHash, &m.peerID)
		if !known {
			s.metrics.dropped[dropHashes].Inc()
		}
	}
	if known {
		a.HasWeb, a.Web = true, s.members.endpoint(place)
	} else {
		a.Unreachable, a.NumWant = true, 0 // told the counts, and known to nobody
	}
	s.swarms.Announce(a, w.now, &w.reply)
	if known && m.event == swarm.EventStopped {
		t.leave(place)
	}
	if r := &w.reply; len(r.PeersWeb)%endpointBytes != 0 || len(r.FarWeb)%farBytes != 0 || max(len(r.PeersWeb)/endpointBytes, len(r.FarWeb)/farBytes) > a.NumWant {
		w.send(t, appendRefusal(beginFrame(w.frame), m.infoHashRaw, "internal error", jitter(2*interval)))
		s.erred(fmt.Errorf("the store's reply: %d and %d bytes of peers, %d peers wanted", len(r.PeersWeb), len(r.FarWeb), a.NumWant))
		return
	}
	s.metrics.announces(verdict).Inc()
	w.send(t, appendAnnounce(beginFrame(w.frame), m.infoHashRaw, &w.reply.Counts, jitter(told)))
	if known && !w.putAside(a.Web, a.NumWant) {
		w.relayOffers(a.Web)
	}
}

const refusedByRule = "this client is not welcome at this tracker now"

// trimmedOffers is how many offers of an announce are relayed in an overload.
const trimmedOffers = 1

// decide asks the rules and the gate about an announce.
func (w *worker) decide(t *socket) shedder.Verdict {
	gate, m := w.s.cfg.Gate, &w.msg
	if gate == nil {
		return shedder.Serve
	}
	rules := gate.Rules
	if !rules.Empty() && (rules.MatchSource(t.addr) || rules.MatchPeerID(&m.peerID) || rules.MatchInfoHash((*[20]byte)(&m.infoHash))) {
		return shedder.Refuse
	}
	if gate.Sample() {
		gate.Talkers.Note(t.addr, nil, &m.peerID, (*[20]byte)(&m.infoHash))
	}
	class := shedder.Offers
	if m.event == swarm.EventStopped {
		class = shedder.Leaving
	}
	return gate.Admit(&shedder.Request{Endpoint: shedder.WS, Class: class, Source: t.addr, Now: w.now, Age: -1})
}

// jitter is the interval give or take a fifth, so that peers that came together do not come back together.
func jitter(sec int64) int {
	return int(sec*4/5 + rand.Int64N(sec*2/5+1))
}

const endpointBytes = len(swarm.EndpointWeb{})

// relayOffers sends each of the peers the store chose one of the offers, for the announcer.
func (w *worker) relayOffers(offerer swarm.EndpointWeb) {
	s, m := w.s, &w.msg
	peers, i := w.reply.PeersWeb, 0
	for ; i < len(m.offers) && len(peers) >= endpointBytes; i++ {
		answerer := peers[:endpointBytes]
		peers = peers[endpointBytes:]
		t := s.members.find(answerer)
		if t == nil {
			s.metrics.dropped[dropGone].Inc()
			continue
		}
		o := &m.offers[i]
		w.key = appendOfferKey(w.key[:0], &m.infoHash, &m.peerID, answerer, o.id)
		if !s.offers.expect(s.offers.key(w.key), waiting{offerer: offerer}) {
			s.metrics.dropped[dropPending].Inc()
			return
		}
		s.metrics.offers.Inc()
		w.send(t, appendRelayed(beginFrame(w.frame), "offer", o.description, o.id, m.peerIDRaw, m.infoHashRaw))
	}
	w.relayOffersFar(offerer, i)
}

// handleAnswer relays an answer to whom it was asked by. There is no reply, and it is no announce: answers have no left,
// and a leecher would be counted where there is a seeder.
func (w *worker) handleAnswer(t *socket) {
	s, m := w.s, &w.msg
	place, known := t.member(&m.infoHash, &m.peerID)
	if !known || !m.hasToPeerID || m.offerID == nil {
		s.metrics.dropped[dropUnexpected].Inc()
		return
	}
	answerer := s.members.endpoint(place)
	w.key = appendOfferKey(w.key[:0], &m.infoHash, &m.toPeerID, answerer[:], m.offerID)
	who, ok := s.offers.claim(s.offers.key(w.key))
	if !ok {
		s.metrics.dropped[dropUnexpected].Inc()
		return
	}
	if who.node != ([nodeBytes]byte{}) {
		if s.cfg.Nodes != nil && w.sendFar(who.node, &farMessage{
			kind: farAnswer, from: answerer, to: who.offerer, infoHash: m.infoHash, peerID: m.peerID, offerID: m.offerID, description: m.answer,
		}) {
			s.metrics.answersFar.Inc()
		}
		return
	}
	to := s.members.find(who.offerer[:])
	if to == nil {
		s.metrics.dropped[dropGone].Inc()
		return
	}
	s.metrics.answers.Inc()
	w.send(to, appendRelayed(beginFrame(w.frame), "answer", m.answer, m.offerID, m.peerIDRaw, m.infoHashRaw))
}

// handleScrape answers for the hashes named. A scrape of everything is refused.
func (w *worker) handleScrape(t *socket) {
	s, m := w.s, &w.msg
	w.hashes = w.hashes[:0]
	m.eachHash(maxScrape, func(h *swarm.InfoHash) { w.hashes = append(w.hashes, *h) })
	if len(w.hashes) == 0 {
		s.metrics.scrapeBad.Inc()
		w.bad(t, "a scrape of everything is refused; name torrents by info_hash")
		return
	}
	slices.SortFunc(w.hashes, func(a, b swarm.InfoHash) int { return slices.Compare(a[:], b[:]) })
	w.hashes = slices.Compact(w.hashes)
	if w.counts = s.swarms.Scrape(w.hashes, w.counts[:0]); len(w.counts) != len(w.hashes) {
		s.erred(fmt.Errorf("the store's reply: counts of %d torrents, %d asked for", len(w.counts), len(w.hashes)))
		w.counts = make([]swarm.Counts, len(w.hashes))
	}
	if s.cfg.Refuses != nil {
		for i := range w.hashes {
			if s.cfg.Refuses(&w.hashes[i], nil) != "" {
				w.counts[i] = swarm.Counts{}
			}
		}
	}
	s.metrics.scrapeServed.Inc()
	w.send(t, appendScrape(beginFrame(w.frame), w.hashes, w.counts, int(s.interval.Load())))
}

// leaveAll takes the socket's peers out of their swarms. The caller is its reader.
func (t *socket) leaveAll(w *worker) {
	defer w.recover(t)
	for t.members != 0 {
		place := t.members - 1
		m := t.server.members.at(place)
		w.announce = swarm.Announce{
			InfoHash: m.infoHash, HasWeb: true, Web: t.server.members.endpoint(place), Event: swarm.EventStopped,
		}
		t.server.swarms.Announce(&w.announce, w.now, &w.reply)
		t.leave(place)
	}
}

// finish is the end of a socket: by its reader, once.
func (t *socket) finish(why closeReason) {
	s := t.server
	t.mu.Lock()
	if !t.closing.Swap(true) {
		s.metrics.closed[why].Inc()
	}
	t.closed = true
	if t.blocked {
		s.buffered.give(len(t.out))
	}
	t.out, t.blocked = nil, false
	t.closeDescriptor()
	t.mu.Unlock()

	t.forget()
	s.buffered.give(len(t.message))
	t.message = nil
	w := s.workers.Get().(*worker)
	w.now = time.Now()
	t.leaveAll(w)
	s.workers.Put(w)
	s.sockets.release(t.place, t.addr)
}
