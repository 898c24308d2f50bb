package kernel

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"spillway/relay"
)

// TableName is our table's, of family inet.
const TableName = "spillway_relay"

// base says where the kernel calls a chain from.
type base struct {
	name, kind string
	hook       uint32
	priority   int32
}

// Chains of one kind are called in order of priority; conntrack is at -200, and addresses are translated at -100 and 100.
var bases = []base{
	{"untracked", "filter", unix.NF_INET_LOCAL_OUT, -300},
	{"new", "nat", unix.NF_INET_PRE_ROUTING, -100},
	{"own", "filter", unix.NF_INET_LOCAL_IN, -150},
	{"forwarded", "filter", unix.NF_INET_FORWARD, -150},
	{"masquerade", "nat", unix.NF_INET_POST_ROUTING, 100},
}

// dead is called for every packet, before its addresses are translated and before a route is looked for; and only there while some
// backend is down, since to be called at all is most of what a packet costs.
var dead = base{"dead", "filter", unix.NF_INET_PRE_ROUTING, -150}

// chains are those that are not called by the kernel.
func (cfg Config) chains() []string {
	all := []string{"signs", "syn"}
	for _, f := range cfg.families() {
		all = append(all, "refused"+f.name, "own"+f.name, "new"+f.name, "found"+f.name, "clamp"+f.name)
		for i, b := range cfg.Backends {
			if familyOf(b.Addr.Addr()) == f {
				all = append(all, chainOf("check", i), chainOf("to", i), chainOf("alive", i), chainOf("refused", i))
			}
		}
	}
	return all
}

// counters are those that Counts reads.
func (cfg Config) counters() []string {
	all := []string{"no_flow", "source"}
	for i := range cfg.Backends {
		all = append(all, chainOf("opened", i), chainOf("down", i), chainOf("budget", i), chainOf("spoken", i))
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
	cfg.build(b, cfg.mark())
	cfg.fill(b, p, nil)
	cfg.refresh(b, p, nil, down)
	cfg.watch(b, p, nil)
	return b
}

// build makes all that does not depend on a plan, in a table that is there.
func (cfg Config) build(b *batch, mark string) *batch {
	for _, c := range cfg.counters() {
		b.add(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, "counter "+c, appendNest(append32(
			appendText(appendText(nil, unix.NFTA_OBJ_TABLE, TableName), unix.NFTA_OBJ_NAME, c), unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER), unix.NFTA_OBJ_DATA))
	}
	for _, c := range bases {
		if c.name == "masquerade" && !cfg.Masquerade {
			continue
		}
		b.addBase(c)
	}
	for _, c := range cfg.chains() {
		b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "chain "+c, appendText(appendText(nil, unix.NFTA_CHAIN_TABLE, TableName), unix.NFTA_CHAIN_NAME, c))
	}
	for i, s := range cfg.sets() {
		b.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, "set "+s.name, s.attrs(i+1))
		b.addElements(s.name, s.elements...)
	}
	b.addRules(cfg.rules(mark))
	return b
}

// addBase makes a chain that the kernel calls, if it is not there.
func (b *batch) addBase(c base) {
	attrs := appendText(appendText(nil, unix.NFTA_CHAIN_TABLE, TableName), unix.NFTA_CHAIN_NAME, c.name)
	attrs = appendNest(attrs, unix.NFTA_CHAIN_HOOK, append32(append32(nil, unix.NFTA_HOOK_HOOKNUM, c.hook), unix.NFTA_HOOK_PRIORITY, uint32(c.priority)))
	attrs = appendText(append32(attrs, unix.NFTA_CHAIN_POLICY, nfAccept), unix.NFTA_CHAIN_TYPE, c.kind)
	b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "chain "+c.name, attrs)
}

