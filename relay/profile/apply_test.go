package profile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// defaults are a kernel's of 1 GB, with an interface that listens to routers and one that forwards.
var defaults = []string{
	"net.ipv4.tcp_tw_reuse", "2", "net.netfilter.nf_conntrack_max", "65536", "net.netfilter.nf_conntrack_tcp_timeout_syn_sent", "120",
	"net.netfilter.nf_conntrack_tcp_timeout_syn_recv", "60", "net.netfilter.nf_conntrack_tcp_timeout_fin_wait", "120",
	"net.netfilter.nf_conntrack_tcp_timeout_close_wait", "60", "net.netfilter.nf_conntrack_tcp_timeout_last_ack", "30",
	"net.ipv4.tcp_max_syn_backlog", "128", "net.ipv4.tcp_abort_on_overflow", "0", "net.ipv4.tcp_syncookies", "1",
	"net.netfilter.nf_conntrack_tcp_timeout_time_wait", "120", "net.netfilter.nf_conntrack_tcp_timeout_close", "10",
	"net.netfilter.nf_conntrack_tcp_timeout_established", "432000", "net.netfilter.nf_conntrack_tcp_loose", "1",
	"net.netfilter.nf_conntrack_buckets", "16384", "net.ipv4.ip_local_port_range", "32768\t60999", "net.ipv4.tcp_early_demux", "1", "net.ipv4.ip_forward", "0",
	"net.ipv6.conf.all.forwarding", "0", "net.ipv6.conf.eth0.accept_ra", "1", "net.ipv6.conf.eth0.forwarding", "0",
	"net.ipv6.conf.wg0.accept_ra", "0", "net.ipv6.conf.wg0.forwarding", "1", "kernel.random.boot_id", "one",
}

var all = Options{Role: Kernel, FastFail: true, Extra: true, IPv6: true}

// fake is a root with defaults, a state file, and the keys of a relay.
func fake(t testing.TB) (root, stateFile string, keys []Key) {
	t.Helper()
	root = t.TempDir()
	put(t, root, defaults...)
	return root, filepath.Join(t.TempDir(), "profile.json"), Keys(root, all)
}

// dump is all that is below root.
func dump(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s=%s\n", strings.TrimPrefix(path, root), blanks(string(content)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func wantNoProblems(t testing.TB, problems []error) {
	t.Helper()
	if len(problems) > 0 {
		t.Fatalf("problems: %v", problems)
	}
}

func TestApplyAndRevert(t *testing.T) {
	t.Parallel()
	root, stateFile, keys := fake(t)
	before := dump(t, root)

	changed, problems := Apply(root, stateFile, keys)
	wantNoProblems(t, problems)
	if want := len(keys) - 1; len(changed) != want { // tcp_syncookies is 1 already
		t.Errorf("changed: got %v, want %d", changed, want)
	}
	if (changed[0] != Change{"net.ipv4.tcp_tw_reuse", "2", "1"}) {
		t.Errorf("first change: got %v", changed[0])
	}
	if off := Off(Read(root, keys)); len(off) > 0 {
		t.Errorf("off after apply: %q", off)
	}
	info, err := os.Stat(stateFile)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("state file: %v %v", info, err)
	}

	// Applied again, also after others have meddled: the originals stay.
	put(t, root, "net.ipv4.tcp_tw_reuse", "0", "net.netfilter.nf_conntrack_tcp_timeout_close", "77")
	changed, problems = Apply(root, stateFile, keys)
	wantNoProblems(t, problems)
	if len(changed) != 2 || changed[1].Old != "77" {
		t.Errorf("changed again: got %v", changed)
	}
	changed, problems = Apply(root, stateFile, keys)
	wantNoProblems(t, problems)
	if len(changed) != 0 {
		t.Errorf("changed a third time: got %v", changed)
	}

	restored, problems := Revert(root, stateFile)
	wantNoProblems(t, problems)
	if got := dump(t, root); got != before {
		t.Errorf("after revert:\n%s\nwant:\n%s", got, before)
	}
	if len(restored) != len(keys)-1 || restored[0].Name != "net.ipv6.conf.all.forwarding" {
		t.Errorf("restored: got %v; what was written last comes first", restored)
	}
	if _, err := os.Stat(stateFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("state file after revert: %v", err)
	}
	restored, problems = Revert(root, stateFile)
	wantNoProblems(t, problems)
	if len(restored) > 0 {
		t.Errorf("reverted twice: %v", restored)
	}
}

// The kernel drops the routes it has learned at the moment it begins to forward, where accept_ra is not 2 by then.
func TestRoutersAreHeardBeforeForwarding(t *testing.T) {
	t.Parallel()
	root, stateFile, keys := fake(t)
	changed, _ := Apply(root, stateFile, keys)
	last := changed[len(changed)-1]
	if last.Name != "net.ipv6.conf.all.forwarding" || changed[len(changed)-2].Name != "net.ipv6.conf.eth0.accept_ra" {
		t.Errorf("the last two: %v", changed[len(changed)-2:])
	}
}

