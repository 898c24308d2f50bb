package kernel

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"spillway/relay"
)

// TableName is our table's, of family inet.
const TableName = "spillway_relay"

// mark begins the comment on a rule of ours, by which the table is told from another program's of that name.
const mark = "spillway relay"

var errForeign = errors.New("it exists and was not made by spillway relay; remove or rename it")

// base says where the kernel calls a chain from.
type base struct {
	name, kind string
	hook       uint32
	priority   int32
}

// Chains of one kind are called in order of priority; conntrack is at -200, and addresses are translated at -100 and 100.
var bases = []base{
	{"untracked", "filter", unix.NF_INET_LOCAL_OUT, -300},
	{"segments", "filter", unix.NF_INET_PRE_ROUTING, -150},
	{"new", "nat", unix.NF_INET_PRE_ROUTING, -100},
	{"size", "filter", unix.NF_INET_FORWARD, -150},
	{"masquerade", "nat", unix.NF_INET_POST_ROUTING, 100},
}

// chains are those that are not called by the kernel.
func (cfg Config) chains() []string {
	var all []string
	for _, f := range cfg.families() {
		all = append(all, "segments"+f.name, "inbound"+f.name, "refused"+f.name, "new"+f.name)
		for i, b := range cfg.Backends {
			if familyOf(b.Addr.Addr()) == f {
				all = append(all, chainOf("to", i), chainOf("from", i), chainOf("alive", i), chainOf("refused", i))
			}
		}
	}
	return all
}

// counters are those that Counts reads.
func (cfg Config) counters() []string {
	all := []string{"no_flow", "source"}
	for i := range cfg.Backends {
		all = append(all, chainOf("opened", i), chainOf("down", i), chainOf("budget", i))
	}
	return all
}

// install is the transaction that makes the table as p says; with replace, in place of the one there is, so that no packet meets
// less than the one or the other. down are the times left to backends that are down.
func (cfg Config) install(p *relay.Plan, down []time.Duration, replace bool) *batch {
	b := &batch{}
	name := appendText(nil, unix.NFTA_TABLE_NAME, TableName)
	if replace {
		b.add(unix.NFT_MSG_DELTABLE, 0, "the old table", name)
	}
	b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "table", name)
	for _, c := range cfg.counters() {
		b.add(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, "counter "+c, appendNest(append32(
			appendText(appendText(nil, unix.NFTA_OBJ_TABLE, TableName), unix.NFTA_OBJ_NAME, c), unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER), unix.NFTA_OBJ_DATA))
	}
	for _, c := range bases {
		if c.name == "masquerade" && !cfg.Masquerade {
			continue
		}
		attrs := appendText(appendText(nil, unix.NFTA_CHAIN_TABLE, TableName), unix.NFTA_CHAIN_NAME, c.name)
		attrs = appendNest(attrs, unix.NFTA_CHAIN_HOOK, append32(append32(nil, unix.NFTA_HOOK_HOOKNUM, c.hook), unix.NFTA_HOOK_PRIORITY, uint32(c.priority)))
		attrs = appendText(append32(attrs, unix.NFTA_CHAIN_POLICY, nfAccept), unix.NFTA_CHAIN_TYPE, c.kind)
		b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "chain "+c.name, attrs)
	}
	for _, c := range cfg.chains() {
		b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "chain "+c, appendText(appendText(nil, unix.NFTA_CHAIN_TABLE, TableName), unix.NFTA_CHAIN_NAME, c))
	}
	for i, s := range cfg.sets() {
		b.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, "set "+s.name, s.attrs(i+1))
		b.addElements(s.name, s.elements...)
	}
	cfg.fill(b, p, nil)
	cfg.refresh(b, p, nil, down)
	for _, r := range cfg.rules(mark) {
		attrs := appendText(appendText(nil, unix.NFTA_RULE_TABLE, TableName), unix.NFTA_RULE_CHAIN, r.chain)
		var steps []byte
		for _, s := range r.steps {
			steps = append(steps, s...)
		}
		attrs = appendNest(attrs, unix.NFTA_RULE_EXPRESSIONS, steps)
		if r.comment != "" {
			attrs = appendBytes(attrs, unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, r.comment))
		}
		b.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "rule of "+r.chain, attrs)
	}
	return b
}

