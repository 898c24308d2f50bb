package lab

import (
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// Tracker is the backend: a real `spillway serve`.
type Tracker struct {
	lab     *Lab
	program string
	dir     string
	args    []string
	process *Process
	fault   func() error // ends the fault in force; nil: none
}

// NewTracker starts program, a spillway, as the lab's backend, with more flags if there are any. Its files are in dir.
func (l *Lab) NewTracker(program, dir string, flags ...string) (*Tracker, error) {
	t := &Tracker{lab: l, program: program, dir: dir, args: trackerArgs(program, dir, append([]string{"--admin.listen="}, flags...))}
	return t, t.start()
}

// start returns when the tracker answers.
func (t *Tracker) start() (err error) {
	if t.process, err = t.lab.Backend.Start(t.dir, t.args); err != nil {
		return err
	}
	return t.process.waitListening(t.lab.Backend, netip.AddrPortFrom(BackendAddr4, BackendPort))
}

// Fault is what can happen to a backend.
type Fault string

// The faults.
const (
	F1Killed   Fault = "F1" // the process is dead, its host answers with resets
	F2Vanished Fault = "F2" // packets to and from it vanish: the host or the tunnel is gone
	F3Hung     Fault = "F3" // the process is stopped, its queue of connections fills
	F4Slow     Fault = "F4" // the process gets a small part of a core
)

// Faults lists them all.
var Faults = []Fault{F1Killed, F2Vanished, F3Hung, F4Slow}

// Text is for people.
func (f Fault) Text() string {
	switch f {
	case F1Killed:
		return "process dead, host resets"
	case F2Vanished:
		return "packets vanish"
	case F3Hung:
		return "process hung, queue full"
	case F4Slow:
		return "process slow"
	}
	return string(f)
}

// slowRun of every slowTurn the process of F4 runs.
const (
	slowRun  = 1 * time.Millisecond
	slowTurn = 25 * time.Millisecond
)

// Break brings a fault about. Mend ends it.
func (t *Tracker) Break(f Fault) error {
	if t.fault != nil {
		return fmt.Errorf("a fault is in force; mend it first")
	}
	switch f {
	case F1Killed:
		t.process.Kill()
		t.fault = t.start
	case F2Vanished:
		if err := t.lab.Backend.Do(vanish); err != nil {
			return fmt.Errorf("drop the backend's packets: %w", err)
		}
		t.fault = func() error { return t.lab.Backend.Do(appear) }
	case F3Hung:
		t.process.signal(syscall.SIGSTOP)
		t.fault = func() error { t.process.signal(syscall.SIGCONT); return nil }
	case F4Slow:
		// Stopped and continued by turns, which needs no control group and leaves nothing behind.
		over := make(chan struct{})
		ended := t.lab.Backend.Go(t.lab.Cores.Backend, func() error {
			sys.LockThread()
			if err := sys.SetPolicy(unix.SCHED_FIFO); err != nil {
				return err
			}
			defer t.process.signal(syscall.SIGCONT)
			for {
				t.process.signal(syscall.SIGSTOP)
				time.Sleep(slowTurn - slowRun)
				t.process.signal(syscall.SIGCONT)
				select {
				case <-over:
					return nil
				case <-time.After(slowRun):
				}
			}
		})
		t.fault = func() error { close(over); return <-ended }
	default:
		return fmt.Errorf("fault %q: must be one of %v", f, Faults)
	}
	return nil
}

// Mend ends the fault in force. After F1 it returns when the tracker accepts again.
func (t *Tracker) Mend() error {
	if t.fault == nil {
		return nil
	}
	mend := t.fault
	t.fault = nil
	return mend()
}

// Stop ends the tracker.
func (t *Tracker) Stop() error {
	err := t.Mend()
	t.process.Kill()
	return err
}
