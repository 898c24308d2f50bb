package proxy

import (
	"golang.org/x/sys/unix"
)

const (
	// spliceAfter is after how many bytes without a pause a direction is spliced: for less the pipe costs more than it saves.
	spliceAfter = 64 << 10
	pipeSize    = 64 << 10 // the kernel's default
	maxPipes    = 256      // of all loops; two descriptors each
)

type pipe struct{ read, write int }

// pipes are a loop's.
type pipes struct {
	left int // that may be made still
	free []*pipe
}

func (s *pipes) get() *pipe {
	if last := len(s.free) - 1; last >= 0 {
		p := s.free[last]
		s.free = s.free[:last]
		return p
	}
	if s.left == 0 {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC) != nil {
		return nil
	}
	s.left--
	return &pipe{fds[0], fds[1]}
}

// put takes a pipe back, or nil. One that has bytes in it is closed.
func (s *pipes) put(p *pipe, empty bool) {
	switch {
	case p == nil:
	case empty:
		s.free = append(s.free, p)
	default:
		s.left++
		closeFD(p.read)
		closeFD(p.write)
	}
}

func (s *pipes) close() {
	for _, p := range s.free {
		s.put(p, false)
	}
	s.free = nil
}

// pipeFor gives to a pipe if there is one. Without, its bytes are copied.
func (l *loop) pipeFor(to *half) bool {
	if to.pipe == nil {
		to.pipe = l.pipes.get()
	}
	return to.pipe != nil
}

// splice moves bytes into the pipe of to, which is empty. False means that the connection is to be reset.
func (l *loop) splice(from, to *half) (n int, ok bool) {
	n, err := splice(from.fd, to.pipe.write, pipeSize)
	switch {
	case err == unix.EINTR:
		return 0, true
	case err == unix.EAGAIN: // a pause: somebody else may need the pipe
		from.readable, from.streak = false, 0
		l.pipes.put(to.pipe, true)
		to.pipe = nil
		return 0, true
	case err != nil:
		return 0, false
	case n == 0:
		from.ended = true
		return 0, true
	}
	to.piped = n
	return n, true
}
