package lab

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestAnAgendaIsInOrder(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		var a agenda
		var want, got []time.Duration
		for range rnd.IntN(50) {
			at := time.Duration(rnd.IntN(20))
			want = append(want, at)
			a.push(later{at: at})
			if rnd.IntN(4) == 0 {
				slices.Sort(want)
				if at := a.pop().at; at != want[0] {
					t.Fatalf("got %d, the earliest is %d", at, want[0])
				}
				want = want[1:]
			}
		}
		slices.Sort(want)
		for len(a) > 0 {
			got = append(got, a.pop().at)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}
