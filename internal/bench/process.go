//go:build linux

package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrOneCore is returned by Cores on a machine that has no core to spare for the client.
var ErrOneCore = errors.New("a benchmark needs two cores, one for the server and one for the client")

// Cores picks two of the cores this process may run on.
func Cores() (client, server int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, 0, fmt.Errorf("read cpu affinity: %w", err)
	}
	var cores []int
	for i := range 1024 {
		if set.IsSet(i) {
			cores = append(cores, i)
		}
	}
	if len(cores) < 2 {
		return 0, 0, ErrOneCore
	}
	// The first core serves most interrupts, so the server gets the last.
	return cores[0], cores[len(cores)-1], nil
}

// StartPinned starts cmd on one core. Children inherit the mask of the thread that forks them, so the thread is moved
// there and back.
func StartPinned(cmd *exec.Cmd, core int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, pinned unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read cpu affinity: %w", err)
	}
	pinned.Set(core)
	if err := unix.SchedSetaffinity(0, &pinned); err != nil {
		return fmt.Errorf("pin to core %d: %w", core, err)
	}
	startErr := cmd.Start()
	if err := unix.SchedSetaffinity(0, &before); err != nil {
		return fmt.Errorf("unpin from core %d: %w", core, err)
	}
	return startErr
}

// PinThread moves the calling goroutine to a thread of its own on one core. The goroutine must end without unlocking
// the thread, which makes the runtime throw the pinned thread away.
func PinThread(core int) error {
	runtime.LockOSThread()
	var pinned unix.CPUSet
	pinned.Set(core)
	if err := unix.SchedSetaffinity(0, &pinned); err != nil {
		return fmt.Errorf("pin to core %d: %w", core, err)
	}
	return nil
}

// CPUTime is the CPU time of a process, user and system, of all its threads, dead ones too, in nanoseconds of the
// scheduler's clock (/proc/PID/stat counts ticks of 10 ms). Work the kernel does for the network in the process's
// context is in it.
func CPUTime(pid int) (time.Duration, error) {
	// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers_types.h; glibc calls it clock_getcpuclockid(3).
	clock := int32(^pid<<3 | 2)
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("read cpu clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// Sleeps is how often the threads of a process have gone to sleep of themselves, to wait for something.
func Sleeps(pid int) (n int, err error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(paths) == 0 {
		return 0, fmt.Errorf("count sleeps: no threads of process %d: %w", pid, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // the thread is gone
		}
		v, err := field(b, "voluntary_ctxt_switches:")
		if err != nil {
			return 0, fmt.Errorf("count sleeps: %s: %w", path, err)
		}
		n += int(v)
	}
	return n, nil
}

// threadCPU is the CPU time of the calling thread.
func threadCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic("BUG: no thread clock: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

// ResidentBytes is a process's resident memory (Rss of smaps_rollup, exact where statm is not).
func ResidentBytes(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read resident memory: %w", err)
	}
	kib, err := field(b, "Rss:")
	if err != nil {
		return 0, fmt.Errorf("read resident memory: %s: %w", path, err)
	}
	return kib << 10, nil
}

// field is the number after name at the start of a line.
func field(b []byte, name string) (int64, error) {
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) >= 2 && string(f[0]) == name {
			v, err := strconv.ParseInt(string(f[1]), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s %q: %w", name, f[1], err)
			}
			return v, nil
		}
	}
	return 0, fmt.Errorf("no %s", name)
}
