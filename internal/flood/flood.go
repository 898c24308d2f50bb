// Package flood loads a tracker open loop: requests are due at times fixed in advance, whatever becomes of the earlier ones, and
// latency counts from when a request was due. So a server that stalls for a second is charged with all that was due in it, and
// not with the few requests that happened to be on the way (the mistake called coordinated omission).
//
// The way of one request:
//
//	schedule.next      says when it is due (profile.go)
//	worker.dueNow      draws its side and queues it (worker.go)
//	engine.dispatch    gives it a connection and writes it: httpEngine (http.go), udpEngine (udp.go), wsEngine (ws.go). What it says is
//	                   rendered by requests (request.go, udp_packet.go, ws_message.go), from an address of source.go
//	engine.ready       reads the reply and has it judged (http_reply.go; classify and its like in reply.go)
//	worker.record      counts it, in the phase and the tenth of a second in which it was due (tally.go)
//
// A request that finds no connection within Config.Patience is counted as unsent: it was offered, and it was not served. What was
// counted becomes a Result (result.go), which is printed, drawn (plot.go), or made a page (page.go).
//
// A worker is one thread with connections of its own, raw system calls and no allocation while it runs. It sleeps only when nothing
// is due for a while, and it counts the requests that left late for want of its own CPU: a result with many of those says more
// about the generator than about the tracker.
//
// RunTrial runs the same load several times, at one target or at two in turn (trial.go), and says in words what came of it (verdict.go).
//
// It refuses targets that are not on this machine (checkTarget). Linux only.
package flood

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"spillway/internal/sys"
)

// Mode is what a flood is made of.
type Mode string

// The modes.
const (
	KeepAlive   Mode = "keepalive"    // announces on a pool of kept connections, as a CDN's
	Close       Mode = "close"        // a connection for each announce, as clients do
	Scrape      Mode = "scrape"       // scrapes of several torrents on kept connections
	UDP         Mode = "udp"          // announces and scrapes over UDP; a socket's connection id is used for a minute
	UDPConnect  Mode = "udp-connect"  // the same, and each asks for a connection id first, as a client that announces twice an hour
	WSAnnounce  Mode = "ws-announce"  // announces on open WebSockets, one at a time on each, whose replies are waited for
	WSHandshake Mode = "ws-handshake" // a connection and an upgrade, aborted when it is answered
	WSMessage   Mode = "ws-message"   // small announces on open WebSockets, every eighth message is junk
	WSOffers    Mode = "ws-offers"    // announces with offers, all in one swarm
	WSSlow      Mode = "ws-slow"      // the same, and every second socket never reads what the others' bring it
)

// Modes lists them all.
var Modes = []Mode{KeepAlive, Close, Scrape, UDP, UDPConnect, WSAnnounce, WSHandshake, WSMessage, WSOffers, WSSlow}

// onSockets tells whether messages are sent on open WebSockets, and nobody waits for what comes back.
func (m Mode) onSockets() bool { return m == WSMessage || m == WSOffers || m == WSSlow }

// kept tells whether connections are opened before the flood, and one request is on its way on each at most.
func (m Mode) kept() bool { return m == KeepAlive || m == Scrape || m == WSAnnounce }

func (m Mode) overUDP() bool { return m == UDP || m == UDPConnect }

// Where a request says that it comes from.
const (
	SourceReal   = "real"   // each connection is bound to an address of its own
	SourceHeader = "header" // in Config.Header, as behind a proxy
)

// Config is one flood. The zero value of a field means its default.
type Config struct {
	Name   string // of the run, for reports
	Target netip.AddrPort
	Path   string // /announce; of WSAnnounce /, and other handshakes always go there
	Mode   Mode   // KeepAlive

	Rate      float64 // requests a second where the profile says 1
	Profile   Profile // 10s@1
	PeakConns int     // connections of FindPeak, 64: they keep a core busy and make no queue

	Conns   int   // kept connections or sockets, or the most that are open at once; 1,000
	Threads int   // 1
	Cores   []int // one for each thread; none: any
	First   bool  // the threads go before all others (SCHED_FIFO; needs root)

	Good     time.Duration // a reply is good within this of its due time; 200 ms
	Patience time.Duration // a request waits this long for a connection; 200 ms. Negative: not at all
	Timeout  time.Duration // a connection without a reply is given up after this; 5 s
	GoodKey  string        // the key that a served reply over HTTP has and a shed one has not; "external ip", of a scrape "files"

	Source    string       // SourceReal
	Header    string       // X-Forwarded-For
	Bind      netip.Prefix // of the addresses; 127.0.0.0/8, or 10.0.0.0/8 in a header
	Honest    int          // addresses that honest requests come from; 10,000
	Attackers int          // addresses that attack requests come from; 0
	Share     float64      // of attack requests, where the profile does not say; 0.9 if there are attackers

	RandomPeerIDs bool    // of attackers
	Torrents      int     // 1,000
	Offers        int     // of a WebSocket announce; 0: 5 to 10, but for WSAnnounce, where it is none
	Hashes        int     // torrents of a scrape; 10
	Scrapes       float64 // share of scrapes among what is asked over UDP

	Progress func(Progress) // called once a second from another goroutine; may be nil
}

