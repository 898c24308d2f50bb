//go:build e2e

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/waittest"
	"spillway/relay"
)

// vanish has a backend's namespace drop all TCP that comes in, as a host that is gone.
func (l *lab) vanish(t testing.TB, i int) (back func()) {
	t.Helper()
	table := appendText(nil, unix.NFTA_TABLE_NAME, "gone")
	do := func(f func(b *batch)) {
		t.Helper()
		within(t, l.backends[i], func() error {
			s, err := dial()
			if err != nil {
				return err
			}
			defer s.close()
			b := &batch{}
			f(b)
			return s.commit(b)
		})
	}
	do(func(b *batch) {
		b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "table", table)
		chain := appendText(appendText(nil, unix.NFTA_CHAIN_TABLE, "gone"), unix.NFTA_CHAIN_NAME, "gone")
		hook := append32(append32(nil, unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_PRE_ROUTING), unix.NFTA_HOOK_PRIORITY, 0)
		b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "chain", appendText(appendNest(chain, unix.NFTA_CHAIN_HOOK, hook), unix.NFTA_CHAIN_TYPE, "filter"))
		var steps []byte
		for _, s := range append(isTCP(r0), decide(0, "")) { // NF_DROP
			steps = append(steps, s...)
		}
		rule := appendText(appendText(nil, unix.NFTA_RULE_TABLE, "gone"), unix.NFTA_RULE_CHAIN, "gone")
		b.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "rule", appendNest(rule, unix.NFTA_RULE_EXPRESSIONS, steps))
	})
	return func() { do(func(b *batch) { b.add(unix.NFT_MSG_DELTABLE, 0, "table", table) }) }
}

func TestABackendThatVanishesGetsItsBudgetOnly(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	l.vanish(t, 0)
	for _, open1 := range []int{1, 2, 3, 4} {
		cfg := l.config(backend4(0))
		cfg.Budget = 800
		p := open(t, cfg)
		must(t, p.Apply(plan(p, func(n *relay.Plan) { n.Open[0] = open1 })))
		want := cfg.Budget * []int{1, 2, 4, 8}[open1-1] / 8
		syns := watch(t, l.backends[0], isSYN)
		resets := watch(t, l.client, func(ip []byte) bool { return tcpFlags(ip)&rst != 0 })
		const n = 2000
		send(t, l.client, 10_000, n, func(i int) []byte { return fresh(open1*10_000 + i) })
		waittest.Until(t, patience, "resets of the others", func() bool { return resets() >= n-want })
		if got := syns(); got != want {
			t.Errorf("%d open: the backend got %d SYNs, want %d", open1, got, want)
		}
		c := counts(t, p)
		if b := c.Backends[0]; b.Opened != uint64(want) || b.Budget != uint64(n-want) || b.Unanswered != want {
			t.Errorf("%d open: %+v; want %d opened and waiting, %d refused", open1, b, want, n-want)
		}
		if _, err := l.dial(t, "", front4, patience); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%d open: %v; want refused", open1, err)
		}
		must(t, p.Close())
		must(t, Revert()) // who waits would be taken over
	}
}

// Who waited when the backend went down is not counted when it is back: it would be refused most of what it gets for three seconds.
func TestABudgetIsWholeAfterAReturn(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	back := l.vanish(t, 0)
	cfg := l.config(backend4(0))
	cfg.Budget = 64
	p := open(t, cfg)
	send(t, l.client, 0, 200, fresh)
	if b := counts(t, p).Backends[0]; b.Unanswered != 64 {
		t.Fatalf("%+v; want 64 waiting", b)
	}
	must(t, p.Apply(plan(p, func(n *relay.Plan) { n.Down[0] = true })))
	back()
	must(t, p.Apply(plan(p, func(n *relay.Plan) { n.Down[0] = false; n.Open[0] = 1 })))
	if b := counts(t, p).Backends[0]; b.Unanswered != 0 {
		t.Errorf("%+v; want none waiting", b)
	}
	for range 4 {
		c, _, _ := l.reach(t, "", front4)
		must(t, echoes(c))
	}
}

func TestWaitingEndsByItself(t *testing.T) {
	l := newLab(t, 1)
	back := l.vanish(t, 0)
	cfg := l.config(backend4(0))
	cfg.Budget = 16
	p := open(t, cfg)
	start := time.Now()
	send(t, l.client, 0, 100, fresh)
	back()
	l.serve(t, 0)
	waittest.Until(t, waitFor+patience, "a place", func() bool {
		c, err := l.dial(t, "", front4, patience)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})

	if took := time.Since(start); took < waitFor-time.Second {
		t.Errorf("a place was free after %v, want some %v", took, waitFor)
	}
	waittest.Until(t, patience, "an end of waiting", func() bool { return counts(t, p).Backends[0].Unanswered == 0 })
}

