package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unixMode lets the socket's owner and group connect; put a reverse proxy into that group.
const unixMode = 0o660

// bind opens the sockets of one of cfg.Addrs.
func bind(addr string, cfg Config) ([]net.Listener, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		l, err := bindUnix(path)
		return []net.Listener{l}, err
	}
	if name, ok := strings.CutPrefix(addr, "systemd:"); ok {
		return cfg.Inherited.take(name, cfg)
	}
	if addr == "systemd" {
		return cfg.Inherited.take("", cfg)
	}

	network := tcpNetwork(addr, cfg.Addrs)
	var socks []net.Listener
	for range max(cfg.Sockets, 1) {
		sock, err := bindTCP(network, addr, cfg)
		if err != nil {
			for _, s := range socks {
				_ = s.Close()
			}
			return nil, err
		}
		socks = append(socks, sock)
		addr = sock.Addr().String() // the further sockets share the port the kernel chose for ":0"
	}
	return socks, nil
}

// tcpNetwork is the network for net.Listen. Plain "tcp" would open 0.0.0.0 for IPv6 too, and then [::] beside it fails.
func tcpNetwork(addr string, all []string) string {
	ap, err := netip.ParseAddrPort(addr)
	switch {
	case err != nil: // ":6969", or a name
		return "tcp"
	case ap.Addr().Is4():
		return "tcp4"
	case ap.Addr().IsUnspecified() && slices.Contains(all, fmt.Sprintf("0.0.0.0:%d", ap.Port())):
		return "tcp6"
	}
	return "tcp"
}

func bindTCP(network, addr string, cfg Config) (net.Listener, error) {
	config := net.ListenConfig{
		Control: func(_, _ string, c syscall.RawConn) error {
			return control(c, func(fd int) error { return setOptions(fd, cfg) })
		},
		// Idle deadlines find dead peers. Off, it saves four setsockopt calls a connection
		// (strace -f -e trace=setsockopt: SO_KEEPALIVE, TCP_KEEPINTVL, TCP_KEEPIDLE, TCP_KEEPCNT; only TCP_NODELAY is left).
		KeepAlive: -1,
	}
	config.SetMultipathTCP(false) // on since Go 1.24; no BitTorrent client asks for it
	l, err := config.Listen(context.Background(), network, addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%w; stop the program that has the port (ss -ltnp), or choose another port", err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%w; choose a port from 1024 up, or let systemd open it (listen: systemd)", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%w; choose an address of this machine (ip addr)", err)
	case err != nil:
		return nil, err
	}
	return newTCPListener(l.(*net.TCPListener))
}

// setOptions is called between socket and bind.
func setOptions(fd int, cfg Config) error {
	if cfg.Sockets > 1 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEPORT", err)
		}
	}
	if cfg.Gate != nil {
		// Connections accepted have it too.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_TIMESTAMPNS", err)
		}
	}
	if cfg.DeferAccept {
		// One second: the kernel counts in retransmits of its SYN-ACK, and the first is after that (tcp(7)).
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1); err != nil {
			return os.NewSyscallError("setsockopt TCP_DEFER_ACCEPT", err)
		}
	}
	return nil
}

// bindUnix listens on path. It takes the place of a socket file nobody listens on any more, as a killed process leaves it,
// and of nothing else. A path that starts with @ is in Linux's abstract namespace, and no file.
func bindUnix(path string) (net.Listener, error) {
	if path == "" {
		return nil, errors.New(`"unix:" needs a path, as unix:/run/spillway/http.sock`)
	}
	file := !strings.HasPrefix(path, "@")
	if file {
		if err := removeStale(path); err != nil {
			return nil, err
		}
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// Before bind, so that the file is never open to more: Linux gives it the mode of the socket, less the umask.
		return control(c, func(fd int) error { return unix.Fchmod(fd, unixMode) })
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if file {
		if err := os.Chmod(path, unixMode); err != nil { // what the umask took
			_ = l.Close()
			return nil, err
		}
	}
	return l, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is not a socket; remove it, or choose another path", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) { // nil, or EAGAIN with a full queue: somebody listens
		return fmt.Errorf("%s is in use (dial: %v); stop the program that listens on it, or choose another path", path, err)
	}
	return os.Remove(path)
}

// control runs f on the descriptor of c.
func control(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// AnnounceURL is what to paste into a torrent for a tracker that listens at at, with a real address of this machine where that is all
// of them.
func AnnounceURL(scheme string, at netip.AddrPort) string {
	addr := at.Addr().Unmap().WithZone("") // no URL of a torrent has a zone
	if addr.IsUnspecified() {
		addr = ownAddr()
	}
	return scheme + "://" + netip.AddrPortFrom(addr, at.Port()).String() + "/announce"
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