// What a flood may be at most.
const (
	maxDuration   = 10 * time.Minute
	maxRate       = 2e6
	maxConns      = 100_000
	maxThreads    = 64
	maxHashes     = 74   // of a scrape, as BEP 15 has it
	maxWSTorrents = 1000 // whose messages are made before the flood, with offers of 2 KiB
)

// complete fills in the defaults and refuses what makes no sense.
func (c *Config) complete() error {
	if err := checkTarget(c.Target); err != nil {
		return err
	}
	if c.Path == "" && c.Mode == WSAnnounce {
		c.Path = "/"
	}
	if c.GoodKey == "" && c.Mode == Scrape {
		c.GoodKey = "files"
	}
	if len(c.Profile) == 0 {
		c.Profile = Profile{{Duration: 10 * time.Second, Multiple: 1, Share: -1}}
	}
	c.Path, c.Mode, c.GoodKey = cmp.Or(c.Path, "/announce"), cmp.Or(c.Mode, KeepAlive), cmp.Or(c.GoodKey, "external ip")
	c.Source, c.Header = cmp.Or(c.Source, SourceReal), cmp.Or(c.Header, "X-Forwarded-For")
	c.Conns, c.PeakConns, c.Threads = cmp.Or(c.Conns, 1000), cmp.Or(c.PeakConns, 64), cmp.Or(c.Threads, 1)
	c.Good, c.Patience, c.Timeout = cmp.Or(c.Good, 200*time.Millisecond), cmp.Or(c.Patience, 200*time.Millisecond), cmp.Or(c.Timeout, 5*time.Second)
	c.Honest, c.Torrents, c.Hashes = cmp.Or(c.Honest, 10_000), cmp.Or(c.Torrents, 1000), cmp.Or(c.Hashes, 10)
	if c.Share = cmp.Or(c.Share, 0.9); c.Attackers == 0 {
		c.Share = 0
	}
	if !c.Bind.IsValid() {
		c.Bind = netip.MustParsePrefix("127.0.0.0/8")
		if c.Source == SourceHeader {
			c.Bind = netip.MustParsePrefix("10.0.0.0/8")
		}
	}

	bad := func(format string, args ...any) error { return fmt.Errorf("flood: "+format, args...) }
	switch {
	case !slices.Contains(Modes, c.Mode):
		return bad("mode %q: must be one of %v", c.Mode, Modes)
	case c.Source != SourceReal && c.Source != SourceHeader:
		return bad("source %q: must be %s or %s", c.Source, SourceReal, SourceHeader)
	case !strings.HasPrefix(c.Path, "/") || strings.ContainsAny(c.Path, " ?\r\n"):
		return bad("path %q: must begin with / and have no query", c.Path)
	case strings.ContainsAny(c.Header, " :\r\n"):
		return bad("header %q: must be a name", c.Header)
	case c.Rate < 0 || c.Rate > maxRate:
		return bad("rate %g: must be from 0 to %g", c.Rate, float64(maxRate))
	case c.Conns < 1 || c.Conns > maxConns:
		return bad("conns %d: must be from 1 to %d", c.Conns, maxConns)
	case c.PeakConns < 1 || c.PeakConns > maxConns:
		return bad("peak conns %d: must be from 1 to %d", c.PeakConns, maxConns)
	case c.Threads < 1 || c.Threads > min(maxThreads, c.Conns):
		return bad("threads %d: must be from 1 to %d and not above conns", c.Threads, maxThreads)
	case len(c.Cores) > 0 && len(c.Cores) < c.Threads:
		return bad("%d cores for %d threads: name one for each, or none", len(c.Cores), c.Threads)
	case c.Good < 0 || c.Timeout < 0 || c.Timeout > time.Minute || c.Patience > time.Minute:
		return bad("good, patience and timeout must be within a minute")
	case c.Honest < 1 || c.Attackers < 0 || c.Torrents < 1:
		return bad("honest and torrents must be 1 or more, attackers 0 or more")
	case c.Source == SourceReal && c.Target.Addr().Is4() && !c.Target.Addr().IsLoopback() && c.Bind.Addr().IsLoopback():
		return bad("source addresses from %s do not reach %s; bind addresses of ours (ip route add local 10.0.0.0/8 dev lo makes these ours), or use a header", c.Bind, c.Target.Addr())
	case c.Share < 0 || c.Share > 1:
		return bad("share %g: must be from 0 to 1", c.Share)
	case c.Hashes < 1 || c.Hashes > maxHashes:
		return bad("hashes %d: must be from 1 to %d", c.Hashes, maxHashes)
	case !(c.Scrapes >= 0 && c.Scrapes <= 1):
		return bad("scrapes %g: must be from 0 to 1", c.Scrapes)
	case c.Mode == WSAnnounce && c.Torrents > maxWSTorrents:
		return bad("torrents %d: must be from 1 to %d over WebSockets", c.Torrents, maxWSTorrents)
	case c.Mode.overUDP() && c.Source == SourceHeader:
		return bad("source %s: over UDP there are no headers; it is %s", SourceHeader, SourceReal)
	case c.Offers < 0 || c.Offers > maxOffers:
		return bad("offers %d: must be from 0 to %d", c.Offers, maxOffers)
	case c.Profile.Total() > maxDuration:
		return bad("profile of %s: must be within %s", c.Profile.Total(), maxDuration)
	}
	if err := c.Profile.check(c.Rate); err != nil {
		return err
	}
	_, err := newAddresses(c.Bind, c.Honest+c.Attackers)
	return err
}

