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

// peak is what bare DNAT serves. The promises name 2,500 and 5,000 connections a second, and with the repeats of those that failed
// there are up to four times as many when a fault ends. Edge, tracker and crowd share a core; where that does not give so many, it is
// what fails: such a machine is tried with less, and says so.
var peak struct {
	sync.Once
	rate float64
}

// usualRate is 2,500, or what is a share of the peak. As many are offered when a fault ends as clients of so many tries make of twice
// the rate.
func usualRate(t testing.TB, share float64) float64 {
	t.Helper()
	peak.Do(func() {
		for range tries {
			r, err := Trial{Contender: DNAT(false), Program: spillway(t), Usual: 1, Kept: -1, UsualFor: time.Second, BusyFor: 2 * time.Second,
				AfterFor: time.Millisecond, AtOnce: 64}.Run()
			if err != nil {
				t.Fatalf("find the peak of bare DNAT: %v", err)
			}
			peak.rate = max(peak.rate, float64(r.Tally.Attempts.Between(time.Second, r.Length).Count(OK))/(r.Length-time.Second).Seconds())
			if !disturbed(r) {
				break
			}
		}
	})
	if peak.rate == 0 {
		t.Fatal("the peak was not found")
	}
	usual := min(2500, peak.rate*share)
	if usual < 2500 {
		t.Logf("bare DNAT serves %.0f connections/s here: promises are held at %.0f and %.0f connections/s, and not at 2,500 and 5,000", peak.rate, usual, 2*usual)
	}
	return usual
}

// The shares of the peak: of clients that try twice, and of those that try four times.
const (
	usualShare = 0.31
	herdShare  = 0.16
)

const tries = 3

// disturbed tells whether a report says more about the machine than about the relay: others had much of the relay's core, the crowd had
// not enough of its own to be on time, or the host gave a core to its other guests.
func disturbed(r *Report) bool {
	const most, mostStolen = 0.05, 0.005
	return r.CPUIdle.Foreign > most || r.CPUHealthy.Foreign > most || r.CPUFault.Foreign > most || float64(r.Behind) > 0.02*float64(len(r.Tally.Attempts)) ||
		r.Stolen > mostStolen
}

// try has a trial judged. What fails is tried again, for even a quiet machine has a bad second: broken is what breaks each time, and
// what breaks while the machine is disturbed is not judged.
func try(t *testing.T, trial Trial, judge func(r *Report, broken func(format string, args ...any))) *Report {
	t.Helper()
	quiet := true
	for n := 1; ; n++ {
		r, err := trial.Run()
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		judge(r, func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) })
		var b strings.Builder
		_ = r.Print(&b)
		if len(said) == 0 {
			t.Logf("%s", b.String())
			return r
		}
		_ = r.Timeline.Print(&b)
		quiet = quiet && !disturbed(r)
		text := fmt.Sprintf("try %d: %s\n%s", n, strings.Join(said, "; "), b.String())
		switch {
		case n < tries:
			t.Log(text)
		case quiet:
			t.Error(text)
			return r
		default:
			t.Skipf("not judged, the machine was disturbed: %s", text)
		}
	}
}
