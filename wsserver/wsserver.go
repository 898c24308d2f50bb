// Package wsserver is the tracker for browsers: WebTorrent peers announce over WebSocket, and trade WebRTC offers and
// answers through it.
//
// A message passes through, in order:
//
//	Server.Upgrade        refuses a handshake with 503, or takes the connection away from fasthttp
//	Server.adopt          answers 101; the socket is one of an epoll loop's, or has a goroutine (TLS)
//	loop.run, loop.read   one read of a readable socket, into the loop's buffer
//	worker.consume        frames
//	worker.handleMessage  the rate, then parseMessage
//	worker.handleAnnounce, handleAnswer, handleScrape
//	Swarms.Announce       the swarm's lock
//	worker.push           a frame into the queue of the peer it is for
//	worker.flush          one write a socket, after each batch of sockets read
//
// Where nodes share swarms, worker.putAside keeps an announce's offers until the store knows the swarm, worker.relayOffersFar sends
// offers to peers of other nodes, and Server.Receive takes what those send (far.go).
//
// An idle socket is its structures and nothing else: no goroutine, no timer, no buffer. Server.Run sweeps over all of them
// for what has to do with time: pings, the idle, those that do not read, and draining.
//
// Nothing a client does makes a log line of its own. Everything has a bound, and whatever hits it is counted
// (metrics.go); messages above the rate are dropped without a word, as trystero comes back sooner after any word.
//
// The protocol is the one of webtorrent/bittorrent-tracker; where its clients differ, a comment says whose way it is.
//
// No two of its locks are held at once, and Swarms is called under none of them.
package wsserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// Config is what an operator sets. The names in brackets are the configuration's keys. Zero means the default.
type Config struct {
	MaxConns      int           // sockets in all (ws.max_conns); 100,000
	MaxConnsPerIP int           // sockets of an IPv4 address or an IPv6 /64 (ws.max_conns_per_ip); 1,000
	MaxMessage    int           // bytes of a message (ws.max_message); 64 KiB
	MaxOffers     int           // offers relayed of an announce (ws.max_offers); 20
	MaxHashes     int           // torrents, or peer ids of them, on one socket (ws.max_hashes); 1,000
	Rate          float64       // messages a second of one socket, in the long run (ws.rate); 10
	Burst         int           // messages of one socket at once (ws.burst); 200
	MaxQueue      int           // bytes waiting for one socket that does not read (ws.max_queue); 256 KiB
	MaxBuffered   int64         // bytes waiting, or read in part, of all sockets (ws.max_buffered); 256 MiB
	Interval      time.Duration // what a peer is told, give or take a fifth (ws.interval); 2 minutes
	MaxInterval   time.Duration // what a peer is told that may not announce (tracker.max_interval); 90 minutes
	Ping          time.Duration // silence after which a socket is pinged (ws.ping); 60 s
	Idle          time.Duration // silence after which it is closed (ws.idle); 4 minutes
	AllowOrigins  []string      // web sites whose pages may connect (ws.allow_origins); empty: all

	// Refuses says why a peer may not announce this torrent here; "" if it may. Nil refuses nobody.
	Refuses func(infoHash *swarm.InfoHash, peerID *[20]byte) (reason string)

	// Gate decides what is served when there is too much to do. Nil lets all pass. The mode is not asked of it: see SetMode.
	Gate *shedder.Gate

	// Nodes are the other nodes that share the swarms, and Node is this one's name among them. Nil: there are none.
	Nodes Nodes
	Node  [4]byte

	Loops int // epoll loops; zero: one for each two cores, so that a flood of messages leaves HTTP the other
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxConns, 100_000)
	setDefault(&c.MaxConnsPerIP, 1000)
	setDefault(&c.MaxMessage, 64<<10)
	setDefault(&c.MaxOffers, 20)
	setDefault(&c.MaxHashes, 1000)
	setDefault(&c.Rate, 10)
	setDefault(&c.Burst, 200)
	setDefault(&c.MaxQueue, 256<<10)
	setDefault(&c.MaxBuffered, 256<<20)
	setDefault(&c.Interval, 2*time.Minute)
	setDefault(&c.MaxInterval, 90*time.Minute)
	setDefault(&c.Ping, time.Minute)
	setDefault(&c.Idle, 4*time.Minute)
	return c
}

