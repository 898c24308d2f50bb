package firewall

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// table is "inet spillway" in the kernel:
//
//	chain prerouting { type filter hook prerouting priority raw    # before conntrack: a dropped packet makes no entry
//		iif lo return
//		tcp dport @tcp_ports jump sources comment "spillway 3F..."     # whose table this is
//	}
//	chain sources {                                                # a rule and a set for each length of prefix in use
//		ip saddr @ipv4_32 fib daddr type local counter name "dropped" drop
//		ip saddr & 255.255.255.0 @ipv4_24 fib daddr type local counter name "dropped" drop
//	}
//
// "fib daddr type local" spares what this machine only forwards to somebody else's port of the same number.
//
// The sets are hash sets of hosts or of networks of one length, and not one set of intervals: those refuse a prefix that overlaps
// another (EEXIST), so that each source's own timeout could not be kept. An element is in one of them or not.
type table struct {
	*nftables.Table
	self     string // who we are
	tcp, udp []uint16
	loopback bool
	size     uint32
	made     map[network]bool // have a set and a rule
}

const (
	nobody  = "" // is a table that does not exist owned by
	comment = "spillway "

	// netlinkWait bounds each exchange with the kernel; it waits for other programs' transactions.
	netlinkWait = 5 * time.Second

	// chunkLen is how many elements go into one transaction: a netlink attribute, which holds them all, has 64 KiB at most (the
	// library does not split), and the socket's buffer 208 KiB. An element takes 44 bytes at most.
	chunkLen = 1000
)

func newTable(cfg Config) *table {
	return &table{
		Table: &nftables.Table{Name: cfg.TableName, Family: nftables.TableFamilyINet},
		self:  rand.Text(),
		tcp:   cfg.Ports, udp: cfg.UDPPorts,
		loopback: cfg.AllowLoopback,
		size:     uint32(2 * cfg.MaxElements), // ended ones count until the kernel frees them; we bound the rest
	}
}

func (t *table) name() string { return t.Name }

// connect gives a connection for one exchange: one that failed may have answers in it that nobody has read.
func connect() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error { return c.SetDeadline(time.Now().Add(netlinkWait)) }))
}

// transact does all of what do asks for, or nothing.
func transact(do func(c *nftables.Conn) error) error {
	c, err := connect()
	if err != nil {
		return err
	}
	if err := do(c); err != nil {
		return err
	}
	return c.Flush()
}

// open makes the table, and returns what an earlier one of ours dropped.
func (t *table) open() (old []Entry, err error) {
	owner, err := t.owner()
	if err != nil {
		return nil, unavailable(err)
	}
	if owner != nobody {
		if old, err = t.list(); err != nil {
			return nil, unavailable(err)
		}
	}
	if err := t.install(owner != nobody); err != nil {
		return nil, unavailable(err)
	}
	return old, nil
}

// unavailable says what a machine lacks.
func unavailable(err error) error {
	switch {
	case errors.Is(err, errForeign):
		return err
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %w; give the program CAP_NET_ADMIN", ErrUnavailable, err)
	case errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: %w; allow it AF_NETLINK", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w; is nf_tables in the kernel, with nft_fib_inet?", ErrUnavailable, err)
}

var errForeign = errors.New("it exists and was not made by spillway; rename it, or give another name")

// owner tells whose the table is: nobody if there is none. The kernel's own mark of an owner cannot be had: the library does not
// send a table's flags; and a table so marked goes with its process, when it is needed most.
func (t *table) owner() (string, error) {
	c, err := connect()
	if err != nil {
		return nobody, err
	}
	if _, err := c.ListTableOfFamily(t.Name, t.Family); errors.Is(err, unix.ENOENT) {
		return nobody, nil
	} else if err != nil {
		return nobody, err
	}
	rules, err := c.GetRules(t.Table, t.chain())
	if err != nil {
		return nobody, err
	}
	for _, r := range rules {
		text, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		if owner, ok := strings.CutPrefix(text, comment); ok && owner != nobody {
			return owner, nil
		}
	}
	return nobody, errForeign
}

func (t *table) chain() *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return &nftables.Chain{Table: t.Table, Name: "prerouting", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRaw, Policy: &accept}
}

func (t *table) sources() *nftables.Chain { return &nftables.Chain{Table: t.Table, Name: "sources"} }

