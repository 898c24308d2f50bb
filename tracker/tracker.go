// Package tracker is the tracker's front: it reads announces and scrapes, over HTTP and UDP, asks the swarms, and answers.
//
// An announce over HTTP passes through, in order:
//
//	Tracker.Early           in an overload, or with a switch off: the answer to what is refused, before it is parsed
//	Tracker.handle          picks the route, lets no panic out
//	Tracker.handleAnnounce  one request
//	parseAnnounce           the query, byte by byte
//	settings.clientAddr     who is asking
//	settings.allows         access list, passkey, peer id prefixes
//	Gate.Admit              switch, source's budget, rate
//	Swarms.Announce         the one lock
//	appendAnnounce          the reply, bencoded by hand
//
// One over UDP (UDP.Serve has its way) is decided upon by the same settings, gate and swarms.
//
// On these lines there is no goroutine, no log line, no allocation and one lock. A client's mistake is a bencoded failure
// and a counter. What takes time, such as reading lists that have changed, happens in Run.
//
// What the replies must be, and why, client by client: docs/protocol.md.
package tracker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// Config is what an operator sets. The names in brackets are the configuration's keys.
type Config struct {
	Interval    time.Duration // what a client is told, give or take a fifth (tracker.interval)
	MaxInterval time.Duration // what a client that is refused for good is told (tracker.max_interval)
	PeerTTL     time.Duration // how long a silent peer is listed; zero is twice the interval told (tracker.peer_ttl)
	NumWant     int           // peers for a client that does not say (tracker.numwant.default)
	MaxNumWant  int           // most peers for anyone (tracker.numwant.max)

	TrustedProxies []string // addresses, CIDRs, the word cloudflare (http.trusted_proxies)
	CloudflareFile string   // ranges to use instead of the ones shipped (http.cloudflare_file)
	RealIPHeader   string   // where a trusted proxy names the client (http.real_ip_header)
	ClaimedIP      bool     // believe ip=, ipv4=, ipv6= of clients with private addresses (tracker.ip_param)

	AccessMode   string   // open, allow or deny (tracker.access.mode)
	AccessFile   string   // hex info hashes, one a line (tracker.access.file)
	PasskeyFile  string   // passkeys, one a line; empty asks for none (tracker.passkeys)
	BlockPeerIDs []string // prefixes of peer ids that are refused (tracker.block_peer_ids)

	// The rest is fixed once the tracker is made.
	IdleTimeout time.Duration // for a whole request, and for the wait for the next (http.idle_timeout)
	MaxConns    int           // connections the listeners let through at once (http.max_conns)

	// Gate decides what is served when there is too much to do, and has the switches. Nil lets all pass.
	Gate *shedder.Gate

	// Upgrade takes WebSocket handshakes, at any path, of clients at the address given; nil means that they are requests
	// like others. It answers, or hijacks the connection, which it then has to close.
	Upgrade func(ctx *fasthttp.RequestCtx, client netip.Addr)
}