// Clients that never send a byte, or that are not who they say, take no part of the budget once the backend has answered: with it
// counted until their first data, 500 spoofed SYNs a second would have everybody refused.
func TestASlowClientTakesNoBudget(t *testing.T) {
	for _, masquerade := range []bool{false, true} {
		t.Run(fmt.Sprintf("masquerade=%v", masquerade), func(t *testing.T) {
			l := newLab(t, 1)
			l.serve(t, 0)
			cfg := l.config(backend4(0))
			cfg.Budget, cfg.Masquerade = 500, masquerade
			p := open(t, cfg)
			// Of the 3,000 SYNs most get an answer that nobody has asked for; the last are those of clients that keep silent. They come slowly
			// enough for a busy machine to answer in time.
			const n = 3000
			send(t, l.client, 1000, n, fresh)
			for range 30 {
				l.reach(t, "", front4)
			}
			if b := counts(t, p).Backends[0]; b.Opened != n+30 || b.Budget != 0 || b.Unanswered != 0 {
				t.Errorf("%+v; want all %d opened, none refused, none waiting", b, n+30)
			}
		})
	}
}

// Behind masquerade a port comes again while the backend still has its last connection in TIME_WAIT: then it answers with an ACK of that
// one, the client resets it and tries again.
func TestAnAnswerOfAnOldConnectionFreesThePlace(t *testing.T) {
	l := newLab(t, 1)
	cfg := l.config(backend4(0))
	cfg.Budget, cfg.Masquerade = 64, true
	p := open(t, cfg)
	l.vanish(t, 0)
	asked := make(chan netip.AddrPort, 64)
	syns := watch(t, l.backends[0], func(ip []byte) bool {
		if isSYN(ip) {
			port := binary.BigEndian.Uint16(ip[20:])
			asked <- netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), port)
		}
		return isSYN(ip)
	})
	send(t, l.client, 0, 64, fresh)
	waittest.Until(t, patience, "64 SYNs", func() bool { return syns() == 64 })
	if b := counts(t, p).Backends[0]; b.Unanswered != 64 {
		t.Fatalf("%+v; want 64 waiting", b)
	}
	send(t, l.backends[0], 0, 64, func(i int) []byte { return packet(backend4(0), <-asked, ack, 1000, 7) })
	waittest.Until(t, waitFor/2, "all answered", func() bool { return counts(t, p).Backends[0].Unanswered == 0 })
}

// A backend that refuses has given a sign of life, too.
func TestARefusalFreesThePlace(t *testing.T) {
	l := newLab(t, 1) // nobody serves
	cfg := l.config(backend4(0))
	cfg.Budget = 200
	p := open(t, cfg)
	send(t, l.client, 500, 1000, fresh)
	if b := counts(t, p).Backends[0]; b.Opened != 1000 || b.Budget != 0 || b.Unanswered != 0 {
		t.Errorf("%+v; want all 1000 opened, none refused, none waiting", b)
	}
}

func TestARepeatedSYNIsNotCountedAgain(t *testing.T) {
	l := newLab(t, 1)
	l.vanish(t, 0)
	p := open(t, l.config(backend4(0)))
	syns := watch(t, l.backends[0], isSYN)
	send(t, l.client, 0, 6, func(int) []byte { return fresh(1) })
	waittest.Until(t, patience, "six SYNs at the backend", func() bool { return syns() == 6 })
	if b := counts(t, p).Backends[0]; b.Opened != 1 || b.Unanswered != 1 {
		t.Errorf("%+v; want one opened, one waiting", b)
	}
}

func TestASourceThatOpensTooMany(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	cfg := l.config(backend4(0), backend6(0))
	cfg.PerSource = 5
	p := open(t, cfg)
	for _, who := range []struct{ from, neighbour, other, front string }{
		{"198.18.1.1", "198.18.1.1", "198.18.1.2", front4},
		{"fd00:18::2", "fd00:18::3", "fd00:18:0:1::2", front6}, // one /64, another /64
	} {
		if who.front == front6 {
			ip(t, "-n", l.client, "addr", "add", who.neighbour+"/64", "dev", "eth0", "nodad")
			ip(t, "-n", l.client, "addr", "add", who.other+"/128", "dev", "eth0", "nodad")
			ip(t, "-6", "route", "add", who.other+"/128", "via", who.from)
		}
		before := counts(t, p).Source
		opened, refused := 0, 0
		start := time.Now()
		for i := range 40 {
			from := who.from
			if i%2 == 1 {
				from = who.neighbour
			}
			c, err := l.dial(t, from, who.front, patience)
			switch {
			case err == nil:
				opened++
				_ = c.Close()
			case errors.Is(err, syscall.ECONNREFUSED):
				refused++
			default:
				t.Fatal(err)
			}
		}
		most := 5 + int(5*time.Since(start).Seconds()) + 1
		if opened < 5 || opened > most {
			t.Errorf("%s: %d of 40 opened; want 5 to %d", who.front, opened, most)
		}
		if got := counts(t, p).Source - before; got != uint64(refused) {
			t.Errorf("%s: counted %d refused, want %d", who.front, got, refused)
		}
		l.reach(t, who.other, who.front)
	}
}
