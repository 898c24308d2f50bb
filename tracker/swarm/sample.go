package swarm

import (
	"math/rand/v2"
	"slices"
)

// dice is a small generator seeded once an announce: drawing from it is a multiplication. Its quality decides which peers
// meet, nothing secret.
type dice uint64

func newDice() dice { return dice(rand.Uint64()) }

// below returns a number in [0, n), n < 2^32.
func (d *dice) below(n int) int {
	*d = *d*6364136223846793005 + 1442695040888963407
	return int(uint64(*d) >> 32 * uint64(n) >> 32)
}

// share splits want peers between two families of which have4 and have6 are there. The shares are in proportion, so that
// each peer is as likely as any other to be named; but the family preferred gets at least half where it has as many,
// because a client without the other family could use none of its peers.
func share(want, have4, have6 int, prefer Family) (k4, k6 int) {
	if have4+have6 <= want {
		return have4, have6
	}
	k4 = (want*have4 + (have4+have6)/2) / (have4 + have6)
	half := (want + 1) / 2
	switch {
	case prefer == Family4 && k4 < half:
		k4 = min(half, have4)
	case prefer == Family6 && want-k4 < half:
		k4 = want - min(half, have6)
	}
	k4 = min(k4, have4)
	k6 = min(want-k4, have6)
	return want - k6, k6
}

// eligible is how many peers an announce may be told of: leechers only, for a seeder has no use for seeders. The peer at
// place self is the announcer, or self is -1.
func (p *peers) eligible(seeder bool, self int) int {
	n := int(p.n)
	if seeder {
		n = int(p.leechers)
	}
	if self >= 0 && self < n {
		n--
	}
	return n
}

// sample appends k of the n eligible peers to dst, never the one at place self, and returns it.
//
// The n places, turned by a random amount, are cut into k strata of equal size give or take one, and one place is drawn
// from each: every peer has exactly the chance k/n, no peer is named twice, and the cost is k whatever n is.
func (p *peers) sample(dst []byte, k, n, self int, d *dice) []byte {
	if k <= 0 {
		return dst
	}
	if self < 0 {
		self = n // nobody's place
	}
	if k == n {
		for i := range n + 1 {
			if i != self && i < int(p.n) && (i < n || self < n) {
				dst = append(dst, p.endpoint(i)...)
			}
		}
		return dst
	}
	turn := d.below(n)
	// The strata's bounds in 32.32 fixed point, rounded up so that the last one ends at n.
	step := (uint64(n)<<32 + uint64(k) - 1) / uint64(k)
	from, bound := 0, uint64(0)
	dst = slices.Grow(dst, k*p.end)
	for range k {
		bound += step
		to := int(bound >> 32)
		at := from + d.below(to-from) + turn
		from = to
		if at >= n {
			at -= n
		}
		if at >= self {
			at++
		}
		dst = p.appendEndpoint(dst, at)
	}
	return dst
}

// appendEndpoint appends the endpoint at place i to dst. IPv4's six bytes go without a call to memmove, which would be most
// of a sample's cost (BenchmarkAnnounce/peers=100).
func (p *peers) appendEndpoint(dst []byte, i int) []byte {
	if p.end == len(Endpoint4{}) {
		e := p.block[i*8:][:8]
		return append(dst, e[0], e[1], e[2], e[3], e[4], e[5])
	}
	return append(dst, p.endpoint(i)...)
}