// Swarms is what the tracker asks of a store. It is safe for concurrent use.
type Swarms interface {
	Announce(a *swarm.Announce, now time.Time, r *swarm.Reply)
	Scrape(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts
	Stats() swarm.Stats
}

// waiter is what a store of swarms has whose answers may have to be fetched. A request over HTTP has a goroutine that may wait for
// them a little; the loops of UDP and WebSockets go on with what is there.
type waiter interface {
	AnnounceWait(a *swarm.Announce, now time.Time, r *swarm.Reply)
	ScrapeWait(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts
}

// stretcher is what a store has that now and then cannot do all of its work: clients should come back that many times later.
type stretcher interface{ Stretch() float64 }

// waiting makes a waiter of any store.
func waiting(s Swarms) waiter {
	if w, ok := s.(waiter); ok {
		return w
	}
	return neverWaits{s}
}

type neverWaits struct{ Swarms }

func (s neverWaits) AnnounceWait(a *swarm.Announce, now time.Time, r *swarm.Reply) {
	s.Announce(a, now, r)
}

func (s neverWaits) ScrapeWait(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts {
	return s.Scrape(hashes, dst)
}

// Tracker answers HTTP. Make one with New; it is safe for concurrent use.
type Tracker struct {
	swarms   Swarms
	waits    waiter    // swarms, for those that may wait
	stretch  stretcher // swarms, or nil
	log      *slog.Logger
	server   fasthttp.Server
	upgrades fasthttp.Server // of listeners for WebSockets alone
	upgrade  func(ctx *fasthttp.RequestCtx, client netip.Addr)
	gate     *shedder.Gate
	shed     atomic.Pointer[shedReplies]
	settings atomic.Pointer[settings]
	reload   sync.Mutex // one settings change at a time
	scratch  sync.Pool  // of *scratch
	metrics  counters
	stats    statsCache
	started  time.Time

	udpOffUntil atomic.Int64 // Unix time at which UDP's switch goes back by itself; 0: not of itself
}

// settings are a Config made ready for use. They never change: a reload puts others in their place.
type settings struct {
	cfg          Config
	proxies      *proxies
	realIPHeader string
	access       access
	passkeys     map[string]struct{} // nil: none asked for
	blocked      []string
	stamps       fileStamps
}

// The intervals a tracker may tell: below 5 minutes libtorrent does not go and others load for nothing; above 3 hours
// the lists of public trackers refuse it.
const (
	minIntervalSec = 300
	maxIntervalSec = 10800
)

// New makes a tracker. The error names the configuration's key.
func New(cfg Config, swarms Swarms, log *slog.Logger) (*Tracker, error) {
	t := &Tracker{swarms: swarms, waits: waiting(swarms), log: log, started: time.Now(), upgrade: cfg.Upgrade, gate: cfg.Gate}
	t.stretch, _ = swarms.(stretcher)
	if t.gate == nil {
		t.gate = shedder.New(shedder.Config{Disabled: true}, nil, nil, t.started)
	}
	t.gate.Switches.OnChange(func(s shedder.SwitchState) {
		switch s.Endpoint {
		case shedder.Announce:
			t.shed.Store(t.newShedReplies(time.Now()))
		case shedder.UDP:
			t.setUDPOffUntil(s.Until)
		}
	})
	t.setUDPOffUntil(t.gate.Switches.State(shedder.UDP).Until)
	t.scratch.New = func() any { return new(scratch) }
	t.metrics.init()
	if err := t.Reload(cfg); err != nil {
		return nil, err
	}
	t.configure(&t.server, t.handle, cfg)
	t.configure(&t.upgrades, t.handleUpgradeOnly, cfg)
	return t, nil
}

func (t *Tracker) configure(s *fasthttp.Server, handler fasthttp.RequestHandler, cfg Config) {
	*s = fasthttp.Server{
		Handler:        handler,
		HeaderReceived: repairHost,
		ErrorHandler:   t.handleGarbage,
		// The listeners bound connections. Above their bound fasthttp's own, which answers 503, is never reached.
		Concurrency:        cfg.MaxConns + 1,
		ReadBufferSize:     maxRequestBytes,
		WriteBufferSize:    4 << 10,
		ReadTimeout:        cfg.IdleTimeout,
		WriteTimeout:       cfg.IdleTimeout,
		IdleTimeout:        cfg.IdleTimeout,
		MaxRequestBodySize: 1 << 10, // nobody sends one; this much is read past before 405
		CloseOnShutdown:    true,
		// A reply is a few hundred bytes; the headers nobody reads would be a fifth of it.
		NoDefaultServerHeader: true,
		NoDefaultDate:         true,
		NoDefaultContentType:  true,
		Logger:                quiet{t.log},
		KeepHijackedConns:     true, // a WebSocket outlives its handshake

		DisablePreParseMultipartForm: true, // what is read past is not parsed
	}
}

// maxRequestBytes bounds a request: line and headers. Within it, an announce's line may have maxAnnounceLine bytes.
const (
	maxRequestBytes = 12 << 10
	maxAnnounceLine = 4 << 10
	maxScrapeLine   = 8 << 10
)

// quiet takes fasthttp's own messages. Each is about one connection, so a stranger can cause them at will: they are for
// somebody who looks, at level debug.
type quiet struct{ log *slog.Logger }

func (q quiet) Printf(format string, args ...any) {
	if q.log.Enabled(context.Background(), slog.LevelDebug) {
		q.log.Debug("http connection", "err", fmt.Sprintf(format, args...))
	}
}

// Reload puts cfg in force, whole or not at all. Connections go on.
func (t *Tracker) Reload(cfg Config) error {
	t.reload.Lock()
	defer t.reload.Unlock()
	s, err := newSettings(cfg)
	if err != nil {
		return err
	}
	if last := t.settings.Swap(s); last == nil || last.cfg.Interval != cfg.Interval || last.cfg.MaxInterval != cfg.MaxInterval {
		t.gate.SetIntervals(cfg.Interval, cfg.MaxInterval)
		t.shed.Store(t.newShedReplies(time.Now()))
	}
	return nil
}

func newSettings(cfg Config) (s *settings, err error) {
	s = &settings{
		cfg:          cfg,
		realIPHeader: cfg.RealIPHeader,
		blocked:      cfg.BlockPeerIDs,
	}
	// Before the files are read: one that changes meanwhile is read again.
	s.stamps = s.stampFiles()
	if s.proxies, err = parseProxies(cfg.TrustedProxies, cfg.CloudflareFile); err != nil {
		return nil, err
	}
	if s.access, err = readAccess(cfg.AccessMode, cfg.AccessFile); err != nil {
		return nil, err
	}
	if s.passkeys, err = readPasskeys(cfg.PasskeyFile); err != nil {
		return nil, err
	}
	for _, prefix := range cfg.BlockPeerIDs {
		if prefix == "" || len(prefix) > 20 {
			return nil, fmt.Errorf("tracker.block_peer_ids: %q: a prefix has 1 to 20 characters", prefix)
		}
	}
	return s, nil
}

func (s *settings) stampFiles() fileStamps {
	return fileStamps{stampOf(s.cfg.AccessFile), stampOf(s.cfg.PasskeyFile), stampOf(s.cfg.CloudflareFile)}
}

// filePoll is how often the lists' files are looked at. A changed list is in force after two looks.
const filePoll = time.Second

// Run reads lists again when their files change, until ctx ends. A list with a mistake in it leaves the last good one in
// force and one log line.
func (t *Tracker) Run(ctx context.Context) {
	ticker := time.NewTicker(filePoll)
	defer ticker.Stop()
	var last fileStamps
	var refused *fileStamps // of the files as they were found faulty
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		t.stats.sample(time.Now(), t.metrics.announces())
		t.renewShedReplies(time.Now())
		s := t.settings.Load()
		stamps := s.stampFiles()
		// A file that changed since the last look may be half written: half an allow list would tell clients for good
		// that their torrents are unregistered.
		settled := stamps == last
		last = stamps
		if stamps == s.stamps || !settled || refused != nil && stamps == *refused {
			continue
		}
		s, err := t.reloadLists()
		if err != nil {
			refused = &stamps
			t.log.Error("list not reloaded, the last good one stays in force", "err", err)
			continue
		}
		refused = nil
		t.log.Info("lists reloaded", "access", len(s.access.hashes), "passkeys", len(s.passkeys))
	}
}

// reloadLists reads the files of the settings in force again. It holds the lock from reading the settings to replacing
// them, so that it never puts back what a Reload has just replaced.
func (t *Tracker) reloadLists() (*settings, error) {
	t.reload.Lock()
	defer t.reload.Unlock()
	s, err := newSettings(t.settings.Load().cfg)
	if err != nil {
		return nil, err
	}
	t.settings.Store(s)
	return s, nil
}

// Serve answers on ln until Shutdown. It may be called for several listeners.
func (t *Tracker) Serve(ln net.Listener) error { return t.server.Serve(ln) }

// Shutdown closes the listeners and idle connections and waits for the requests under way until ctx ends.
func (t *Tracker) Shutdown(ctx context.Context) error {
	upgrades := make(chan error, 1)
	go func() { upgrades <- t.upgrades.ShutdownWithContext(ctx) }()
	return errors.Join(t.server.ShutdownWithContext(ctx), <-upgrades)
}

// Trusted tells whether addr is one of http.trusted_proxies, as they stand now.
func (t *Tracker) Trusted(addr netip.Addr) bool {
	return t.settings.Load().proxies.contains(addr.Unmap())
}

// interval is what a client that is served is told, in seconds.
func (t *Tracker) interval() int {
	told := t.gate.Told()
	if t.stretch != nil {
		if by := t.stretch.Stretch(); by > 1 {
			most := int(t.settings.Load().cfg.MaxInterval / time.Second)
			told = max(min(int(float64(told)*by), most), told)
		}
	}
	return clampInterval(told)
}

func clampInterval(sec int) int { return min(max(sec, minIntervalSec), maxIntervalSec) }

func (s *settings) ttl(intervalSec int) time.Duration {
	if s.cfg.PeerTTL > 0 {
		return s.cfg.PeerTTL
	}
	return 2 * time.Duration(intervalSec) * time.Second
}

// numWant is how many peers a client gets that asks for n; -1 is one that does not say.
func (s *settings) numWant(n int) int {
	if n < 0 {
		n = s.cfg.NumWant
	}
	return min(n, s.cfg.MaxNumWant)
}

func (s *settings) blocks(peerID *[20]byte) bool {
	for _, prefix := range s.blocked {
		if strings.HasPrefix(string(peerID[:]), prefix) {
			return true
		}
	}
	return false
}
