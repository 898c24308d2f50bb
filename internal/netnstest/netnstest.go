// Package netnstest runs tests in a network namespace of their own, so that nothing of the machine's is touched. It is for tests
// only; they need root.
package netnstest

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// inside is set in the environment of processes that are in the namespace.
const inside = "SPILLWAY_NETNSTEST_INSIDE"

// Main is for TestMain: it runs this program once more, in a network namespace that goes with the process. There it calls tests,
// after setUp, with lo up; here it ends as that ended.
func Main(setUp func() error, tests func()) {
	if os.Getenv(inside) == "" {
		runInside()
		return
	}
	err := setUp()
	if err == nil {
		err = exec.Command("ip", "link", "set", "lo", "up").Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "set up the namespace:", err)
		os.Exit(1)
	}
	tests()
}

func runInside() {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "network namespaces need root")
		os.Exit(1)
	}
	cmd := Self(os.Args[1:]...)
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is about the thread
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(cmp.Or(max(exit.ExitCode(), 0), 1))
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "tests in a network namespace:", err)
		os.Exit(1)
	}
}

// Self is this program once more, in the namespace it is in.
func Self(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

// IP runs ip(8).
func IP(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// Within runs f on a thread in another namespace, by the name ip netns knows it by. The thread ends with f.
func Within(t testing.TB, namespace string, f func() error) {
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
