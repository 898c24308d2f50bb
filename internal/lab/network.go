package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names of the links, in their namespaces.
const (
	linkEdge    = "relay"  // in edge
	linkPublic  = "public" // in relay
	linkTunnel  = "tunnel" // in relay
	linkBackend = "relay"  // in backend
)

// join makes the links, and everything on them.
func (l *Lab) join() error {
	for _, r := range []*Room{l.Edge, l.Relay, l.Backend} {
		if err := r.Do(func() error { return up("lo") }); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		// Addresses are used at once, and those in common with nobody are asked for by nobody.
		if err := r.sysctl("net/ipv6/conf/all/accept_dad", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	steps := []struct {
		what string
		in   *Room
		do   func() error
	}{
		{"link to edge", l.Relay, func() error { return pair(linkPublic, linkEdge, 1500, l.Edge) }},
		{"link to backend", l.Relay, func() error { return pair(linkTunnel, linkBackend, l.MTU, l.Backend) }},
		{"edge", l.Edge, l.furnishEdge},
		{"relay", l.Relay, l.furnishRelay},
		{"backend", l.Backend, l.furnishBackend},
	}
	for _, s := range steps {
		if err := s.in.Do(s.do); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	for key, value := range map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"} {
		if err := l.Relay.sysctl(key, value); err != nil {
			return err
		}
	}
	// Addresses that are local by their route alone can be bound to in IPv4, and in IPv6 if one asks.
	for key, value := range map[string]string{"net/ipv4/ip_local_port_range": "1024 65535", "net/ipv6/ip_nonlocal_bind": "1"} {
		if err := l.Edge.sysctl(key, value); err != nil {
			return err
		}
	}
	return l.steer()
}

func (l *Lab) furnishEdge() error {
	return errors.Join(
		up(linkEdge), address(linkEdge, edgePublic4, 24), address(linkEdge, edgePublic6, 64),
		// Each address of the prefix is this namespace's own (AnyIP).
		local(clients4), local(clients6), route(spoofed4, netip.Addr{}, unix.RTN_BLACKHOLE),
	)
}

func (l *Lab) furnishRelay() error {
	err := errors.Join(
		up(linkPublic), address(linkPublic, RelayPublic4, 24), address(linkPublic, RelayPublic6, 64),
		up(linkTunnel), address(linkTunnel, RelayTunnel4, 24), address(linkTunnel, RelayTunnel6, 64),
	)
	for _, p := range behindTheEdge {
		via := edgePublic4
		if p.Addr().Is6() {
			via = edgePublic6
		}
		err = errors.Join(err, route(p, via, unix.RTN_UNICAST))
	}
	return err
}

func (l *Lab) furnishBackend() error {
	err := errors.Join(up(linkBackend), address(linkBackend, BackendAddr4, 24), address(linkBackend, BackendAddr6, 64))
	if !l.NoRouteBack {
		err = errors.Join(err, route(netip.MustParsePrefix("0.0.0.0/0"), RelayTunnel4, unix.RTN_UNICAST),
			route(netip.MustParsePrefix("::/0"), RelayTunnel6, unix.RTN_UNICAST))
	}
	return err
}

// steer has the packets that reach a namespace worked on by the core of its own, whoever sent them.
func (l *Lab) steer() error {
	for _, s := range []struct {
		room  *Room
		core  int
		links []string
	}{
		{l.Edge, l.Cores.Edge, []string{linkEdge, "lo"}},
		{l.Relay, l.Cores.Relay, []string{linkPublic, linkTunnel, "lo"}},
		{l.Backend, l.Cores.Backend, []string{linkBackend, "lo"}},
	} {
		err := s.room.withSysfs(func(sys string) error {
			for _, link := range s.links {
				queues, err := filepath.Glob(filepath.Join(sys, "class/net", link, "queues/rx-*/rps_cpus"))
				if err == nil && len(queues) == 0 {
					err = errors.New("no rps_cpus; is the kernel built with CONFIG_RPS?")
				}
				for _, q := range queues {
					err = errors.Join(err, os.WriteFile(q, []byte(mask(s.core)), 0o644))
				}
				if err != nil {
					return fmt.Errorf("%s: %w", link, err)
				}
			}
			return nil
		})
		// Root of a user namespace may not: there packets are worked on where they are sent, and the relay's core says nothing of its cost.
		if errors.Is(err, unix.EPERM) {
			l.Unsteered = true
			return nil
		}
		if err != nil {
			return fmt.Errorf("steer packets of %s to core %d: %w", s.room.name, s.core, err)
		}
	}
	return nil
}

// pair makes a link from this namespace to another.
func pair(here, there string, mtu int, other *Room) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = here, mtu
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: there, PeerNamespace: netlink.NsFd(other.fd), PeerMTU: uint32(mtu)})
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

