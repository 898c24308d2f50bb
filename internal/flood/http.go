package flood

import (
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// place is one connection, or room for one.
type place struct {
	fd         int32
	generation uint32
	state      placeState
	queued     bool  // it is in the ring of those that can be used; when it is taken from there it may be no more
	got        int32 // of a reply that came in parts
	source     int32 // of a kept connection
	side       uint8
	since      int64 // when it was asked, or when it may be opened
	req        request
}

type placeState uint8

const (
	shut placeState = iota
	connecting
	upgrading // connected, the WebSocket's handshake is not answered yet
	idle
	asked
	answered // of a connection for one request: the server has yet to close it
)

const none = sys.None

// httpEngine has kept connections, which are idle or asked and opened again when they end, or one for each request.
type httpEngine struct {
	*worker
	to         *remote
	keep       bool
	upgrade    bool    // requests are WebSocket handshakes
	talk       *wsTalk // requests are messages on WebSockets; nil: they are not
	places     []place
	flight     sys.Flight // places that are connecting, asked, answered, by their since
	usable     [sides]ring[int32]
	reopen     ring[int32]
	connecting int
	opened     int
	unanswered int    // requests
	turn       uint32 // messages so far
	scratch    []byte
	partial    []byte // maxReply+1 of each place; the kernel gives memory to those in use
}

const (
	connectingAtOnce = 256
	openAtOnce       = 16 // in a turn of the loop, so that no request waits for it
	reopenAfter      = int64(500 * time.Millisecond)
	partialBytes     = maxReply + 1024
	interest         = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP
	endEvents        = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
)

func newHTTPEngine(w *worker) *httpEngine {
	c := &w.cfg
	n := perWorker(c.Conns, w.id, c.Threads)
	e := &httpEngine{
		worker: w, to: newRemote(c.Target, unix.SOCK_STREAM), keep: c.Mode.kept(), upgrade: c.Mode == WSHandshake, places: make([]place, n),
		flight: sys.NewFlight(n), reopen: newRing[int32](n), scratch: make([]byte, 64<<10), partial: make([]byte, n*partialBytes),
	}
	if c.Mode == WSAnnounce {
		e.talk = newWSTalk(c.Torrents, c.Offers)
	}
	// A WebSocket's source is what its handshake said.
	w.split = e.keep && (c.Source == SourceReal || e.talk != nil) && c.Attackers > 0
	for i := range e.usable {
		e.usable[i] = newRing[int32](n)
	}
	attackers := w.attackersOf(n)
	for i := range e.places {
		p := &e.places[i]
		p.fd = none
		if i < attackers {
			p.side = attack
		}
		// The worker's own share of the addresses, each as often as any other.
		p.source = int32(e.sourceOf(p.side, i*c.Threads+w.id))
		if e.keep {
			e.reopen.push(int32(i))
		} else {
			e.setUsable(int32(i))
		}
	}
	return e
}

func (e *httpEngine) setUsable(i int32) {
	if p := &e.places[i]; !p.queued {
		p.queued = true
		e.usable[e.line(p.side)].push(i)
	}
}

// take is a place that can be used now, none if there is none.
func (e *httpEngine) take(line int) int32 {
	want := shut
	if e.keep {
		want = idle
	}
	for q := &e.usable[line]; q.n > 0; {
		i := q.pop()
		p := &e.places[i]
		p.queued = false
		if p.state == want {
			return i
		}
	}
	return none
}

func (e *httpEngine) free() int { return max(e.usable[0].n-e.queues[0].n, 0) }

func (e *httpEngine) busy() bool { return e.unanswered > 0 }

func (e *httpEngine) open() (n, want int) {
	if !e.keep {
		return 0, 0
	}
	return e.opened, len(e.places)
}

func (e *httpEngine) dispatch(now int64) {
	for line := range e.queues {
		for q := &e.queues[line]; q.n > 0; {
			i := e.take(line)
			if i == none && !e.keep {
				i = e.evict(now)
			}
			if i == none {
				break
			}
			if e.keep {
				e.ask(i, q.pop(), now)
			} else {
				e.connect(i, q.pop(), now)
			}
		}
	}
}

// evict makes room, where none is left, by giving up the oldest connection if its request cannot be good any more: who floods
// does not wait for the timeout of what he sent before.
func (e *httpEngine) evict(now int64) int32 {
	i := e.flight.First
	if i == none {
		return none
	}
	if p := &e.places[i]; p.state != answered && now-p.req.due <= int64(e.cfg.Good) {
		return none
	}
	e.fail(i, timedOut, now)
	return e.take(0)
}

// keepOpen opens kept connections that are not.
func (e *httpEngine) keepOpen(now int64) {
	for range openAtOnce {
		if e.reopen.n == 0 || e.connecting >= connectingAtOnce || e.places[e.reopen.first()].since > now {
			return
		}
		e.connect(e.reopen.pop(), request{}, now)
	}
}

// connect begins to; of a connection for one request, that is sent as soon as it can be.
func (e *httpEngine) connect(i int32, r request, now int64) {
	p := &e.places[i]
	if !e.keep {
		p.req, p.source = r, int32(e.drawSource(r.side))
		e.unanswered++
	}
	fd, errno := e.to.dial(e.from(p.source, i))
	p.fd, p.state, p.since, p.got = fd, connecting, now, 0
	e.connecting++
	e.flight.Push(i)
	if errno == 0 {
		if errno = e.poller.Add(fd, i, p.generation, interest); errno == 0 {
			if !e.keep {
				e.sendFirst(i, now)
			}
			return
		}
	}
	switch e.dialErr = errno; errno {
	case unix.ECONNREFUSED:
		e.fail(i, refused, now)
	case unix.ECONNRESET, unix.ETIMEDOUT:
		e.fail(i, reset, now)
	default:
		e.local(errno)
		e.fail(i, unsent, now)
	}
}

// sendFirst sends the request of a connection that was opened for it, if it is open.
func (e *httpEngine) sendFirst(i int32, now int64) {
	p := &e.places[i]
	n, errno := sys.Send(p.fd, e.render(p))
	switch {
	case errno == unix.EAGAIN:
		return // not connected yet
	case errno != 0 || n < len(e.requests.buf):
		e.fail(i, connectOutcome(errno), now)
		return
	}
	e.connecting--
	p.state = asked
	e.tally.leave(p.req)
}

func connectOutcome(errno unix.Errno) outcome {
	if errno == unix.ECONNREFUSED {
		return refused
	}
	return reset
}

func (e *httpEngine) render(p *place) []byte {
	source := int(p.source)
	if e.keep && e.requests.header != "" && e.talk == nil {
		source = e.drawSource(p.req.side)
	}
	switch {
	case e.upgrade:
		return e.requests.upgrade(source)
	case e.cfg.Mode == Scrape:
		return e.requests.scrape(source)
	}
	return e.requests.announce(source)
}

// ask sends a request on an idle connection.
func (e *httpEngine) ask(i int32, r request, now int64) {
	p := &e.places[i]
	p.req, p.state, p.since, p.got = r, asked, now, 0
	e.flight.Push(i)
	e.unanswered++
	var b []byte
	if e.talk != nil {
		e.turn++
		b = e.talk.announce(e.requests.torrentOf(int(p.source), e.rnd.next()>>32), r.side, uint32(e.id)<<24|uint32(i), e.turn)
	} else {
		b = e.render(p)
	}
	n, errno := sys.Send(p.fd, b)
	if errno != 0 || n < len(b) {
		e.fail(i, reset, now) // a socket's buffer has room for far more than one request
		return
	}
	e.tally.leave(r)
}
