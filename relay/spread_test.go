package relay

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// filled are the slots while those in downs are down.
func filled(s *spread, before [Slots]int16, downs map[int16]bool) [Slots]int16 {
	s.fill(&before, func(i int16) bool { return !downs[i] })
	return before
}

func spreadOf(weights ...int) *spread {
	all := make([]int16, len(weights))
	for i := range all {
		all[i] = int16(i)
	}
	return newSpread(all, func(i int16) int { return weights[i] })
}

func counted(slots [Slots]int16) map[int16]int {
	n := map[int16]int{}
	for _, b := range slots {
		n[b]++
	}
	return n
}

func TestSharesOfTheSources(t *testing.T) {
	t.Parallel()
	f := func(weights []int, downs map[int16]bool, want ...int) {
		t.Helper()
		got := counted(filled(spreadOf(weights...), [Slots]int16{}, downs))
		for i, n := range want {
			if got[int16(i)] != n {
				t.Errorf("weights %v, down %v: got slots %v, want %v", weights, downs, got, want)
				return
			}
		}
	}
	f([]int{1}, nil, 256)
	f([]int{1, 1}, nil, 128, 128)
	f([]int{1, 3}, nil, 64, 192)
	f([]int{1, 1, 1}, nil, 86, 85, 85)
	f([]int{1, 1, 1}, map[int16]bool{0: true}, 0, 128, 128)
	f([]int{1, 1, 1}, map[int16]bool{0: true, 1: true}, 0, 0, 256)
	f([]int{1, 1, 2}, map[int16]bool{2: true}, 128, 128, 0)
	f([]int{100, 1}, nil, 253, 3)
	f([]int{100, 100, 100, 1}, nil, 85, 85, 85, 1) // a third of them would be 0.85

	none := spreadOf()
	if got := counted(filled(none, [Slots]int16{}, nil)); got[Nobody] != Slots {
		t.Errorf("no backends: got %v", got)
	}
}

// Only the sources of a backend that goes down move, it gets its own back, and what is left is shared by weight.
func TestSourcesStay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, 10), 1, 8).Draw(t, "weights")
		s := spreadOf(weights...)
		all := filled(s, [Slots]int16{}, nil)
		downs := map[int16]bool{}
		slots := all
		for range rapid.IntRange(1, 30).Draw(t, "changes") {
			b := int16(rapid.IntRange(0, len(weights)-1).Draw(t, "backend"))
			before := slots
			downs[b] = !downs[b]
			slots = filled(s, slots, downs)
			total, up := 0, 0
			for i, w := range weights {
				if !downs[int16(i)] {
					total += w
					up++
				}
			}
			if up == 0 {
				if slots != before {
					t.Fatal("slots moved though nobody is up")
				}
				continue
			}
			for i, to := range slots {
				switch {
				case to < 0 || int(to) >= len(weights) || downs[to]:
					t.Fatalf("slot %d goes to %d; down: %v", i, to, downs)
				case downs[b] && before[i] != b && to != before[i] && !downs[before[i]]:
					t.Fatalf("slot %d moved from %d to %d as %d went down", i, before[i], to, b)
				case !downs[all[i]] && to != all[i]:
					t.Fatalf("slot %d goes to %d though its own backend %d is up", i, to, all[i])
				}
			}
			n := counted(slots)
			for i, w := range weights {
				// The less is left the more often was dealt out again.
				off := max(1, 2*float64(len(weights)-up))
				if len(weights)-up > 1 {
					off *= 2
				}
				want := float64(Slots) * float64(w) / float64(total)
				if got := n[int16(i)]; !downs[int16(i)] && math.Abs(float64(got)-want) > off {
					t.Fatalf("weights %v, down %v: backend %d got %d slots, want %.1f", weights, downs, i, got, want)
				}
			}
		}
	})
}
