package main

import (
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"spillway/internal/config"
	"spillway/tracker"
)

// reload reads the configuration again and puts in force what can be, whole or
// not at all. The lists and certificates it names are read again too.
func (s *server) reload() {
	notify(s.log, reloading())
	defer notify(s.log, daemon.SdNotifyReady)

	next, err := config.Load(s.src)
	if err != nil {
		s.refuseReload(err)
		return
	}
	now, live, restart := config.Reload(s.cfg, next)
	// The only step that can still fail comes first, and is itself whole or not at all.
	if err := s.tracker.Reload(trackerConfig(now, s.maxConns)); err != nil {
		s.refuseReload(err)
		return
	}
	s.cfg = now
	setLevel(s.level, now)
	if s.firewall != nil {
		if err := s.firewall.SetNever(s.tracker.ProxyPrefixes()); err != nil {
			s.log.Error("proxies that are trusted now may still be dropped by the kernel until their time is up", "err", err)
		}
	}
	s.ws.SetInterval(time.Duration(now.WS.Interval))
	s.snapshots.setEvery(time.Duration(now.Store.Snapshot.Every))
	if s.certs != nil {
		if err := s.certs.Reload(); err != nil {
			s.log.Error("certificate not reloaded, the old one stays in use; write a whole pair", "err", err)
		}
	}
	s.log.Info("reloaded", "changed", live)
	if len(restart) > 0 {
		s.log.Warn("changed keys wait for a restart", "keys", restart)
	}
}

// refuseReload logs each mistake of err, which has one a line.
func (s *server) refuseReload(err error) {
	for mistake := range strings.Lines(err.Error()) {
		s.log.Error("not reloaded, nothing changed; mend the configuration and reload again", "err", strings.TrimSpace(mistake))
	}
}

func setLevel(v *slog.LevelVar, cfg config.Config) {
	if err := v.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		panic("BUG: log.level passed its check: " + err.Error())
	}
}

// trackerConfig picks what the tracker needs to know.
func trackerConfig(c config.Config, maxConns int) tracker.Config {
	return tracker.Config{
		Interval:    time.Duration(c.Tracker.Interval),
		MaxInterval: time.Duration(c.Tracker.MaxInterval),
		PeerTTL:     time.Duration(c.Tracker.PeerTTL),
		NumWant:     c.Tracker.NumWant.Default,
		MaxNumWant:  c.Tracker.NumWant.Max,

		TrustedProxies: c.HTTP.TrustedProxies,
		CloudflareFile: c.HTTP.CloudflareFile,
		RealIPHeader:   c.HTTP.RealIPHeader,
		ClaimedIP:      c.Tracker.IPParam == "private",

		AccessMode:   c.Tracker.Access.Mode,
		AccessFile:   c.Tracker.Access.File,
		PasskeyFile:  c.Tracker.Passkeys,
		BlockPeerIDs: c.Tracker.BlockPeerIDs,

		IdleTimeout: time.Duration(c.HTTP.IdleTimeout),
		MaxConns:    maxConns,
	}
}

// warnOfSecrets names the secrets that the configuration file shows to everybody.
func warnOfSecrets(src config.Sources, log *slog.Logger) {
	for _, name := range config.Exposed(src) {
		log.Warn("a secret is in a file that everybody on this machine can read: chmod 640 it, and change the secret", "key", name, "file", src.File)
	}
}
