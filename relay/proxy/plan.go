package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"

	"spillway/relay"
)

// plan is a relay.Plan as the loops read it. It never changes.
type plan struct {
	slots4, slots6 [relay.Slots]int16
	down           []bool
	budget         []int64 // of each backend, by its open bands
}

// Apply has the loops do as next says. It is called every second at least: a listener that could not listen is tried again with it.
func (p *Path) Apply(next relay.Plan) error {
	if len(next.Down) != len(p.backends) || len(next.Open) != len(p.backends) {
		return fmt.Errorf("BUG: a plan for %d and %d backends of %d", len(next.Down), len(next.Open), len(p.backends))
	}
	select {
	case <-p.closed:
		return errors.New("apply: closed")
	default:
	}
	n := &plan{slots4: next.Slots4, slots6: next.Slots6, down: append([]bool(nil), next.Down...)}
	for _, slots := range [][relay.Slots]int16{n.slots4, n.slots6} {
		for _, b := range slots {
			if int(b) >= len(p.backends) {
				return fmt.Errorf("BUG: a plan with backend %d of %d", b, len(p.backends))
			}
		}
	}
	for _, open := range next.Open {
		part := relay.Bands - min(max(open, 1), relay.Bands)
		n.budget = append(n.budget, int64(max(p.cfg.Budget>>part, 1)))
	}
	p.plan.Store(n)
	up4, up6 := n.serves(&n.slots4, &n.slots6), n.serves(&n.slots6, &n.slots4)
	changed := false
	for _, l := range p.listeners {
		switch up := l.v4 && up4 || l.v6 && up6; {
		case up && !l.listening.Load():
			l.open(p.log)
			changed = true
		case !up && l.listening.Load():
			l.refuse()
		}
	}
	if changed {
		p.wakeLoops(nil)
	}
	return nil
}

// serves tells whether some client of the family with the slots own can be forwarded.
func (n *plan) serves(own, other *[relay.Slots]int16) bool {
	for i, b := range own {
		if b == relay.Nobody {
			b = other[i]
		}
		if b != relay.Nobody && !n.down[b] {
			return true
		}
	}
	return false
}

// backendFor is who a client is forwarded to; relay.Nobody if there is none for it. A client whose own family has no backend goes to
// the other's.
func (n *plan) backendFor(client netip.Addr) int16 {
	own, other := &n.slots6, &n.slots4
	if client.Is4() {
		own, other = other, own
	}
	slot := slotOf(client)
	if b := own[slot]; b != relay.Nobody {
		return b
	}
	return other[slot]
}

// instead is another backend of the family, one that is up, for a client of a backend that has refused; relay.Nobody if there is none.
func (n *plan) instead(client netip.Addr, refused int16) int16 {
	slots := &n.slots4
	slot := slotOf(client)
	if slots[slot] != refused {
		slots = &n.slots6
	}
	for i := range relay.Slots {
		b := slots[(slot+i)%relay.Slots]
		if b != relay.Nobody && b != refused && !n.down[b] {
			return b
		}
	}
	return relay.Nobody
}

// slotOf is the same in each run, so that a client finds the backend that knows it.
func slotOf(client netip.Addr) int {
	b := client.As16()
	high, low := bits.Mul64(binary.BigEndian.Uint64(b[:8])^0x9e3779b97f4a7c15, binary.BigEndian.Uint64(b[8:])^0xbf58476d1ce4e5b9)
	high, low = bits.Mul64(high^low, 0x94d049bb133111eb)
	return int((high ^ low) % relay.Slots)
}
