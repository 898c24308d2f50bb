package proxy

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// conn is one connection: two sockets. Its record is used again by a later one.
type conn struct {
	client, backend half

	number     int32
	generation int32 // counts the connections the record has been used for
	source     netip.AddrPort
	target     int16 // the backend

	connecting bool
	retried    bool // another backend than its slot's is being tried
	waiting    bool // in loop.pending

	active     int64 // when something has happened last, of the loop's clock
	in         *list // which list of which queue; nil: none
	prev, next *conn
}

// half is one of a connection's sockets. What waits to be written to it is kept here: a buffer or a pipe, never both, and while
// there is any the other half is not read from.
type half struct {
	fd int // -1: none

	readable bool // until a read says otherwise; epoll is edge-triggered
	writable bool
	fin      bool // the peer has sent its FIN; what it sent before is there
	failed   bool // the socket has an error for who reads to its end
	ended    bool // read to its end
	shut     bool // the other half's end has been passed on
	broken   bool // writing failed
	watchOut bool // epoll tells when it becomes writable
	wrote    bool
	noDelay  bool

	streak int    // bytes of reads that were full, without a pause
	rest   []byte // to be written: the end of buf
	buf    []byte // of loop.memory; nil: none
	pipe   *pipe  // of loop.pipes; nil: none
	piped  int    // bytes in it, to be written
}

// The sides of a conn, as events name them.
const (
	sideClient  = 0
	sideBackend = 1
)

func (c *conn) side(side int32) *half {
	if side == sideClient {
		return &c.client
	}
	return &c.backend
}

func (h *half) mark(events uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		h.readable = true
	}
	if events&unix.EPOLLOUT != 0 {
		h.writable = true
	}
	if events&unix.EPOLLRDHUP != 0 {
		h.fin = true
	}
	if events&unix.EPOLLERR != 0 {
		h.failed = true
	}
}

func (h *half) waits() bool { return len(h.rest) > 0 || h.piped > 0 }

// over tells that nothing will pass either way any more.
func (c *conn) over() bool {
	return c.backend.ended && !c.client.waits() && (c.backend.broken || c.client.ended && !c.backend.waits())
}

// watch has epoll tell of one half: once of each change.
func (l *loop) watch(c *conn, h *half, events uint32) error {
	data := c.number << 1
	if h == &c.backend {
		data |= sideBackend
	}
	op := unix.EPOLL_CTL_ADD
	if h.watchOut {
		op = unix.EPOLL_CTL_MOD
	}
	return epollCtl(l.ep, op, h.fd, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLET|events, data, c.generation)
}

// take is a record for a new connection.
func (l *loop) take() *conn {
	if len(l.free) == 0 {
		slab := make([]conn, 64)
		for i := range slab {
			c := &slab[i]
			c.number = int32(len(l.conns))
			c.client.fd, c.backend.fd = -1, -1
			l.conns = append(l.conns, c)
			l.free = append(l.free, c)
		}
	}
	c := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	l.live++
	l.startTicking()
	return c
}

// end closes both sides, with a reset or without, and gives everything back.
func (l *loop) end(c *conn, withReset bool) {
	if c.connecting {
		l.p.backends[c.target].connecting.Add(-1)
	}
	for _, h := range [...]*half{&c.client, &c.backend} {
		if h.fd >= 0 {
			if withReset {
				reset(h.fd)
			} else {
				closeFD(h.fd)
			}
		}
		l.memory.put(h.buf)
		l.pipes.put(h.pipe, h.piped == 0)
		*h = half{fd: -1}
	}
	c.dequeue()
	c.generation++
	c.connecting, c.retried, c.waiting = false, false, false
	l.free = append(l.free, c)
	l.live--
	l.freed = true
	l.p.conns.Add(-1)
}

// Buffers for what could not be written at once.
const (
	readSize    = 16 << 10 // bytes a read asks for
	smallSize   = 2 << 10  // most requests are smaller
	maxBuffered = 64 << 20 // bytes of all loops
	keepSmall   = 2048     // buffers that a loop keeps for later
	keepLarge   = 256
)

// memory has a loop's buffers.
type memory struct {
	left         int // bytes that may be made still
	small, large [][]byte
}

// get is a buffer for n bytes, at most readSize; nil if there are too many.
func (m *memory) get(n int) []byte {
	free, size := &m.small, smallSize
	if n > smallSize {
		free, size = &m.large, readSize+maxHeader
	}
	if last := len(*free) - 1; last >= 0 {
		b := (*free)[last]
		*free = (*free)[:last]
		return b
	}
	if m.left < size {
		return nil
	}
	m.left -= size
	return make([]byte, size)
}

func (m *memory) put(b []byte) {
	switch {
	case b == nil:
	case len(b) == smallSize && len(m.small) < keepSmall:
		m.small = append(m.small, b)
	case len(b) != smallSize && len(m.large) < keepLarge:
		m.large = append(m.large, b)
	default:
		m.left += len(b)
	}
}

// keep copies b, to be written to h when it can be. False means that there is no buffer.
func (l *loop) keep(h *half, b []byte) bool {
	if len(b) == 0 {
		return true
	}
	h.buf = l.memory.get(len(b))
	h.rest = h.buf[:copy(h.buf, b)]
	return h.buf != nil
}

func (l *loop) drop(h *half) {
	l.memory.put(h.buf)
	h.buf, h.rest = nil, nil
}
