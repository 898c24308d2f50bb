//go:build linux

package bench

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"
)

// sample is one server under load for one turn.
type sample struct {
	perAnnounce time.Duration // CPU of the server
	rate        float64       // announces a second
	sleeps      float64       // times the server slept for an announce; near zero means that it was saturated
	client      float64       // share of its core that the client got; under 1 means that the machine was not quiet
}

func (s sample) String() string { return fmt.Sprintf("%.2f us", micros(s.perAnnounce)) }

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// outcome is what a contest found out about one server.
type outcome struct {
	sample           // the median turn
	ratios []float64 // its cost over each server's, the median of all rounds: a disturbance of some seconds meets both sides of a round
}

// contest loads servers in turn, *rounds times.
func contest(tb testing.TB, loads []Load, servers []server) []outcome {
	tb.Helper()
	turns := make([][]sample, len(servers))
	for range *rounds {
		for i, s := range servers {
			turns[i] = append(turns[i], measure(tb, loads[i], s))
		}
	}
	outcomes := make([]outcome, len(servers))
	for i := range outcomes {
		for j := range servers {
			var ratios []float64
			for round := range turns[i] {
				ratios = append(ratios, float64(turns[i][round].perAnnounce)/float64(turns[j][round].perAnnounce))
			}
			outcomes[i].ratios = append(outcomes[i].ratios, median(ratios))
		}
	}
	for i, t := range turns {
		slices.SortFunc(t, func(a, b sample) int { return cmp.Compare(a.perAnnounce, b.perAnnounce) })
		m := t[len(t)/2]
		outcomes[i].sample = m
		tb.Logf("%-12s %s (%s to %s), %.0f/s, %.2f sleeps, the client had %.0f %% of its core", servers[i].name, m, t[0], t[len(t)-1], m.rate,
			m.sleeps, 100*m.client)
	}
	return outcomes
}

func median[T cmp.Ordered](all []T) T {
	all = slices.Clone(all)
	slices.Sort(all)
	return all[len(all)/2]
}

// measure loads s for one turn.
func measure(tb testing.TB, load Load, s server) sample {
	tb.Helper()
	load.Addr = s.addr
	before, sleptBefore := usage(tb, s)
	n, err := load.For(*turn)
	if err != nil {
		tb.Fatalf("%s: %v", s.name, err)
	}
	after, slept := usage(tb, s)
	if n.Replies == 0 {
		tb.Fatalf("%s: no replies in %s", s.name, *turn)
	}
	return sample{
		perAnnounce: (after - before) / time.Duration(n.Replies),
		rate:        float64(n.Replies) / n.Elapsed.Seconds(),
		sleeps:      float64(slept-sleptBefore) / float64(n.Replies),
		client:      float64(n.CPU) / float64(n.Elapsed),
	}
}

func usage(tb testing.TB, s server) (cpu time.Duration, sleeps int) {
	tb.Helper()
	cpu, err := CPUTime(s.pid)
	if err == nil {
		sleeps, err = Sleeps(s.pid)
	}
	if err != nil {
		tb.Fatalf("%s: %v", s.name, err)
	}
	return cpu, sleeps
}
