package relay

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

// spread decides which backend of a family each slot's sources go to. It is pure. Each slot has an order of all backends, fixed at
// the start, and goes to the first of them that is up. So no source moves but those of a backend that goes down, and it gets
// exactly its own back. The orders are dealt out so that the shares are right among those that are left, too.
type spread struct {
	orders [Slots][]int16
}

// newSpread deals out the slots among backends (indexes of Config.Backends), whose weights are in proportion to their shares. It
// always deals the same, so that a relay that starts again leaves each source where it was.
func newSpread(backends []int16, weight func(int16) int) *spread {
	s := &spread{}
	all := make([]int, Slots)
	for i := range all {
		all[i] = i
	}
	d := dealer{spread: s, weight: weight, rand: rand.New(rand.NewPCG(1, 2))}
	d.deal(all, backends, d.largest)
	return s
}

// dealer deals out slots.
type dealer struct {
	*spread
	weight func(int16) int
	rand   *rand.Rand
}

// deal gives each backend its share of slots, and what it was given to the others, should it go down, and so on.
func (d *dealer) deal(slots []int, backends []int16, divide func(int, []int) []int) {
	if len(slots) == 0 || len(backends) == 0 {
		return
	}
	weights := make([]int, len(backends))
	for i, b := range backends {
		weights[i] = d.weight(b)
	}
	for i, n := range divide(len(slots), weights) {
		for _, slot := range slots[:n] {
			d.orders[slot] = append(d.orders[slot], backends[i])
		}
		rest := slices.Concat(backends[:i], backends[i+1:])
		d.rand.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		d.deal(slots[:n], rest, d.even)
		slots = slots[n:]
	}
}

// largest divides n by the largest remainders. The largest shares give to those that have none: no backend goes without, however
// small its weight.
func (d *dealer) largest(n int, weights []int) []int {
	total := sumOf(weights)
	shares, order := make([]int, len(weights)), make([]int, len(weights))
	left := n
	for i, w := range weights {
		shares[i], order[i] = n*w/total, i
		left -= shares[i]
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(n*weights[b]%total, n*weights[a]%total) })
	for _, i := range order[:left] {
		shares[i]++
	}
	for i := range shares {
		if shares[i] == 0 && len(weights) <= n {
			shares[slices.Index(shares, slices.Max(shares))]--
			shares[i]++
		}
	}
	return shares
}

// even divides n so that each share is less than one off, and right on average over many divisions: the parts that are dealt out
// again are small, and what the largest remainders leave over would gather at the same backends.
func (d *dealer) even(n int, weights []int) []int {
	total := sumOf(weights)
	shares := make([]int, len(weights))
	offset, before, given := d.rand.IntN(total), 0, 0
	for i, w := range weights {
		before += w
		shares[i] = (n*before+offset)/total - given
		given += shares[i]
	}
	return shares
}

func sumOf(weights []int) (total int) {
	for _, w := range weights {
		total += w
	}
	return total
}

// fill sets slots to where each goes. While all backends are down it leaves them as they were.
func (s *spread) fill(slots *[Slots]int16, isUp func(int16) bool) {
	for i, order := range s.orders {
		if len(order) == 0 {
			slots[i] = Nobody
			continue
		}
		if at := slices.IndexFunc(order, isUp); at >= 0 {
			slots[i] = order[at]
		}
	}
}
