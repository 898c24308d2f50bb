//go:build e2e

package systemd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// machine is a Debian that systemd has booted, with a root, processes, network and cgroups of its own (testdata/root.sh).
type machine struct {
	systemd *exec.Cmd
}

const namespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC

// boot returns a machine on which systemd has started all there is, or skips the test where that cannot be had. Whatever runs on it
// ends with the test, also when the test is killed.
func boot(t *testing.T) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("booting systemd needs root")
	}
	dir, group := debian(t), cgroup(t)
	m := &machine{systemd: exec.Command("sh", "testdata/root.sh", "boot", dir, group)}
	m.systemd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL}
	var errs bytes.Buffer
	m.systemd.Stderr = &errs
	out, err := m.systemd.StdoutPipe()
	if err == nil {
		err = m.systemd.Start()
	}
	if err != nil {
		t.Skipf("no namespaces to boot systemd in: %v", err)
	}
	t.Cleanup(func() { _ = m.systemd.Process.Kill(); _ = m.systemd.Wait() })
	b := make([]byte, 1000)
	if n, _ := out.Read(b); string(b[:n]) != "ready\n" {
		_ = m.systemd.Process.Kill()
		_ = m.systemd.Wait()
		t.Skipf("no root to boot systemd in: %s%s", b[:n], &errs)
	}
	// Before the package is there, whatever fails is not the package's fault.
	deadline := time.Now().Add(time.Minute)
	for {
		out, err := m.try(t, "systemctl is-system-running")
		if state := strings.TrimSpace(out); state == "running" || state == "degraded" {
			return m
		}
		if time.Now().After(deadline) {
			t.Skipf("systemd does not boot here within a minute: %s: %v", out, err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// debian is the directory of the root, made once and kept where caches are.
func debian(t *testing.T) string {
	t.Helper()
	caches, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("no place to keep a Debian in: %v", err)
	}
	caches = filepath.Join(caches, "spillway")
	kept := filepath.Join(caches, "debian-bookworm-1") // another number when root.sh makes another
	if _, err := os.Stat(kept); err == nil {
		return kept
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		t.Skip("no debootstrap here: .ci/install")
	}
	if err := os.MkdirAll(caches, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(caches, "new-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "room"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	began := time.Now()
	// It unpacks, and runs nothing of what it unpacks.
	out, err := exec.CommandContext(ctx, "debootstrap", "--foreign", "--variant=minbase", "--include=systemd,systemd-sysv", "bookworm",
		filepath.Join(dir, "first"), "http://deb.debian.org/debian").CombinedOutput()
	if err != nil {
		t.Skipf("no Debian to be had: debootstrap: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(ctx, "sh", "testdata/root.sh", "make", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("no Debian to be had: root.sh make: %v\n%s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(dir, "work")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "room", "root")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, kept); err != nil {
		if _, there := os.Stat(kept); there != nil {
			t.Fatal(err)
		}
	}
	t.Logf("a Debian was made in %v: %s", time.Since(began).Round(time.Second), kept)
	return kept
}

// cgroup is a new group, for systemd to be the root of: below this process's own, in the hierarchy of version 2.
func cgroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	at := regexp.MustCompile(`(?m)^\d+ \d+ \S+ / (\S+) .* - cgroup2 `).FindSubmatch(mounts)
	below := regexp.MustCompile(`(?m)^0::(/.*)$`).FindSubmatch(own)
	if at == nil || below == nil {
		t.Skip("no cgroups of version 2 here, which systemd is to keep its services in")
	}
	group, err := os.MkdirTemp(filepath.Join(string(at[1]), string(below[1])), "spillway-test-")
	if err != nil {
		t.Skipf("no cgroup for systemd: %v", err)
	}
	t.Cleanup(func() {
		// Groups go once the last process in them has gone; inner ones first.
		waittest.Done(t, time.Minute, "an empty cgroup", func() error {
			out, err := exec.Command("find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").CombinedOutput()
			if _, gone := os.Stat(group); os.IsNotExist(gone) {
				return nil
			}
			return fmt.Errorf("%w: %s", err, out)
		})

	})
	return group
}

// command is a script on the machine. Where the machine is not what it is to be, nothing is run.
func (m *machine) command(ctx context.Context, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", "-t", fmt.Sprint(m.systemd.Process.Pid), "-m", "-n", "-p", "-u", "-i", "-C", "/bin/sh", "-ec",
		"cd /; [ -e /.spillway-test-root ] || { echo not on the machine; exit 99; }\n"+script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER=", "HOME=/root"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	return cmd
}

func (m *machine) try(t *testing.T, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute)
	defer cancel()
	out, err := m.command(ctx, script).CombinedOutput()
	return string(out), err
}

func (m *machine) run(t *testing.T, script string) string {
	t.Helper()
	out, err := m.try(t, script)
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// ask is a program of this machine's, in the other's network.
func (m *machine) ask(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"-t", fmt.Sprint(m.systemd.Process.Pid), "-n", name}, args...)...).CombinedOutput()
	return string(out), err
}

// announce is what a client is answered, one whose port tells it from others.
func (m *machine) announce(t *testing.T, port int, left string) (string, error) {
	t.Helper()
	return m.ask(t, "curl", "-sS", "-m", "20", fmt.Sprintf(
		"http://127.0.0.1:6969/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-qB4500-0000000%05d&port=%d&left=%s", port, port, left))
}

// is says what systemd knows of a unit.
func (m *machine) is(t *testing.T, unit, property string) string {
	t.Helper()
	return strings.TrimSpace(m.run(t, "systemctl show -P "+property+" "+unit))
}

// put copies a file of this machine on the other.
func (m *machine) put(t *testing.T, from, to string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := m.command(t.Context(), "cat > "+to)
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("put %s: %v\n%s", to, err, out)
	}
}
