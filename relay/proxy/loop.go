package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What an event is about, in place of a connection's number and side.
const (
	eventWake     = -1
	eventTick     = -2
	eventListener = -3 // and downwards
)

// tick is how often a loop with connections looks who has been silent for too long.
const tick = 50 * time.Millisecond

// turn is how long a loop works before it lets the program's other goroutines go first: with one core the probes are among them.
const turn = time.Millisecond

// loop carries a share of the connections. All of it belongs to its goroutine but cuts and wakeFD.
//
// It waits as other goroutines do: the epoll descriptor is itself one that Go's runtime watches, so that an idle loop holds no thread.
type loop struct {
	p      *Path
	ep     int
	file   *os.File // ep
	raw    syscall.RawConn
	wakeFD int
	tickFD int
	cuts   chan *cut
	events [256]unix.EpollEvent

	now  int64 // of the clock, since the last wait; nanoseconds
	plan *plan // since the last wait

	conns   []*conn // by number
	free    []*conn // of those
	live    int
	pending []*conn // have more to do than one turn allows
	doing   []*conn // the pending of the last round

	connecting, idle, halfClosed queue

	armed    []bool // listeners in epoll
	burst    []int  // how many connections to accept at once, of each
	held     bool   // does not accept
	heldTill int64
	freed    bool // a connection has ended since the last wait
	ticking  bool

	far []int // of each backend: connects for which the answer is not waited for in vain

	peer, local address // scratch
	header      [maxHeader]byte
	buf         []byte
	memory      memory
	pipes       pipes
}

// cut is one call of Path.Cut.
type cut struct {
	backend   int16
	cancelled <-chan struct{}
	done      chan int // how many were ended; one of each loop
}

func (p *Path) newLoop(of int) (l *loop, err error) {
	l = &loop{p: p, wakeFD: -1, tickFD: -1, cuts: make(chan *cut, 16), buf: make([]byte, maxHeader+readSize),
		armed: make([]bool, len(p.listeners)), burst: make([]int, len(p.listeners)), far: make([]int, len(p.backends))}
	l.memory.left = maxBuffered / of
	l.pipes.left = max(maxPipes/of, 1)
	l.connecting.after = p.cfg.ConnectTimeout.Nanoseconds()
	l.idle.after = p.cfg.IdleTimeout.Nanoseconds()
	l.halfClosed.after = min(p.cfg.IdleTimeout, halfClosed).Nanoseconds()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(ep, true); err != nil { // os.NewFile asks the runtime to watch non-blocking ones only
		return nil, errors.Join(fmt.Errorf("epoll, non-blocking: %w", err), unix.Close(ep))
	}
	l.ep, l.file = ep, os.NewFile(uintptr(ep), "epoll")
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.raw, err = l.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if l.wakeFD, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if l.tickFD, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	// Edge-triggered: each write and each expiry is an event, without being read.
	err = errors.Join(epollCtl(ep, unix.EPOLL_CTL_ADD, l.wakeFD, unix.EPOLLIN|unix.EPOLLET, eventWake, 0),
		epollCtl(ep, unix.EPOLL_CTL_ADD, l.tickFD, unix.EPOLLIN|unix.EPOLLET, eventTick, 0))
	return l, err
}

// close gives the descriptors back. The loop runs no more.
func (l *loop) close() {
	l.p.waking.Lock()
	for _, fd := range []*int{&l.wakeFD, &l.tickFD} {
		if *fd >= 0 {
			closeFD(*fd)
			*fd = -1
		}
	}
	l.p.waking.Unlock()
	l.pipes.close()
	_ = l.file.Close()
}

// wake has the loop look at cuts, at the listeners and whether it is to end. It may be called by anybody.
func (l *loop) wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	l.p.waking.RLock()
	defer l.p.waking.RUnlock()
	if l.wakeFD >= 0 {
		_, _ = unix.Write(l.wakeFD, one[:])
	}
}

func (p *Path) wakeLoops(but *loop) {
	for _, l := range p.loops {
		if l != but {
			l.wake()
		}
	}
}

func (l *loop) run() {
	n := 0
	var err error
	poll := func(uintptr) bool {
		n, err = epollPoll(l.ep, l.events[:])
		return n != 0 || err != nil
	}
	yielded := l.clock()
	for {
		if n, err = epollPoll(l.ep, l.events[:]); n == 0 && len(l.pending) == 0 { // a busy loop need not ask the runtime
			if l.raw.Read(poll) != nil {
				return
			}
			yielded = l.clock()
		}
		if err != nil && err != unix.EINTR {
			l.p.log.Error("BUG: epoll_wait", "err", err)
			return
		}
		l.now = l.clock()
		l.plan = l.p.plan.Load()
		for _, e := range l.events[:max(n, 0)] {
			l.handle(&e)
		}
		l.doing, l.pending = l.pending, l.doing[:0]
		for _, c := range l.doing {
			if c.waiting = false; c.client.fd >= 0 {
				l.drive(c)
			}
		}
		l.resume()
		select {
		case <-l.p.closed:
			l.endAll()
			return
		default:
		}
		if l.now-yielded > int64(turn) {
			yielded = l.now
			runtime.Gosched()
		}
	}
}

func (l *loop) clock() int64 { return int64(l.p.cfg.clock()) }

func (l *loop) handle(e *unix.EpollEvent) {
	switch {
	case e.Fd >= 0:
		c := l.conns[e.Fd>>1]
		if c.generation != e.Pad {
			return // ended meanwhile
		}
		c.side(e.Fd & 1).mark(e.Events)
		l.drive(c)
	case e.Fd == eventWake:
		l.arm()
		l.cut()
	case e.Fd == eventTick:
		l.expire()
	default:
		i := int(eventListener - e.Fd)
		if e.Events&unix.EPOLLIN == 0 { // it has been shut down
			l.disarm(i)
			l.arm() // and may have been opened again since
			return
		}
		l.accept(i)
	}
}

// cut does what Path.Cut has asked for.
func (l *loop) cut() {
	l.plan = l.p.plan.Load() // the one in which the backend is down: what is accepted after this must not go there
	for {
		select {
		case k := <-l.cuts:
			k.done <- l.cutBackend(k)
		default:
			return
		}
	}
}

func (l *loop) cutBackend(k *cut) (ended int) {
	for i, c := range l.conns {
		if i%64 == 0 {
			select {
			case <-k.cancelled:
				return ended
			default:
			}
		}
		if c.client.fd >= 0 && c.target == k.backend {
			l.end(c, true)
			ended++
		}
	}
	return ended
}

func (l *loop) endAll() {
	for _, c := range l.conns {
		if c.client.fd >= 0 {
			l.end(c, true)
		}
	}
}
