package flood

import (
	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// udpEngine asks over UDP (BEP 15). A socket is a client: it has an address and a connection id of its own, and any number of
// requests on the way. Each of those is a slot, whose number goes out as the transaction id and comes back.
type udpEngine struct {
	*worker
	to       *remote
	sockets  []udpSocket
	turn     [sides]ring[int32] // sockets of each side, in turn
	fresh    ring[int32]        // sockets that have not been opened
	slots    []udpSlot
	unused   ring[int32] // slots
	flight   sys.Flight
	answered int // sockets that have been given an id before the flood
	flying   int
	reuse    bool
	packet   []byte
	scratch  []byte
}

type udpSocket struct {
	fd     int32
	side   uint8
	hasID  bool
	id     uint64
	idAt   int64 // when the id came, or was asked for before the flood
	source int32
	last   int32 // slot of what was sent last
}

// udpSlot is a request on the way: its connect, if the socket has no id that is fresh, then itself.
type udpSlot struct {
	req         request
	socket      int32
	generation  uint32
	transaction uint32
	since       int64 // when it got its slot
	hashes      int32 // of a scrape; 0: an announce
	used        bool
	connecting  bool
	left        bool // it has been counted as sent
}

const (
	udpIDAge      = int64(60e9) // BEP 15: a client may use an id for a minute
	udpOpenAtOnce = 256
	udpAgain      = int64(1e9) // a connect before the flood is repeated after this
	udpSlotBits   = 20
	udpOpening    = uint32(udpMaxSlots - 1) // slot in the transaction id of a connect before the flood
	udpMaxSlots   = 1 << udpSlotBits
	udpPacket     = 2048
)

func newUDPEngine(w *worker) *udpEngine {
	c := &w.cfg
	n := perWorker(c.Conns, w.id, c.Threads)
	// What can be on the way until it is given up, and no more.
	waiting := c.Profile.peak(c.Rate) / float64(c.Threads) * c.Timeout.Seconds()
	slots := min(max(int(waiting*1.25), n)+dueAtOnce, udpMaxSlots-1)
	e := &udpEngine{
		worker: w, to: newRemote(c.Target, unix.SOCK_DGRAM), sockets: make([]udpSocket, n), fresh: newRing[int32](n), slots: make([]udpSlot, slots),
		unused: newRing[int32](slots), flight: sys.NewFlight(slots), reuse: c.Mode == UDP, packet: make([]byte, 0, 16+20*maxHashes+128),
		scratch: make([]byte, udpPacket),
	}
	w.split = c.Attackers > 0
	attackers := w.attackersOf(n)
	for i := range e.turn {
		e.turn[i] = newRing[int32](n)
	}
	for i := range e.sockets {
		s := &e.sockets[i]
		s.fd, s.last, s.idAt = none, none, -udpAgain
		if i < attackers {
			s.side = attack
		}
		s.source = int32(w.sourceOf(s.side, i*c.Threads+w.id))
		e.fresh.push(int32(i))
	}
	for i := range e.slots {
		e.unused.push(int32(i))
	}
	return e
}

func (e *udpEngine) free() int        { return max(len(e.sockets)-e.flying, 0) }
func (e *udpEngine) busy() bool       { return e.flying > 0 }
func (e *udpEngine) open() (n, w int) { return e.answered, len(e.sockets) }

// keepOpen opens sockets, and asks for a connection id on each. It has work to do before the flood only.
func (e *udpEngine) keepOpen(now int64) {
	for range min(e.fresh.n, openAtOnce) {
		i := e.fresh.first()
		s := &e.sockets[i]
		switch {
		case s.hasID:
			e.fresh.pop()
			continue
		case now-s.idAt < udpAgain:
			return // nor has any behind it waited longer
		}
		e.fresh.pop()
		if s.fd == none && !e.openSocket(i) {
			s.idAt = now
			e.fresh.push(i)
			continue
		}
		s.idAt = now
		e.packet = appendUDPConnect(e.packet[:0], udpOpening)
		if _, errno := sys.Send(s.fd, e.packet); errno != 0 {
			e.dialErr = errno
		}
		e.fresh.push(i)
	}
}

func (e *udpEngine) openSocket(i int32) bool {
	s := &e.sockets[i]
	var from [4]byte
	if e.cfg.Target.Addr().Is4() {
		from = e.requests.sources.at(int(s.source))
	}
	fd, errno := e.to.dial(from)
	if errno == 0 {
		if errno = e.poller.Add(fd, i, 0, unix.EPOLLIN); errno != 0 {
			sys.Close(fd)
		}
	}
	if errno != 0 {
		e.dialErr = errno
		e.local(errno)
		return false
	}
	s.fd = fd
	e.turn[e.line(s.side)].push(i)
	return true
}

// dispatch sends what is queued, each on the next of its side's sockets.
func (e *udpEngine) dispatch(now int64) {
	for line := range e.queues {
		for q := &e.queues[line]; q.n > 0 && e.turn[line].n > 0; {
			if e.unused.n == 0 && !e.evict(now) {
				return
			}
			slot, socket := e.unused.pop(), e.turn[line].pop()
			e.turn[line].push(socket)
			p := &e.slots[slot]
			*p = udpSlot{req: q.pop(), socket: socket, generation: p.generation + 1, since: now, used: true}
			p.transaction = p.generation<<udpSlotBits | uint32(slot)
			if scrapes := e.cfg.Scrapes; scrapes > 0 && float64(e.rnd.next()>>32) < scrapes*(1<<32) {
				p.hashes = int32(e.cfg.Hashes)
			}
			e.flight.Push(slot)
			e.flying++
			s := &e.sockets[socket]
			if e.reuse && s.hasID && now-s.idAt < udpIDAge {
				e.ask(slot, s.id, now)
			} else {
				p.connecting = true
				e.write(slot, appendUDPConnect(e.packet[:0], p.transaction), now)
			}
		}
	}
}

// evict makes room by giving up the oldest, if it cannot be good any more.
func (e *udpEngine) evict(now int64) bool {
	i := e.flight.First
	if i == none || now-e.slots[i].req.due <= int64(e.cfg.Good) {
		return false
	}
	e.done(i, timedOut, now)
	return true
}

// ask sends the request itself.
func (e *udpEngine) ask(slot int32, id uint64, now int64) {
	p := &e.slots[slot]
	p.connecting = false
	source := int(e.sockets[p.socket].source)
	if p.hashes > 0 {
		e.write(slot, e.requests.udpScrape(e.packet[:0], id, p.transaction, int(p.hashes)), now)
	} else {
		e.write(slot, e.requests.udpAnnounce(e.packet[:0], id, p.transaction, source), now)
	}
}

// write sends a packet. A refusal that the kernel was told of before is of an earlier packet: this one has not been sent then.
func (e *udpEngine) write(slot int32, b []byte, now int64) {
	p := &e.slots[slot]
	e.packet = b
	s := &e.sockets[p.socket]
	_, errno := sys.Send(s.fd, b)
	if errno == unix.ECONNREFUSED {
		e.refuse(p.socket, now)
		if !p.used {
			return
		}
		_, errno = sys.Send(s.fd, b)
	}
	switch errno {
	case 0:
		if s.last = slot; !p.left {
			p.left = true
			e.tally.leave(p.req)
		}
	case unix.ECONNREFUSED:
		e.done(slot, refused, now)
	default: // a full buffer, which is this machine's
		e.local(errno)
		e.done(slot, unsent, now)
	}
}

// refuse counts what was sent last on a socket: nobody listens.
func (e *udpEngine) refuse(socket int32, now int64) {
	s := &e.sockets[socket]
	s.hasID = false
	if i := s.last; i != none && e.slots[i].used && e.slots[i].socket == socket {
		e.done(i, refused, now)
	}
	s.last = none
}

// done counts a request and frees its slot.
func (e *udpEngine) done(slot int32, o outcome, now int64) {
	p := &e.slots[slot]
	e.record(p.req, o, now)
	p.used = false
	e.flight.Remove(slot)
	e.flying--
	e.unused.push(slot)
}

// ready reads all there is.
func (e *udpEngine) ready(i int32, _, _ uint32, now int64) {
	for {
		n, errno := sys.Recv(e.sockets[i].fd, e.scratch)
		switch errno {
		case 0:
			e.hear(i, e.scratch[:n], now)
		case unix.ECONNREFUSED:
			e.dialErr = errno
			e.refuse(i, now)
		default:
			return
		}
	}
}

// hear takes a packet. One that answers nothing on the way, as one that comes after it was given up, is passed over.
func (e *udpEngine) hear(i int32, b []byte, now int64) {
	reply, ok := parseUDPReply(b)
	if !ok {
		return
	}
	s := &e.sockets[i]
	if reply.transaction&(udpMaxSlots-1) == udpOpening {
		if reply.action == udpConnect && !s.hasID {
			s.id, s.hasID, s.idAt = reply.id(), true, now
			e.answered++
		}
		return
	}
	slot := int32(reply.transaction & (udpMaxSlots - 1))
	if int(slot) >= len(e.slots) {
		return
	}
	p := &e.slots[slot]
	if !p.used || p.transaction != reply.transaction || p.socket != i {
		return
	}
	if p.connecting && reply.action == udpConnect {
		s.id, s.hasID, s.idAt = reply.id(), true, now
		e.ask(slot, s.id, now)
		return
	}
	asked := udpAnnounce
	switch {
	case p.connecting:
		asked = udpConnect
	case p.hashes > 0:
		asked = udpScrape
	}
	o := reply.judge(asked, int(p.hashes), e.to.to.Is6())
	if o == shedFailure {
		s.hasID = false // most likely it is the id that has not pleased
	}
	e.done(slot, o, now)
}

func (e *udpEngine) expire(now int64) (next int64) {
	next = never
	if e.fresh.n > 0 {
		next = now + longestWait
	}
	for i := e.flight.First; i != none; i = e.flight.First {
		if at := e.slots[i].since + int64(e.cfg.Timeout); at > now {
			return min(next, at)
		}
		e.done(i, timedOut, now)
	}
	return next
}

func (e *udpEngine) giveUp(now int64) {
	for i := e.flight.First; i != none; i = e.flight.First {
		e.done(i, timedOut, now)
	}
}

func (e *udpEngine) shift(by int64) {
	for i := range e.sockets {
		e.sockets[i].idAt -= by
	}
}

func (e *udpEngine) close() {
	for i := range e.sockets {
		if fd := e.sockets[i].fd; fd != none {
			sys.Close(fd)
		}
	}
	e.poller.Close()
}
