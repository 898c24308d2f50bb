//go:build linux

package bench

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

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

// machine is what a figure is worth nothing without.
func machine() string {
	model := "unknown"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel := "unknown"
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	other := ""
	if out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", "opentracker").Output(); err == nil {
		other = ", opentracker " + string(out)
	}
	return fmt.Sprintf("%d cores, %s, Linux %s, %s %s/%s%s", runtime.NumCPU(), model, kernel, runtime.Version(), runtime.GOOS, runtime.GOARCH, other)
}
