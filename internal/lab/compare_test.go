//go:build e2e

package lab

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/internal/plot"
	"spillway/internal/sys"
)

// The comparison takes minutes on a machine that does nothing else, so it runs only when it is told where to put what it finds:
//
//	go test -tags=e2e -run='^TestCompare' -timeout=40m ./internal/lab -lab.out=/tmp/relays
var (
	labOut    = flag.String("lab.out", "", "directory for the comparison: relays.md, JSON of each trial, SVG of each fault; empty: no comparison")
	labRate   = flag.Float64("lab.rate", 5000, "new connections a second in the rush; half of it before")
	labFaults = flag.String("lab.faults", "F1,F2,F3", "which faults")
	labOnly   = flag.String("lab.only", "", "contenders, by name, separated by commas; empty: all")
	labRounds = flag.Int("lab.rounds", 5, "pairs of turns in which the cost of a connection is measured")
)

// A trial of the comparison is longer than a promise's: what hangs needs its time to show.
const (
	compareUsual = 2 * time.Second
	compareBusy  = 3 * time.Second
	compareFault = 8 * time.Second
	compareAfter = 4 * time.Second
	compareOpen  = 45_000 // connections at once: all that hang for 5 s
)

func contenders(t *testing.T) (all []Contender) {
	for _, c := range []Contender{DNAT(false), DNATProfile(false), HAProxy(), NginxStream(), Spillway(spillway(t), "kernel"), Spillway(spillway(t), "proxy")} {
		if *labOnly != "" && !slices.Contains(strings.Split(*labOnly, ","), c.Name) {
			continue
		}
		if err := c.Missing(); err != nil {
			t.Logf("left out: %v", err)
			continue
		}
		all = append(all, c)
	}
	return all
}

func TestCompareFaults(t *testing.T) {
	if *labOut == "" {
		t.Skip("comparing relays takes minutes; give -lab.out=DIR")
	}
	var md bytes.Buffer
	fmt.Fprintf(&md, "%s\n\n%.0f new connections/s before a fault of %v, %.0f in a rush that goes on through it; each failed attempt is repeated after 1 s, three times at most; "+
		"clients wait 5 s. One run each.\n", machine(), *labRate/2, compareFault, *labRate)
	var columns []plot.Column
	for _, f := range strings.Split(*labFaults, ",") {
		fault := Fault(f)
		fmt.Fprintf(&md, "\n%s: %s\n\n| relay | failures | failed: p50 | p99 | peak conntrack | peak half-open | CPU healthy | CPU in fault | established: ended within | first success after | goodput after 1 s | own port: failed, worst |\n"+
			"|---|---|---|---|---|---|---|---|---|---|---|---|\n", fault, fault.Text())
		var lines []*Timeline
		for _, c := range contenders(t) {
			r, err := Trial{
				Contender: c, Program: spillway(t), Fault: fault, Usual: *labRate / 2, Busy: *labRate, MaxOpen: compareOpen,
				UsualFor: compareUsual, BusyFor: compareBusy, FaultFor: compareFault, AfterFor: compareAfter,
			}.Run()
			if err != nil {
				t.Errorf("%s, %s: %v", c.Name, fault, err)
				continue
			}
			var b bytes.Buffer
			if err := r.Print(&b); err != nil {
				t.Fatal(err)
			}
			if err := r.Timeline.Print(&b); err != nil {
				t.Fatal(err)
			}
			name := strings.NewReplacer(" + ", "-", " ", "-").Replace(fmt.Sprintf("%s-%s", fault, c.Name))
			fmt.Printf("\n%s", b.Bytes())
			write(t, name+".txt", b.Bytes())
			writeJSON(t, name+".json", r)
			write(t, name+".svg", draw(r.Timeline.Column()))
			fmt.Fprint(&md, row(r))
			lines = append(lines, r.Timeline)
		}
		columns = append(columns, Compare(fmt.Sprintf("%s: %s", fault, fault.Text()), lines))
		write(t, "relays.md", md.Bytes())
		write(t, "relays.svg", draw(columns...))
	}
}

