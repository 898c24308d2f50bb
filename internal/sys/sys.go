// Package sys is what load generators ask of the kernel: sockets and polls in calls of which Go's scheduler is not told (socket.go,
// poller.go), and threads that have a core, a class and a clock of their own (sys.go). It is for internal/flood, internal/lab and
// internal/bench; what serves clients uses none of it. Linux only.
package sys

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cores lists those that this process may run on.
func Cores() (all []int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("read cpu affinity: %w", err)
	}
	for i := range 1024 {
		if set.IsSet(i) {
			all = append(all, i)
		}
	}
	return all, nil
}

// LockThread gives the calling goroutine a thread of its own, whose short sleeps end when they should. It must never be unlocked: the
// runtime throws the thread away when the goroutine ends, with whatever was changed about it.
func LockThread() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
}

// PinThread keeps the calling thread on a core.
func PinThread(core int) error {
	var set unix.CPUSet
	set.Set(core)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to core %d: %w", core, err)
	}
	return nil
}

// SetPolicy puts the calling thread into a class of the scheduler. Of SCHED_FIFO, which needs root, it takes the lowest priority: that
// goes before all usual threads.
func SetPolicy(policy uint32) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy}
	if policy == unix.SCHED_FIFO {
		attr.Priority = 1
	}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("change scheduling policy: %w", err)
	}
	return nil
}

// StartPinned starts cmd on one core. A child begins with what the thread that forks it has, so the thread goes there and back.
func StartPinned(cmd *exec.Cmd, core int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read cpu affinity: %w", err)
	}
	if err := PinThread(core); err != nil {
		return err
	}
	startErr := cmd.Start()
	if err := unix.SchedSetaffinity(0, &before); err != nil {
		return fmt.Errorf("unpin from core %d: %w", core, err)
	}
	return startErr
}

// ThreadCPU is the CPU time of the calling thread.
func ThreadCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic("BUG: no thread clock: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

// ProcessCPU is the CPU time of a process, user and system, of all its threads, dead ones too, in nanoseconds of the scheduler's
// clock: /proc/PID/stat counts ticks of 10 ms. What the kernel does for the network in the process's context is in it.
func ProcessCPU(pid int) (time.Duration, error) {
	// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers_types.h; glibc calls it clock_getcpuclockid(3).
	clock := int32(^pid<<3 | 2)
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("read cpu clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// RaiseFileLimit makes room for want open files, for this process and those it starts, and tells how many it may have: fewer than
// that where the machine does not allow it, which it may not even to root.
func RaiseFileLimit(want int) (allowed int, err error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read limit of open files: %w", err)
	}
	if n := uint64(want); l.Cur < n {
		for _, raised := range []unix.Rlimit{{Cur: n, Max: max(l.Max, n)}, {Cur: l.Max, Max: l.Max}} {
			if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
				l = raised
				break
			}
		}
	}
	return int(min(l.Cur, uint64(want))), nil
}

// Machine says what figures are of: cores, processor, memory, kernel.
func Machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	model := "unknown CPU"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		lines := bufio.NewScanner(bytes.NewReader(b))
		for lines.Scan() {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	memory := ""
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		memory = fmt.Sprintf(", %.0f GiB", float64(info.Totalram)*float64(info.Unit)/(1<<30))
	}
	return fmt.Sprintf("%d cores, %s%s, Linux %s", runtime.NumCPU(), model, memory, unix.ByteSliceToString(u.Release[:]))
}
