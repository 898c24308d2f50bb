package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"spillway/internal/admin"
	"spillway/internal/cluster"
	"spillway/internal/config"
	"spillway/internal/datadir"
	"spillway/internal/firewall"
	"spillway/internal/listen"
	"spillway/internal/logx"
	"spillway/shedder"
	"spillway/tracker"
	"spillway/tracker/swarm"
	"spillway/tracker/swarm/shared"
)

type serveCmd struct {
	config.Config `embed:""`
	switchFlags   `embed:""`
}

// Help is shown by serve --help.
func (serveCmd) Help() string {
	return `With nothing given it serves on port 6969 and logs the announce URL to paste into torrents.

Each setting is also a key of the configuration file (http.listen is listen under http) and an environment variable ` +
		`(SPILLWAY_HTTP_LISTEN). Flags win over the environment, the environment over the file. Lists are separated by commas. ` +
		`"spillway config print" explains every key.

SIGHUP reloads the file, whole or not at all. SIGTERM and SIGINT stop: requests under way end, swarms are saved. ` +
		`A second one stops at once.`
}

func (c *serveCmd) Run(p *program) error {
	// First of all, so that no signal finds nobody at home.
	stop, hup := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(hup, syscall.SIGHUP)

	modes, err := c.modes()
	if err != nil {
		return err
	}
	s, err := start(p.src, modes, p.stderr)
	if err != nil {
		return err
	}
	return s.run(stop, hup)
}

// server is a tracker that serves, with all that belongs to it.
type server struct {
	src     config.Sources
	cfg     config.Config // in force; changed by reload
	level   *slog.LevelVar
	logs    *logx.Logs
	log     *slog.Logger // never limited
	started time.Time

	lock       *os.File // holds data_dir while it is open
	table      *swarm.Table
	swarms     tracker.Swarms // the table, or shared in front of it
	shared     *shared.Store  // nil unless store.kind is redis
	endStore   func()         // the same, and until startStore
	cluster    *cluster.Node  // the same
	nodeName   string         // the same
	nodeURL    func() string  // for torrents; known once the sockets are
	snapshots  *snapshots
	tracker    *tracker.Tracker
	gate       *shedder.Gate
	history    admin.History
	firewall   *firewall.Firewall // nil where it is not wanted, or not to be had
	ws         webSockets
	udp        *tracker.UDP // nil when udp.listen is empty
	maxConns   int
	wsMaxConns int
	autoRules  bool
	certs      *listen.Certs // nil without TLS
	door       *listen.Door
	admin      *admin.Server // nil when admin.listen is empty
	adminDoor  *listen.Door

	failed chan error     // a listener that ended by itself
	tasks  sync.WaitGroup // goroutines that end with their context
	serves sync.WaitGroup // goroutines that end with their listener
}

// start does all that can fail, the cheap before the slow, and returns a
// server that answers. On an error the process is to end: what was begun is
// not undone.
func start(src config.Sources, modes map[shedder.Endpoint]shedder.Mode, stderr io.Writer) (*server, error) {
	inherited := listen.Inherit()
	cfg, err := config.Load(src)
	if err != nil {
		return nil, err
	}
	s := &server{src: src, cfg: cfg, level: new(slog.LevelVar), started: time.Now(), failed: make(chan error, 1)}
	setLevel(s.level, cfg)
	s.logs = logx.New(stderr, s.level, cfg.Log.Format)
	s.log = s.logs.Always

	if s.lock, err = datadir.Lock(cfg.DataDir); err != nil {
		return nil, err
	}
	warnOfSecrets(src, s.log)
	datadir.WarnOfWriters(cfg.DataDir, s.log)
	s.table = swarm.New(swarm.Config{
		MaxBytes:         int64(cfg.Store.Memory.Max),
		MaxSwarms:        cfg.Store.Memory.MaxSwarms,
		MaxPeersPerSwarm: cfg.Store.Memory.MaxPeersPerSwarm,
	})
	if err := s.newCluster(); err != nil {
		return nil, err
	}
	if err := s.newStore(); err != nil {
		return nil, err
	}
	s.snapshots = newSnapshots(s.table, cfg.DataDir, s.log)
	s.newGate(modes)
	if err := s.newWebSockets(); err != nil {
		return nil, err
	}
	trackerCfg := trackerConfig(cfg, s.maxConns)
	trackerCfg.Upgrade, trackerCfg.Gate = s.ws.Upgrade, s.gate
	if s.tracker, err = tracker.New(trackerCfg, s.swarms, s.logs.Limited); err != nil {
		return nil, err
	}
	if err := s.open(inherited); err != nil {
		return nil, err
	}
	s.openFirewall()
	s.serveAdmin()
	if err := s.snapshots.load(); err != nil {
		return nil, err
	}
	s.serveHTTP()
	return s, nil
}

