package wsserver

import (
	"encoding/binary"
	"sync"
	"time"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// Nodes are the other nodes whose WebSocket peers are in the same swarms. Send has message given to that node's Server.Receive; it
// copies it and never blocks. False means that it will not arrive.
type Nodes interface {
	Send(node [4]byte, message []byte) bool
}

// asker is a store that may have to ask others about a swarm first (shared.Store.Ask).
type asker interface {
	Ask(infoHash *swarm.InfoHash, now time.Time, done func()) bool
}

// What nodes say to one another: an offer or an answer, for a peer of the node it is sent to.
//
//	1 byte    farOffer or farAnswer
//	4, 8      who it is from: its node, its name there
//	8         whom it is for
//	20, 20    info hash; peer id of whom it is from
//	2         bytes of the offer's id, little endian
//	          the offer's id, a JSON string; the rest is the description, a JSON object
const (
	farOffer  = 1
	farAnswer = 2

	nodeBytes = 4
	farBytes  = nodeBytes + endpointBytes // of a peer in swarm.Reply.FarWeb
	farHeader = 1 + farBytes + endpointBytes + 20 + 20 + 2
)

// farMessage is one such message, as spans of it.
type farMessage struct {
	kind        byte
	node        [nodeBytes]byte
	from, to    swarm.EndpointWeb
	infoHash    swarm.InfoHash
	peerID      [20]byte
	offerID     []byte
	description []byte
}

func appendFar(dst []byte, m *farMessage) []byte {
	dst = append(dst, m.kind)
	dst = append(dst, m.node[:]...)
	dst = append(dst, m.from[:]...)
	dst = append(dst, m.to[:]...)
	dst = append(dst, m.infoHash[:]...)
	dst = append(dst, m.peerID[:]...)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(m.offerID))) // at most maxOfferID
	dst = append(dst, m.offerID...)
	return append(dst, m.description...)
}

// parseFar reads b into m. It takes only what could be put into a frame as it is: a client that is sent anything but JSON closes
// its socket.
func parseFar(b []byte, m *farMessage) bool {
	if len(b) < farHeader || b[0] != farOffer && b[0] != farAnswer {
		return false
	}
	m.kind, b = b[0], b[1:]
	for _, to := range [...][]byte{m.node[:], m.from[:], m.to[:], m.infoHash[:], m.peerID[:]} {
		b = b[copy(to, b):]
	}
	size := int(binary.LittleEndian.Uint16(b))
	if b = b[2:]; size > maxOfferID || size > len(b) {
		return false
	}
	m.offerID, m.description = b[:size], b[size:]
	return isValue(m.offerID, '"') && isValue(m.description, '{')
}

// isValue tells whether b is one JSON value that begins with first.
func isValue(b []byte, first byte) bool {
	if len(b) == 0 || b[0] != first {
		return false
	}
	s := scanner{b: b}
	_, ok := s.value(1)
	return ok && s.i == len(b)
}

// sendFar sends a peer of another node what m says; m.node is this node's name on the way there.
func (w *worker) sendFar(node [nodeBytes]byte, m *farMessage) bool {
	m.node = w.s.cfg.Node
	w.far = appendFar(w.far[:0], m)
	if !w.s.cfg.Nodes.Send(node, w.far) {
		w.s.metrics.dropped[dropNode].Inc()
		return false
	}
	return true
}

// relayOffersFar sends offers from number i on to peers of other nodes.
func (w *worker) relayOffersFar(offerer swarm.EndpointWeb, i int) {
	s, m := w.s, &w.msg
	if s.cfg.Nodes == nil {
		return
	}
	for peers := w.reply.FarWeb; i < len(m.offers) && len(peers) >= farBytes; i++ {
		o := &m.offers[i]
		if w.sendFar([nodeBytes]byte(peers), &farMessage{
			kind: farOffer, from: offerer, to: swarm.EndpointWeb(peers[nodeBytes:farBytes]),
			infoHash: m.infoHash, peerID: m.peerID, offerID: o.id, description: o.description,
		}) {
			s.metrics.offersFar.Inc()
		}
		peers = peers[farBytes:]
	}
}

// Receive takes what another node has sent: an offer for a peer of this one, or the answer to an offer from here. That an answer is
// asked for is known where its peer is, so it is checked there, as among peers of one node.
func (s *Server) Receive(message []byte) {
	w := s.workers.Get().(*worker)
	w.now = time.Now()
	w.receive(message)
	w.flush()
	s.workers.Put(w)
}

