//go:build e2e

package profile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"spillway/internal/netnstest"
)

// TestMain runs the tests in a network namespace of their own: no key of the machine's is touched.
func TestMain(m *testing.M) {
	if os.Getenv(dying) != "" {
		die()
	}
	netnstest.Main(func() error { return nil }, func() { goleak.VerifyTestMain(m) })
}

// netKeys are all keys that the tests may change, as the kernel has them.
func netKeys(t *testing.T) map[string]string {
	t.Helper()
	values := map[string]string{}
	for _, dir := range []string{"net/ipv4", "net/ipv6/conf", "net/netfilter"} {
		err := filepath.WalkDir(filepath.Join(ProcSys, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || strings.Contains(path, "/nf_conntrack_count") {
				return err
			}
			if content, err := os.ReadFile(path); err == nil { // some can only be written
				values[path] = blanks(string(content))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return values
}

func wantKeys(t *testing.T, want map[string]string) {
	t.Helper()
	now := netKeys(t)
	for path, value := range want {
		if now[path] != value {
			t.Errorf("%s: got %q, want %q", path, now[path], value)
		}
	}
}

// mine are the keys that can be written in this namespace: what only the first can is the machine's.
func mine(keys []Key) []Key {
	return slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { return k.first })
}

// links makes an interface that listens to routers, with a dot in its name, and one that forwards already.
func links(t *testing.T) {
	t.Helper()
	out, err := exec.Command("sh", "-ec", "ip link add pf0 type veth peer name pf0.1; sysctl -qw net.ipv6.conf.pf0.forwarding=1").CombinedOutput()
	if err != nil {
		t.Fatalf("make interfaces: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "link", "del", "pf0").CombinedOutput(); err != nil {
			t.Errorf("ip link del: %v: %s", err, out)
		}
	})
}

// The tests of the real kernel change the same keys, so none of them is parallel.

func TestKernelApplyDriftRevert(t *testing.T) {
	links(t)
	before := netKeys(t)
	stateFile := filepath.Join(t.TempDir(), "profile.json")
	keys := mine(Keys(ProcSys, all))
	for _, k := range Keys(ProcSys, Options{Role: Proxy, FastFail: true, Extra: true}) {
		if k.Name == "net.ipv4.ip_local_port_range" { // a relay in kernel mode has no use for it
			keys = append(keys, k)
		}
	}
	if !slices.ContainsFunc(keys, func(k Key) bool { return k.Name == "net.ipv6.conf.pf0/1.accept_ra" }) ||
		slices.ContainsFunc(keys, func(k Key) bool { return k.Name == "net.ipv6.conf.pf0.accept_ra" }) {
		t.Errorf("interfaces that listen to routers: %v", keys)
	}

	changed, problems := Apply(ProcSys, stateFile, keys)
	wantNoProblems(t, problems)
	if len(changed) < 15 {
		t.Errorf("changed: %v", changed)
	}
	applied := Read(ProcSys, keys)
	if off := Off(applied); len(off) > 0 {
		t.Errorf("off after apply: %q", off)
	}

	if out, err := exec.Command("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_close=33").CombinedOutput(); err != nil {
		t.Fatalf("sysctl: %v: %s", err, out)
	}
	drifted := Drift(applied, Read(ProcSys, keys))
	if len(drifted) != 1 || drifted[0].Name != "net.netfilter.nf_conntrack_tcp_timeout_close" || drifted[0].Before != "5" || drifted[0].Found != "33" {
		t.Errorf("drift: %+v", drifted)
	}

	_, problems = Revert(ProcSys, stateFile)
	if len(problems) != 1 || !errors.Is(problems[0], errForeign) {
		t.Errorf("problems of revert: %v", problems)
	}
	path, _ := keyPath(ProcSys, "net.netfilter.nf_conntrack_tcp_timeout_close")
	if got, _ := readKey(ProcSys, "net.netfilter.nf_conntrack_tcp_timeout_close"); got != "33" {
		t.Errorf("somebody else's value: got %s, want 33", got)
	}
	if err := writeValue(path, before[path]); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, before)
}

func TestKernelKilledBetweenWrites(t *testing.T) {
	links(t)
	before := netKeys(t)
	stateFile := filepath.Join(t.TempDir(), "profile.json")
	for n := 0; n < 15; n += 2 {
		killed(t, ProcSys, stateFile, n)
		_, problems := Revert(ProcSys, stateFile)
		wantNoProblems(t, problems)
		wantKeys(t, before)
	}
}

// The first namespace's keys are said to be that, not a want of a right.
func TestKernelFirstNamespaceOnly(t *testing.T) {
	k := Key{Name: "net.netfilter.nf_conntrack_max", Want: "4000000000", AtLeast: true, Effect: Always, first: true}
	changed, problems := Apply(ProcSys, filepath.Join(t.TempDir(), "profile.json"), []Key{k})
	if len(changed) > 0 || len(problems) != 1 || !strings.Contains(problems[0].Error(), "only the first network namespace") {
		t.Errorf("changed %v, problems %v", changed, problems)
	}
}

func TestKernelWithoutTheRight(t *testing.T) {
	dir := t.TempDir()
	keys := mine(Keys(ProcSys, all))
	before := netKeys(t)
	type result struct {
		off      []string
		changed  []Change
		problems []error
		err      error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends, nobody's
		var r result
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			r.err = errno
		} else {
			r.off = Off(Read(ProcSys, keys))
			r.changed, r.problems = Apply(ProcSys, filepath.Join(dir, "profile.json"), keys)
		}
		done <- r
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	want := fmt.Sprintf("%s and %d more: not permitted; needs root or CAP_NET_ADMIN", r.off[0], len(r.off)-1)
	if len(r.changed) > 0 || len(r.problems) != 1 || !errors.Is(r.problems[0], ErrRight) || r.problems[0].Error() != want {
		t.Errorf("changed %v, problems %v, want %q", r.changed, r.problems, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "profile.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a state without a change: %v", err)
	}
	wantKeys(t, before)
}

// Values that another namespace had are not put into this one.
func TestKernelStateOfAnotherNamespace(t *testing.T) {
	stateFile := filepath.Join(t.TempDir(), "profile.json")
	s := here(ProcSys)
	if s.Namespace == "" || s.Boot == "" {
		t.Errorf("here: %+v", s)
	}
	s.Namespace = "net:[1]"
	now, err := readKey(ProcSys, forward4)
	if err != nil {
		t.Fatal(err)
	}
	s.Keys = []saved{{Name: forward4, Was: "1", Set: now}}
	if err := s.write(stateFile); err != nil {
		t.Fatal(err)
	}
	restored, problems := Revert(ProcSys, stateFile)
	if len(restored) > 0 || len(problems) != 1 || !strings.Contains(problems[0].Error(), "revert there") {
		t.Errorf("restored %v, problems %v", restored, problems)
	}
	if _, err := os.Stat(stateFile); err != nil {
		t.Errorf("the state is gone: %v", err)
	}
}

// The files do what the program does, as sysctl reads them.
func TestKernelShippedFiles(t *testing.T) {
	before := netKeys(t)
	t.Cleanup(func() {
		for path, value := range before {
			if now, err := os.ReadFile(path); err == nil && blanks(string(now)) != value {
				if err := writeValue(path, value); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for _, file := range []string{"99-tracker.conf", "99-tracker-extra.conf"} {
		// Refused here: what only the first namespace can write. Nothing else may be said.
		out, _ := exec.Command("sysctl", "-p", "../../deploy/sysctl/"+file).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "sysctl:") && !strings.Contains(line, "nf_conntrack_max") && !strings.Contains(line, "nf_conntrack_buckets") {
				t.Errorf("sysctl -p %s: %s", file, line)
			}
		}
	}
	for _, role := range []Role{Kernel, Proxy, Backend} {
		keys := mine(Keys(ProcSys, Options{Role: role, FastFail: true, Extra: true}))
		keys = slices.DeleteFunc(keys, func(k Key) bool { return k.Block == Forwarding })
		if off := Off(Read(ProcSys, keys)); len(off) > 0 {
			t.Errorf("%s: off after sysctl -p: %q", role, off)
		}
	}
}

func TestKernelIsAskedForConntrack(t *testing.T) {
	if err := askConntrack(); err != nil {
		t.Error(err)
	}
	if err := loadConntrack(); err != nil {
		t.Error(err)
	}
}
