package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// backlog is how many connections may wait to be accepted; the kernel cuts it to net.core.somaxconn.
const backlog = 4096

// notSent bounds what the kernel takes from us, and holds, for a client that does not read; what is on the way to it is not in it.
const notSent = 128 << 10

// listener is a socket that listens or not, as there is somebody to forward to or not. The loops share it.
//
// It is not closed to stop listening but shut down, as HAProxy does when it pauses: the kernel refuses at once and resets what waits in
// the queue, and the port stays ours, even if it was bound with a right that is gone by now.
type listener struct {
	name      string // as configured
	fd        int
	v4, v6    bool // whose clients it serves
	listening atomic.Bool
	taken     bool // it could not listen; logged
}

// newListener binds a socket to at.
func newListener(at string) (*listener, error) {
	host, _, err := net.SplitHostPort(at)
	if err != nil {
		return nil, fmt.Errorf("relay.listen %q: %w", at, err)
	}
	tcp, err := net.ResolveTCPAddr("tcp", at)
	if err != nil {
		return nil, fmt.Errorf("relay.listen %q: %w", at, err)
	}
	l := &listener{name: at}
	addr := tcp.AddrPort()
	switch ip := addr.Addr(); {
	case host == "" || ip.Is6() && ip.IsUnspecified():
		l.v4, l.v6 = true, true
		addr = netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port())
		l.fd, err = bound(addr, false)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) { // the kernel has no IPv6
			l.v6 = false
			l.fd, err = bound(netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port()), false)
		}
	case ip.Unmap().Is4():
		l.v4 = true
		l.fd, err = bound(addr, false)
	default:
		l.v6 = true
		l.fd, err = bound(addr, true)
	}
	if err != nil {
		return nil, fmt.Errorf("relay.listen %q: bind: %w", at, err)
	}
	return l, nil
}

func bound(addr netip.AddrPort, v6only bool) (fd int, err error) {
	a, err := addressOf(addr)
	if err != nil {
		return -1, err
	}
	if fd, err = socket(a.family()); err != nil {
		return -1, err
	}
	setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) // connections of an earlier run may be in TIME_WAIT
	if a.family() == unix.AF_INET6 {
		only := int32(0)
		if v6only {
			only = 1
		}
		setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only)
	}
	// Connections that are accepted inherit these.
	setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	setInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
	if err := a.bind(fd); err != nil {
		closeFD(fd)
		return -1, err
	}
	if addr.Port() != 0 {
		return fd, nil
	}
	// A port the kernel has chosen is gone when the socket stops listening; one that was asked for stays.
	defer closeFD(fd)
	if err := a.local(fd); err != nil {
		return -1, err
	}
	return bound(netip.AddrPortFrom(addr.Addr(), a.addrPort().Port()), v6only)
}

// addr is what it is bound to.
func (l *listener) addr() netip.AddrPort {
	var a address
	_ = a.local(l.fd) // a bound socket has one
	return a.addrPort()
}

// open has it listen. That fails if somebody else has taken the port while it did not: then it is tried again with the next plan, in a
// second at most.
func (l *listener) open(log *slog.Logger) {
	if err := unix.Listen(l.fd, backlog); err != nil {
		if !l.taken {
			log.Error("cannot listen; end what has taken the address, or change relay.listen", "listen", l.name, "err", err)
		}
		l.taken = true
		return
	}
	if l.taken {
		log.Info("listening again", "listen", l.name)
	}
	l.taken = false
	l.listening.Store(true)
}

// refuse has the kernel refuse what comes, and reset what waits.
func (l *listener) refuse() {
	l.listening.Store(false)
	shutdown(l.fd, unix.SHUT_RD)
}

// Addrs are what Listen is bound to, in its order.
func (p *Path) Addrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, l := range p.listeners {
		addrs = append(addrs, l.addr())
	}
	return addrs
}
