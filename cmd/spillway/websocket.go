package main

import (
	"runtime"
	"time"

	"spillway/internal/config"
	"spillway/internal/listen"
	"spillway/shedder"
	"spillway/tracker/swarm"
	"spillway/wsserver"
)

// webSockets are the WebSocket side: the server, and the port of its own if it has one.
type webSockets struct {
	*wsserver.Server
	door *listen.Door // nil when ws.listen is empty
}

// fitConns shares the descriptors there are between HTTP and WebSockets.
func (s *server) fitConns() (wsMaxConns int) {
	http, ws := s.cfg.HTTP.MaxConns, s.cfg.WS.MaxConns
	fits := listen.FitMaxConns(http+ws, "http.max_conns and ws.max_conns", s.log)
	s.maxConns = min(http, max(fits/2, fits-ws))
	s.wsMaxConns = fits - s.maxConns
	return s.wsMaxConns
}

// newWebSockets comes before the tracker, which hands handshakes to it.
func (s *server) newWebSockets() (err error) {
	refuses := func(infoHash *swarm.InfoHash, peerID *[20]byte) string { return s.tracker.Refuses(infoHash, peerID) }
	cfg := wsConfig(s.cfg, s.fitConns(), refuses)
	cfg.Gate = s.gate
	if s.cluster != nil {
		cfg.Nodes, cfg.Node = farNodes{s.cluster}, s.cluster.ID()
	}
	if s.ws.Server, err = wsserver.New(cfg, s.swarms, s.logs.Limited); err != nil {
		return err
	}
	s.ws.SetMode(s.gate.Switches.Mode(shedder.WS))
	// A loop that is flooded keeps one of Go's processors to itself. With one more for each, HTTP has all it had; whose thread
	// gets a core is the kernel's business, and loops' are nice. Without it p99 of HTTP under a flood was 3 to 9 ms in every
	// third second (go test -run='^$' -bench=UnderWebSocketFlood ./internal/bench).
	if n := runtime.GOMAXPROCS(0); n > 1 {
		runtime.GOMAXPROCS(n + s.ws.Loops())
	}
	return nil
}

func wsConfig(c config.Config, maxConns int, refuses func(*swarm.InfoHash, *[20]byte) string) wsserver.Config {
	return wsserver.Config{
		MaxConns:      maxConns,
		MaxConnsPerIP: c.WS.MaxConnsPerIP,
		MaxMessage:    int(c.WS.MaxMessage),
		MaxOffers:     c.WS.MaxOffers,
		MaxHashes:     c.WS.MaxHashes,
		Rate:          float64(c.WS.Rate),
		Burst:         c.WS.Burst,
		MaxQueue:      int(c.WS.MaxQueue),
		MaxBuffered:   int64(c.WS.MaxBuffered),
		Interval:      time.Duration(c.WS.Interval),
		MaxInterval:   time.Duration(c.Tracker.MaxInterval),
		Ping:          time.Duration(c.WS.Ping),
		Idle:          time.Duration(c.WS.Idle),
		AllowOrigins:  c.WS.AllowOrigins,
		Refuses:       refuses,
	}
}

// openWebSockets binds ws.listen. Handshakes on it are HTTP connections until they are answered, hence the bound.
func (s *server) openWebSockets(inherited *listen.Inherited) (err error) {
	if s.cfg.WS.Listen == "" {
		return nil
	}
	s.ws.door, err = listen.Open(listen.Config{
		Addrs:         []string{s.cfg.WS.Listen},
		Key:           "ws",
		Endpoint:      "ws_handshake",
		MaxConns:      s.maxConns,
		DeferAccept:   true,
		ProxyProtocol: s.cfg.HTTP.ProxyProtocol,
		Trusted:       s.tracker.Trusted,
		Certs:         s.certs,
		Inherited:     inherited,
		Gate:          s.gate,
	}, s.logs.Limited)
	return err
}

func (s *server) serveWebSockets() {
	if s.ws.door == nil {
		return
	}
	for _, l := range s.ws.door.Listeners {
		s.serve("ws.listen", l, s.tracker.ServeUpgrades)
	}
}
