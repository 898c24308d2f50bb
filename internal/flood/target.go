package flood

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ParseTarget reads host:port, with or without http:// and a path. The host is an address or the word localhost: a name could
// turn out to be anybody's.
func ParseTarget(s string) (target netip.AddrPort, path string, err error) {
	rest, _ := strings.CutPrefix(s, "http://")
	hostPort, path, found := strings.Cut(rest, "/")
	if found {
		path = "/" + path
	}
	host, port, err := net.SplitHostPort(hostPort)
	if err == nil && host == "localhost" {
		host = "127.0.0.1"
	}
	if err == nil {
		target, err = netip.ParseAddrPort(net.JoinHostPort(host, port))
	}
	if err != nil {
		return netip.AddrPort{}, "", fmt.Errorf("flood: target %q: must be ADDRESS:PORT of this machine, as 127.0.0.1:6969", s)
	}
	return netip.AddrPortFrom(target.Addr().Unmap(), target.Port()), path, nil
}

// ParseURL is ParseTarget of a URL with one of the schemes, or with none.
func ParseURL(s string, schemes ...string) (target netip.AddrPort, path string, err error) {
	rest := s
	if scheme, after, found := strings.Cut(s, "://"); found {
		if !slices.Contains(schemes, scheme) {
			return netip.AddrPort{}, "", fmt.Errorf("flood: target %q: must begin with %s://", s, strings.Join(schemes, ":// or "))
		}
		rest = "http://" + after // which ParseTarget takes off, and nothing else
	}
	return ParseTarget(rest)
}

// checkTarget refuses whatever is not surely of this machine: loopback, private addresses of this network namespace, and private
// addresses on the other side of a veth pair. There is no way round it. A flood at anybody else's tracker is an attack, and one at
// your own over a network is one on all that shares the network.
func checkTarget(target netip.AddrPort) error {
	addr := target.Addr()
	if !addr.IsValid() || target.Port() == 0 {
		return fmt.Errorf("flood: target %s: must be ADDRESS:PORT", target)
	}
	if addr.IsLoopback() {
		return nil
	}
	refuse := func(why string) error {
		return fmt.Errorf("flood: target %s %s; only loopback and private addresses of this machine or of a veth pair on it are flooded", target, why)
	}
	if !addr.IsPrivate() {
		return refuse("is not private")
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("flood: list interfaces: %w", err)
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away
		}
		for _, a := range addrs {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			if prefix.Addr() == addr || prefix.Contains(addr) && isVeth(i.Name) {
				return nil
			}
		}
	}
	return refuse("is neither of this machine nor on the other side of a veth pair")
}

// isVeth asks the driver.
func isVeth(name string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	return err == nil && unix.ByteSliceToString(info.Driver[:]) == "veth"
}
