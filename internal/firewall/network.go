package firewall

import (
	"fmt"
	"iter"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// network is a family and a length of prefix: what has a set and a rule of its own.
type network struct {
	is4  bool
	bits int
}

func networkOf(p netip.Prefix) network { return network{p.Addr().Is4(), p.Bits()} }

// String is the name of n's set.
func (n network) String() string {
	if n.is4 {
		return fmt.Sprintf("ipv4_%d", n.bits)
	}
	return fmt.Sprintf("ipv6_%d", n.bits)
}

func parseNetwork(name string) (n network, ok bool) {
	for _, n.is4 = range []bool{true, false} {
		most := 128
		if n.is4 {
			most = 32
		}
		for n.bits = range most + 1 {
			if n.String() == name {
				return n, true
			}
		}
	}
	return network{}, false
}

// set is n's set. Its elements have a timeout each.
func (t *table) set(n network) *nftables.Set {
	s := &nftables.Set{Table: t.Table, ID: 3, Name: n.String(), KeyType: nftables.TypeIP6Addr, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Size: t.size}
	if n.is4 {
		s.KeyType = nftables.TypeIPAddr
	}
	return s
}

// network is n's set, made with its rule if there is none yet. There are as many as lengths are in use, and each costs a packet to
// our ports one look-up.
func (t *table) network(c *nftables.Conn, n network) (*nftables.Set, error) {
	set := t.set(n)
	if t.made[n] {
		return set, nil
	}
	if err := c.AddSet(set, nil); err != nil {
		return nil, err
	}
	c.AddRule(&nftables.Rule{Table: t.Table, Chain: t.sources(), Exprs: dropRule(n, set)})
	return set, nil
}

// dropRule drops what is for this machine and from n's set.
func dropRule(n network, set *nftables.Set) []expr.Any {
	proto, saddr := byte(unix.NFPROTO_IPV6), expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16}
	if n.is4 {
		proto, saddr.Offset, saddr.Len = unix.NFPROTO_IPV4, 12, 4
	}
	rule := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&saddr,
	}
	if most := int(saddr.Len) * 8; n.bits < most {
		rule = append(rule, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: saddr.Len, Mask: net.CIDRMask(n.bits, most), Xor: make([]byte, saddr.Len)})
	}
	return append(rule,
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: "dropped"},
		&expr.Verdict{Kind: expr.VerdictDrop},
	)
}

// chunks yields rs as parts that fit a transaction, each of one network.
func chunks(rs []request) iter.Seq2[network, []request] {
	return func(yield func(network, []request) bool) {
		parts := map[network][]request{}
		for _, r := range rs {
			n := networkOf(r.prefix)
			part := append(parts[n], r)
			if len(part) == chunkLen {
				if !yield(n, part) {
					return
				}
				part = nil
			}
			parts[n] = part
		}
		for n, part := range parts {
			if len(part) > 0 && !yield(n, part) {
				return
			}
		}
	}
}

// elements are rs as the kernel takes them, with or without their times.
func elements(rs []request, timed bool) []nftables.SetElement {
	all := make([]nftables.SetElement, len(rs))
	for i, r := range rs {
		all[i].Key = r.prefix.Addr().AsSlice()
		if timed {
			all[i].Timeout = r.d
		}
	}
	return all
}
