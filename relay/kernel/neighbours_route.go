package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// routeBackWait is how long a backend has for an answer to RouteBack.
const routeBackWait = time.Second

// RouteBack tells whether a backend's answers to an address outside the tunnel come back through the tunnel, and why it thinks so, for
// an operator. If they do, nothing need be masqueraded and the backend sees its clients' addresses. It connects to the backend from
// another address of this machine than it would by itself, and takes an answer only from the interface that leads to the backend.
func RouteBack(ctx context.Context, backend netip.AddrPort) (ok bool, why string) {
	backend = netip.AddrPortFrom(backend.Addr().Unmap(), backend.Port())
	device, err := deviceTo(backend.Addr())
	if err != nil {
		return false, fmt.Sprintf("there is no route to %v (%v)", backend.Addr(), err)
	}
	foreign, err := foreignAddr(backend.Addr(), device)
	if err != nil {
		return false, fmt.Sprintf("whether %v answers foreign addresses through %s is not known: %v", backend, device.Name, err)
	}
	if err := answers(ctx, backend, netip.Addr{}, device.Name); err != nil {
		return false, fmt.Sprintf("whether %v answers foreign addresses through %s is not known: it does not answer at all (%v)", backend, device.Name, err)
	}
	if err := answers(ctx, backend, foreign, device.Name); err != nil {
		return false, fmt.Sprintf("%v does not answer %v through %s (%v); if the backend's default route led here, and its tunnel allowed all "+
			"addresses from here (WireGuard: AllowedIPs), it would see its clients' addresses", backend, foreign, device.Name, err)
	}
	return true, fmt.Sprintf("%v answers %v, which is outside the tunnel, through %s", backend, foreign, device.Name)
}

// deviceTo is the interface that leads to addr.
func deviceTo(addr netip.Addr) (*net.Interface, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(netlinkWait)); err != nil {
		return nil, err
	}
	question := make([]byte, unix.SizeofRtMsg)
	question[0], question[1] = familyOf(addr).proto, byte(addr.BitLen()) // family, length of the destination
	question = appendBytes(question, unix.RTA_DST, addr.AsSlice())
	routes, err := c.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request}, Data: question})
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if len(r.Data) < unix.SizeofRtMsg {
			continue
		}
		if index := attribute(r.Data[unix.SizeofRtMsg:], unix.RTA_OIF); len(index) == 4 {
			return net.InterfaceByIndex(int(binary.NativeEndian.Uint32(index)))
		}
	}
	return nil, errors.New("the kernel names no interface")
}

// foreignAddr is an address of this machine that is on another interface than the one that leads to the backend: one the backend
// has no reason to send there, except for a route. Those of the default route's interface are preferred.
func foreignAddr(backend netip.Addr, tunnel *net.Interface) (netip.Addr, error) {
	somewhere := netip.AddrFrom4([4]byte{192, 0, 2, 1}) // RFC 5737
	if backend.Is6() {
		somewhere = netip.MustParseAddr("2001:db8::1") // RFC 3849
	}
	outside := 0
	if d, err := deviceTo(somewhere); err == nil {
		outside = d.Index
	}
	devices, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}, err
	}
	var best netip.Addr
	for _, d := range devices {
		if d.Index == tunnel.Index || d.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := d.Addrs()
		if err != nil {
			return netip.Addr{}, err
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || p.Addr().Is4() != backend.Is4() || !p.Addr().IsGlobalUnicast() || p.Contains(backend) {
				continue
			}
			if !best.IsValid() || d.Index == outside {
				best = p.Addr()
			}
		}
	}
	if !best.IsValid() {
		return best, fmt.Errorf("this machine has no global address of that family but on %s", tunnel.Name)
	}
	return best, nil
}

// answers connects to a backend from an address of ours, or from any, and takes an answer from one interface only. A refusal is one.
func answers(ctx context.Context, backend netip.AddrPort, from netip.Addr, device string) error {
	d := net.Dialer{Timeout: routeBackWait, Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), device) })
		return errors.Join(err, failed)
	}}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	c, err := d.DialContext(ctx, "tcp", backend.String())
	var timeout net.Error
	switch {
	case err == nil:
		return c.Close()
	case errors.Is(err, unix.ECONNREFUSED):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("nothing within %v", routeBackWait)
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
