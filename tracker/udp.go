package tracker

import (
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"golang.org/x/sys/unix"

	"spillway/internal/yield"
	"spillway/shedder"
)

// UDP answers BEP 15 on some ports. A packet passes through, in order:
//
//	udpSocket.receive           up to udpBatch of them, with one system call
//	udpHandler.handle           what it asks; whether its connection id was given to its source
//	udpHandler.handleAnnounce   access list, passkey, peer id prefixes
//	Gate.Admit                  switch, source's budget, rate
//	Swarms.Announce             the one lock
//	udpSocket.send              the replies of the batch, with one system call
//
// One whose swarm the store has to ask others about is put aside before it comes to the swarms, and udpLate answers it.
// Each socket of a port has a goroutine, and the kernel spreads clients over them. Nothing is kept of a client but its peers.
type UDP struct {
	tracker *Tracker
	key     [UDPKeyBytes]byte
	socks   []*udpSocket
	late    *udpLate // nil with a store that never asks
	closed  atomic.Bool
	dropped atomic.Uint64 // by the kernel, of sockets that are closed
	cut     udpCut

	set                       *metrics.Set
	connects, badIDs          *metrics.Counter
	garbage, overload, unsent *metrics.Counter
	panics                    *metrics.Counter
	asked, askedTooMany       *metrics.Counter
}

// UDPConfig says where to answer. The names in brackets are the configuration's keys.
type UDPConfig struct {
	// Addrs are ":6969" (IPv4 and IPv6), "0.0.0.0:6969" (IPv4 alone), "[::1]:6969" (udp.listen).
	Addrs []string

	// Sockets share each address by SO_REUSEPORT; less than 1 is 1. More than there are cores gain nothing.
	Sockets int

	// ReceiveBuffer is for packets that wait in the kernel, in bytes a socket as SO_RCVBUF counts them: the kernel doubles it for
	// its own part of them (udp.receive_buffer).
	ReceiveBuffer int

	// Key is what connection ids are made with, and so what forging one takes. Those given out by another UDP with this key are
	// accepted.
	Key [UDPKeyBytes]byte
}

// ListenUDP binds all addresses, or none. The caller calls Serve and Close.
func (t *Tracker) ListenUDP(cfg UDPConfig) (*UDP, error) {
	u := &UDP{tracker: t, key: cfg.Key}
	for _, addr := range cfg.Addrs {
		socks, err := bindUDP(addr, cfg.Addrs, max(cfg.Sockets, 1), cfg.ReceiveBuffer)
		if err != nil {
			u.Close()
			return nil, fmt.Errorf("udp.listen: %w", err)
		}
		u.socks = append(u.socks, socks...)
	}
	u.register()
	if ask, ok := t.swarms.(asker); ok {
		u.late = newUDPLate(u, ask, maxUDPAsides)
	}
	return u, nil
}

// Addrs are the bound addresses, with the ports the kernel chose where zero was asked.
func (u *UDP) Addrs() (addrs []netip.AddrPort) {
	for _, s := range u.socks {
		if len(addrs) == 0 || addrs[len(addrs)-1] != s.addr {
			addrs = append(addrs, s.addr)
		}
	}
	return addrs
}

// QueueBytes is the least room a socket has for packets that wait, as the kernel counts: twice ReceiveBuffer, or less.
func (u *UDP) QueueBytes() int {
	least := ^uint32(0)
	for _, s := range u.socks {
		least = min(least, s.queue().max)
	}
	return int(least)
}

// Serve answers until Close. An error is of a socket that failed by itself; all of them are closed then.
func (u *UDP) Serve() error {
	var serving, answering sync.WaitGroup
	stop := make(chan struct{})
	if u.late != nil {
		answering.Go(func() { u.late.run(stop) })
	}
	answering.Go(func() { u.cut.run(u.socks, stop) })
	failed := make(chan error, len(u.socks))
	for _, s := range u.socks {
		serving.Go(func() {
			w, err := newUDPWorker(u, s)
			if err != nil {
				failed <- err
				u.Close()
				return
			}
			defer w.turn.Close()
			err = s.raw.Read(w.serve) // waits for packets when serve says that there are none
			if err == nil {
				err = w.err
			}
			if err != nil && !u.closed.Load() {
				failed <- fmt.Errorf("%s: %w", s.addr, err)
				u.Close()
			}
		})
	}
	serving.Wait()
	close(stop)
	answering.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// Close has Serve answer the packets in hand, and end. More calls do no harm.
func (u *UDP) Close() {
	if u.closed.Swap(true) {
		return
	}
	for _, s := range u.socks {
		u.dropped.Add(uint64(s.queue().dropped))
	}
	for _, s := range u.socks {
		_ = s.file.Close() // a socket that is read from has nothing to lose
	}
}

// turnEvery is how long a socket's goroutine that always has work goes on before it gives the others their turn.
const turnEvery = time.Millisecond

// udpWorker is one socket's goroutine.
type udpWorker struct {
	*UDP
	sock    *udpSocket
	handler *udpHandler
	turn    *yield.Turn
	turned  time.Time // when the others had theirs
	room    udpRoom
	dropped uint32 // by the kernel, as the gate has been told
	err     error

	// Of the batch in hand: packets there are, the next to look at, replies so far.
	n, next, replies int
}

func newUDPWorker(u *UDP, s *udpSocket) (*udpWorker, error) {
	turn, err := yield.New()
	if err != nil {
		return nil, err
	}
	h := newUDPHandler(u.tracker, u, &u.key)
	h.sock, h.late = s, u.late
	q := s.queue()
	return &udpWorker{UDP: u, sock: s, handler: h, turn: turn, room: newUDPRoom(int(q.max) / 2), dropped: q.dropped}, nil
}

// serve answers what is there, and returns false when there is no more. The poller calls it when there may be.
func (w *udpWorker) serve(fd uintptr) (done bool) {
	w.turned = time.Now()
	for !w.closed.Load() {
		n, errno := w.sock.receive(fd)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN, unix.ENOMEM, unix.ENOBUFS: // the next packet brings us back, and memory may be there again
			return false
		default:
			w.err = errno
			return true
		}
		w.n, w.next, w.replies = n, 0, 0
		now := time.Now()
		w.handler.begin(now)
		w.handler.crowded = w.room.crowded
		for w.next < n {
			w.answer()
		}
		if lost := w.sock.send(fd, w.replies); lost > 0 {
			w.unsent.Add(lost)
		}
		for i := range n {
			w.sock.rewind(i)
		}
		if w.room.due(now) {
			w.look(fd, now)
		}
		if now.Sub(w.turned) >= turnEvery {
			w.turned = now
			w.turn.Give()
		}
	}
	return true
}

