//go:build e2e

package kernel

import (
	"net/netip"
	"testing"

	"spillway/relay"
)

// holder is set in the environment of a child that opens a path as it says, and waits.
const holder = "SPILLWAY_RELAY_KERNEL_HOLDER"

func hold() { select {} }

func TestForwards(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	for _, masquerade := range []bool{false, true} {
		cfg := l.config(backend4(0), backend6(0))
		cfg.Masquerade = masquerade
		p := open(t, cfg)
		for _, front := range []string{front4, front6} {
			c, _, seen := l.reach(t, "", front)
			must(t, echoes(c))
			client := netip.MustParseAddrPort(c.LocalAddr().String())
			if !masquerade && seen != client {
				t.Errorf("%s: the backend sees %v; want the client, %v", front, seen, client)
			}
			if masquerade && seen.Addr() == client.Addr() {
				t.Errorf("%s: the backend sees %v, the client, in spite of masquerading", front, seen)
			}
		}
		if c := counts(t, p); c.Backends[0].Opened != 1 || c.Backends[1].Opened != 1 || c.NoFlow != 0 {
			t.Errorf("counts: %+v", c)
		}
		must(t, p.Close())
	}
}

func TestAllDownIsRefusedAtOnce(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	p := open(t, l.config(backend4(0), backend6(0)))
	must(t, p.Apply(plan(p, func(n *relay.Plan) { n.Down = []bool{true, true} })))
	l.refused(t, "", front4)
	l.refused(t, "", front6)
	must(t, p.Apply(plan(p, func(n *relay.Plan) { n.Down = []bool{false, false} })))
	for _, front := range []string{front4, front6} {
		c, _, _ := l.reach(t, "", front)
		must(t, echoes(c))
	}
}
