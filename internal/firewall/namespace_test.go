//go:build e2e

package firewall

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// inside is set in the environment of processes that are in the tests' own network namespace.
const inside = "SPILLWAY_FIREWALL_INSIDE"

// TestMain runs the tests in a network namespace of their own, which goes with the process: nothing of the machine's is touched.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		if os.Getenv(holder) != "" {
			hold()
		}
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "ip link set lo up: %v: %s", err, out)
			os.Exit(1)
		}
		goleak.VerifyTestMain(m)
		return
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "network namespaces need root")
		os.Exit(1)
	}
	cmd := self(os.Args[1:]...)
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is about the thread
	err := cmd.Run()
	if exit, ok := err.(*exec.ExitError); ok {
		os.Exit(cmp.Or(max(exit.ExitCode(), 0), 1))
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "tests in a network namespace:", err)
		os.Exit(1)
	}
}

// self is this program once more.
func self(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// within runs f on a thread in another namespace, which ends with f.
func within(t *testing.T, namespace string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		fd, err := unix.Open("/run/netns/"+namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			if err = unix.Setns(fd, unix.CLONE_NEWNET); err == nil {
				err = f()
			}
			_ = unix.Close(fd)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("in namespace %s: %v", namespace, err)
	}
}
