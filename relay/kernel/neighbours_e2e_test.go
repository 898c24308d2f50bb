//go:build e2e

package kernel

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

func TestRouteBack(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		v := newVillage(t, ipv6, false)
		v.serve(t)
		family, world, tunnel, lan := "-4", "198.18.1.0/24", "10.66.0.1", "192.168.9.1"
		if ipv6 {
			family, world, tunnel, lan = "-6", "2001:db8:1::/64", "fd00:66::1", "fd00:9::1"
		}
		look := func(what string, wantOK bool, wantWhy string) {
			t.Helper()
			v.in(t, v.relay, func() error {
				start := time.Now()
				ok, why := RouteBack(t.Context(), v.seat)
				if ok != wantOK || !strings.Contains(why, wantWhy) {
					t.Errorf("%s: got %v, %q; want %v, %q", what, ok, why, wantOK, wantWhy)
				}
				t.Logf("%s: %v, in %v: %s", what, ok, time.Since(start), why)
				return nil
			})
		}
		look("default route through the relay", true, "through wg0")

		v.ip(t, family, "-n", v.backend, "route", "del", "default", "via", tunnel)
		look("no way back", false, "nothing within 1s")

		v.link(t, v.backend, "192.168.9.2/24", "fd00:9::2/64", v.relay, "192.168.9.1/24", "fd00:9::1/64", "lan0")
		v.ip(t, family, "-n", v.backend, "route", "add", world, "via", lan)
		look("another way back", false, "nothing within 1s")
		v.ip(t, "-n", v.backend, "link", "del", "lan0")

		v.ip(t, family, "-n", v.backend, "route", "add", world, "via", tunnel)
		v.seat = netip.AddrPortFrom(v.seat.Addr(), 9)
		look("a refusal is an answer", true, "through wg0")

		v.ip(t, "-n", v.backend, "link", "set", "wg0", "down")
		look("backend gone", false, "does not answer at all")

		v.ip(t, family, "-n", v.relay, "addr", "flush", "dev", "eth0")
		look("no other address", false, "no global address")

		v.ip(t, family, "-n", v.relay, "addr", "flush", "dev", "wg0")
		look("no route", false, "no route")
	}
}

func TestRouteBackEndsWithItsContext(t *testing.T) {
	v := newVillage(t, false, false)
	v.ip(t, "-n", v.backend, "link", "set", "wg0", "down")
	v.in(t, v.relay, func() error {
		best := time.Hour
		for range 3 { // the machine may be busy
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			start := time.Now()
			if ok, why := RouteBack(ctx, v.seat); ok {
				t.Errorf("got %v, %q", ok, why)
			}
			cancel()
			best = min(best, time.Since(start))
		}
		if best > 800*time.Millisecond {
			t.Errorf("it ended after %v at best", best)
		}
		return nil
	})
}

// neighbour is another program's table.
type neighbour struct {
	*nftables.Conn
	table *nftables.Table
}

func (n neighbour) base(name string, policy nftables.ChainPolicy) *nftables.Chain {
	return n.AddChain(&nftables.Chain{Name: name, Table: n.table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &policy})
}

func (n neighbour) rule(c *nftables.Chain, steps ...[]expr.Any) {
	r := &nftables.Rule{Table: n.table, Chain: c}
	for _, s := range steps {
		r.Exprs = append(r.Exprs, s...)
	}
	n.AddRule(r)
}

func says(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: kind, Chain: chain}}
}

func loaded(load expr.Any, mask, want []byte) []expr.Any {
	steps := []expr.Any{load}
	if mask != nil {
		steps = append(steps, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))})
		return append(steps, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: want})
	}
	return append(steps, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want})
}

func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return loaded(&expr.Ct{Key: key, Register: 1}, binaryutil.NativeEndian.PutUint32(bits), make([]byte, 4))
}

func named(key expr.MetaKey, device string) []expr.Any {
	return loaded(&expr.Meta{Key: key, Register: 1}, nil, append([]byte(device), make([]byte, 16-len(device))...))
}

func destination(size uint32, want ...byte) []expr.Any {
	return loaded(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: size}, nil, want)
}

func toTCPPort(port uint16) []expr.Any {
	return append(loaded(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, nil, []byte{unix.IPPROTO_TCP}),
		loaded(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, nil, binaryutil.BigEndian.PutUint16(port))...)
}

func xtState(states uint16) []expr.Any {
	return []expr.Any{&expr.Match{Name: "conntrack", Rev: 3, Info: &xt.ConntrackMtinfo3{ConntrackMtinfo2: xt.ConntrackMtinfo2{
		ConntrackMtinfoBase: xt.ConntrackMtinfoBase{MatchFlags: 1}, StateMask: states}}}}
}

