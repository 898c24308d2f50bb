//go:build linux

package bench

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"spillway/internal/sys"
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

// entrant is a server, and what loads it for a turn. The load ends when the server has nothing more to do with it.
type entrant struct {
	server
	load func() (Count, error)
}

// inTurn loads all in turn, *rounds times: of each its samples.
func inTurn(tb testing.TB, all []entrant) [][]sample {
	tb.Helper()
	turns := make([][]sample, len(all))
	for range *rounds {
		for i, e := range all {
			turns[i] = append(turns[i], e.measure(tb))
		}
	}
	return turns
}

// contest is what comes of turns.
func contest(tb testing.TB, all ...entrant) []outcome {
	tb.Helper()
	turns := inTurn(tb, all)
	outcomes := make([]outcome, len(all))
	for i := range outcomes {
		for j := range all {
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
		tb.Logf("%-18s %s (%s to %s), %.0f/s, %.0f a core, %.3f sleeps, the client had %.0f %% of its core", all[i].name, m, t[0], t[len(t)-1], m.rate,
			float64(time.Second)/float64(m.perAnnounce), m.sleeps, 100*m.client)
	}
	return outcomes
}

func median[T cmp.Ordered](all []T) T {
	all = slices.Clone(all)
	slices.Sort(all)
	return all[len(all)/2]
}

// measure loads a server for one turn.
func (e entrant) measure(tb testing.TB) sample {
	tb.Helper()
	before, sleptBefore := usage(tb, e.server)
	n, err := e.load()
	if err != nil {
		tb.Fatalf("%s: %v", e.name, err)
	}
	after, slept := usage(tb, e.server)
	if n.Replies == 0 {
		tb.Fatalf("%s: no replies in %s", e.name, *turn)
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
	cpu, err := sys.ProcessCPU(s.pid)
	if err == nil {
		sleeps, err = sleepsOf(s.pid)
	}
	if err != nil {
		tb.Fatalf("%s: %v", s.name, err)
	}
	return cpu, sleeps
}

// result is a line of the table that a run ends with.
type result struct {
	what, spillway, beside, ratio string
	verdict                       string
}

// results collects the lines of a run.
var results resultTable

type resultTable struct {
	mu    sync.Mutex // guards lines
	lines []result
}

// add takes the place of what an earlier iteration found, if there was one.
func (t *resultTable) add(r result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.IndexFunc(t.lines, func(old result) bool { return old.what == r.what }); i >= 0 {
		t.lines[i] = r
		return
	}
	t.lines = append(t.lines, r)
}

// print writes the table, and the machine it was made on, if a benchmark ran.
func (t *resultTable) print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n\n", machine())
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "measure\tspillway\tbeside\tratio\ttarget")
	for _, r := range t.lines {
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t%s\n", r.what, r.spillway, r.beside, r.ratio, r.verdict)
	}
	tab.Flush()
}

// atMost compares got with the target of a measure; a miss fails the benchmark.
func atMost(tb testing.TB, what string, got, target float64, unit string) (verdict string) {
	tb.Helper()
	if got > target {
		tb.Errorf("%s: got %.3g%s, want at most %.3g%s", what, got, unit, target, unit)
		return fmt.Sprintf("<= %.3g%s MISSED", target, unit)
	}
	return fmt.Sprintf("<= %.3g%s met", target, unit)
}

// atLeast is atMost's opposite.
func atLeast(tb testing.TB, what string, got, target float64) (verdict string) {
	tb.Helper()
	if got < target {
		tb.Errorf("%s: got %.3g, want at least %.3g", what, got, target)
		return fmt.Sprintf(">= %.3g MISSED", target)
	}
	return fmt.Sprintf(">= %.3g met", target)
}

// machine is what a figure is worth nothing without.
func machine() string {
	other := ""
	if out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", "opentracker").Output(); err == nil {
		other = ", opentracker " + string(out)
	}
	return fmt.Sprintf("%s, %s %s/%s%s", sys.Machine(), runtime.Version(), runtime.GOOS, runtime.GOARCH, other)
}

// sleepsOf is how often the threads of a process have gone to sleep of themselves, to wait for something.
func sleepsOf(pid int) (n int, err error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(paths) == 0 {
		return 0, fmt.Errorf("count sleeps: no threads of process %d: %w", pid, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // the thread is gone
		}
		v, err := field(b, "voluntary_ctxt_switches:")
		if err != nil {
			return 0, fmt.Errorf("count sleeps: %s: %w", path, err)
		}
		n += int(v)
	}
	return n, nil
}

// residentBytes is a process's resident memory (Rss of smaps_rollup, exact where statm is not).
func residentBytes(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read resident memory: %w", err)
	}
	kib, err := field(b, "Rss:")
	if err != nil {
		return 0, fmt.Errorf("read resident memory: %s: %w", path, err)
	}
	return kib << 10, nil
}

// field is the number after name at the start of a line.
func field(b []byte, name string) (int64, error) {
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) >= 2 && string(f[0]) == name {
			v, err := strconv.ParseInt(string(f[1]), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s %q: %w", name, f[1], err)
			}
			return v, nil
		}
	}
	return 0, fmt.Errorf("no %s", name)
}

func TestResidentBytesGrowWithUse(t *testing.T) {
	before, err := residentBytes(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	b := make([]byte, size)
	for i := range b {
		b[i] = 1
	}
	after, err := residentBytes(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if grown := after - before; grown < size/2 || grown > 4*size {
		t.Errorf("grown: got %d, want about %d", grown, size)
	}
	if b[size-1] != 1 {
		t.Error("never")
	}
	if _, err := residentBytes(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such process: got %v, want %v", err, os.ErrNotExist)
	}
}