// fill changes the slots from what old has, or fills them if it is nil.
func (cfg Config) fill(b *batch, p, old *relay.Plan) {
	for _, f := range cfg.families() {
		slots, before := &p.Slots4, (*[relay.Slots]int16)(nil)
		if f == &ipv6 {
			slots = &p.Slots6
		}
		if old != nil {
			if before = &old.Slots4; f == &ipv6 {
				before = &old.Slots6
			}
		}
		add, gone := slotElements(slots, before)
		b.deleteElements("slots"+f.name, gone...)
		b.addElements("slots"+f.name, add...)
	}
}

// refresh says again what the kernel would forget: which backends are down, for the times in down or for relay.Forget, and which
// bands are closed. Whatever old has and p has not is taken out. The connections that waited for a backend that is up again are
// not counted any more: it has been asked since, and has answered.
func (cfg Config) refresh(b *batch, p, old *relay.Plan, down []time.Duration) {
	for _, f := range cfg.families() {
		for i, backend := range cfg.Backends {
			if familyOf(backend.Addr.Addr()) != f {
				continue
			}
			was := old != nil && old.Down[i]
			if old != nil && (was || p.Down[i]) {
				b.takeOut("down"+f.name, key(backend.Addr))
			}
			switch {
			case p.Down[i]:
				left := relay.Forget
				if down != nil {
					left = down[i]
				}
				b.addElements("down"+f.name, element{key: key(backend.Addr), timeout: left})
			case was:
				for k := range relay.Bands {
					b.flush(waitingSet(i, k))
				}
			}
			for k := range relay.Bands {
				closed := k >= p.Open[i]
				if old != nil && (closed || k >= old.Open[i]) {
					b.takeOut("closed", bandKey(i, k))
				}
				if closed {
					b.addElements("closed", element{key: bandKey(i, k), timeout: relay.Forget})
				}
			}
		}
	}
}

// owner tells whether there is a table of our name, and whether it is ours.
func owner(s *socket) (exists, ours bool, err error) {
	_, err = s.ask(unix.NFT_MSG_GETTABLE, 0, appendText(nil, unix.NFTA_TABLE_NAME, TableName), func([]byte) { exists = true })
	if errors.Is(err, unix.ENOENT) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	attrs := appendText(appendText(nil, unix.NFTA_RULE_TABLE, TableName), unix.NFTA_RULE_CHAIN, "segments")
	_, err = s.ask(unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, attrs, func(attrs []byte) {
		comment, _ := userdata.GetString(attribute(attrs, unix.NFTA_RULE_USERDATA), userdata.TypeComment)
		ours = ours || text(attribute(attrs, unix.NFTA_RULE_TABLE)) == TableName && strings.HasPrefix(comment, mark)
	})
	return exists, ours, err
}

// eachElement gives the key of each element of a set whose time is not over, and what is left of it.
func eachElement(s *socket, set string, each func(key []byte, left time.Duration)) error {
	attrs := appendText(appendText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, TableName), unix.NFTA_SET_ELEM_LIST_SET, set)
	_, err := s.ask(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, attrs, func(attrs []byte) {
		for _, item := range attributes(attribute(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			if left := uint64Of(attribute(item, unix.NFTA_SET_ELEM_EXPIRATION)); left > 0 {
				each(attribute(item, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE), time.Duration(left)*time.Millisecond)
			}
		}
	})
	return err
}

// whole tells whether all our chains are there, with all their rules.
func (cfg Config) whole(s *socket) (bool, error) {
	want := map[string]uint32{}
	for _, r := range cfg.rules(mark) {
		want[r.chain]++
	}
	bases := map[string]uint32{}
	for _, c := range []string{"segments", "new", "size", "untracked", "masquerade"} {
		if n, ok := want[c]; ok {
			bases[c] = n
		}
	}
	_, err := s.ask(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, nil, func(attrs []byte) {
		if name := text(attribute(attrs, unix.NFTA_CHAIN_NAME)); text(attribute(attrs, unix.NFTA_CHAIN_TABLE)) == TableName && bases[name] == uint32Of(attribute(attrs, unix.NFTA_CHAIN_USE)) {
			delete(bases, name)
		}
	})
	if err != nil {
		return false, fmt.Errorf("look at the table: %w", err)
	}
	return len(bases) == 0, nil
}

// generation is the number of changes to the tables of this network namespace so far.
func generation(s *socket) (n uint32, err error) {
	_, err = s.ask(unix.NFT_MSG_GETGEN, 0, nil, func(attrs []byte) { n = uint32Of(attribute(attrs, unix.NFTA_GEN_ID)) })
	return n, err
}