// What is said of each ruleset is what a client of the relay finds.
func TestNeighboursAreRightAboutTheKernel(t *testing.T) {
	const established, related = 2, 4
	accept, drop := says(expr.VerdictAccept, ""), says(expr.VerdictDrop, "")
	reject := []expr.Any{&expr.Counter{}, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: 3}}
	seat := destination(4, 10, 66, 0, 2)
	for _, tt := range []struct {
		name   string
		family nftables.TableFamily
		table  string
		make   func(n neighbour)
		want   []string // in what is said; none: nothing is
		passes bool     // though it is said, for want of knowledge
	}{
		{name: "none", make: func(neighbour) {}},
		{name: "accepts", make: func(n neighbour) { n.base("FORWARD", nftables.ChainPolicyAccept) }},
		{name: "iptables, drops", make: func(n neighbour) { n.base("FORWARD", nftables.ChainPolicyDrop) },
			want: []string{"table ip filter, chain FORWARD drops what nobody accepts: packets to 10.66.0.2:6969 may die there", "iptables -I FORWARD -p tcp -m conntrack --ctstate DNAT --ctreplsrc 10.66.0.2 -j ACCEPT"}},
		{name: "iptables, as was the remedy", make: func(n neighbour) {
			c := n.base("FORWARD", nftables.ChainPolicyDrop)
			info := xt.ConntrackMtinfo3{ConntrackMtinfo2: xt.ConntrackMtinfo2{StateMask: 1 << 7, ConntrackMtinfoBase: xt.ConntrackMtinfoBase{
				MatchFlags: 1 | 1<<4, ReplSrcAddr: net.IPv4(10, 66, 0, 2).To4(), ReplSrcMask: net.CIDRMask(32, 32)}}}
			n.rule(c, []expr.Any{&expr.Match{Name: "conntrack", Rev: 3, Info: &info}}, accept)
		}},
		{name: "iptables, accepts the backend", make: func(n neighbour) {
			c := n.base("FORWARD", nftables.ChainPolicyDrop)
			n.rule(c, xtState(established|related), accept)
			n.rule(c, seat, toTCPPort(6969), accept)
		}},
		{name: "iptables, another port", make: func(n neighbour) {
			c := n.base("FORWARD", nftables.ChainPolicyDrop)
			n.rule(c, xtState(established|related), accept)
			n.rule(c, seat, toTCPPort(6968), accept)
		}, want: []string{"packets to"}},
		{name: "accepts the network, but not the answers", make: func(n neighbour) {
			n.rule(n.base("FORWARD", nftables.ChainPolicyDrop), destination(3, 10, 66, 0), accept)
		}, want: []string{"answers of 10.66.0.2:6969"}},
		{name: "accepts the way to the backend, from one interface", make: func(n neighbour) {
			c := n.base("FORWARD", nftables.ChainPolicyDrop)
			n.rule(c, ctBits(expr.CtKeySTATE, established|related), accept)
			n.rule(c, named(expr.MetaKeyIIFNAME, "eth0"), named(expr.MetaKeyOIFNAME, "wg0"), accept)
		}},
		{name: "accepts another way", make: func(n neighbour) {
			c := n.base("FORWARD", nftables.ChainPolicyDrop)
			n.rule(c, ctBits(expr.CtKeySTATE, established|related), accept)
			n.rule(c, named(expr.MetaKeyOIFNAME, "wg1"), accept)
		}, want: []string{"packets to"}},
		{name: "accepts who comes from one interface", make: func(n neighbour) {
			c := n.base("FORWARD", nftables.ChainPolicyDrop)
			n.rule(c, ctBits(expr.CtKeySTATE, established|related), accept)
			n.rule(c, named(expr.MetaKeyIIFNAME, "eth0"), accept)
		}, want: []string{"packets to"}, passes: true},
		{name: "ufw", make: func(n neighbour) {
			c := n.base("FORWARD", nftables.ChainPolicyDrop)
			before, user := n.AddChain(&nftables.Chain{Name: "ufw-before-forward", Table: n.table}), n.AddChain(&nftables.Chain{Name: "ufw-user-forward", Table: n.table})
			n.rule(c, says(expr.VerdictJump, before.Name))
			n.rule(before, ctBits(expr.CtKeySTATE, established|related), accept)
			n.rule(before, says(expr.VerdictJump, user.Name))
		}, want: []string{"ufw route allow proto tcp to 10.66.0.2 port 6969"}},
		{name: "ufw, as was the remedy", make: func(n neighbour) {
			c := n.base("FORWARD", nftables.ChainPolicyDrop)
			before, user := n.AddChain(&nftables.Chain{Name: "ufw-before-forward", Table: n.table}), n.AddChain(&nftables.Chain{Name: "ufw-user-forward", Table: n.table})
			n.rule(c, says(expr.VerdictJump, before.Name))
			n.rule(before, ctBits(expr.CtKeySTATE, established|related), accept)
			n.rule(before, says(expr.VerdictJump, user.Name))
			n.rule(user, seat, toTCPPort(6969), accept)
		}},
		{name: "docker", make: func(n neighbour) {
			c := n.base("FORWARD", nftables.ChainPolicyDrop)
			user, docker := n.AddChain(&nftables.Chain{Name: "DOCKER-USER", Table: n.table}), n.AddChain(&nftables.Chain{Name: "DOCKER", Table: n.table})
			n.rule(c, says(expr.VerdictJump, user.Name))
			n.rule(user, says(expr.VerdictReturn, ""))
			n.rule(c, named(expr.MetaKeyOIFNAME, "docker0"), xtState(established|related), accept)
			n.rule(c, named(expr.MetaKeyOIFNAME, "docker0"), says(expr.VerdictJump, docker.Name))
		}, want: []string{"iptables -I DOCKER-USER -p tcp"}},
		{name: "firewalld", family: nftables.TableFamilyINet, table: "firewalld", make: func(n neighbour) {
			c := n.base("filter_FORWARD", nftables.ChainPolicyAccept)
			n.rule(c, ctBits(expr.CtKeySTATE, established|related), accept)
			n.rule(c, ctBits(expr.CtKeySTATUS, statusDNAT), accept)
			n.rule(c, reject)
		}},
		{name: "firewalld, without forwarded ports", family: nftables.TableFamilyINet, table: "firewalld", make: func(n neighbour) {
			c := n.base("filter_FORWARD", nftables.ChainPolicyAccept)
			n.rule(c, ctBits(expr.CtKeySTATE, established|related), accept)
			n.rule(c, ctBits(expr.CtKeySTATE, 1), drop)
			n.rule(c, reject)
		}, want: []string{"table inet firewalld, chain filter_FORWARD has a rule that drops them", "--add-rich-rule"}},
		{name: "by hand", family: nftables.TableFamilyINet, table: "mine", make: func(n neighbour) {
			n.base("fwd", nftables.ChainPolicyDrop)
		}, want: []string{"nft insert rule inet mine fwd ct status dnat accept"}},
		{name: "of the other family", family: nftables.TableFamilyIPv6, make: func(n neighbour) { n.base("FORWARD", nftables.ChainPolicyDrop) }},
		{name: "asks a set", make: func(n neighbour) {
			c := n.base("FORWARD", nftables.ChainPolicyDrop)
			set := &nftables.Set{Table: n.table, Anonymous: true, Constant: true, KeyType: nftables.TypeIPAddr}
			if err := n.AddSet(set, []nftables.SetElement{{Key: []byte{198, 18, 1, 2}}}); err != nil {
				t.Fatal(err)
			}
			n.rule(c, ctBits(expr.CtKeySTATE, established|related), accept)
			n.rule(c, []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
				&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID}}, accept)
		}, want: []string{"packets to"}, passes: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := newVillage(t, false, false)
			v.serve(t)
			v.in(t, v.relay, func() error {
				c, err := nftables.New()
				if err != nil {
					return err
				}
				if tt.family == 0 {
					tt.family = nftables.TableFamilyIPv4
				}
				if tt.table == "" {
					tt.table = "filter"
				}
				tt.make(neighbour{c, c.AddTable(&nftables.Table{Family: tt.family, Name: tt.table})})
				if err := c.Flush(); err != nil {
					return err
				}
				said, err := Neighbours([]netip.AddrPort{v.seat})
				t.Log(said)
				if err != nil || (len(said) > 0) != (len(tt.want) > 0) {
					t.Fatalf("got %q, %v; want %q", said, err, tt.want)
				}
				for _, want := range tt.want {
					if !strings.Contains(said[0], want) {
						t.Errorf("got %q; want %q in it", said, want)
					}
				}
				return nil
			})
			v.in(t, v.client, func() error {
				passes, wait := tt.want == nil || tt.passes, 500*time.Millisecond
				if passes {
					wait = 20 * time.Second
				}
				c, err := net.DialTimeout("tcp", v.public.String(), wait)
				if err == nil {
					_ = c.Close()
				}
				if passes != (err == nil) {
					t.Errorf("a client: got %v; it passes: want %v", err, passes)
				}
				return nil
			})
		})
	}
}

func TestNeighboursSeesIptablesLegacy(t *testing.T) {
	v := newVillage(t, false, false)
	v.in(t, v.relay, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		// IPT_SO_GET_INFO: the kernel makes a table when it is asked for.
		info := [84]byte{}
		copy(info[:], "filter")
		size := uint32(len(info))
		if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IP, 64, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
			t.Skipf("this kernel has no iptables-legacy: %v", errno)
		}
		said, err := Neighbours([]netip.AddrPort{v.seat})
		if err != nil || len(said) != 1 || !strings.Contains(said[0], "iptables-legacy -S FORWARD") {
			t.Errorf("got %q, %v", said, err)
		}
		return nil
	})
}
