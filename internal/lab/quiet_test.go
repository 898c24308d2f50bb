//go:build e2e

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// program builds the spillway that is tried, once for all tests.
var program = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(victim); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "spillway-lab-program-")
	if err != nil {
		return "", err
	}
	atEnd = append(atEnd, func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "spillway")
	cmd := exec.Command("go", "build", "-o", path, "spillway/cmd/spillway")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build spillway: %w: %s", err, out)
	}
	return path, nil
})

func spillway(t testing.TB) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// rate is what the promises are held at. They name 2,500 and 5,000 connections a second, and repeats make four times as many of
// these in a fault, all of which come at once when it ends. Where edge, tracker and crowd share a core that does not give that, they
// are what fails: such a machine is tried with less, and says so.
var rate struct {
	sync.Once
	usual, peak float64
}

func usualRate(t testing.TB) float64 {
	t.Helper()
	rate.Do(func() {
		for range tries {
			r, err := Trial{Contender: DNAT(false), Program: spillway(t), Usual: 1, Kept: -1, UsualFor: time.Second, BusyFor: 2 * time.Second,
				AfterFor: time.Millisecond, AtOnce: 64}.Run()
			if err != nil {
				t.Fatalf("find the peak of bare DNAT: %v", err)
			}
			rate.peak = max(rate.peak, float64(r.Tally.Attempts.Between(time.Second, r.Length).Count(OK))/(r.Length-time.Second).Seconds())
			if !disturbed(r) {
				break
			}
		}
		rate.usual = min(2500, rate.peak/peakOfUsual)
	})
	if rate.usual == 0 {
		t.Fatal("the peak was not found")
	}
	if rate.usual < 2500 {
		t.Logf("bare DNAT serves %.0f connections/s here: promises are held at %.0f and %.0f connections/s, and not at 2,500 and 5,000", rate.peak, rate.usual, 2*rate.usual)
	}
	return rate.usual
}

const (
	peakOfUsual = 6
	tries       = 3
)

// disturbed tells whether a report says more about the machine than about the relay: others had much of the relay's core, or the
// crowd had not enough of its own to be on time.
func disturbed(r *Report) bool {
	const most = 0.05
	return r.CPUIdle.Foreign > most || r.CPUHealthy.Foreign > most || r.CPUFault.Foreign > most || float64(r.Behind) > 0.02*float64(len(r.Tally.Attempts))
}

// try has a trial judged. What fails on a machine that was disturbed is tried again; a promise that is broken in quiet is broken.
func try(t *testing.T, trial Trial, judge func(r *Report, broken func(format string, args ...any))) *Report {
	t.Helper()
	for n := 1; ; n++ {
		r, err := trial.Run()
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		judge(r, func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) })
		var b strings.Builder
		_ = r.Print(&b)
		switch {
		case len(said) == 0:
			t.Logf("%s", b.String())
			return r
		case disturbed(r) && n < tries:
			_ = r.Timeline.Print(&b)
			t.Logf("try %d, disturbed by others on the machine: %s\n%s", n, strings.Join(said, "; "), b.String())
			continue
		}
		_ = r.Timeline.Print(&b)
		quiet := "in quiet"
		if disturbed(r) {
			quiet = fmt.Sprintf("disturbed each of %d times", tries)
		}
		t.Errorf("%s: %s\n%s", quiet, strings.Join(said, "\n"), b.String())
		return r
	}
}
