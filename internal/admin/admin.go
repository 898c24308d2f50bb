// Package admin is the operator's HTTP listener: health, metrics, profiles and state, never on the public port.
//
// A request passes, in order:
//
//	Server.handle        the Host header on loopback, then the path
//	Server.allow         the bearer token, for all but /healthz, /readyz and the page (and /metrics if the operator opened it)
//	Server.allowChange   for PUT and DELETE: content type, origin, rate
//	handleMetrics, turn, block, ...
//
// The page at / is a client of the API like any other: it has no way of its own into the program.
//
// A relay has the same listener with less behind it (relay.go): it shows how it fares, and there is nothing to turn.
package admin

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/valyala/fasthttp"

	"spillway/relay"
)

// MaxConns is the bound to give the admin listener: enough for people, scrapers and probes.
const MaxConns = 256

// maxBodyBytes is ample for a switch or a block.
const maxBodyBytes = 64 << 10

// Config says who may ask, and what is shown.
type Config struct {
	// Token is asked as "Authorization: Bearer TOKEN". Empty means the one in DataDir/admin.token, made if there is none.
	Token   string
	DataDir string

	// OpenMetrics lets /metrics be read without the token.
	OpenMetrics bool

	// Hosts are accepted in the Host header on loopback, besides localhost and loopback addresses.
	Hosts []string

	// Operator is what the API shows and turns.
	Operator Operator
	History  *History // nil: an empty one

	// Relay makes this the admin side of a relay: its status and its page instead of the tracker's, and no changes. Operator and
	// History are not used then. It is called by several goroutines.
	Relay        func() relay.Status
	RelayHistory *RelayHistory // nil: an empty one

	// Audit gets a line for each change. It must not drop any.
	Audit *slog.Logger

	// Metrics write their part of /metrics in Prometheus text format, HELP and TYPE lines anywhere before a name's first sample.
	// They may share metric names if their labels differ.
	Metrics []func(io.Writer)

	// Help describes metrics by name, where the writer gives no HELP line.
	Help map[string]string
}

// Server answers the operator. Create it with New.
type Server struct {
	cfg   Config
	log   *slog.Logger
	http  *fasthttp.Server
	token [sha256.Size]byte // hashed, so that comparing takes the same time whatever the length

	op    Operator
	audit *slog.Logger
	files map[string]file // the page, by path

	ready      atomic.Bool
	badTokens  bucket
	changeRate bucket
	changing   sync.Mutex // one change at a time, so that what a change is from is true

	set            *metrics.Set
	requests       *metrics.Counter
	authErrors     *metrics.Counter
	hostErrors     *metrics.Counter
	changes        *metrics.Counter
	changesRefused *metrics.Counter
}

// New checks cfg and finds or makes the token. The server is not ready until SetReady.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	token := cfg.Token
	key := cfg.key()
	if token == "" {
		file := filepath.Join(cfg.DataDir, TokenFile)
		var made bool
		var err error
		if token, made, err = loadToken(file); err != nil {
			return nil, fmt.Errorf("%s.token: %w", key, err)
		}
		if made {
			log.Info("admin token made", "file", file)
		}
	} else if err := checkToken(token); err != nil {
		return nil, fmt.Errorf("%s.token: %w", key, err)
	}

	s := &Server{cfg: cfg, log: log, token: sha256.Sum256([]byte(token)), set: metrics.NewSet()}
	s.op, s.audit, s.files = cfg.Operator, cfg.Audit, pageFiles()
	if cfg.Relay != nil {
		s.files = relayPageFiles()
	}
	if s.audit == nil {
		s.audit = log
	}
	s.badTokens.perSecond, s.badTokens.burst = 10, 10
	s.changeRate.perSecond, s.changeRate.burst = changesPerSecond, changesBurst
	s.requests = s.set.NewCounter("spillway_admin_requests_total")
	s.authErrors = s.set.NewCounter("spillway_admin_auth_errors_total")
	s.hostErrors = s.set.NewCounter("spillway_admin_host_errors_total")
	s.changes = s.set.NewCounter("spillway_admin_changes_total")
	s.changesRefused = s.set.NewCounter("spillway_admin_changes_refused_total")
	s.set.NewGauge("spillway_ready", func() float64 {
		if s.ready.Load() {
			return 1
		}
		return 0
	})
	metrics.ExposeMetadata(true) // TYPE lines, which exposition needs
	s.http = &fasthttp.Server{
		Handler:               s.handle,
		Logger:                debugLogger{log},
		Name:                  "spillway",
		Concurrency:           MaxConns + 1, // the listener has the bound; over this fasthttp answers 503
		ReadBufferSize:        4096,         // also the bound on a request's head
		MaxRequestBodySize:    maxBodyBytes,
		ReadTimeout:           10 * time.Second,
		IdleTimeout:           time.Minute,
		WriteTimeout:          30 * time.Second, // starts after the handler, so that a long profile may be taken
		CloseOnShutdown:       true,
		SecureErrorLogMessage: true,

		DisablePreParseMultipartForm: true, // a body is parsed after its token, and as JSON alone
	}
	return s, nil
}

// key is where the operator finds this listener in the configuration.
func (cfg *Config) key() string {
	if cfg.Relay != nil {
		return "relay.admin"
	}
	return "admin"
}

// Serve answers on ln until Shutdown. It may be called for several listeners. It warns if others than this machine can connect.
func (s *Server) Serve(ln net.Listener) error {
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		key, loopback := s.cfg.key(), "127.0.0.1:7070"
		if s.cfg.Relay != nil {
			loopback = "127.0.0.1:7071"
		}
		s.log.Warn(key+".listen is not a loopback address: the token crosses the network in the clear; "+
			"set it to "+loopback+" or unix:/path, or let only a trusted network reach it", "addr", ln.Addr())
	}
	return s.http.Serve(ln)
}

// SetReady says whether /readyz answers 200, for a load balancer: true once all listeners serve, false when draining starts.
func (s *Server) SetReady(ready bool) { s.ready.Store(ready) }

// Shutdown closes the listeners and waits for requests, until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.ShutdownWithContext(ctx) }

// debugLogger takes what fasthttp says of single connections: of use to nobody but who looks for a bug.
type debugLogger struct{ log *slog.Logger }

func (l debugLogger) Printf(format string, args ...any) {
	l.log.Debug("admin connection", "err", fmt.Sprintf(format, args...))
}