func (w *worker) receive(message []byte) {
	s, m := w.s, &farMessage{}
	if s.Mode() == shedder.Off {
		return
	}
	if !parseFar(message, m) {
		s.metrics.dropped[dropNode].Inc()
		return
	}
	t := s.members.find(m.to[:])
	if t == nil {
		s.metrics.dropped[dropGone].Inc()
		return
	}
	kind := "answer"
	if m.kind == farOffer {
		kind = "offer"
		w.key = appendOfferKey(w.key[:0], &m.infoHash, &m.peerID, m.to[:], m.offerID)
		if !s.offers.expect(s.offers.key(w.key), waiting{m.from, m.node}) {
			s.metrics.dropped[dropPending].Inc()
			return
		}
		s.metrics.offers.Inc()
	} else {
		s.metrics.answers.Inc()
	}
	var peerID, infoHash [2 + 20*6]byte
	w.send(t, appendRelayed(beginFrame(w.frame), kind, m.description, m.offerID,
		appendLatin1(peerID[:0], &m.peerID), appendLatin1(infoHash[:0], (*[20]byte)(&m.infoHash))))
}

// An aside is an announce that has its reply, and whose offers wait for the store to hear from the other nodes who is in the swarm.
// It must not wait in a loop, and whoever is first in a swarm on each of two nodes must not miss the other.
type aside struct {
	payload []byte // of the budget
	offerer swarm.EndpointWeb
	seeder  bool
	numWant int
}

// maxAsides bounds them, as does Config.MaxBuffered their bytes.
const maxAsides = 4096

// asides are those whose wait is over.
type asides struct {
	woken chan struct{} // holds one

	mu     sync.Mutex // guards what follows
	ready  []*aside
	open   int // that wait, or are ready
	bytes  int // of the budget, theirs
	closed bool
}

// putAside has an announce's offers sent on once the store knows the swarm. False means that it does already, or that there is no room.
func (w *worker) putAside(offerer swarm.EndpointWeb, numWant int) bool {
	s, m := w.s, &w.msg
	if s.ask == nil || len(m.offers) == 0 || numWant <= 0 || m.event == swarm.EventStopped {
		return false
	}
	if !s.asides.begin(&s.buffered, len(w.payload)) {
		return false
	}
	a := &aside{offerer: offerer, seeder: m.seeder, numWant: numWant}
	a.payload = append([]byte(nil), w.payload...)
	if !s.ask.Ask(&m.infoHash, w.now, func() { s.asides.finish(a) }) {
		s.metrics.asides.Inc()
		return true
	}
	s.asides.end(&s.buffered, len(a.payload))
	return false
}

func (q *asides) begin(of *budget, n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.open >= maxAsides || !of.take(n) {
		return false
	}
	q.open++
	q.bytes += n
	return true
}

func (q *asides) end(of *budget, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.open--
	q.bytes -= n
	of.give(n)
}

// finish is called by the store, which must not be held up.
func (q *asides) finish(a *aside) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.ready = append(q.ready, a)
	select {
	case q.woken <- struct{}{}:
	default:
	}
}

// take returns those that are ready.
func (q *asides) take() []*aside {
	q.mu.Lock()
	defer q.mu.Unlock()
	ready := q.ready
	q.ready = nil
	return ready
}

// close gives up all there are. What comes later is nothing to it.
func (q *asides) close(of *budget) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	of.give(q.bytes)
	q.ready, q.open, q.bytes = nil, 0, 0
}

// runAsides sends their offers on, until stop is closed.
func (s *Server) runAsides(stop <-chan struct{}) {
	w := s.newWorker()
	defer s.asides.close(&s.buffered)
	for {
		select {
		case <-stop:
			return
		case <-s.asides.woken:
		}
		for i, a := range s.asides.take() {
			w.now = time.Now()
			w.relayAside(a)
			s.asides.end(&s.buffered, len(a.payload))
			if i%maxDirty == maxDirty-1 {
				w.flush()
			}
		}
		w.flush()
	}
}

func (w *worker) relayAside(a *aside) {
	s, m := w.s, &w.msg
	t := s.members.find(a.offerer[:])
	if t == nil || s.Mode() == shedder.Off || parseMessage(a.payload, m, s.cfg.MaxOffers) != nil {
		return
	}
	defer w.recover(t)
	w.announce = swarm.Announce{
		InfoHash: m.infoHash, HasWeb: true, Web: a.offerer, Seeder: a.seeder, NumWant: a.numWant,
		Unreachable: true, // it is in the swarm already, or has left it since
		TTL:         3 * time.Duration(s.interval.Load()) * time.Second,
	}
	if m.event == swarm.EventPaused {
		w.announce.Event = m.event
	}
	s.swarms.Announce(&w.announce, w.now, &w.reply)
	w.relayOffers(a.offerer)
}