func setDefault[T int | int64 | float64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// Swarms is what the server asks of a store. It is safe for concurrent use.
type Swarms interface {
	Announce(a *swarm.Announce, now time.Time, r *swarm.Reply)
	Scrape(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts
}

// Server keeps the sockets. Make one with New, run it with Run, give it handshakes by Upgrade.
type Server struct {
	cfg     Config
	swarms  Swarms
	log     *slog.Logger
	started time.Time
	origins map[string]struct{}

	mode     atomic.Uint32 // a shedder.Mode
	switched chan struct{} // holds one: the sweep is to look at the mode now
	interval atomic.Int64  // seconds, before jitter
	maxConns atomic.Int64
	spacing  int64 // nanoseconds between two messages at Config.Rate
	allowed  int64 // nanoseconds by which a burst may be ahead of that

	sockets  socketTable
	members  memberTable
	asides   asides
	ask      asker // nil where nobody has to be asked
	offers   offerTable
	buffered budget
	paused   pausedSockets
	loops    []*loop
	workers  sync.Pool      // of *worker, for sockets that have a goroutine and for handshakes
	looping  sync.WaitGroup // loops
	running  sync.WaitGroup // goroutines of streams; added to by adoptions, and by those it counts
	metrics  counters
}

// New makes a server. Its loops start at once, so that it takes handshakes before Run; Run ends them.
func New(cfg Config, swarms Swarms, log *slog.Logger) (*Server, error) {
	cfg = cfg.withDefaults()
	if cfg.Idle <= cfg.Ping {
		return nil, fmt.Errorf("ws.idle: got %s; must be longer than ws.ping (%s)", cfg.Idle, cfg.Ping)
	}
	s := &Server{cfg: cfg, swarms: swarms, log: log, started: time.Now(), switched: make(chan struct{}, 1)}
	s.maxConns.Store(int64(cfg.MaxConns))
	if len(cfg.AllowOrigins) > 0 {
		s.origins = make(map[string]struct{}, len(cfg.AllowOrigins))
		for _, origin := range cfg.AllowOrigins {
			s.origins[origin] = struct{}{}
		}
	}
	s.spacing = int64(float64(time.Second) / cfg.Rate)
	s.allowed = s.spacing * int64(cfg.Burst-1)
	s.buffered.max = cfg.MaxBuffered
	s.SetInterval(cfg.Interval)
	s.sockets.init(cfg.MaxConns)
	s.members.init(cfg.MaxConns)
	s.offers.init()
	s.asides.woken = make(chan struct{}, 1)
	if cfg.Nodes != nil {
		s.ask, _ = swarms.(asker)
	}
	s.workers.New = func() any { return s.newWorker() }
	s.metrics.init(s)
	if err := s.startLoops(); err != nil {
		return nil, fmt.Errorf("start epoll loops: %w", err)
	}
	return s, nil
}

// SetMode turns the switch. It has effect on the next handshake and the next message. With Drain, open sockets are closed over a
// minute, code 1013, so that they do not come back together; with Off they are closed at once.
func (s *Server) SetMode(m shedder.Mode) {
	s.mode.Store(uint32(m))
	select {
	case s.switched <- struct{}{}:
	default: // the sweep has not looked since the last time
	}
}

// Mode is what the switch says.
func (s *Server) Mode() shedder.Mode { return shedder.Mode(s.mode.Load()) }

// SetMaxConns changes how many sockets there may be, at most Config.MaxConns. Those that are open stay.
func (s *Server) SetMaxConns(n int) { s.maxConns.Store(int64(min(max(n, 0), s.cfg.MaxConns))) }

// MaxConns is how many sockets there may be.
func (s *Server) MaxConns() int { return int(s.maxConns.Load()) }

// SetInterval changes what peers are told, give or take a fifth, from now on.
func (s *Server) SetInterval(d time.Duration) {
	s.interval.Store(int64(max(d, time.Second) / time.Second))
}

// Conns is how many sockets are open.
func (s *Server) Conns() int { return s.sockets.len() }

// Loops is how many epoll loops there are.
func (s *Server) Loops() int { return len(s.loops) }

// clock is the time since the server's start in whole seconds: what sockets keep, in four bytes.
func (s *Server) clock(now time.Time) uint32 { return uint32(max(now.Sub(s.started), 0) / time.Second) }

func (s *Server) clockNow() uint32 { return s.clock(time.Now()) }

// Run sweeps over the sockets until ctx ends; then it closes them, tells their swarms, and waits for all that runs.
func (s *Server) Run(ctx context.Context) {
	var far sync.WaitGroup
	far.Go(func() { s.runAsides(ctx.Done()) })
	s.sweep(ctx)
	far.Wait()
	s.SetMode(shedder.Off)
	s.closeAll()
	s.running.Wait()
}

// source is what Config.MaxConnsPerIP counts by: an IPv6 subscriber has a /64 at the least.
func source(addr netip.Addr) netip.Addr {
	if addr.Is4() || !addr.IsValid() {
		return addr
	}
	p, _ := addr.Prefix(64) // fails for no IPv6 address
	return p.Addr()
}

// budget bounds the bytes that all sockets may have in buffers.
type budget struct {
	used atomic.Int64
	max  int64
}

func (b *budget) take(n int) bool {
	for {
		used := b.used.Load()
		if used+int64(n) > b.max {
			return false
		}
		if b.used.CompareAndSwap(used, used+int64(n)) {
			return true
		}
	}
}

func (b *budget) give(n int) { b.used.Add(-int64(n)) }