// open binds the sockets. Nothing is answered on them yet.
func (s *server) open(inherited *listen.Inherited) (err error) {
	cfg := s.cfg.HTTP
	if cfg.TLS.Cert != "" {
		if s.certs, err = listen.NewCerts(cfg.TLS.Cert, cfg.TLS.Key, s.log); err != nil {
			return fmt.Errorf("http.tls: %w", err)
		}
	}
	s.door, err = listen.Open(listen.Config{
		Addrs:         cfg.Listen,
		MaxConns:      s.maxConns,
		DeferAccept:   true,
		ProxyProtocol: cfg.ProxyProtocol,
		Trusted:       s.tracker.Trusted,
		Certs:         s.certs,
		Inherited:     inherited,
		Gate:          s.gate,
		Early:         s.tracker.Early,
	}, s.logs.Limited)
	if err != nil {
		return err
	}
	if err := s.openWebSockets(inherited); err != nil {
		return err
	}
	if err := s.openUDP(); err != nil {
		return err
	}
	if err := s.openAdmin(inherited); err != nil {
		return err
	}
	if left := inherited.Left(); len(left) > 0 {
		s.log.Warn("systemd passed sockets that nothing listens on; name them in http.listen, as systemd:NAME", "sockets", left)
	}
	return nil
}

func (s *server) openAdmin(inherited *listen.Inherited) (err error) {
	if s.cfg.Admin.Listen == "" {
		return nil
	}
	if s.admin, err = admin.New(s.adminConfig(), s.logs.Limited); err != nil {
		return err
	}
	s.adminDoor, err = openAdminDoor("admin", s.cfg.Admin.Listen, inherited, s.logs)
	return err
}

// openAdminDoor binds the admin side of a tracker or a relay; key is the section of the configuration that says where.
func openAdminDoor(key, addr string, inherited *listen.Inherited, logs *logx.Logs) (*listen.Door, error) {
	return listen.Open(listen.Config{
		Addrs: []string{addr}, Key: key, Endpoint: "admin", MaxConns: admin.MaxConns, FixedBound: true, Inherited: inherited,
	}, logs.Limited)
}

// serveAdmin comes before the snapshot is loaded, so that /readyz can say that
// it is.
func (s *server) serveAdmin() {
	if s.admin == nil {
		return
	}
	for _, l := range s.adminDoor.Listeners {
		s.serve("admin.listen", l, s.admin.Serve)
	}
}

func (s *server) serveHTTP() {
	for _, l := range s.door.Listeners {
		s.serve("http.listen", l, s.tracker.Serve)
	}
	s.serveWebSockets()
	s.serveUDP()
}

// serve runs f on l until it is closed. If it ends before, so does the process:
// a tracker that is up and answers nobody would look well to a supervisor.
func (s *server) serve(key string, l net.Listener, f func(net.Listener) error) {
	s.serves.Go(func() {
		if err := f(l); err != nil && !errors.Is(err, net.ErrClosed) {
			select {
			case s.failed <- fmt.Errorf("%s: %s: %w", key, l.Addr(), err):
			default: // one is enough to end
			}
		}
	})
}