// look is taken at the queue now and then.
func (w *udpWorker) look(fd uintptr, now time.Time) {
	q := udpQueueOf(fd)
	lost := q.dropped - w.dropped // it may go round
	w.dropped = q.dropped
	if lost > 0 {
		w.tracker.gate.Lose(shedder.UDP, int(lost))
	}
	// What the filter drops is counted with the rest.
	if w.room.step(now, lost > 0 && w.cut.n.Load() == 0) {
		_ = setUDPRoom(int(fd), w.room.now)
	}
}

// answer handles what is left of the batch. One packet that meets a bug of ours is passed over, and the rest is not: the caller
// calls again.
func (w *udpWorker) answer() {
	defer w.recover()
	s, h := w.sock, w.handler
	for w.next < w.n {
		i := w.next
		w.next++
		addr, port := s.source(i)
		if port == 0 {
			w.garbage.Inc() // forged: nobody could be answered there
			continue
		}
		stamp, from := s.meta(i)
		if !s.info {
			from = nil
		}
		h.packet, h.from = i, from
		age := ageOfStamp(stamp, h.now)
		w.room.saw(age)
		reply := h.handle(s.replies[w.replies][:0], s.request(i), addr, age)
		if len(reply) > 0 {
			s.reply(w.replies, i, len(reply), from)
			w.replies++
		}
	}
}

func (t *Tracker) setUDPOffUntil(until time.Time) {
	if until.IsZero() {
		t.udpOffUntil.Store(0)
	} else {
		t.udpOffUntil.Store(until.Unix())
	}
}

// results count one kind of request by what became of it.
type results struct {
	served, trimmed, shed, off, bad *metrics.Counter
}

func (c *counters) initUDP() {
	announce := func(result string) *metrics.Counter {
		return c.set.NewCounter(fmt.Sprintf(`spillway_announces_total{proto="udp",result=%q}`, result))
	}
	scrape := func(result string) *metrics.Counter {
		return c.set.NewCounter(fmt.Sprintf(`spillway_scrapes_total{proto="udp",result=%q}`, result))
	}
	c.udpAnnounce = results{served: announce("served"), trimmed: announce("trimmed"), off: announce("off"), bad: announce("bad")}
	c.udpScrape = results{served: scrape("served"), shed: scrape("shed"), bad: scrape("bad")}
}

func (u *UDP) register() {
	u.set = metrics.NewSet()
	u.connects = u.set.NewCounter("spillway_udp_connects_total")
	u.badIDs = u.set.NewCounter("spillway_udp_bad_ids_total")
	u.panics = u.set.NewCounter("spillway_udp_panics_total")
	u.asked = u.set.NewCounter(`spillway_udp_waits_total{result="asked"}`)
	u.askedTooMany = u.set.NewCounter(`spillway_udp_waits_total{result="refused"}`)
	u.garbage = u.set.NewCounter(`spillway_udp_dropped_total{reason="garbage"}`)
	u.overload = u.set.NewCounter(`spillway_udp_dropped_total{reason="overload"}`)
	u.unsent = u.set.NewCounter(`spillway_udp_dropped_total{reason="unsent"}`)
}

// WriteMetrics writes the metrics of UDP alone in Prometheus's text format; Tracker.WriteMetrics has the announces and scrapes.
func (u *UDP) WriteMetrics(w io.Writer) {
	u.set.WritePrometheus(w)
	var bytes, most uint64
	dropped := u.dropped.Load()
	for _, s := range u.socks {
		q := s.queue()
		bytes, most, dropped = bytes+uint64(q.bytes), most+uint64(q.max), dropped+uint64(q.dropped)
	}
	metrics.WriteCounterUint64(w, `spillway_udp_dropped_total{reason="kernel"}`, dropped)
	metrics.WriteGaugeUint64(w, "spillway_udp_queue_bytes", bytes)
	metrics.WriteGaugeUint64(w, "spillway_udp_queue_bytes_max", most)
	metrics.WriteGaugeUint64(w, "spillway_udp_cut_sources", uint64(u.cut.n.Load()))
	metrics.WriteGaugeUint64(w, "spillway_udp_cut_sources_max", maxUDPCut)
	metrics.WriteCounterUint64(w, "spillway_udp_cut_sources_total", u.cut.total.Load())
}