func (b *batch) addRules(rules []rule) {
	for _, r := range rules {
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
}

// fill changes the slots from what old has, or fills them if it is nil.
func (cfg Config) fill(b *batch, p, old *relay.Plan) {
	for _, f := range cfg.families() {
		add, gone := slotElements(f, p, old)
		b.deleteElements("slots"+f.name, gone...)
		b.addElements("slots"+f.name, add...)
	}
}

// watch has each segment looked at while some backend is down, and not while none is.
func (cfg Config) watch(b *batch, p, old *relay.Plan) {
	now, before := slices.Contains(p.Down, true), old != nil && slices.Contains(old.Down, true)
	switch {
	case now && !before:
		b.addBase(dead)
		b.addRules(cfg.deadRules())
	case before && !now:
		b.takeAway(dead)
	}
}

// takeAway takes a chain away, with its rules.
func (b *batch) takeAway(c base) {
	b.add(unix.NFT_MSG_DELRULE, 0, "rules of "+c.name, appendText(appendText(nil, unix.NFTA_RULE_TABLE, TableName), unix.NFTA_RULE_CHAIN, c.name))
	b.add(unix.NFT_MSG_DELCHAIN, 0, "chain "+c.name, appendText(appendText(nil, unix.NFTA_CHAIN_TABLE, TableName), unix.NFTA_CHAIN_NAME, c.name))
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

// elementsOf are a set's elements whose time is not over, as attributes, each with what is left of it.
func elementsOf(list []byte) iter.Seq2[[]byte, time.Duration] {
	return func(yield func([]byte, time.Duration) bool) {
		for _, item := range attributes(attribute(list, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			left := uint64Of(attribute(item, unix.NFTA_SET_ELEM_EXPIRATION))
			if left > 0 && !yield(attribute(item, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE), time.Duration(left)*time.Millisecond) {
				return
			}
		}
	}
}

func setAttrs(set string) []byte {
	return appendText(appendText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, TableName), unix.NFTA_SET_ELEM_LIST_SET, set)
}

// uses is how often each chain is used with p, as the kernel counts it: by its own rules, and by what leads to it.
func (cfg Config) uses(p *relay.Plan) map[string]uint32 {
	n := map[string]uint32{}
	rules := cfg.rules("")
	if slices.Contains(p.Down, true) {
		rules = append(rules, cfg.deadRules()...)
	}
	for _, r := range rules {
		n[r.chain]++
		for _, s := range r.steps {
			if to := attribute(s, unix.NFTA_LIST_ELEM, unix.NFTA_EXPR_DATA, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CHAIN); to != nil {
				n[text(to)]++
			}
		}
	}
	for _, s := range cfg.sets() {
		for _, e := range s.elements {
			if e.goTo != "" {
				n[e.goTo]++
			}
		}
	}
	for _, f := range cfg.families() {
		add, _ := slotElements(f, p, nil)
		for _, e := range add {
			n[e.goTo]++
		}
	}
	return n
}

// whole tells whether all our chains are there, with all their rules.
func (cfg Config) whole(s *socket, p *relay.Plan) (bool, error) {
	chains, err := s.dump(unix.NFT_MSG_GETCHAIN, nil)
	if err != nil {
		return false, fmt.Errorf("look at the table: %w", err)
	}
	missing := cfg.uses(p)
	for _, c := range chains {
		name := text(attribute(c, unix.NFTA_CHAIN_NAME))
		if text(attribute(c, unix.NFTA_CHAIN_TABLE)) == TableName && uint32Of(attribute(c, unix.NFTA_CHAIN_USE)) >= missing[name] {
			delete(missing, name)
		}
	}
	return len(missing) == 0, nil
}

// generation is the number of changes to the tables of this network namespace so far.
func generation(s *socket) (n uint32, err error) {
	_, err = s.ask(unix.NFT_MSG_GETGEN, 0, nil, func(attrs []byte) { n = uint32Of(attribute(attrs, unix.NFTA_GEN_ID)) })
	return n, err
}