// row is a line of the table.
func row(r *Report) string {
	or := func(ok bool, format string, args ...any) string {
		if !ok {
			return "never"
		}
		return fmt.Sprintf(format, args...)
	}
	failed, worst := 0, time.Duration(0)
	for _, p := range r.Probes {
		failed, worst = failed+p.Failed, max(worst, p.Worst)
	}
	note := ""
	if disturbed(r) {
		note = " (disturbed)"
	}
	return fmt.Sprintf("| %s%s | %d | %.2f ms | %.0f ms | %d | %d | %s | %s | %s | %s | %.0f %% | %d, %.0f ms |\n", r.Name, note, r.Failed, ms(r.FailP50), ms(r.FailP99),
		r.PeakConntrack, r.PeakHalfOpen, r.CPUHealthy, r.CPUFault, or(r.KeptLeft == 0, "%.0f ms", ms(r.KeptLast)), or(r.FirstOK > 0, "%.0f ms", ms(r.FirstOK)),
		100*r.Goodput, failed, ms(worst))
}

// The cost of a connection, of two ways to relay by turns: a disturbance of some seconds meets both sides of a pair.
func TestCompareCost(t *testing.T) {
	if *labOut == "" {
		t.Skip("comparing relays takes minutes; give -lab.out=DIR")
	}
	var md bytes.Buffer
	fmt.Fprintf(&md, "%s\n\nTime of the relay's core for 100,000 connections, one announce each, at %.0f a second; the median of %d turns each, and of the ratios of %[3]d pairs.\n\n"+
		"| relay | beside | s per 100,000 | beside: s | ratio | lowest | highest |\n|---|---|---|---|---|---|---|\n", machine(), *labRate*0.8, *labRounds)
	kernel, proxy := Spillway(spillway(t), "kernel"), Spillway(spillway(t), "proxy")
	for _, pair := range [][2]Contender{{kernel, DNAT(false)}, {proxy, HAProxy()}, {proxy, NginxStream()}} {
		if err := pair[1].Missing(); err != nil {
			t.Logf("left out: %v", err)
			continue
		}
		var costs [2][]float64
		var ratios []float64
		for range *labRounds {
			for i, c := range pair {
				r, err := Trial{Contender: c, Program: spillway(t), Usual: *labRate * 0.8, Busy: *labRate * 0.8, Kept: -1, Alone: true,
					UsualFor: time.Second, BusyFor: 5 * time.Second, AfterFor: time.Millisecond}.Run()
				if err != nil {
					t.Fatalf("%s: %v", c.Name, err)
				}
				served := r.Tally.Attempts.Between(time.Second, r.Length).Count(OK)
				cost := r.CPUHealthy.Relay * (r.Length - time.Second).Seconds() / float64(max(served, 1)) * 1e5
				costs[i] = append(costs[i], cost)
				fmt.Printf("%s: %.2f s per 100,000, %d served, core %s\n", c.Name, cost, served, r.CPUHealthy)
			}
			n := len(ratios)
			ratios = append(ratios, costs[0][n]/costs[1][n])
		}
		slices.Sort(ratios)
		for i := range costs {
			slices.Sort(costs[i])
		}
		mid := *labRounds / 2
		fmt.Fprintf(&md, "| %s | %s | %.2f | %.2f | %.2f | %.2f | %.2f |\n", pair[0].Name, pair[1].Name, costs[0][mid], costs[1][mid], ratios[mid], ratios[0], ratios[len(ratios)-1])
		write(t, "cost.md", md.Bytes())
	}
	fmt.Printf("\n%s\n", md.Bytes())
}

// machine says what the figures are of.
func machine() string { return sys.Machine() + ", " + time.Now().UTC().Format(time.DateOnly) + "." }

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	err := os.MkdirAll(*labOut, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(*labOut, name), b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func writeJSON(t *testing.T, name string, r *Report) {
	t.Helper()
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, append(b, '\n'))
}
