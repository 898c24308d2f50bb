package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"spillway/internal/admin"
	"spillway/internal/config"
	"spillway/internal/console"
	"spillway/internal/datadir"
	"spillway/internal/listen"
	"spillway/internal/logx"
	"spillway/relay"
	"spillway/relay/kernel"
	"spillway/relay/profile"
	"spillway/relay/proxy"
)

// relayCmd runs the relay, or looks after the kernel's settings. Its flags are those of serve that concern it, and its section.
type relayCmd struct {
	DataDir string       `name:"data_dir" help:"Where the admin token is kept, and what the kernel's settings were before. $STATE_DIRECTORY, set by systemd, is the default when it is there."`
	Log     config.Log   `embed:"" prefix:"log." group:"Log"`
	Relay   config.Relay `embed:"" prefix:"relay." group:"Relay"`

	Run    relayRunCmd         `cmd:"" default:"1" help:"Run the relay; what is done when no command is named."`
	Check  console.RelayCheck  `cmd:"" help:"Compare the kernel's settings with the fast-fail profile. Exit code 1 if they differ."`
	Apply  console.RelayApply  `cmd:"" help:"Set the kernel as the profile has it; what was there is kept for revert."`
	Revert console.RelayRevert `cmd:"" help:"End forwarding: remove our table, put the kernel's settings back."`
}

// config is c as a whole configuration, for config.Sources.
func (c *relayCmd) config() config.Config {
	return config.Config{DataDir: c.DataDir, Log: c.Log, Relay: c.Relay}
}

type relayRunCmd struct{}

// Help is shown by relay run --help.
func (relayRunCmd) Help() string {
	return `Forwards what comes to relay.listen to relay.backends, and refuses it at once while no backend can take it. ` +
		`With root or CAP_NET_ADMIN the kernel forwards (nftables, no nft program needed), else this program does.

SIGTERM stops the program and not the forwarding: the kernel goes on, and a new relay takes over without a gap. ` +
		`"spillway relay revert" ends it. In proxy mode connections end with the program.`
}

func (relayRunCmd) Run(p *program) error {
	stop, hup := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(hup, syscall.SIGHUP)
	r, err := startRelay(p.src, p.stderr)
	if err != nil {
		return err
	}
	return r.run(stop, hup)
}

// relayPath is a data path and its end.
type relayPath interface {
	relay.Path
	Close() error
}

// relayServer is a relay that forwards, with all that belongs to it.
type relayServer struct {
	cfg      config.Config
	logs     *logx.Logs
	log      *slog.Logger // never limited
	started  time.Time
	path     relayPath
	relay    *relay.Relay
	keys     []profile.Key
	readings atomic.Pointer[[]profile.Reading] // of the kernel's settings, the last
	history  admin.RelayHistory
	admin    *admin.Server // nil when relay.admin.listen is empty
	door     *listen.Door
	failed   chan error
	tasks    sync.WaitGroup
	serves   sync.WaitGroup
}

// startRelay does all that can fail, and returns a relay that forwards. A mistake in the configuration changes nothing.
func startRelay(src config.Sources, stderr io.Writer) (*relayServer, error) {
	cfg, err := config.Load(src)
	if err != nil {
		return nil, err
	}
	backends, err := relayBackends(cfg.Relay)
	if err != nil {
		return nil, err
	}
	level := new(slog.LevelVar)
	setLevel(level, cfg)
	r := &relayServer{cfg: cfg, started: time.Now(), failed: make(chan error, 1)}
	r.logs = logx.New(stderr, level, cfg.Log.Format)
	r.log = r.logs.Always
	if err := datadir.Make(cfg.DataDir); err != nil {
		return nil, err
	}
	warnOfSecrets(src, r.log)
	datadir.WarnOfWriters(cfg.DataDir, r.log)
	// The admin side first: it fails on a port in use, before anything of the kernel's is touched.
	if err := r.openAdmin(); err != nil {
		return nil, err
	}
	if err := r.openPath(backends); err != nil {
		return nil, err
	}
	return r, nil
}

