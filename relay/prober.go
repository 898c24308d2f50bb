package relay

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// asker asks backends for their health, and is what Run waits by. One goroutine uses it, but for nudge.
type asker interface {
	// ask starts a probe, and waits for nothing.
	ask(p probed)

	// wait returns when probes have ended, with those; at a time, if that comes first; or when it is nudged. What it returns is used
	// again by the next.
	wait(until time.Time) []probed

	// nudge ends wait, or the next one. Safe for concurrent use.
	nudge()

	// close gives up what is under way.
	close()
}

// prober asks on connections of their own, and waits in Go's poller for all of them and the time at once: 20 probes a second were a third
// of what a relay under load costs beyond plain forwarding when each had a goroutine, timers and a net.Conn. A kept connection would not
// do: it shows that the backend answers those it knows, not that it takes new ones.
type prober struct {
	backends []asked
	timeout  time.Duration

	poll   atomic.Pointer[os.File] // an epoll instance; nil until it is needed
	nudged atomic.Bool
	ready  func(fd uintptr) bool
	ep     int       // poll's descriptor
	timer  int       // a timer's; Go's own would wake its monitor, too
	armed  time.Time // when that ends
	got    int       // events
	events [64]unix.EpollEvent

	places []asking
	ended  []probed
	told   int // of them, by wait
	buf    [maxAnswer]byte
}

// asked is a backend.
type asked struct {
	addr    netip.AddrPort
	request []byte
}

// asking is a probe under way, or room for one.
type asking struct {
	probed
	fd   int // -1: room
	sent bool
	head []byte // of an answer that comes in pieces
}

// localHeader says that what follows comes from the proxy itself: PROXY protocol v2, LOCAL, no addresses.
const localHeader = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"

func newProber(backends []Backend, health Health) *prober {
	q := &prober{timeout: health.Timeout}
	q.ready = func(uintptr) bool {
		q.got = epollPoll(q.ep, q.events[:])
		return q.got > 0
	}
	for _, b := range backends {
		request := "GET " + health.Path + " HTTP/1.1\r\nHost: " + b.Addr.String() + "\r\nUser-Agent: spillway-relay\r\nConnection: close\r\n\r\n"
		if health.Proxied { // of whoever is trusted, health checks included
			request = localHeader + request
		}
		q.backends = append(q.backends, asked{b.Addr, []byte(request)})
	}
	return q
}

func (q *prober) ask(p probed) {
	a, i := q.place()
	a.probed = p
	if err := q.connect(a, i); err != nil {
		q.end(a, err, "no connection")
	}
}

// place is room for a probe.
func (q *prober) place() (*asking, int) {
	i := slices.IndexFunc(q.places, func(a asking) bool { return a.fd < 0 })
	if i < 0 {
		i = len(q.places)
		q.places = append(q.places, asking{fd: -1})
	}
	return &q.places[i], i
}

func (q *prober) connect(a *asking, place int) (err error) {
	if err := q.open(); err != nil {
		return err
	}
	var to sockaddr
	if err := to.set(q.backends[a.backend].addr); err != nil {
		return err
	}
	if a.fd, err = tcpSocket(to.family()); err != nil {
		return err
	}
	if err := to.connect(a.fd); err != nil && err != unix.EINPROGRESS {
		return err
	}
	return epollAdd(q.ep, a.fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET, int32(place))
}

// open makes what is waited by, if it is not there.
func (q *prober) open() error {
	if q.poll.Load() != nil {
		return nil
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return errors.Join(err, unix.Close(ep))
	}
	// Without O_NONBLOCK Go does not give it to its poller.
	if err := errors.Join(unix.SetNonblock(ep, true), epollAdd(ep, timer, unix.EPOLLIN|unix.EPOLLET, timerPlace)); err != nil {
		return errors.Join(err, unix.Close(ep), unix.Close(timer))
	}
	q.ep, q.timer = ep, timer
	q.poll.Store(os.NewFile(uintptr(ep), "probes"))
	return nil
}

// timerPlace is no probe's.
const timerPlace = -1

// withoutPoll is how long wait waits on a machine without a descriptor to spare.
const withoutPoll = 50 * time.Millisecond