func address(name string, a netip.Addr, bits int) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, bits)), Flags: unix.IFA_F_NODAD})
	}
	if err != nil {
		return fmt.Errorf("address %s of %s: %w", a, name, err)
	}
	return nil
}

// local makes all of a prefix this namespace's own.
func local(p netip.Prefix) error {
	link, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.RouteAdd(&netlink.Route{Dst: ipNet(p), LinkIndex: link.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL,
			Scope: unix.RT_SCOPE_HOST})
	}
	if err != nil {
		return fmt.Errorf("local addresses %s: %w", p, err)
	}
	return nil
}

func route(p netip.Prefix, via netip.Addr, kind int) error {
	r := &netlink.Route{Dst: ipNet(p), Type: kind}
	if via.IsValid() {
		r.Gw = via.AsSlice()
	}
	if err := netlink.RouteAdd(r); err != nil {
		return fmt.Errorf("route to %s: %w", p, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// What the lab itself has the kernel do: packets that vanish, and the bare DNAT that relays are compared with.
var (
	holeTable = &nftables.Table{Name: "lab_hole", Family: nftables.TableFamilyINet}
	dnatTable = &nftables.Table{Name: "lab_dnat", Family: nftables.TableFamilyINet}
)

// vanish drops all that comes into this namespace from a link, and all that leaves by one, unseen by conntrack.
func vanish() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.AddTable(holeTable)
	for _, h := range []struct {
		name string
		hook *nftables.ChainHook
		link expr.MetaKey
	}{{"in", nftables.ChainHookPrerouting, expr.MetaKeyIIFNAME}, {"out", nftables.ChainHookOutput, expr.MetaKeyOIFNAME}} {
		chain := c.AddChain(&nftables.Chain{Table: holeTable, Name: h.name, Type: nftables.ChainTypeFilter, Hooknum: h.hook, Priority: nftables.ChainPriorityRaw})
		c.AddRule(&nftables.Rule{Table: holeTable, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: h.link, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: linkName(linkBackend)},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	return c.Flush()
}

// appear ends vanish.
func appear() error { return removeTable(holeTable) }

func removeTable(t *nftables.Table) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(t)
	return c.Flush()
}

// linkName is a name as the kernel compares it.
func linkName(s string) []byte { return append([]byte(s), make([]byte, unix.IFNAMSIZ-len(s))...) }

// forward makes the table of a bare DNAT in this namespace: connections to the public port of either family go to the backend.
func forward(masquerade bool) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.AddTable(dnatTable)
	pre := c.AddChain(&nftables.Chain{Table: dnatTable, Name: "pre", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityNATDest})
	post := c.AddChain(&nftables.Chain{Table: dnatTable, Name: "post", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource})
	for _, to := range []netip.Addr{BackendAddr4, BackendAddr6} {
		family := byte(unix.NFPROTO_IPV4)
		if to.Is6() {
			family = unix.NFPROTO_IPV6
		}
		of := []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		}
		c.AddRule(&nftables.Rule{Table: dnatTable, Chain: pre, Exprs: append(of[:2:2],
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: linkName(linkPublic)},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(PublicPort)},
			&expr.Immediate{Register: 1, Data: to.AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(BackendPort)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: 1, RegProtoMin: 2},
		)})
		if masquerade {
			c.AddRule(&nftables.Rule{Table: dnatTable, Chain: post, Exprs: append(of[:2:2],
				&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: linkName(linkTunnel)},
				&expr.Masq{},
			)})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("bare DNAT: %w", err)
	}
	return nil
}