// install makes the table without any source, instead of the one there is if replace is set.
func (t *table) install(replace bool) error {
	t.made = map[network]bool{}
	return transact(func(c *nftables.Conn) error {
		if replace {
			c.DelTable(t.Table)
		}
		c.AddTable(t.Table)
		c.AddObj(&nftables.CounterObj{Table: t.Table, Name: "dropped"})
		c.AddChain(t.chain())
		c.AddChain(t.sources())
		mark := userdata.AppendString(nil, userdata.TypeComment, comment+t.self)
		if !t.loopback {
			c.AddRule(&nftables.Rule{Table: t.Table, Chain: t.chain(), Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(1)}, // lo, in each namespace
				&expr.Verdict{Kind: expr.VerdictReturn},
			}})
		}
		for i, ports := range []struct {
			name  string
			proto byte
			ports []uint16
		}{{"tcp_ports", unix.IPPROTO_TCP, t.tcp}, {"udp_ports", unix.IPPROTO_UDP, t.udp}} {
			if len(ports.ports) == 0 {
				continue
			}
			set := &nftables.Set{Table: t.Table, ID: uint32(i + 1), Name: ports.name, KeyType: nftables.TypeInetService, Constant: true}
			var elements []nftables.SetElement
			for _, p := range ports.ports {
				elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(p)})
			}
			if err := c.AddSet(set, elements); err != nil {
				return err
			}
			c.AddRule(&nftables.Rule{Table: t.Table, Chain: t.chain(), UserData: mark, Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{ports.proto}},
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
				&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
				&expr.Verdict{Kind: expr.VerdictJump, Chain: "sources"},
			}})
		}
		return nil
	})
}

// add drops fresh, which the kernel does not know or has just forgotten, and gives again new times. done is told after each part.
// A transaction takes 55 us with one source, and 2 us a source with 1,000 (go test -tags=e2e -run='^$' -bench=Add ./internal/firewall).
func (t *table) add(fresh, again []request, done func([]request)) error {
	put := func(rs []request, known bool) error {
		for n, part := range chunks(rs) {
			if err := transact(func(c *nftables.Conn) error {
				set, err := t.network(c, n)
				if err == nil && known {
					err = takeOut(c, set, part)
				}
				if err != nil {
					return err
				}
				return c.SetAddElements(set, elements(part, true))
			}); err != nil {
				return err
			}
			t.made[n] = true
			done(part)
		}
		return nil
	}
	if err := put(fresh, false); err != nil {
		return err
	}
	return put(again, true)
}

// takeOut takes elements out that may be there or not. Before Linux 6.12 adding one again does not change its time, and deleting
// one that has just ended fails the transaction; so each is added, which always works, and then deleted.
func takeOut(c *nftables.Conn, set *nftables.Set, part []request) error {
	if err := c.SetAddElements(set, elements(part, false)); err != nil {
		return err
	}
	return c.SetDeleteElements(set, elements(part, false))
}

func (t *table) remove(prefixes []netip.Prefix) error {
	all := make([]request, len(prefixes))
	for i, p := range prefixes {
		all[i].prefix = p
	}
	for n, part := range chunks(all) {
		if err := transact(func(c *nftables.Conn) error { return takeOut(c, t.set(n), part) }); err != nil {
			return err
		}
	}
	return nil
}

// list asks for all elements.
func (t *table) list() ([]Entry, error) {
	c, err := connect()
	if err != nil {
		return nil, err
	}
	sets, err := c.GetSets(t.Table)
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, set := range sets {
		n, ok := parseNetwork(set.Name)
		if !ok {
			continue
		}
		if c, err = connect(); err != nil {
			return nil, err
		}
		elements, err := c.GetSetElements(set)
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			if addr, ok := netip.AddrFromSlice(e.Key); ok && addr.Is4() == n.is4 && e.Expires > 0 {
				all = append(all, Entry{netip.PrefixFrom(addr, n.bits), e.Expires})
			}
		}
	}
	return all, nil
}

func (t *table) dropped() (traffic, error) {
	c, err := connect()
	if err != nil {
		return traffic{}, err
	}
	obj, err := c.GetObject(&nftables.CounterObj{Table: t.Table, Name: "dropped"})
	if err != nil {
		return traffic{}, err
	}
	counter, ok := obj.(*nftables.CounterObj)
	if !ok {
		return traffic{}, fmt.Errorf("counter: got %T", obj)
	}
	return traffic{counter.Packets, counter.Bytes}, nil
}

// close removes the table, if it is still ours.
func (t *table) close() error {
	if owner, err := t.owner(); err != nil || owner != t.self {
		return err
	}
	return transact(func(c *nftables.Conn) error { c.DelTable(t.Table); return nil })
}
