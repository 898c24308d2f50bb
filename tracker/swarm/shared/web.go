package shared

import (
	"math/rand/v2"

	"spillway/tracker/swarm"
)

// webReply fills r with WebSocket peers of the view, as reply does with others: this node's into PeersWeb, those of other nodes into
// FarWeb. Peers of nodes that are not alive are drawn and not told, so where there are some more are drawn. The lane's lock is held.
func (s *Store) webReply(v *view, a *swarm.Announce, r *swarm.Reply) {
	r.PeersWeb, r.FarWeb = r.PeersWeb[:0], r.FarWeb[:0]
	if a.NumWant <= 0 || a.Event == swarm.EventStopped {
		return
	}
	var d [2]draw
	there, roles := 0, 2
	if a.Seeder {
		roles = 1
	}
	end := s.webEnd(a.Web)
	for role := range roles {
		d[role] = v.drawOf(listOf(familyWeb, role == 1), true, end)
		there += d[role].there
	}
	k := min(a.NumWant, there)
	drawn := s.reachable(v.sample(r.FarWeb, k, &d))
	if len(drawn) < k*len(end) && k < there {
		drawn = s.reachable(v.sample(r.FarWeb, min(2*k+8, there), &d))
	}
	const width = nodeBytes + len(swarm.EndpointWeb{})
	for n := len(drawn) / width; n > k; n-- { // by chance, or it would be leechers who stay
		copy(drawn[rand.IntN(n)*width:], drawn[(n-1)*width:n*width])
		drawn = drawn[:(n-1)*width]
	}
	r.FarWeb = drawn[:0] // the same bytes: it is never ahead of b
	for b := drawn; len(b) > 0; b = b[width:] {
		if [nodeBytes]byte(b) == s.node {
			r.PeersWeb = append(r.PeersWeb, b[nodeBytes:width]...)
		} else {
			r.FarWeb = append(r.FarWeb, b[:width]...)
		}
	}
}

// reachable takes out, in place, those of nodes that are not alive.
func (s *Store) reachable(drawn []byte) []byte {
	const width = nodeBytes + len(swarm.EndpointWeb{})
	kept := drawn[:0]
	for b := drawn; len(b) > 0; b = b[width:] {
		if node := [nodeBytes]byte(b); node == s.node || s.cfg.Alive(node) {
			kept = append(kept, b[:width]...)
		}
	}
	return kept
}
