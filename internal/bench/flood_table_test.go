//go:build linux

package bench

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"spillway/internal/flood"
)

// verdict is what one run comes to.
type verdict struct {
	good     float64 // honest good replies a second in the flood: of the peak or, if that is more than was asked for, of what was asked for
	served   float64 // good and late, the same
	p50, p99 float64 // of the good ones, ms
	calmP99  float64 // before
	recovery float64 // seconds from the flood's end until nearly all is good again, for a second; negative: not within the run
	behind   float64 // share of requests that left late through the generator's own fault
}

// judge finds the flood, which is the phase with the highest rate.
func judge(r *flood.Result) (v verdict) {
	worst := 0
	offered := uint64(0)
	for i, p := range r.Phases {
		if p.Multiple > r.Phases[worst].Multiple {
			worst = i
		}
		offered += p.Honest.Offered + p.Attack.Offered
	}
	p := r.Phases[worst]
	seconds := p.To - p.From
	could := float64(p.Honest.Offered) / seconds
	if r.Peak > 0 {
		could = min(could, r.Peak)
	}
	v.good = float64(p.Honest.Good) / seconds / could
	v.served = float64(p.Honest.Good+p.Honest.Late) / seconds / could
	v.p50, v.p99 = p.Honest.P50, p.Honest.P99
	if worst > 0 {
		v.calmP99 = r.Phases[0].Honest.P99
	}
	if worst < len(r.Phases)-1 {
		v.recovery = recovery(r.Series, p.To)
	}
	v.behind = float64(r.Behind) / float64(max(offered, 1))
	return v
}

// recovery is the time from end until 95 % of what is due is good, for a second.
func recovery(s flood.Series, end float64) float64 {
	within := max(int(1/s.BinSeconds+0.5), 1)
	first := int(end/s.BinSeconds + 0.5)
	well := 0
	for i := first; i < len(s.Honest.Offered); i++ {
		if s.Honest.Good[i] < 0.95*s.Honest.Offered[i] {
			well = 0
			continue
		}
		if well++; well == within {
			return float64(i+1-within-first) * s.BinSeconds
		}
	}
	return -1
}

// floodRow is a line of the table.
type floodRow struct {
	scenario, subject string
	least, most       float64 // good, of all rounds
	verdict           verdict
	median            *flood.Result
}

// floodTable collects the rows of a run.
var floodTable floodRows

type floodRows struct {
	mu   sync.Mutex // guards rows
	rows []floodRow
}

// add takes the place of what an earlier iteration found.
func (t *floodRows) add(r floodRow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.IndexFunc(t.rows, func(old floodRow) bool { return old.scenario == r.scenario && old.subject == r.subject }); i >= 0 {
		t.rows[i] = r
		return
	}
	t.rows = append(t.rows, r)
}

func (t *floodRows) markdown() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", machine())
	b.WriteString("| flood | program | peak/s | offered/s | good | (least to most) | good or late | p50 ms | p99 ms | calm p99 ms | well again after | generator behind |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range t.rows {
		v := r.verdict
		again := "-"
		if v.recovery >= 0 {
			again = fmt.Sprintf("%.1f s", v.recovery)
		}
		most := 0.0
		for _, p := range r.median.Phases {
			most = max(most, float64(p.Honest.Offered+p.Attack.Offered)/(p.To-p.From))
		}
		fmt.Fprintf(&b, "| %s | %s | %.0f | %.0f | %.2f | %.2f to %.2f | %.2f | %.1f | %.1f | %.2f | %s | %.1f %% |\n", r.scenario, r.subject, r.median.Peak,
			most, v.good, r.least, r.most, v.served, v.p50, v.p99, v.calmP99, again, 100*v.behind)
	}
	b.WriteString("\nGood: honest requests answered in time during the flood, over the peak or, where less was asked for, over what honest clients asked for.\n")
	return []byte(b.String())
}

func TestJudgeFlood(t *testing.T) {
	t.Parallel()
	r := &flood.Result{
		Peak: 1000,
		Phases: []flood.PhaseResult{
			{To: 1, Multiple: 0.5, Honest: flood.Side{Offered: 500, Good: 500, P99: 1}},
			{From: 1, To: 3, Multiple: 10, Honest: flood.Side{Offered: 1000, Good: 900, Late: 50, P50: 2, P99: 20}, Attack: flood.Side{Offered: 19_000}},
			{From: 3, To: 6, Multiple: 0.5, Honest: flood.Side{Offered: 1500, Good: 1400}},
		},
		Series: flood.Series{BinSeconds: 0.5, Honest: flood.Lines{
			Offered: []float64{500, 500, 500, 500, 500, 500, 500, 500, 500, 500, 500, 500},
			Good:    []float64{500, 500, 450, 450, 450, 450, 400, 500, 300, 480, 500, 500},
		}},
		Behind: 220,
	}
	want := verdict{good: 0.9, served: 0.95, p50: 2, p99: 20, calmP99: 1, recovery: 1.5, behind: 0.01}
	if got := judge(r); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	r.Peak, r.Series.Honest.Good = 250, make([]float64, 12)
	if got := judge(r); got.good != 1.8 || got.recovery != -1 {
		t.Errorf("peak below what honest clients ask for, never well again: got %+v", got)
	}
}

// A scenario that cannot be run would be found out after an hour.
func TestFloodScenariosAreValid(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range floodScenarios() {
		if seen[s.name] || strings.ContainsAny(s.name, "/ ") {
			t.Errorf("%q is not a name of its own", s.name)
		}
		seen[s.name] = true
		profile := s.profile
		if strings.Contains(profile, "%s") {
			profile = fmt.Sprintf(profile, *floodLength)
		}
		p, err := flood.ParseProfile(profile)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		if total := p.Total().Seconds(); total > 60 {
			t.Errorf("%s takes %g s: its series would have bins of a second", s.name, total)
		}
	}
}