// relayBackends are those of cfg, which must have one.
func relayBackends(cfg config.Relay) ([]relay.Backend, error) {
	if len(cfg.Backends) == 0 {
		return nil, errors.New("relay.backends: empty; name where connections go, as --relay.backends=10.66.0.2:6969")
	}
	var backends []relay.Backend
	for _, text := range cfg.Backends {
		addr, weight, err := config.ParseRelayBackend(text)
		if err != nil {
			return nil, fmt.Errorf("relay.backends: %w", err)
		}
		if slices.ContainsFunc(backends, func(b relay.Backend) bool { return b.Addr == addr }) {
			return nil, fmt.Errorf("relay.backends: %s is given twice; keep one, *2 behind it gives it twice the sources", addr)
		}
		backends = append(backends, relay.Backend{Addr: addr, Weight: weight})
	}
	return backends, nil
}

// openPath finds out who can forward, and has it do so.
func (r *relayServer) openPath(backends []relay.Backend) error {
	cfg := r.cfg.Relay
	mode, why := "proxy", "relay.mode says so"
	masquerade := false
	if cfg.Mode != "proxy" {
		var err error
		if masquerade, err = r.openKernel(backends); err == nil {
			mode, why = "kernel", "relay.mode says so"
			if cfg.Mode == "auto" {
				why = "nftables can be used here"
			}
		} else if cfg.Mode == "kernel" || errors.Is(err, kernel.ErrRunning) {
			return err
		} else {
			why = err.Error()
			r.log.Warn("the kernel cannot forward for us, so this program does, at twice the cost", "err", err)
		}
	}
	if r.path == nil {
		if err := r.openProxy(backends); err != nil {
			return err
		}
	}
	r.relay = relay.New(relay.Config{
		Backends: backends,
		Listen:   cfg.Listen,
		Mode:     mode, ModeWhy: why,
		Masquerade: masquerade,
		Health: relay.Health{Path: cfg.Health.Path, Every: time.Duration(cfg.Health.Every), Timeout: time.Duration(cfg.Health.Timeout),
			Fall: cfg.Health.Fall, Rise: cfg.Health.Rise, Proxied: mode == "proxy" && cfg.Proxy.SendProxy},
		Budget:  cfg.Budget,
		Profile: cfg.Profile,
	}, r.path, r.logs.Limited)
	return nil
}

// openKernel sets the kernel's settings and makes the table.
func (r *relayServer) openKernel(backends []relay.Backend) (masquerade bool, err error) {
	cfg := r.cfg.Relay
	kernelCfg := kernel.Config{Backends: backends, Budget: cfg.Budget, PerSource: cfg.PerSource}
	for _, text := range cfg.Listen {
		at, err := config.ParseRelayListen(text)
		if err != nil {
			return false, fmt.Errorf("relay.listen: %w", err)
		}
		kernelCfg.Listen = append(kernelCfg.Listen, at)
	}
	if err := kernel.Available(kernelCfg); err != nil {
		return false, err
	}
	masquerade = cfg.Masquerade == "on" || cfg.Masquerade == "auto" && r.mustMasquerade(backends)
	kernelCfg.Masquerade = masquerade
	path, err := kernel.Open(kernelCfg, r.logs.Limited)
	if err != nil {
		return false, err
	}
	r.path = path
	// Only now: a relay that cannot start changes nothing.
	r.applyProfile(profile.Kernel)
	r.warnOfNeighbours(backends)
	return masquerade, nil
}

