package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
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

// announceURL is what to paste into a torrent: the first TCP address, with a
// real address of this machine where it listens on all. "" when there are only
// unix sockets, for then a proxy has the name clients use.
func announceURL(addrs []net.Addr, tls bool) string {
	for _, a := range addrs {
		tcp, ok := a.(*net.TCPAddr)
		if !ok {
			continue
		}
		ap := tcp.AddrPort()
		addr := ap.Addr().Unmap().WithZone("") // no URL of a torrent has a zone
		if addr.IsUnspecified() {
			addr = ownAddr()
		}
		scheme := "http"
		if tls {
			scheme = "https"
		}
		return scheme + "://" + netip.AddrPortFrom(addr, ap.Port()).String() + "/announce"
	}
	return ""
}

// ownAddr is the address others in the network know this machine by, as far
// as it can tell: behind a NAT it cannot. Loopback if it has no other.
func ownAddr() netip.Addr {
	// Connecting a UDP socket sends nothing, but the kernel picks the source
	// address its default route has. The other end is for documentation, RFC 5737.
	if c, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	}
	best := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return best
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().IsGlobalUnicast() {
			continue
		}
		if prefix.Addr().Is4() {
			return prefix.Addr()
		}
		best = prefix.Addr()
	}
	return best
}
