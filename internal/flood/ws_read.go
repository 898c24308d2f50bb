package flood

import (
	"bytes"

	"golang.org/x/sys/unix"
)

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
		if n, errno := send(s.fd, b); errno != 0 || n < len(b) {
			e.dialErr = errno
			e.ended(i, now)
			return
		}
		s.state = wsUpgrading
	case wsBlocked:
		for s.sent < s.waiting {
			n, errno := send(s.fd, e.own(i)[s.sent:s.waiting])
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
		n, errno := recv(s.fd, e.scratch)
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