// mustMasquerade tells whether a backend's answers to clients would not come back through here.
func (r *relayServer) mustMasquerade(backends []relay.Backend) bool {
	for _, b := range backends {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		ok, why := kernel.RouteBack(ctx, b.Addr)
		cancel()
		if !ok {
			r.log.Info("masquerading: backends see this machine's address; relay.masquerade: off needs a way back through here, see docs/relay.md",
				"backend", b.Addr, "why", why)
			return true
		}
	}
	r.log.Info("not masquerading: backends answer clients through here")
	return false
}

// warnOfNeighbours says what other tables on this machine would drop.
func (r *relayServer) warnOfNeighbours(backends []relay.Backend) {
	var addrs []netip.AddrPort
	for _, b := range backends {
		addrs = append(addrs, b.Addr)
	}
	texts, err := kernel.Neighbours(addrs)
	if err != nil {
		r.log.Warn("firewalls of this machine not looked at", "err", err)
	}
	for _, text := range texts {
		r.log.Warn("a firewall of this machine may drop what is forwarded", "what", text)
	}
}

func (r *relayServer) openProxy(backends []relay.Backend) error {
	cfg := r.cfg.Relay
	r.applyProfile(profile.Proxy)
	path, err := proxy.Open(proxy.Config{
		Listen: cfg.Listen, Backends: backends, Budget: cfg.Budget, PerSource: cfg.PerSource,
		MaxConns: cfg.Proxy.MaxConns, SendProxy: cfg.Proxy.SendProxy,
		ConnectTimeout: time.Duration(cfg.Proxy.ConnectTimeout), IdleTimeout: time.Duration(cfg.Proxy.IdleTimeout),
	}, r.logs.Limited)
	if err != nil {
		return err
	}
	r.path = path
	return nil
}

// applyProfile sets what can be set, and says what cannot.
func (r *relayServer) applyProfile(role profile.Role) {
	r.keys = profile.Keys(profile.ProcSys, console.ProfileOptions(r.cfg.Relay, role))
	changed, problems := profile.Apply(profile.ProcSys, filepath.Join(r.cfg.DataDir, console.ProfileState), r.keys)
	for _, c := range changed {
		r.log.Info("kernel setting changed; spillway relay revert puts it back", "key", c.Name, "old", c.Old, "new", c.New)
	}
	for _, err := range problems {
		r.log.Warn("kernel setting not as the profile has it; see spillway relay check", "err", err)
	}
	readings := profile.Read(profile.ProcSys, r.keys)
	r.readings.Store(&readings)
}

func (r *relayServer) openAdmin() (err error) {
	cfg := r.cfg.Relay.Admin
	if cfg.Listen == "" {
		return nil
	}
	adminCfg := admin.Config{
		Token: cfg.Token, DataDir: r.cfg.DataDir, OpenMetrics: cfg.OpenMetrics, Audit: r.log,
		Relay: r.status, RelayHistory: &r.history,
		Metrics: []func(io.Writer){func(w io.Writer) { r.relay.WriteMetrics(w) }, r.writeMetrics},
	}
	if host, _, err := net.SplitHostPort(cfg.Listen); err == nil && host != "" {
		adminCfg.Hosts = []string{host}
	}
	if r.admin, err = admin.New(adminCfg, r.logs.Limited); err != nil {
		return err
	}
	r.door, err = openAdminDoor("relay.admin", cfg.Listen, nil, r.logs)
	return err
}

func (r *relayServer) status() relay.Status {
	st := r.relay.Status()
	st.Version, st.Started = version(), r.started
	st.UptimeSeconds = int64(time.Since(r.started) / time.Second)
	st.ProfileOff = profile.Off(*r.readings.Load())
	st.LogDropped = r.logs.Dropped()
	return st
}

func (r *relayServer) writeMetrics(w io.Writer) {
	profile.WriteMetrics(w, *r.readings.Load())
	writeProgramMetrics(w, r.logs)
	if path, ok := r.path.(*proxy.Path); ok {
		path.WriteMetrics(w)
	}
	r.door.WriteMetrics(w)
}

