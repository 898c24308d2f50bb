package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"spillway/tracker/swarm"
)

// notify tells systemd the state, sd_notify(3). Without systemd it does nothing.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd not notified", "state", state, "err", err)
	}
}

// reloading is what Type=notify-reload waits for: the time tells this reload
// from an older one.
func reloading() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return daemon.SdNotifyReloading
	}
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/int64(time.Microsecond))
}

// watchdog tells systemd, twice in each WatchdogSec, that the tracker can
// still serve: it takes each lock an announce might need. Should one never
// come free, systemd restarts the tracker.
func watchdog(ctx context.Context, table *swarm.Table, log *slog.Logger) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd watchdog not served", "err", err)
	}
	if every == 0 {
		return
	}
	ticker := time.NewTicker(every / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			table.Stats()
			notify(log, daemon.SdNotifyWatchdog)
		}
	}
}
