package flood

import "golang.org/x/sys/unix"

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
	n, errno := send(s.fd, b)
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
		var from [4]byte
		if e.cfg.Source == SourceReal {
			from = e.requests.sources.at(int(s.source))
		} else if e.cfg.Target.Addr().IsLoopback() {
			from = [4]byte{127, 1, byte(uint32(i) >> 8), byte(i)}
		}
		fd, errno := e.to.dial(from)
		events := uint32(interest)
		if s.slow {
			// What is not read is not told of. The small buffer is full after one offer.
			events = unix.EPOLLOUT | unix.EPOLLIN | unix.EPOLLRDHUP
			if errno == 0 {
				setInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
			}
		}
		s.fd, s.state, s.since, s.waiting, s.sent, s.headerLen, s.skip = fd, wsConnecting, now, 0, 0, 0, 0
		e.opening++
		if errno == 0 {
			errno = e.poller.add(fd, i, s.generation, events)
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
		abortFD(s.fd)
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
			abortFD(fd)
		}
	}
	closeFD(e.poller.fd)
}