// run relays until a signal. Stopping ends this program, and in kernel mode nothing else.
func (r *relayServer) run(stop, hup <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.tasks.Go(func() { r.logs.Run(ctx) })
	r.tasks.Go(func() { r.relay.Run(ctx) })
	r.tasks.Go(func() { r.watch(ctx) })
	if r.admin != nil {
		for _, l := range r.door.Listeners {
			r.serves.Go(func() {
				if err := r.admin.Serve(l); err != nil && !errors.Is(err, net.ErrClosed) {
					r.failed <- fmt.Errorf("relay.admin.listen: %s: %w", l.Addr(), err)
				}
			})
		}
	}
	st := r.relay.Status()
	attrs := []any{"listen", st.Listen, "backends", []string(r.cfg.Relay.Backends), "mode", st.Mode, "why", st.ModeWhy, "version", version()}
	if r.door != nil {
		attrs = append(attrs, "admin", addrTexts(r.door))
	}
	r.log.Info("relaying", attrs...)
	notify(r.log, daemon.SdNotifyReady)

	for {
		select {
		case <-hup:
			r.log.Warn("a relay takes its configuration at the start: restart it, forwarding goes on meanwhile in kernel mode")
		case sig := <-stop:
			signal.Reset(syscall.SIGTERM, syscall.SIGINT)
			return r.stop(cancel, sig.String())
		case err := <-r.failed:
			return errors.Join(err, r.stop(cancel, "failure"))
		}
	}
}

func (r *relayServer) stop(cancel context.CancelFunc, why string) error {
	r.log.Info("stopping", "why", why)
	notify(r.log, daemon.SdNotifyStopping)
	cancel()
	r.tasks.Wait()
	if r.admin != nil {
		r.admin.SetReady(false)
	}
	err := r.path.Close()
	if r.relay.Status().Mode == "kernel" {
		r.log.Info("the kernel goes on forwarding; spillway relay revert ends it")
	}
	if r.admin != nil {
		ctx, done := context.WithTimeout(context.Background(), time.Second)
		defer done()
		_ = r.admin.Shutdown(ctx)
		r.door.Close()
	}
	r.serves.Wait()
	return err
}

const (
	profileEvery = time.Minute
	readyEvery   = 200 * time.Millisecond
)

// watch keeps the history, looks after the kernel's settings, and tells systemd that we live.
func (r *relayServer) watch(ctx context.Context) {
	history, settings, ready := time.NewTicker(admin.HistoryStep), time.NewTicker(profileEvery), time.NewTicker(readyEvery)
	defer history.Stop()
	defer settings.Stop()
	defer ready.Stop()
	var alive <-chan time.Time
	if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
		t := time.NewTicker(every / 2)
		defer t.Stop()
		alive = t.C
	}
	r.tellDrift(nil)
	for {
		select {
		case <-ctx.Done():
			return
		case <-alive:
			r.relay.Status() // takes the lock the control loop needs
			notify(r.logs.Limited, daemon.SdNotifyWatchdog)
		case <-ready.C:
			if r.admin != nil {
				r.admin.SetReady(r.relay.Ready())
			}
		case now := <-history.C:
			r.history.Add(now, r.relay.Status())
		case <-settings.C:
			before := *r.readings.Load()
			now := profile.Read(profile.ProcSys, r.keys)
			r.readings.Store(&now)
			r.tellDrift(before)
		}
	}
}

// tellDrift says which settings are not as wanted any more, and which are again.
func (r *relayServer) tellDrift(before []profile.Reading) {
	for _, d := range profile.Drift(before, *r.readings.Load()) {
		switch {
		case d.OK:
			r.log.Info("kernel setting as the profile has it again", "key", d.Name, "found", d.Found)
		case before != nil: // what was off from the start has been told
			r.log.Warn("kernel setting changed by somebody; spillway relay apply sets it again", "key", d.Name, "want", d.Wanted(), "found", d.Found)
		}
	}
}