// run serves until a signal or a failure, and then stops in order.
func (s *server) run(stop, hup <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.tasks.Go(func() { s.logs.Run(ctx) })
	s.tasks.Go(func() { s.table.Run(ctx) })
	s.startStore()
	if s.cluster != nil {
		s.tasks.Go(func() { s.cluster.Run(ctx) })
	}
	s.tasks.Go(func() { s.tracker.Run(ctx) })
	s.tasks.Go(func() { s.ws.Run(ctx) })
	s.tasks.Go(func() { s.gate.Run(ctx) })
	dataDir := s.cfg.DataDir // read here: a reload changes s.cfg
	s.tasks.Go(func() { s.watchGate(ctx, dataDir) })
	if s.firewall != nil {
		s.tasks.Go(func() { s.firewall.Run(ctx) })
	}
	every := time.Duration(s.cfg.Store.Snapshot.Every)
	s.tasks.Go(func() { s.snapshots.run(ctx, every) })
	s.tasks.Go(func() { watchdog(ctx, s.table, s.logs.Limited) })
	if s.certs != nil {
		s.tasks.Go(func() { s.certs.Run(ctx) })
	}

	s.announceStart()
	for {
		select {
		case <-hup:
			s.reload()
		case sig := <-stop:
			// The next one has its default effect: the process ends at once.
			signal.Reset(syscall.SIGTERM, syscall.SIGINT)
			return s.stop(cancel, sig.String())
		case err := <-s.failed:
			return errors.Join(err, s.stop(cancel, "failure"))
		}
	}
}

// announceStart says that the server is up: to balancers, to the operator, to systemd.
func (s *server) announceStart() {
	s.setReady(true)
	attrs := []any{"listen", addrTexts(s.door), "data_dir", s.cfg.DataDir, "version", version()}
	if s.ws.door != nil {
		attrs = append(attrs, "ws", addrTexts(s.ws.door))
	}
	if s.adminDoor != nil {
		attrs = append(attrs, "admin", addrTexts(s.adminDoor))
	}
	if url := s.udpURL(); url != "" {
		attrs = append([]any{"udp", url}, attrs...)
	}
	if url := httpURL(s.door.Addrs(), s.certs != nil); url != "" {
		attrs = append([]any{"announce", url}, attrs...)
	}
	s.log.Info("serving", attrs...)
	notify(s.log, daemon.SdNotifyReady)
}

// stop ends in the order in which nobody loses anything: balancers look away,
// no more connections, requests under way end, swarms are saved.
func (s *server) stop(cancel context.CancelFunc, why string) error {
	began := time.Now()
	s.log.Info("stopping", "why", why)
	notify(s.log, daemon.SdNotifyStopping)
	s.setReady(false)

	s.closeUDP()
	limit := time.Duration(s.cfg.HTTP.ShutdownTimeout)
	ctx, done := context.WithTimeout(context.Background(), limit)
	defer done()
	if err := s.tracker.Shutdown(ctx); err != nil {
		s.log.Warn("http.shutdown_timeout reached, open connections are cut", "after", limit, "conns", s.door.Conns())
	}
	if s.ws.door != nil {
		s.ws.door.Close()
	}
	s.door.Close() // and what a signal during the start has left open
	s.log.Info("drained", "took", since(began))

	cancel()
	s.tasks.Wait()
	s.stopStore()
	if s.firewall != nil {
		if err := s.firewall.Close(); err != nil {
			s.log.Warn("table of nftables left behind, its sources expire by themselves", "err", err)
		}
	}
	saved, took, err := s.snapshots.save()
	if err != nil {
		return fmt.Errorf("data_dir: last snapshot not written, the one before stays: %w", err)
	}
	s.log.Info("snapshot written", "swarms", saved.Swarms, "peers", saved.Peers, "bytes", saved.Bytes, "took", took)

	if s.admin != nil {
		ctx, done := context.WithTimeout(context.Background(), time.Second)
		defer done()
		_ = s.admin.Shutdown(ctx) // a profile being taken is no reason to stay
		s.adminDoor.Close()
	}
	s.serves.Wait()
	s.log.Info("stopped", "took", since(began), "up", time.Since(s.started).Round(time.Second))
	return s.lock.Close()
}

func (s *server) setReady(ready bool) {
	if s.admin != nil {
		s.admin.SetReady(ready)
	}
}

func addrTexts(d *listen.Door) []string {
	var texts []string
	for _, a := range d.Addrs() {
		texts = append(texts, a.String())
	}
	return texts
}

// httpURL is what to paste into a torrent: the first TCP address. "" when there are only unix sockets, for then a proxy has the name
// clients use.
func httpURL(addrs []net.Addr, tls bool) string {
	for _, a := range addrs {
		if tcp, ok := a.(*net.TCPAddr); ok {
			scheme := "http"
			if tls {
				scheme = "https"
			}
			return listen.AnnounceURL(scheme, tcp.AddrPort())
		}
	}
	return ""
}

// since is rounded for the log.
func since(began time.Time) time.Duration { return time.Since(began).Round(time.Microsecond) }
