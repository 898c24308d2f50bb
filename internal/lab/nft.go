package lab

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

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
