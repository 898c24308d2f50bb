package kernel

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/relay"
)

// checkBatch fails on what the kernel would refuse: a chain, set or counter that is used and not made, or made twice.
func checkBatch(t *testing.T, cfg Config, b *batch) {
	t.Helper()
	chains, sets, counters := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, c := range cfg.counters() {
		counters[c] = true
	}
	size := 0
	made := func(all map[string]bool, name string) {
		if name == "" || all[name] {
			t.Errorf("made twice, or without a name: %q", name)
		}
		all[name] = true
	}
	for _, m := range b.msgs {
		size += len(m.body) + unix.SizeofNlMsghdr
		attrs := m.body[4:]
		switch m.kind & 0xff {
		case unix.NFT_MSG_NEWCHAIN:
			made(chains, text(attribute(attrs, unix.NFTA_CHAIN_NAME)))
		case unix.NFT_MSG_NEWSET:
			made(sets, text(attribute(attrs, unix.NFTA_SET_NAME)))
		case unix.NFT_MSG_NEWSETELEM:
			if set := text(attribute(attrs, unix.NFTA_SET_ELEM_LIST_SET)); !sets[set] {
				t.Errorf("elements of %q, which is not made", set)
			}
			for _, e := range attributes(attribute(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
				if to := attribute(e, unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CHAIN); to != nil && !chains[text(to)] {
					t.Errorf("an element leads to %q, which is not made", text(to))
				}
			}
		case unix.NFT_MSG_NEWRULE:
			if chain := text(attribute(attrs, unix.NFTA_RULE_CHAIN)); !chains[chain] {
				t.Errorf("a rule of %q, which is not made", chain)
			}
			for _, e := range attributes(attribute(attrs, unix.NFTA_RULE_EXPRESSIONS)) {
				data := attribute(e, unix.NFTA_EXPR_DATA)
				switch text(attribute(e, unix.NFTA_EXPR_NAME)) {
				case "immediate":
					if to := attribute(data, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CHAIN); to != nil && !chains[text(to)] {
						t.Errorf("a rule leads to %q, which is not made", text(to))
					}
				case "lookup":
					if set := text(attribute(data, unix.NFTA_LOOKUP_SET)); !sets[set] {
						t.Errorf("a rule looks into %q, which is not made", set)
					}
				case "dynset":
					if set := text(attribute(data, unix.NFTA_DYNSET_SET_NAME)); !sets[set] {
						t.Errorf("a rule adds to %q, which is not made", set)
					}
				case "objref":
					if c := text(attribute(data, unix.NFTA_OBJREF_IMM_NAME)); !counters[c] {
						t.Errorf("a rule counts %q, which is not made", c)
					}
				}
			}
		}
	}
	if size > 200<<10 {
		t.Errorf("a transaction of %d bytes", size)
	}
}

// changes are the elements that a batch deletes and adds, by set.
func changes(b *batch) (gone, added map[string]int) {
	gone, added = map[string]int{}, map[string]int{}
	for _, m := range b.msgs {
		set := text(attribute(m.body[4:], unix.NFTA_SET_ELEM_LIST_SET))
		n := 0
		for range attributes(attribute(m.body[4:], unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			n++
		}
		switch m.kind & 0xff {
		case unix.NFT_MSG_NEWSETELEM:
			added[set] += n
		case unix.NFT_MSG_DELSETELEM:
			gone[set] += max(n, 1)
		}
	}
	return gone, added
}

func TestOnlyDifferencesAreSent(t *testing.T) {
	t.Parallel()
	cfg, err := good().check()
	if err != nil {
		t.Fatal(err)
	}
	step := func(old, now relay.Plan) (gone, added map[string]int) {
		b := &batch{}
		cfg.fill(b, &now, &old)
		cfg.refresh(b, &now, &old, nil)
		return changes(b)
	}
	change := func(p relay.Plan, f func(*relay.Plan)) relay.Plan {
		p.Down, p.Open = slices.Clone(p.Down), slices.Clone(p.Open)
		f(&p)
		return p
	}
	up := cfg.first(make([]time.Duration, 2))
	if gone, added := step(up, up); len(gone)+len(added) > 0 {
		t.Errorf("no change: %v %v", gone, added)
	}
	moved := change(up, func(p *relay.Plan) { p.Slots4[3], p.Slots4[9] = relay.Nobody, relay.Nobody })
	if gone, added := step(up, moved); gone["slots4"] != 2 || len(added) > 0 {
		t.Errorf("two slots fewer: %v %v", gone, added)
	}
	if gone, added := step(moved, up); len(gone) > 0 || added["slots4"] != 2 {
		t.Errorf("two slots more: %v %v", gone, added)
	}
	down := change(up, func(p *relay.Plan) { p.Down[0], p.Open[0] = true, 1 })
	for _, old := range []relay.Plan{up, down} { // and refreshed
		slots := 0
		if !old.Down[0] {
			slots = relay.Slots // which lead by the way with checks from now on
		}
		// Added so that it can be deleted, and then again with its time.
		gone, added := step(old, down)
		if gone["down4"] != 1 || added["down4"] != 2 || gone["closed"] != 3 || added["closed"] != 6 || gone["slots4"] != slots || added["slots4"] != slots || gone["slots6"] != 0 {
			t.Errorf("down: %v %v", gone, added)
		}
	}
	half := change(up, func(p *relay.Plan) { p.Open[0] = 3 })
	gone, added := step(down, half)
	if gone["slots4"] != 0 || gone["down4"] != 1 || added["down4"] != 1 || gone["closed"] != 3 || added["closed"] != 4 || gone["unanswered_0_1"] != 1 || gone["unanswered_1_1"] != 0 {
		t.Errorf("up again: %v %v", gone, added)
	}
	if gone, added := step(half, up); gone["slots4"] != relay.Slots || added["slots4"] != relay.Slots || gone["closed"] != 1 || added["closed"] != 1 {
		t.Errorf("all is well: %v %v", gone, added)
	}
}

func TestWhatDecidesWhetherATableIsTheSame(t *testing.T) {
	t.Parallel()
	cfg, _ := good().check()
	seen := map[string]bool{cfg.mark(): true}
	again, _ := good().check()
	if !seen[again.mark()] {
		t.Error("the same configuration has another mark")
	}
	for what, change := range map[string]func(*Config){
		"a port":     func(c *Config) { c.Listen[0] = c.Listen[1] },
		"a backend":  func(c *Config) { c.Backends = c.Backends[:1] },
		"masquerade": func(c *Config) { c.Masquerade = true },
		"budget":     func(c *Config) { c.Budget++ },
		"per source": func(c *Config) { c.PerSource = 9 },
	} {
		other, _ := good().check()
		change(&other)
		if m := other.mark(); seen[m] {
			t.Errorf("%s changes nothing", what)
		} else {
			seen[m] = true
		}
	}
}

func TestAttributesAreReadAsWritten(t *testing.T) {
	t.Parallel()
	b := appendText(append64(append32(nil, 1, 7), 2, 1<<40), 3, "abc")
	b = appendNest(b, 4, append32(nil, 1, 8), appendBytes(nil, 9, []byte{1, 2, 3, 4, 5}))
	if len(b)%4 != 0 {
		t.Errorf("%d bytes; not padded", len(b))
	}
	if uint32Of(attribute(b, 1)) != 7 || uint64Of(attribute(b, 2)) != 1<<40 || text(attribute(b, 3)) != "abc" ||
		uint32Of(attribute(b, 4, 1)) != 8 || !bytes.Equal(attribute(b, 4, 9), []byte{1, 2, 3, 4, 5}) || attribute(b, 4, 8) != nil || attribute(b, 5) != nil {
		t.Errorf("read otherwise: %x", b)
	}
}

func FuzzAttributes(f *testing.F) {
	f.Add(appendNest(appendText(nil, 3, "abc"), 4, append32(nil, 1, 8)), uint16(4), uint16(1))
	f.Add([]byte{3, 0, 1, 0}, uint16(1), uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, first, second uint16) {
		rest := len(b)
		for _, value := range attributes(b) {
			if rest -= unix.SizeofNlAttr + len(value); rest < 0 {
				t.Fatal("more than there is")
			}
		}
		_ = text(attribute(b, first, second))
		_ = ackError(b)
		for range elementsOf(b) {
			rest++
		}
		_ = keyAddrPort(b)
	})
}

func TestErrorsOfTheKernelAreRead(t *testing.T) {
	t.Parallel()
	code := func(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	if err := ackError(code(0)); err != nil {
		t.Errorf("0: %v", err)
	}
	if err := ackError(code(-int32(unix.EPERM))); err != unix.EPERM {
		t.Errorf("EPERM: %v", err)
	}
	long := append(append(code(-int32(unix.EINVAL)), make([]byte, unix.SizeofNlMsghdr)...), appendText(nil, 1, "no such thing")...)
	if err := ackError(long); err == nil || err.Error() != "invalid argument: no such thing" {
		t.Errorf("with a text: %v", err)
	}
}
