package shared

import (
	"math/rand/v2"

	"spillway/tracker/swarm"
)

// draw is a list a reply may name peers of.
type draw struct {
	list  int
	total int // peers in the whole swarm that may be told
	there int // of them in the view
	self  int // the announcer's place in the view, or -1
}

// reply fills r with peers of the view: at most a.NumWant, each of the whole swarm as likely as any other, leechers only for a
// seeder, never the announcer. A WebSocket peer is told nobody here: webReply.
func (v *view) reply(a *swarm.Announce, r *swarm.Reply) {
	r.Peers4, r.Peers6 = r.Peers4[:0], r.Peers6[:0]
	if a.NumWant <= 0 || a.Event == swarm.EventStopped || a.HasWeb {
		return
	}
	var d4, d6 [2]draw
	var all4, all6, there4, there6 int
	roles := 2
	if a.Seeder {
		roles = 1
	}
	for role := range roles {
		d4[role] = v.drawOf(listOf(family4, role == 1), a.Has4, a.V4[:])
		d6[role] = v.drawOf(listOf(family6, role == 1), a.Has6, a.V6[:])
		all4, there4 = all4+d4[role].total, there4+d4[role].there
		all6, there6 = all6+d6[role].total, there6+d6[role].there
	}
	if a.OneFamily {
		if a.PreferFamily == swarm.Family4 {
			all6, there6 = 0, 0
		} else {
			all4, there4 = 0, 0
		}
	}
	k4 := share(a.NumWant, all4, all6, a.PreferFamily)
	k4 = min(k4, there4)
	k6 := min(a.NumWant-k4, there6)
	k4 = min(a.NumWant-k6, there4)
	r.Peers4 = v.sample(r.Peers4, k4, &d4)
	r.Peers6 = v.sample(r.Peers6, k6, &d6)
}

func (v *view) drawOf(l int, has bool, end []byte) draw {
	d := draw{list: l, total: v.total(l), there: len(v.lists[l]) / widthOf(l), self: -1}
	if !has {
		return d
	}
	if at := v.find(l, end); at >= 0 {
		d.self = at / widthOf(l)
		d.there--
		d.total--
	}
	return d
}

// share is how many of want peers are IPv4: in proportion, but at least half of the family preferred where it has as many, as
// swarm's own share.
func share(want, have4, have6 int, prefer swarm.Family) int {
	if have4+have6 <= want {
		return have4
	}
	k4 := part(want, have4, have4+have6)
	half := (want + 1) / 2
	switch {
	case prefer == swarm.Family4 && k4 < half:
		k4 = min(half, have4)
	case prefer == swarm.Family6 && want-k4 < half:
		k4 = want - min(half, have6)
	}
	return k4
}

// part is k times n/of, rounded up or down by chance so that it is that on average: of ten thousand leechers and a seeder the
// seeder too is named as often as any of them.
func part(k, n, of int) int {
	if of <= 0 {
		return 0
	}
	x := k * n
	whole := x / of
	if rand.IntN(of) < x%of {
		whole++
	}
	return whole
}

// sample appends k of the peers of both draws to dst.
func (v *view) sample(dst []byte, k int, d *[2]draw) []byte {
	if k <= 0 {
		return dst
	}
	k0 := min(part(k, d[0].total, d[0].total+d[1].total), d[0].there)
	k1 := min(k-k0, d[1].there)
	k0 = min(k-k1, d[0].there)
	return v.draw(v.draw(dst, k0, &d[0]), k1, &d[1])
}

// draw appends k of the peers there: their places, turned by a random amount, are cut into k strata, and one is drawn from each
// (swarm's sample says why).
func (v *view) draw(dst []byte, k int, d *draw) []byte {
	if k <= 0 {
		return dst
	}
	width, b, n := widthOf(d.list), v.lists[d.list], d.there
	turn := rand.IntN(n)
	from := 0
	for i := range k {
		to := (i + 1) * n / k
		at := from + rand.IntN(to-from) + turn
		from = to
		if at >= n {
			at -= n
		}
		if d.self >= 0 && at >= d.self {
			at++
		}
		dst = append(dst, b[at*width:at*width+width-2]...)
	}
	return dst
}

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
