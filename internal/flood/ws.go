package flood

import (
	"bytes"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// socket is one WebSocket.
type socket struct {
	fd         int32
	generation uint32
	state      socketState
	queued     bool // in the ring of those that can be written to
	slow       bool // it is never read from
	source     int32
	waiting    int32 // bytes of a message that the kernel did not take, or of the answer to the handshake so far
	sent       int32 // of them
	since      int64
	header     [10]byte // of a frame, begun
	headerLen  int32
	skip       int64 // bytes of a frame's payload that are still to come
}

type socketState uint8

const (
	wsShut socketState = iota
	wsConnecting
	wsUpgrading
	wsOpen
	wsBlocked // open, and the kernel takes no more
)

// Sockets is what a flood on WebSockets saw, besides what was offered and sent.
type Sockets struct {
	Wanted     int    `json:"wanted"`
	OpenAtEnd  int    `json:"open_at_end"`
	Opened     uint64 `json:"opened"`
	Refused    uint64 `json:"refused"` // answered with something else than 101, or not at all
	ClosedByIt uint64 `json:"closed_by_server"`
	FramesIn   uint64 `json:"frames_in"`
	BytesIn    uint64 `json:"bytes_in"`
	BytesOut   uint64 `json:"bytes_out"`
}

func (s *Sockets) merge(o *Sockets) {
	s.Wanted += o.Wanted
	s.OpenAtEnd += o.OpenAtEnd
	s.Opened += o.Opened
	s.Refused += o.Refused
	s.ClosedByIt += o.ClosedByIt
	s.FramesIn += o.FramesIn
	s.BytesIn += o.BytesIn
	s.BytesOut += o.BytesOut
}

// wsEngine keeps sockets open and sends messages on them in turn. Nobody waits for what comes back: it is counted in frames.
type wsEngine struct {
	*worker
	Sockets
	to       *remote
	sockets  []socket
	usable   ring[int32] // to write to
	reopen   ring[int32]
	messages []*wsMessage
	hello    *wsMessage // what a slow socket says once, to be in the swarm
	turn     uint32
	opening  int
	opened   int
	look     int32 // socket, of turnExpiry
	scratch  []byte
	pending  []byte // perSocket bytes of each
	perSock  int
}

const wsReopenAfter = 2 * reopenAfter // a tracker that is full says so to each

func newWSEngine(w *worker) *wsEngine {
	c := &w.cfg
	n := perWorker(c.Conns, w.id, c.Threads)
	e := &wsEngine{
		worker: w, to: newRemote(c.Target, unix.SOCK_STREAM), sockets: make([]socket, n), usable: newRing[int32](n), reopen: newRing[int32](n),
		scratch: make([]byte, 64<<10), hello: newAnnounce(0, 0),
	}
	e.Wanted = n
	if c.Mode == WSMessage {
		all := junk()
		for i := range min(c.Torrents, 64) {
			e.messages = append(e.messages, newAnnounce(i, 0))
			if i%7 == 6 {
				e.messages = append(e.messages, all[i/7%len(all)])
			}
		}
	} else {
		low, high := 5, 10
		if c.Offers > 0 {
			low, high = c.Offers, c.Offers
		}
		for i := low; i <= high; i++ {
			e.messages = append(e.messages, newAnnounce(0, i))
		}
	}
	e.perSock = 2048
	for _, m := range e.messages {
		e.perSock = max(e.perSock, len(m.bytes))
	}
	e.pending = make([]byte, n*e.perSock)
	for i := range e.sockets {
		s := &e.sockets[i]
		s.fd, s.slow = none, c.Mode == WSSlow && i%2 == 1
		side := uint8(honest)
		if c.Attackers > 0 {
			side = attack
		}
		s.source = int32(w.sourceOf(side, i*c.Threads+w.id))
		e.reopen.push(int32(i))
	}
	return e
}

func (e *wsEngine) free() int          { return 0 }
func (e *wsEngine) busy() bool         { return false }
func (e *wsEngine) giveUp(int64)       {}
func (e *wsEngine) open() (n, w int)   { return e.opened, len(e.sockets) }
func (e *wsEngine) own(i int32) []byte { return e.pending[int(i)*e.perSock : int(i+1)*e.perSock] }

func (e *wsEngine) dispatch(now int64) {
	for line := range e.queues {
		for q := &e.queues[line]; q.n > 0 && e.usable.n > 0; {
			i := e.usable.pop()
			s := &e.sockets[i]
			if s.queued = false; s.state != wsOpen {
				continue
			}
			e.turn++
			if e.write(i, e.messages[int(e.turn)%len(e.messages)].of(e.peer(i), e.turn), now) {
				e.tally.leave(q.pop())
			}
			if s.state == wsOpen {
				e.setUsable(i)
			}
		}
	}
}

func (e *wsEngine) peer(i int32) uint32 { return uint32(e.id)<<24 | uint32(i) }

func (e *wsEngine) setUsable(i int32) {
	if s := &e.sockets[i]; !s.queued && !s.slow {
		s.queued = true
		e.usable.push(i)
	}
}

// write sends a message, and tells whether the kernel took at least its beginning; the rest is sent when it takes that.
func (e *wsEngine) write(i int32, b []byte, now int64) bool {
	s := &e.sockets[i]
	n, errno := sys.Send(s.fd, b)
	switch {
	case errno == unix.EAGAIN:
		s.state = wsBlocked
		return false
	case errno != 0:
		e.ended(i, now)
		return false
	case n < len(b):
		s.state, s.sent, s.waiting = wsBlocked, 0, int32(copy(e.own(i), b[n:]))
	}
	e.BytesOut += uint64(n)
	return true
}

// keepOpen opens sockets that are not.
func (e *wsEngine) keepOpen(now int64) {
	for range openAtOnce {
		if e.reopen.n == 0 || e.opening >= connectingAtOnce || e.sockets[e.reopen.first()].since > now {
			return
		}
		i := e.reopen.pop()
		s := &e.sockets[i]
		fd, errno := e.to.dial(e.from(s.source, i))
		events := uint32(interest)
		if s.slow {
			// What is not read is not told of. The small buffer is full after one offer.
			events = unix.EPOLLOUT | unix.EPOLLIN | unix.EPOLLRDHUP
			if errno == 0 {
				sys.SetInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
			}
		}
		s.fd, s.state, s.since, s.waiting, s.sent, s.headerLen, s.skip = fd, wsConnecting, now, 0, 0, 0, 0
		e.opening++
		if errno == 0 {
			errno = e.poller.Add(fd, i, s.generation, events)
		}
		if errno != 0 {
			if e.dialErr = errno; errno != unix.ECONNREFUSED {
				e.local(errno)
			}
			e.ended(i, now)
		}
	}
}

// ended closes a socket, and has it opened again.
func (e *wsEngine) ended(i int32, now int64) {
	s := &e.sockets[i]
	s.since = now + reopenAfter
	switch s.state {
	case wsOpen, wsBlocked:
		e.opened--
		e.ClosedByIt++
	default:
		e.opening--
		e.Refused++
		s.since = now + wsReopenAfter
	}
	if s.fd != none {
		sys.Abort(s.fd)
	}
	s.fd, s.state = none, wsShut
	s.generation++
	e.reopen.push(i)
}

// expire gives up handshakes that are not answered; they are few, and looked at in the order of the sockets.
func (e *wsEngine) expire(now int64) (next int64) {
	next = never
	if e.reopen.n > 0 && e.opening < connectingAtOnce {
		next = e.sockets[e.reopen.first()].since
	}
	if e.opening > 0 {
		next = min(next, now+longestWait)
		e.turnExpiry(now)
	}
	return next
}

// turnExpiry looks at some of the sockets each time.
func (e *wsEngine) turnExpiry(now int64) {
	for range min(openAtOnce, len(e.sockets)) {
		e.look = (e.look + 1) % int32(len(e.sockets))
		s := &e.sockets[e.look]
		if (s.state == wsConnecting || s.state == wsUpgrading) && now-s.since > int64(e.cfg.Timeout) {
			e.ended(e.look, now)
		}
	}
}

func (e *wsEngine) shift(by int64) {
	for i := range e.sockets {
		e.sockets[i].since -= by
	}
}

func (e *wsEngine) close() {
	e.OpenAtEnd = e.opened
	for i := range e.sockets {
		if fd := e.sockets[i].fd; fd != none {
			sys.Abort(fd)
		}
	}
	e.poller.Close()
}

// ready is told what the poll found.
func (e *wsEngine) ready(i int32, generation, events uint32, now int64) {
	s := &e.sockets[i]
	if s.generation != generation {
		return
	}
	if events&unix.EPOLLOUT != 0 {
		e.writable(i, now)
	}
	if s.generation != generation || events&(unix.EPOLLIN|endEvents) == 0 {
		return
	}
	if s.slow && s.state >= wsOpen {
		if events&endEvents != 0 {
			e.ended(i, now)
		}
		return
	}
	e.readable(i, events&endEvents != 0, now)
}

func (e *wsEngine) writable(i int32, now int64) {
	s := &e.sockets[i]
	switch s.state {
	case wsConnecting:
		b := e.requests.upgrade(int(s.source))
		if n, errno := sys.Send(s.fd, b); errno != 0 || n < len(b) {
			e.dialErr = errno
			e.ended(i, now)
			return
		}
		s.state = wsUpgrading
	case wsBlocked:
		for s.sent < s.waiting {
			n, errno := sys.Send(s.fd, e.own(i)[s.sent:s.waiting])
			if errno == unix.EAGAIN {
				return
			}
			if errno != 0 {
				e.ended(i, now)
				return
			}
			s.sent += int32(n)
			e.BytesOut += uint64(n)
		}
		s.waiting, s.sent, s.state = 0, 0, wsOpen
		e.setUsable(i)
	}
}

func (e *wsEngine) readable(i int32, ended bool, now int64) {
	s := &e.sockets[i]
	for {
		n, errno := sys.Recv(s.fd, e.scratch)
		if errno == unix.EAGAIN {
			return
		}
		if errno != 0 || n == 0 {
			e.ended(i, now)
			return
		}
		b := e.scratch[:n]
		e.BytesIn += uint64(n)
		if s.state == wsUpgrading {
			if b = e.answer(i, b, now); s.state < wsOpen {
				if s.state == wsShut {
					return
				}
				b = nil
			}
		}
		e.frames(s, b)
		if !ended && n < len(e.scratch) {
			return
		}
	}
}

// answer reads the answer to a handshake, and returns what follows it.
func (e *wsEngine) answer(i int32, b []byte, now int64) []byte {
	s := &e.sockets[i]
	own := e.own(i)
	had := int(s.waiting)
	s.waiting += int32(copy(own[had:], b))
	head := bytes.Index(own[:s.waiting], endOfHead)
	status, ok := 0, true
	if head >= 0 {
		status, ok = parseStatus(own[:s.waiting])
	}
	if !ok || status != 0 && status != 101 || head < 0 && int(s.waiting) == len(own) {
		e.ended(i, now)
		return nil
	}
	if head < 0 {
		return nil
	}
	rest := b[head+len(endOfHead)-had:]
	s.waiting, s.state, s.since = 0, wsOpen, now
	e.opening--
	e.opened++
	e.Opened++
	if s.slow {
		e.write(i, e.hello.of(e.peer(i), 0), now)
	}
	e.setUsable(i)
	return rest
}

// frames counts the frames in b, which may begin and end anywhere.
func (e *wsEngine) frames(s *socket, b []byte) {
	for len(b) > 0 {
		if s.skip > 0 {
			n := min(s.skip, int64(len(b)))
			s.skip -= n
			b = b[n:]
			continue
		}
		s.header[s.headerLen] = b[0]
		s.headerLen++
		b = b[1:]
		length, ok := frameLength(s.header[:s.headerLen])
		if ok {
			e.FramesIn++
			s.headerLen, s.skip = 0, length
		}
	}
}

// frameLength reads a server's frame header, which is not masked; ok is false while it is cut short.
func frameLength(h []byte) (n int64, ok bool) {
	if len(h) < 2 {
		return 0, false
	}
	size := 0
	switch h[1] & 0x7f {
	case 126:
		size = 2
	case 127:
		size = 8
	default:
		return int64(h[1] & 0x7f), true
	}
	if len(h) < 2+size {
		return 0, false
	}
	for _, c := range h[2 : 2+size] {
		n = n<<8 | int64(c)
	}
	return max(n, 0), true
}