// Turning forwarding on for all turns it on for each, and off: an interface that had it before has it after.
func TestRevertLeavesForwardingToWhoHadIt(t *testing.T) {
	t.Parallel()
	root, stateFile, keys := fake(t)
	k := open(root)
	k.write = func(path, value string) error {
		if strings.HasSuffix(path, "ipv6/conf/all/forwarding") {
			put(t, root, "net.ipv6.conf.eth0.forwarding", value, "net.ipv6.conf.wg0.forwarding", value) // as the kernel does
		}
		return writeValue(path, value)
	}
	before := dump(t, root)
	_, problems := k.apply(stateFile, keys)
	wantNoProblems(t, problems)
	if v, _ := readKey(root, "net.ipv6.conf.eth0.forwarding"); v != "1" {
		t.Fatalf("eth0 forwards: got %s", v)
	}
	_, problems = k.revert(stateFile)
	wantNoProblems(t, problems)
	if got := dump(t, root); got != before {
		t.Errorf("after revert:\n%s\nwant:\n%s", got, before)
	}
}

func TestRevertLeavesAloneWhatOthersChanged(t *testing.T) {
	t.Parallel()
	root, stateFile, keys := fake(t)
	_, problems := Apply(root, stateFile, keys)
	wantNoProblems(t, problems)
	put(t, root, "net.ipv4.tcp_tw_reuse", "0")
	_, problems = Revert(root, stateFile)
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), "net.ipv4.tcp_tw_reuse: is 0, was 2, and was set to 1: somebody else") {
		t.Errorf("problems: %v", problems)
	}
	if v, _ := readKey(root, "net.ipv4.tcp_tw_reuse"); v != "0" {
		t.Errorf("somebody else's value: got %s, want 0", v)
	}
	if _, err := os.Stat(stateFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("state file after revert: %v", err)
	}
}

// What could not be put back is tried again by the next revert.
func TestRevertTriesAgain(t *testing.T) {
	t.Parallel()
	root, stateFile, keys := fake(t)
	before := dump(t, root)
	_, problems := Apply(root, stateFile, keys)
	wantNoProblems(t, problems)
	k := open(root)
	k.write = func(path, value string) error {
		if strings.Contains(path, "timeout_close") { // two of them
			return &fs.PathError{Op: "write", Path: path, Err: unix.EIO} // the names in the message are of keys
		}
		return writeValue(path, value)
	}
	if _, problems = k.revert(stateFile); len(problems) != 1 || !strings.Contains(problems[0].Error(), " and 1 more: input/output error") {
		t.Errorf("problems: %v", problems)
	}
	restored, problems := Revert(root, stateFile)
	wantNoProblems(t, problems)
	if len(restored) != 2 || dump(t, root) != before {
		t.Errorf("restored %v, then:\n%s", restored, dump(t, root))
	}
}

// After a reboot nothing is as we wrote it, and the values from before are those the machine has now.
func TestStateOfAnEarlierBootIsForgotten(t *testing.T) {
	t.Parallel()
	root, stateFile, keys := fake(t)
	_, problems := Apply(root, stateFile, keys)
	wantNoProblems(t, problems)
	reboot := func(id string) {
		put(t, root, defaults...)
		put(t, root, "kernel.random.boot_id", id, "net.ipv4.tcp_tw_reuse", "0")
	}
	reboot("two")
	_, problems = Apply(root, stateFile, keys)
	wantNoProblems(t, problems)
	_, problems = Revert(root, stateFile)
	wantNoProblems(t, problems)
	if v, _ := readKey(root, "net.ipv4.tcp_tw_reuse"); v != "0" {
		t.Errorf("after revert: got %s, want what the second boot had", v)
	}

	_, problems = Apply(root, stateFile, keys)
	wantNoProblems(t, problems)
	put(t, root, "kernel.random.boot_id", "three") // and sysctl.d has brought the profile
	restored, problems := Revert(root, stateFile)
	wantNoProblems(t, problems)
	if len(restored) > 0 {
		t.Errorf("restored what the boot has set: %v", restored)
	}
	if _, err := os.Stat(stateFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("state file after revert: %v", err)
	}
}

// A relay without its state is better than a relay without its profile.
func TestDamagedStateIsKeptAndSaid(t *testing.T) {
	t.Parallel()
	root, stateFile, keys := fake(t)
	writeFile(t, stateFile, `{"version":1,"keys":[{"na`)
	changed, problems := Apply(root, stateFile, keys)
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), "move the file away") || len(changed) != len(keys)-1 {
		t.Errorf("changed %v, problems %v", changed, problems)
	}
	if content, _ := os.ReadFile(stateFile); string(content) != `{"version":1,"keys":[{"na` {
		t.Errorf("the file was written over: %q", content)
	}
	if restored, problems := Revert(root, stateFile); len(restored) != 0 || len(problems) != 1 {
		t.Errorf("revert: %v, %v", restored, problems)
	}
	if _, err := os.Stat(stateFile); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}

