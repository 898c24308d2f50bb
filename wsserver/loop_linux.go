package wsserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loop reads a share of the sockets, whichever of them epoll says can be read.
//
// It waits as other goroutines do: the epoll descriptor is itself one that Go's runtime watches, so that an idle loop
// holds no thread, and one that wakes up is scheduled like a goroutine whose connection has become readable.
type loop struct {
	s      *Server
	ep     int
	file   *os.File // ep
	raw    syscall.RawConn
	events [64]unix.EpollEvent
	worker *worker
	turn   *turn
	begun  time.Time // the turn
}

// pollPause is how long a loop waits after epoll has failed it. Ten of them, and nobody new comes to the loop.
const pollPause = 100 * time.Millisecond

func (s *Server) startLoops() error {
	n := s.cfg.Loops
	if n == 0 {
		n = max(runtime.GOMAXPROCS(0)/2, 1)
	}
	for range n {
		l, err := s.newLoop()
		if err != nil {
			s.stopLoops()
			return err
		}
		s.loops = append(s.loops, l)
		s.looping.Go(l.run)
	}
	return nil
}

func (s *Server) newLoop() (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(ep, true); err != nil { // os.NewFile asks the runtime to watch non-blocking ones only
		return nil, errors.Join(fmt.Errorf("epoll, non-blocking: %w", err), unix.Close(ep))
	}
	l := &loop{s: s, ep: ep, file: os.NewFile(uintptr(ep), "epoll"), worker: s.newWorker()}
	if l.raw, err = l.file.SyscallConn(); err == nil {
		l.turn, err = newTurn(runtime.GOMAXPROCS(0))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), l.file.Close())
	}
	return l, nil
}

// stopLoops ends the loops. Their sockets are left as they are.
func (s *Server) stopLoops() {
	for _, l := range s.loops {
		_ = l.file.Close()
	}
}

func (l *loop) run() {
	w := l.worker
	l.turn.begin()
	defer l.turn.end()
	n, waited := 0, false
	var err error
	wait := func(fd uintptr) bool {
		n, err = poll(int(fd), l.events[:])
		if n > 0 || err != nil {
			return true
		}
		waited = true
		return false
	}
	for {
		if closed := l.raw.Read(wait); closed != nil {
			return
		}
		if err != nil {
			if !errors.Is(err, unix.EINTR) {
				l.s.erred(fmt.Errorf("epoll_wait: %w", err))
				time.Sleep(pollPause)
			}
			continue
		}
		if waited || l.turn.wait == nil { // with several processors that there was no wait says little
			l.turnBegins()
			waited = false
		}
		for _, e := range l.events[:n] {
			if t := l.s.sockets.places[e.Fd].Load(); t != nil && t.loop == l {
				l.handle(t, e.Events)
			}
			if l.turnIsOver() || len(w.dirty) >= maxDirty {
				l.flush()
				l.turn.give()
				l.turnBegins()
			}
		}
		l.flush()
	}
}

func (l *loop) turnBegins() {
	l.worker.now = time.Now()
	l.begun = l.worker.now
}

func (l *loop) turnIsOver() bool {
	l.worker.now = time.Now()
	return l.worker.now.Sub(l.begun) > l.turn.length
}

// flush writes what was pushed, in more turns than one if it takes them.
func (l *loop) flush() {
	for w := l.worker; len(w.dirty) > 0; {
		w.flushSome(l.turn.writes)
		if len(w.dirty) > 0 && l.turnIsOver() {
			l.turn.give()
			l.turnBegins()
		}
	}
}

func (l *loop) handle(t *socket, events uint32) {
	if events&unix.EPOLLOUT != 0 {
		t.unblock(l.worker)
	}
	if events&^unix.EPOLLOUT != 0 {
		l.read(t)
	}
}

// read reads once. What is left there, epoll tells again, after the others have had their turn.
func (l *loop) read(t *socket) {
	space := l.worker.readBuffer()
	if t.in != nil {
		space = t.space()
	}
	n, err := recv(t.fd, space)
	switch {
	case n > 0:
		l.worker.took(t, space[:n])
	case err == nil:
		t.finish(closedPeer)
	case err != unix.EAGAIN && err != unix.EINTR:
		t.finish(closedError)
	}
}

// sendBuffer bounds what the kernel holds for a peer that does not read: it takes double. Offers to one peer in its round
// trip are less.
const sendBuffer = 64 << 10

// detach takes the descriptor of c under a number of our own. False means that c has none, or TLS above it.
func (s *Server) detach(t *socket, c net.Conn) bool {
	if len(s.loops) == 0 {
		return false
	}
	if _, layered := c.(interface{ NetConn() net.Conn }); layered {
		return false
	}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	fd := -1
	if err := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || fd < 0 {
		return false
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // fails for a unix socket, which needs none
	t.fd = fd
	t.loop = s.loops[int(t.place)%len(s.loops)]
	return true
}

// boundBuffer is for a stream what detach does to a descriptor's send buffer.
func boundBuffer(c net.Conn) {
	sc, ok := below(c).(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := sc.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer) })
	}
}

// watch gives the socket to its loop, which is its reader from now on.
func (t *socket) watch() error {
	t.mu.Lock() // others may have pushed already
	defer t.mu.Unlock()
	e := unix.EpollEvent{Events: t.interest(), Fd: int32(t.place)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(t.loop.ep, unix.EPOLL_CTL_ADD, t.fd, &e))
}

func (t *socket) interest() uint32 {
	events := uint32(0)
	if !t.paused {
		events = unix.EPOLLIN | unix.EPOLLRDHUP
	}
	if t.blocked {
		events |= unix.EPOLLOUT
	}
	return events
}

// arm tells epoll what the socket waits for. The caller holds t.mu.
func (t *socket) arm() {
	if t.closed || t.loop == nil {
		return
	}
	e := unix.EpollEvent{Events: t.interest(), Fd: int32(t.place)}
	_ = unix.EpollCtl(t.loop.ep, unix.EPOLL_CTL_MOD, t.fd, &e) // fails before watch, which asks t.interest itself
}

// write writes what the kernel takes of b. ok is false when the connection is over. The caller holds t.mu.
func (t *socket) write(b []byte) (n int, ok bool) {
	for n < len(b) {
		m, err := send(t.fd, b[n:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return n, true
		case err != nil:
			return n, false
		default:
			n += m
		}
	}
	return n, true
}

// shutdown ends the connection both ways; the reader hears of it. The caller holds t.mu.
func (t *socket) shutdown() {
	if t.conn != nil {
		t.closeStream()
	} else {
		_ = unix.Shutdown(t.fd, unix.SHUT_RDWR)
	}
}

// shutdownWrite says that nothing more comes; for a stream its writer does. The caller holds t.mu.
func (t *socket) shutdownWrite() {
	if t.conn == nil {
		_ = unix.Shutdown(t.fd, unix.SHUT_WR)
	}
}

// closeDescriptor is the last that is done to it. The caller holds t.mu.
func (t *socket) closeDescriptor() {
	if t.conn != nil {
		t.closeStream()
	} else {
		_ = unix.Close(t.fd)
	}
}
