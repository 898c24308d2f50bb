//go:build e2e

package hosts_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// spillway is the program under test, built once, in a directory of its own that hosts see.
var spillway string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "spillway-hosts-")
	if err == nil {
		spillway = filepath.Join(dir, "spillway")
		_ = os.Chmod(dir, 0o755) // for programs that are not root
		build := exec.Command("go", "build", "-trimpath", "-o", spillway, "spillway/cmd/spillway")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = build.CombinedOutput(); err != nil {
			err = fmt.Errorf("build spillway: %w: %s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// host is a machine of its own as far as programs can tell: its network, its processes, and an /etc, /usr, /var, /run and /tmp whose
// changes go with it. The rest of the machine's files can be read and not changed. Whatever runs in it ends with its first process,
// and that with the test, also when the test is killed. Nothing in it is systemd.
type host struct {
	name  string
	first *exec.Cmd
}

// furnish is what a host's first process does. The program under test is at /run/bin/spillway.
const furnish = `set -e
mount --make-rprivate /
mount -o remount,bind,ro /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/bin /run/over
mount --bind "$BIN" /run/bin
mount -t tmpfs -o mode=1777 tmpfs /tmp
for d in etc usr var; do
	mkdir -p /run/over/$d/upper /run/over/$d/work
	mount -t overlay overlay -o lowerdir=/$d,upperdir=/run/over/$d/upper,workdir=/run/over/$d/work /$d
done
ip link set lo up
echo ready
exec sleep infinity`

func newHost(t *testing.T, name string) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("hosts need root")
	}
	h := &host{name: name, first: exec.Command("sh", "-c", furnish)}
	h.first.Env = append(os.Environ(), "BIN="+filepath.Dir(spillway))
	h.first.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL,
	}
	var errs bytes.Buffer
	h.first.Stderr = &errs
	out, err := h.first.StdoutPipe()
	if err == nil {
		err = h.first.Start()
	}
	if err != nil {
		t.Fatalf("host %s: %v", name, err)
	}
	t.Cleanup(func() { _ = h.first.Process.Kill(); _ = h.first.Wait() })
	b := make([]byte, 100)
	if n, _ := out.Read(b); string(b[:n]) != "ready\n" {
		_ = h.first.Process.Kill()
		_ = h.first.Wait()
		t.Fatalf("host %s: %s", name, &errs)
	}
	return h
}

// command is a script in the host.
func (h *host) command(ctx context.Context, script string) *exec.Cmd {
	pid := fmt.Sprint(h.first.Process.Pid)
	cmd := exec.CommandContext(ctx, "nsenter", "-t", pid, "-m", "-n", "-p", "-u", "sh", "-ec", script)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// try runs a script to its end, three minutes at most, and returns all it printed.
func (h *host) try(t *testing.T, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := h.command(ctx, script)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // for daemons that hold on to the pipe
	err := cmd.Run()
	if err == exec.ErrWaitDelay {
		err = nil
	}
	return out.String(), err
}

func (h *host) run(t *testing.T, script string) string {
	t.Helper()
	out, err := h.try(t, script)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", h.name, script, err, out)
	}
	return out
}

// write makes a file that only root reads, and the directories it needs.
func (h *host) write(t *testing.T, path, content string) {
	t.Helper()
	cmd := h.command(t.Context(), "umask 077; mkdir -p '"+filepath.Dir(path)+"'; cat > '"+path+"'")
	cmd.Stdin = strings.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: write %s: %v\n%s", h.name, path, err, out)
	}
}

// serve runs a script until the host ends, and returns what tells its output so far.
func (h *host) serve(t *testing.T, name, script string) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".log")
	log, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := h.command(context.Background(), script)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := func() string {
		b, _ := os.ReadFile(path)
		return string(b)
	}
	// The host's first process may be gone by then, and this one with it; if not, it goes now.
	t.Cleanup(func() {
		_ = h.first.Process.Kill()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, said())
		}
	})
	return said
}

// join makes a link between two hosts, with the addresses each has on it.
func join(t *testing.T, a *host, aName string, aAddrs []string, b *host, bName string, bAddrs []string) {
	t.Helper()
	a.run(t, fmt.Sprintf("ip link add %s type veth peer name tmp%d", aName, b.first.Process.Pid))
	// By the number the machine knows it by: that of the host's own /proc is another.
	out, err := exec.Command("nsenter", "-t", fmt.Sprint(a.first.Process.Pid), "-n", "ip", "link", "set", fmt.Sprintf("tmp%d", b.first.Process.Pid),
		"netns", fmt.Sprint(b.first.Process.Pid), "name", bName).CombinedOutput()
	if err != nil {
		t.Fatalf("link %s: %v\n%s", bName, err, out)
	}
	for _, end := range []struct {
		*host
		name  string
		addrs []string
	}{{a, aName, aAddrs}, {b, bName, bAddrs}} {
		for _, addr := range end.addrs {
			flags := ""
			if strings.Contains(addr, ":") {
				flags = " nodad"
			}
			end.run(t, "ip addr add "+addr+" dev "+end.name+flags)
		}
		end.run(t, "ip link set "+end.name+" up")
	}
}
