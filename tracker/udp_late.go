package tracker

import (
	"runtime/debug"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// asker is a store that may have to ask others about a swarm first (shared.Store.Ask): false means that done is called, once and
// within a time the store bounds.
type asker interface {
	Ask(infoHash *swarm.InfoHash, now time.Time, done func()) bool
}

// udpLate answers what had to wait for the store. The goroutines of sockets never wait: they put such a request aside, decided
// upon, and go on. When the store has asked, it is this one's goroutine, one for all sockets, that answers.
//
// Stores that never ask, as memory, have none.
type udpLate struct {
	*UDP
	ask   asker
	free  chan *udpAside // both have room for all there may be, so nobody waits to put one in
	ready chan *udpAside
	made  atomic.Int32
	most  int32

	// Of the goroutine that answers.
	handler *udpHandler
	reply   [maxUDPReply]byte
	header  unix.Msghdr
	vec     unix.Iovec
	write   func(fd uintptr) // made once
	errno   unix.Errno
}

// maxUDPAsides is how many may be put aside at once: half of those that a store lets wait, so that UDP, of which floods are made,
// leaves HTTP the other half. Those above are answered at once, from what this node knows.
const maxUDPAsides = 2048

// udpAside is an announce or a scrape that waits. It is used again, with all its memory.
type udpAside struct {
	done func() // of the store; made once
	left atomic.Int32

	sock    *udpSocket
	name    unix.RawSockaddrInet6 // whom to answer
	nameLen uint32
	control [controlWords]uint64 // and where from
	from    int                  // bytes of it

	transaction uint32
	announce    swarm.Announce
	interval    int
	verdict     shedder.Verdict
	hashes      []swarm.InfoHash // of a scrape; none: it is an announce
}

func newUDPLate(u *UDP, ask asker, most int) *udpLate {
	l := &udpLate{
		UDP: u, ask: ask, most: int32(most), handler: newUDPHandler(u.tracker, u, &u.key),
		free: make(chan *udpAside, most), ready: make(chan *udpAside, most),
	}
	l.vec.Base = &l.reply[0]
	l.header.Iov = &l.vec
	l.header.SetIovlen(1)
	l.write = func(fd uintptr) {
		for {
			_, _, l.errno = unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&l.header)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			if l.errno != unix.EINTR {
				return
			}
		}
	}
	return l
}

// take returns one to fill, or nil when too many wait.
func (l *udpLate) take() *udpAside {
	select {
	case a := <-l.free:
		return a
	default:
	}
	if l.made.Add(1) > l.most {
		l.made.Add(-1)
		return nil
	}
	a := new(udpAside)
	a.done = func() {
		if a.left.Add(-1) == 0 {
			l.ready <- a
		}
	}
	return a
}

// run answers those that are ready, until stop is closed. Those that still wait then have no answer: their clients ask again.
func (l *udpLate) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case a := <-l.ready:
			l.answer(a)
			l.free <- a
		}
	}
}

func (l *udpLate) answer(a *udpAside) {
	defer l.recover()
	h := l.handler
	h.begin(time.Now())
	var reply []byte
	if len(a.hashes) > 0 {
		reply = h.answerScrape(l.reply[:0], a.transaction, a.hashes)
	} else {
		reply = h.answerAnnounce(l.reply[:0], a.transaction, &a.announce, a.interval, a.verdict)
	}
	l.vec.SetLen(len(reply))
	l.header.Name, l.header.Namelen = (*byte)(unsafe.Pointer(&a.name)), a.nameLen
	l.header.Control = nil
	if a.from > 0 {
		l.header.Control = (*byte)(unsafe.Pointer(&a.control))
	}
	l.header.SetControllen(a.from)
	if err := a.sock.raw.Control(l.write); err != nil || l.errno != 0 {
		l.unsent.Inc()
	}
}

// recover is deferred by whoever answers packets: one that meets a bug of ours ends with that.
func (u *UDP) recover() {
	if v := recover(); v != nil {
		u.panics.Inc()
		u.tracker.log.Error("BUG: a packet panicked", "panic", v, "stack", string(debug.Stack()))
		u.tracker.gate.Fault(shedder.UDP, time.Now())
	}
}

// announceLater puts h.announce aside if the store has to ask about its swarm first, and tells whether it did.
func (h *udpHandler) announceLater(transaction uint32, interval int, verdict shedder.Verdict) bool {
	// Who leaves wants no peers, and the counts of a swarm it leaves are nothing to it.
	if h.late == nil || h.announce.Event == swarm.EventStopped {
		return false
	}
	a := h.spareAside()
	if a == nil {
		return false
	}
	a.transaction, a.announce, a.interval, a.verdict, a.hashes = transaction, h.announce, interval, verdict, a.hashes[:0]
	a.left.Store(1)
	if h.late.ask.Ask(&a.announce.InfoHash, h.now, a.done) {
		return false
	}
	h.spare = nil // it may have been answered already
	h.u.asked.Inc()
	return true
}

// scrapeLater is the same of a scrape of h.hashes: it waits for all of them.
func (h *udpHandler) scrapeLater(transaction uint32) bool {
	if h.late == nil {
		return false
	}
	a := h.spareAside()
	if a == nil {
		return false
	}
	a.transaction, a.hashes = transaction, append(a.hashes[:0], h.hashes...)
	a.left.Store(1) // ours, so that it is not answered before the last is asked about
	waits := false
	for i := range h.hashes {
		a.left.Add(1)
		if h.late.ask.Ask(&h.hashes[i], h.now, a.done) {
			a.left.Add(-1)
		} else {
			waits = true
		}
	}
	if !waits {
		return false
	}
	h.spare = nil
	h.u.asked.Inc()
	a.done()
	return true
}

// spareAside is one with the way back to whoever sent the packet in hand, or nil when too many wait.
func (h *udpHandler) spareAside() *udpAside {
	if h.spare == nil {
		if h.spare = h.late.take(); h.spare == nil {
			h.u.askedTooMany.Inc()
			return nil
		}
	}
	a := h.spare
	a.sock, a.name, a.nameLen = h.sock, h.sock.names[h.packet], h.sock.in[h.packet].Namelen
	a.from = copy(unsafe.Slice((*byte)(unsafe.Pointer(&a.control)), len(a.control)*8), h.from)
	return a
}