// FindPeak is what the target serves a second when a few connections ask as fast as they are answered, closed loop, for d; the
// first fifth is not counted. Only replies that are served count, however late.
func FindPeak(ctx context.Context, c Config, d time.Duration) (float64, error) {
	if err := c.complete(); err != nil {
		return 0, err
	}
	if c.Mode.onSockets() {
		return 0, errors.New("flood: a peak can be found of connections only, not of WebSocket messages; give a rate")
	}
	c.Conns = min(c.Conns, c.PeakConns)
	c.Threads = min(c.Threads, c.Conns)
	c.Attackers, c.Share, c.Progress = 0, 0, nil
	c.Profile = Profile{{Duration: d / 5, Multiple: 1}, {Duration: d - d/5, Multiple: 1}}
	r, err := run(ctx, c, true)
	if err != nil {
		return 0, fmt.Errorf("find peak: %w", err)
	}
	counted := r.Phases[1]
	peak := float64(counted.Honest.Good+counted.Honest.Late) / (counted.To - counted.From)
	if peak <= 0 {
		return 0, fmt.Errorf("find peak: %s served nothing in %s: %s", c.Target, d, counted.Honest)
	}
	return peak, nil
}

// Run floods the target. When ctx ends early the result is what there was until then.
func Run(ctx context.Context, c Config) (*Result, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	if c.Rate == 0 {
		return nil, errors.New("flood: rate is 0; give one, or find the peak first")
	}
	return run(ctx, c, false)
}

// run is one flood, or the closed loop that finds the peak.
func run(ctx context.Context, c Config, closedLoop bool) (*Result, error) {
	files := c.Conns + 64 + 4*c.Threads
	if allowed, err := sys.RaiseFileLimit(files); err != nil {
		return nil, fmt.Errorf("flood: %w", err)
	} else if allowed < files {
		return nil, fmt.Errorf("flood: %d open files are needed and %d are allowed; raise the limit (ulimit -n) or lower conns", files, allowed)
	}
	// A worker holds its processor; what else runs here needs one too.
	if procs := runtime.GOMAXPROCS(0); procs <= c.Threads {
		runtime.GOMAXPROCS(c.Threads + 1)
		defer runtime.GOMAXPROCS(procs)
	}
	return newTeam(c, closedLoop).run(ctx)
}

// Progress is how a flood stands.
type Progress struct {
	At, Total time.Duration
	Phase     Phase
	// Rates a second, since the last time.
	Offered, Sent, Good, Late, Shed, Failed float64
	Behind                                  uint64 // so far
}

func (p Progress) String() string {
	behind := ""
	if p.Behind > 0 {
		behind = fmt.Sprintf(", generator behind %d", p.Behind)
	}
	return fmt.Sprintf("%3.0f of %.0f s, x%g: offered %.0f/s, good %.0f, late %.0f, shed %.0f, failed %.0f%s", p.At.Seconds(), p.Total.Seconds(),
		p.Phase.Multiple, p.Offered, p.Good, p.Late, p.Shed, p.Failed, behind)
}

// watch tells Config.Progress once a second, until over is closed.
func (t *team) watch(start time.Time, over <-chan struct{}) {
	if t.cfg.Progress == nil {
		return
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var last [liveCount]uint64
	lastAt := start
	for {
		var now time.Time
		select {
		case <-over:
			return
		case now = <-ticker.C:
		}
		p := Progress{At: now.Sub(start), Total: t.cfg.Profile.Total(), Behind: t.live[liveBehind].Load()}
		left := p.At
		for _, ph := range t.cfg.Profile {
			p.Phase = ph
			if left -= ph.Duration; left < 0 {
				break
			}
		}
		for i, to := range []*float64{&p.Offered, &p.Sent, &p.Good, &p.Late, &p.Shed, &p.Failed} {
			n := t.live[i].Load()
			*to = float64(n-last[i]) / now.Sub(lastAt).Seconds()
			last[i] = n
		}
		lastAt = now
		t.cfg.Progress(p)
	}
}