func (q *prober) wait(until time.Time) []probed {
	q.ended = q.ended[:copy(q.ended, q.ended[q.told:])]
	q.told = 0
	for now := time.Now(); ; now = time.Now() {
		q.expire(now)
		if len(q.ended) > 0 || !now.Before(until) || q.nudged.Swap(false) {
			q.told = len(q.ended)
			return q.ended
		}
		if q.open() != nil {
			time.Sleep(min(until.Sub(now), withoutPoll))
			continue
		}
		q.arm(until)
		q.sleep()
		for _, e := range q.events[:q.got] {
			if e.Fd != timerPlace && q.places[e.Fd].fd >= 0 {
				q.step(&q.places[e.Fd])
			}
		}
	}
}

// arm has the timer end at a time, or when the first probe under way has had its time.
func (q *prober) arm(at time.Time) {
	for i := range q.places {
		if a := &q.places[i]; a.fd >= 0 && a.started.Add(q.timeout).Before(at) {
			at = a.started.Add(q.timeout)
		}
	}
	if !at.Equal(q.armed) {
		q.armed = at
		setTimer(q.timer, time.Until(at))
	}
}

// sleep waits for events.
func (q *prober) sleep() {
	q.got = 0
	poll := q.poll.Load()
	raw, err := poll.SyscallConn()
	if err == nil {
		err = raw.Read(q.ready)
	}
	if err != nil { // nudged
		_ = poll.SetReadDeadline(time.Time{})
	}
}

func (q *prober) nudge() {
	q.nudged.Store(true)
	if poll := q.poll.Load(); poll != nil {
		_ = poll.SetReadDeadline(time.Unix(1, 0)) // it fails when it is closed
	}
}

// step does what can be done.
func (q *prober) step(a *asking) {
	if !a.sent {
		switch _, err := send(a.fd, q.backends[a.backend].request); err {
		case nil: // a new connection's buffer takes it whole
			a.sent = true
		case unix.EAGAIN: // not connected yet
			return
		default:
			q.end(a, err, "connected, but it does not read")
			return
		}
	}
	for {
		n, err := recv(a.fd, q.buf[len(a.head):])
		if err == unix.EAGAIN {
			return
		}
		copy(q.buf[:], a.head)
		got := q.buf[:len(a.head)+n]
		end := headEnd(got)
		switch {
		case end > 0:
			q.answered(a, got[:end])
		case err != nil:
			q.end(a, err, "connected, but no answer")
		case len(got) == maxAnswer: // the status is in it; a header that is not has not been sent in time
			q.answered(a, got)
		case n == 0:
			q.end(a, io.EOF, "connected, but no answer")
		default:
			a.head = append(a.head, got[len(a.head):]...)
			continue
		}
		return
	}
}

// answered ends a probe with the head of an answer.
func (q *prober) answered(a *asking, head []byte) {
	a.answer, a.outcome, a.words = readAnswer(head)
	q.tell(a)
}

// end ends a probe that has failed.
func (q *prober) end(a *asking, err error, what string) {
	a.outcome, a.words = judge(err, what, q.timeout)
	q.tell(a)
}

func (q *prober) tell(a *asking) {
	a.took = time.Since(a.started)
	q.ended = append(q.ended, a.probed)
	a.clear()
}

// clear ends the connection with a reset, as load balancers end their checks: neither side keeps it in TIME_WAIT, which ten a second
// would fill, and a hung backend does not collect it.
func (a *asking) clear() {
	if a.fd >= 0 {
		reset(a.fd)
	}
	*a = asking{fd: -1, head: a.head[:0]}
}

// expire ends the probes that have had their time.
func (q *prober) expire(now time.Time) {
	for i := range q.places {
		a := &q.places[i]
		if a.fd < 0 || now.Before(a.started.Add(q.timeout)) {
			continue
		}
		what := "no connection"
		if a.sent {
			what = "connected, but no answer"
		}
		q.end(a, os.ErrDeadlineExceeded, what)
	}
}

func (q *prober) close() {
	for i := range q.places {
		q.places[i].clear()
	}
	if poll := q.poll.Load(); poll != nil {
		_ = unix.Close(q.timer)
		_ = poll.Close() // of what is only waited by nothing is lost
	}
}
