package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// Cores says who works where. With two cores, edge and backend share one.
type Cores struct {
	Relay, Edge, Backend int
}

// ErrOneCore is New's answer on a machine that has none to spare.
var ErrOneCore = errors.New("the lab needs two cores, one for the relay and one for everything else")

func pickCores() (Cores, error) {
	cores, err := sys.Cores()
	if err != nil {
		return Cores{}, err
	}
	switch len(cores) {
	case 0, 1:
		return Cores{}, ErrOneCore
	case 2:
		return Cores{Relay: cores[0], Edge: cores[1], Backend: cores[1]}, nil
	}
	return Cores{Relay: cores[0], Edge: cores[1], Backend: cores[2]}, nil
}

// pinProcess keeps all threads of this process on a core, also those to come: a thread begins with the mask of its creator.
func pinProcess(core int) (unpin func(), err error) {
	var was, set unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &was); err != nil {
		return nil, fmt.Errorf("read cpu affinity: %w", err)
	}
	set.Set(core)
	all := func(set *unix.CPUSet) {
		for range 2 { // one may have been made meanwhile
			tasks, _ := filepath.Glob("/proc/self/task/*")
			for _, t := range tasks {
				if tid, err := strconv.Atoi(filepath.Base(t)); err == nil {
					_ = unix.SchedSetaffinity(tid, set) // it may have ended
				}
			}
		}
	}
	all(&set)
	return func() { all(&was) }, nil
}

// mask is a core as the kernel's files want it: 32 cores a word, the highest first.
func mask(core int) string {
	s := strconv.FormatUint(1<<(core%32), 16)
	for range core / 32 {
		s += ",00000000"
	}
	return s
}

// coreClock is what a core has done since the machine's start, in steps of 10 ms.
type coreClock struct {
	at   time.Time
	idle time.Duration // measured
	user time.Duration // sampled at the clock's ticks
	lost time.Duration // to the host, where this is a guest
}

// readCore reads /proc/stat. Busy is what is not idle: the kernel measures only that, and a packet's microseconds between two ticks
// are in nobody's account.
func readCore(core int) (coreClock, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return coreClock{}, err
	}
	return parseCore(b, core, time.Now())
}

// tick is USER_HZ, which is 100 everywhere.
const tick = 10 * time.Millisecond

func parseCore(b []byte, core int, at time.Time) (coreClock, error) {
	name := "cpu" + strconv.Itoa(core)
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 9 || string(f[0]) != name {
			continue
		}
		var n [8]time.Duration // user, nice, system, idle, waiting for a disk, interrupts, soft ones, stolen
		for i := range n {
			ticks, err := strconv.ParseInt(string(f[i+1]), 10, 64)
			if err != nil {
				return coreClock{}, fmt.Errorf("read /proc/stat: %s: %w", name, err)
			}
			n[i] = time.Duration(ticks) * tick
		}
		return coreClock{at: at, idle: n[3] + n[4], user: n[0] + n[1], lost: n[7]}, nil
	}
	return coreClock{}, fmt.Errorf("read /proc/stat: no %s", name)
}

// Use is how a core was used over a time, in shares of it.
type Use struct {
	Relay   float64 `json:"relay"`   // busy, without the next
	Foreign float64 `json:"foreign"` // processes that are not of the lab
}

// useSince takes the clock's reading and that of the relay's processes, before and now.
func (c coreClock) useSince(before coreClock, own time.Duration) Use {
	took := float64(c.at.Sub(before.at))
	if took <= 0 {
		return Use{}
	}
	share := func(d float64) float64 { return min(max(d/took, 0), 1) }
	u := Use{Foreign: share(float64(c.user - before.user - own))}
	u.Relay = max(share(took-float64(c.idle-before.idle))-u.Foreign, 0)
	return u
}

// userTime is what a process has computed outside the kernel, 0 when it has ended.
func userTime(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, ok := bytes.Cut(b, []byte(") ")) // the name may be anything
	f := bytes.Fields(rest)
	if !ok || len(f) < 12 {
		return 0
	}
	n, _ := strconv.ParseInt(string(f[11]), 10, 64)
	return time.Duration(n) * tick
}

// groupOf lists the processes of a process group.
func groupOf(leader int) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range all {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		_, rest, _ := bytes.Cut(b, []byte(") "))
		if f := bytes.Fields(rest); len(f) > 2 && string(f[2]) == strconv.Itoa(leader) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Priorities: the lab goes before what else runs on the machine, but not before the kernel; and the tracker before the crowd, which
// would be somewhere else if there were more cores.
const (
	niceLab     = -10
	niceTracker = -16
)

// hasten is for the calling thread, and what it starts. Root of a user namespace may not go before others: there all are equal.
func hasten(nice int) error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, nice); err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("raise priority: %w", err)
	}
	return nil
}

// Hasten has all threads of this process go before what else runs on the machine, as the lab's own do: who plays a story must not wait for
// the crowd. It does what it may, and the threads to come begin as their creators.
func Hasten() {
	tasks, _ := filepath.Glob("/proc/self/task/*")
	for _, t := range tasks {
		if tid, err := strconv.Atoi(filepath.Base(t)); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, tid, niceTracker)
		}
	}
}

// Meter reads how much the relay's core does, for who looks on. It counts what is foreign too: Samples tell the two apart.
type Meter struct {
	core int
	last coreClock
}

// NewMeter begins to count now.
func (l *Lab) NewMeter() *Meter {
	m := &Meter{core: l.Cores.Relay}
	m.last, _ = readCore(m.core)
	return m
}

// Relay is the share of the core that was used since the last call, 0 if the kernel does not say.
func (m *Meter) Relay() float64 {
	now, err := readCore(m.core)
	if err != nil {
		return 0
	}
	before := m.last
	m.last = now
	u := now.useSince(before, now.user-before.user)
	return u.Relay
}
