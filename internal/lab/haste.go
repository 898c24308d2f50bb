package lab

import (
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

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
