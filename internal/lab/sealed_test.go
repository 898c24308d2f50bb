//go:build e2e

package lab

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// open makes a lab with a tracker and a contender, which go with the test.
func open(t *testing.T, c Contender) (*Lab, *Tracker, *Running) {
	t.Helper()
	l, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	tracker, err := l.NewTracker(spillway(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tracker.Stop(); err != nil {
			t.Error(err)
		}
	})
	r, err := l.Start(c, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return l, tracker, r
}

// The table of all namespaces' conntrack may be smaller than two minutes of closed connections.
func TestSmallConntrackServesAHealthyBackend(t *testing.T) {
	const key, small = "/proc/sys/net/netfilter/nf_conntrack_max", 16_384
	before, err := os.ReadFile(key)
	if err != nil {
		t.Skipf("this kernel tracks no connections yet: %v", err)
	}
	if err := os.WriteFile(key, []byte(strconv.Itoa(small)), 0o644); err != nil {
		t.Skipf("nf_conntrack_max can be set in the machine's first network namespace only: %v", err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(key, before, 0o644); err != nil {
			t.Errorf("nf_conntrack_max is left at %d: %v", small, err)
		}
	})
	try(t, Trial{
		Contender: Spillway(spillway(t), "kernel"), Program: spillway(t), Usual: usualRate(t, usualShare), Busy: usualRate(t, usualShare), Kept: 200, UsualFor: time.Second, BusyFor: 14 * time.Second,
		AfterFor: time.Millisecond,
	}, func(r *Report, broken func(string, ...any)) {
		if failed := r.Tally.Attempts.Failed(); len(failed) > 0 {
			broken("%d of %d failed: %s", len(failed), len(r.Tally.Attempts), r.Tally.Attempts)
		}
		if r.PeakConntrack > small {
			broken("%d entries of %d", r.PeakConntrack, small)
		}
		if len(r.Tally.Ends) > 0 {
			broken("%d established connections ended", len(r.Tally.Ends))
		}
	})
}

// A lab is no more on the machine when it is closed, or when its process is killed.
func TestNothingIsLeft(t *testing.T) {
	if os.Getenv(victim) != "" {
		l, _, _ := open(t, DNAT(false))
		os.Stdout.WriteString("pids")
		for _, r := range []*Room{l.Edge, l.Relay, l.Backend} {
			for _, p := range r.processes {
				os.Stdout.WriteString(" " + strconv.Itoa(p.cmd.Process.Pid))
			}
		}
		os.Stdout.WriteString("\n")
		select {} // until it is killed
	}
	links := func() string {
		all, err := net.Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, i := range all {
			names = append(names, i.Name)
		}
		return strings.Join(names, " ")
	}
	before := links()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestNothingIsLeft$")
	cmd.Env = append(os.Environ(), victim+"="+spillway(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	pids := strings.Fields(line)
	if err != nil || len(pids) < 2 || pids[0] != "pids" {
		t.Fatalf("the victim said %q, %v", line, err)
	}
	if got := links(); got != before {
		t.Errorf("a lab's links are on the machine: %s; before: %s", got, before)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, s := range pids[1:] {
		pid, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		gone := time.Now().Add(5 * time.Second)
		for !errors.Is(unix.Kill(pid, 0), unix.ESRCH) && time.Now().Before(gone) {
			time.Sleep(10 * time.Millisecond)
		}
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			if b, _ := os.ReadFile("/proc/" + s + "/stat"); !strings.Contains(string(b), ") Z ") { // init may be slow to bury it
				t.Errorf("process %d lives on: %s", pid, b)
			}
		}
	}
	if got := links(); got != before {
		t.Errorf("links that were not there before: %s; before: %s", got, before)
	}
}

// victim is set in the environment of the test that is killed: its spillway. It is no SPILLWAY_...: those are keys of the configuration.
const victim = "LAB_VICTIM"