func TestApplyWithoutADirectoryForItsState(t *testing.T) {
	t.Parallel()
	root, _, keys := fake(t)
	changed, problems := Apply(root, filepath.Join(t.TempDir(), "none/profile.json"), keys)
	if len(changed) != len(keys)-1 || len(problems) != 1 || !strings.Contains(problems[0].Error(), "revert will not know") {
		t.Errorf("changed %v, problems %v", changed, problems)
	}
}

func TestStateIsNotFollowedElsewhere(t *testing.T) {
	t.Parallel()
	root, stateFile, keys := fake(t)
	target := filepath.Join(t.TempDir(), "target")
	writeFile(t, target, "precious")
	if err := os.Symlink(target, stateFile); err != nil {
		t.Fatal(err)
	}
	if _, problems := Apply(root, stateFile, keys); len(problems) != 1 {
		t.Errorf("problems: %v", problems)
	}
	if content, _ := os.ReadFile(target); string(content) != "precious" {
		t.Errorf("the target was written: %q", content)
	}
	// Nor does a FIFO hang it.
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, problems := Revert(root, fifo); len(problems) != 1 {
		t.Errorf("problems: %v", problems)
	}
}

func TestConntrackIsLoadedWhereItIsNeeded(t *testing.T) {
	t.Parallel()
	f := func(role Role, loads bool, wantLoads, wantProblems int) {
		t.Helper()
		root := t.TempDir()
		put(t, root, "net.ipv4.tcp_tw_reuse", "2", "net.ipv4.tcp_max_syn_backlog", "128", "net.ipv4.tcp_abort_on_overflow", "0",
			"net.ipv4.tcp_syncookies", "1", "net.ipv4.ip_forward", "0")
		loaded := 0
		k := open(root)
		k.load = func() error {
			loaded++
			if loads {
				put(t, root, defaults...)
			}
			return nil
		}
		keys := Keys(root, Options{Role: role, FastFail: true})
		_, problems := k.apply(filepath.Join(t.TempDir(), "profile.json"), keys)
		if loaded != wantLoads || len(problems) != wantProblems {
			t.Errorf("%s: loaded %d times, want %d; problems %v, want %d", role, loaded, wantLoads, problems, wantProblems)
		}
		if off := Off(Read(root, keys)); wantProblems == 0 && len(off) > 0 {
			t.Errorf("%s: off: %q", role, off)
		}
	}
	f(Kernel, true, 1, 0)
	f(Kernel, false, 1, 1) // one message, not six
	f(Backend, false, 0, 0)
}

func TestTwoDoNotApplyAtOnce(t *testing.T) {
	t.Parallel()
	root, stateFile, keys := fake(t)
	_, problems := Apply(root, stateFile, keys)
	wantNoProblems(t, problems)
	unlock, err := lockDir(stateFile)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if restored, problems := Revert(root, stateFile); len(restored) > 0 || len(problems) != 1 || !strings.Contains(problems[0].Error(), "try again") {
		t.Errorf("restored %v, problems %v", restored, problems)
	}
}

// dying is set in the environment of a process that is to be killed while it applies: root, state file, writes.
const dying = "SPILLWAY_PROFILE_DYING"

// die is that process.
func die() {
	words := strings.Split(os.Getenv(dying), "|")
	left, _ := strconv.Atoi(words[2])
	k := open(words[0])
	k.write = func(path, value string) error {
		if left == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		left--
		return writeValue(path, value)
	}
	k.apply(words[1], Keys(words[0], all))
	os.Exit(0)
}

// killed runs apply in a process that is killed before write number n.
func killed(t *testing.T, root, stateFile string, n int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%d", dying, root, stateFile, n))
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("killed before write %d: %v", n, err)
	}
}

func TestKilledBetweenWrites(t *testing.T) {
	t.Parallel()
	root, stateFile, keys := fake(t)
	before := dump(t, root)
	for n := range len(keys) - 1 {
		killed(t, root, stateFile, n)
		if n%2 == 0 {
			_, problems := Apply(root, stateFile, keys) // the next start
			wantNoProblems(t, problems)
			if off := Off(Read(root, keys)); len(off) > 0 {
				t.Errorf("killed before write %d, applied again: off: %q", n, off)
			}
		}
		_, problems := Revert(root, stateFile)
		wantNoProblems(t, problems)
		if got := dump(t, root); got != before {
			t.Fatalf("killed before write %d, after revert:\n%s\nwant:\n%s", n, got, before)
		}
	}
}
