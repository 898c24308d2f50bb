//go:build e2e

package kernel

import (
	"bytes"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"spillway/relay"
)

// otherTables are all that the kernel tells about all tables but ours, as it tells it.
func otherTables(t *testing.T, s *socket) []byte {
	t.Helper()
	var all []byte
	for _, ask := range []struct{ kind, table uint16 }{
		{unix.NFT_MSG_GETTABLE, unix.NFTA_TABLE_NAME}, {unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE}, {unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE},
		{unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE}, {unix.NFT_MSG_GETOBJ, unix.NFTA_OBJ_TABLE},
	} {
		for _, family := range []byte{unix.NFPROTO_INET, unix.NFPROTO_IPV4} {
			_, err := s.askOf(family, ask.kind, unix.NLM_F_DUMP, nil, func(attrs []byte) {
				if text(attribute(attrs, ask.table)) != TableName || family != unix.NFPROTO_INET {
					all = append(all, attrs...)
				}
			})
			must(t, err)
		}
	}
	return all
}

func TestOtherTablesAreLeftAlone(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	s, err := dial()
	must(t, err)
	defer s.close()
	// As ufw and docker have them: a filter, and a nat table of IPv4, with jumps; and a table of our name there.
	b := &batch{}
	foreign := func(family byte, table, chain, kind string, hook uint32, priority int32, steps ...expression) {
		b.addOf(family, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "table", appendText(nil, unix.NFTA_TABLE_NAME, table))
		attrs := appendText(appendText(nil, unix.NFTA_CHAIN_TABLE, table), unix.NFTA_CHAIN_NAME, chain)
		attrs = appendNest(attrs, unix.NFTA_CHAIN_HOOK, append32(append32(nil, unix.NFTA_HOOK_HOOKNUM, hook), unix.NFTA_HOOK_PRIORITY, uint32(priority)))
		b.addOf(family, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "chain", appendText(attrs, unix.NFTA_CHAIN_TYPE, kind))
		b.addOf(family, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "chain", appendText(appendText(nil, unix.NFTA_CHAIN_TABLE, table), unix.NFTA_CHAIN_NAME, "DOCKER"))
		var all []byte
		for _, s := range append(steps, jump("DOCKER")) {
			all = append(all, s...)
		}
		rule := appendText(appendText(nil, unix.NFTA_RULE_TABLE, table), unix.NFTA_RULE_CHAIN, chain)
		b.addOf(family, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "rule", appendNest(rule, unix.NFTA_RULE_EXPRESSIONS, all))
	}
	foreign(unix.NFPROTO_INET, "ufw", "forward", "filter", unix.NF_INET_FORWARD, 0, isTCP(r0)...)
	foreign(unix.NFPROTO_IPV4, "nat", "PREROUTING", "nat", unix.NF_INET_PRE_ROUTING, -100, isLocal(r0)...)
	foreign(unix.NFPROTO_IPV4, TableName, "PREROUTING", "filter", unix.NF_INET_PRE_ROUTING, -150, isTCP(r0)...)
	must(t, s.commit(b))
	t.Cleanup(func() {
		s, err := dial()
		must(t, err)
		defer s.close()
		b := &batch{}
		b.addOf(unix.NFPROTO_INET, unix.NFT_MSG_DELTABLE, 0, "", appendText(nil, unix.NFTA_TABLE_NAME, "ufw"))
		b.addOf(unix.NFPROTO_IPV4, unix.NFT_MSG_DELTABLE, 0, "", appendText(nil, unix.NFTA_TABLE_NAME, "nat"))
		b.addOf(unix.NFPROTO_IPV4, unix.NFT_MSG_DELTABLE, 0, "", appendText(nil, unix.NFTA_TABLE_NAME, TableName))
		must(t, s.commit(b))
	})
	before := otherTables(t, s)
	if len(before) < 500 {
		t.Fatalf("the other tables are %d bytes", len(before))
	}
	for range 2 {
		cfg := l.config(backend4(0), backend6(0))
		cfg.Masquerade, cfg.PerSource = true, 1000
		p := open(t, cfg)
		must(t, p.Apply(plan(p, func(n *relay.Plan) { n.Down = []bool{true, true} })))
		l.refused(t, "", front4)
		must(t, p.Apply(plan(p, func(n *relay.Plan) { n.Down = []bool{false, false} })))
		c, _, _ := l.reach(t, "", front4)
		must(t, echoes(c))
		must(t, p.Close())
	}
	must(t, Revert())
	if after := otherTables(t, s); !bytes.Equal(before, after) {
		t.Errorf("the other tables have changed: %d bytes, then %d", len(before), len(after))
	}
}

func TestATableOfOurNameThatIsNotOurs(t *testing.T) {
	l := newLab(t, 1)
	s, err := dial()
	must(t, err)
	defer s.close()
	name := appendText(nil, unix.NFTA_TABLE_NAME, TableName)
	b := &batch{}
	b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "", name)
	b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "", appendText(appendText(nil, unix.NFTA_CHAIN_TABLE, TableName), unix.NFTA_CHAIN_NAME, "forwarded"))
	rule := appendText(appendText(nil, unix.NFTA_RULE_TABLE, TableName), unix.NFTA_RULE_CHAIN, "forwarded")
	b.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE, "", appendNest(rule, unix.NFTA_RULE_EXPRESSIONS, accept()))
	must(t, s.commit(b))
	t.Cleanup(func() {
		s, err := dial()
		must(t, err)
		defer s.close()
		b := &batch{}
		b.add(unix.NFT_MSG_DELTABLE, 0, "", name)
		must(t, s.commit(b))
	})
	if _, err := Open(l.config(backend4(0)), nil); !errors.Is(err, errForeign) || errors.Is(err, ErrUnavailable) {
		t.Errorf("open: %v", err)
	}
	if err := Revert(); !errors.Is(err, errForeign) {
		t.Errorf("revert: %v", err)
	}
	if exists, ours, err := owner(s); !exists || ours || err != nil {
		t.Errorf("the table: %v %v %v", exists, ours, err)
	}
}

func TestWithoutTheRight(t *testing.T) {
	l := newLab(t, 1)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread has no rights any more
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		err := unix.Capset(&hdr, &none[0])
		if err == nil {
			_, err = Open(l.config(backend4(0)), slog.Default())
		}
		done <- err
	}()
	if err := <-done; !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("open: %v", err)
	}
	must(t, Revert()) // the lock is free
}
