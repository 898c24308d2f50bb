package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
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

// readyWithin is what a program gets to start on a busy core.
const readyWithin = 10 * time.Second

// NewTracker starts program, a spillway, as the lab's backend, with more flags if there are any. Its files are in dir.
func (l *Lab) NewTracker(program, dir string, flags ...string) (*Tracker, error) {
	t := &Tracker{lab: l, program: program, dir: dir, args: trackerArgs(program, dir, append([]string{"--admin.listen="}, flags...))}
	return t, t.start()
}

func trackerArgs(program, dir string, flags []string) []string {
	return append([]string{program, "serve", "--data_dir=" + dir, "--http.listen=:" + strconv.Itoa(BackendPort), "--log.level=warn",
		"--store.snapshot.every=0s",
		// The CDN and the relay say who a client is; without that, a relay which masquerades would be one client.
		"--http.trusted_proxies=10.0.0.0/8,198.18.0.0/15,fc00::/7"}, flags...)
}

// start returns when the tracker answers.
func (t *Tracker) start() (err error) {
	if t.process, err = t.lab.Backend.Start(t.dir, t.args); err != nil {
		return err
	}
	return t.process.waitListening(t.lab.Backend, netip.AddrPortFrom(BackendAddr4, BackendPort))
}

// waitListening polls until somebody accepts at addr.
func (p *Process) waitListening(from *Room, addr netip.AddrPort) error {
	deadline := time.Now().Add(readyWithin)
	for {
		err := from.Do(func() error {
			c, err := net.DialTimeout("tcp", addr.String(), time.Second)
			if err == nil {
				_ = c.Close()
			}
			return err
		})
		switch {
		case err == nil:
			return nil
		case !p.running():
			return fmt.Errorf("%s ended at once: %s", p.name, p.Log())
		case time.Now().After(deadline):
			return fmt.Errorf("%s does not accept at %s within %s: %w: %s", p.name, addr, readyWithin, err, p.Log())
		}
		time.Sleep(2 * time.Millisecond)
	}
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
			lockThread()
			if err := beFirst(); err != nil {
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

// tempDir is for a program's files; the last part of its name says whose.
func tempDir(name string) (string, error) {
	dir, err := os.MkdirTemp("", "spillway-lab-*-"+name)
	if err == nil {
		err = os.Chmod(dir, 0o755) // some drop to another user
	}
	return dir, err
}
