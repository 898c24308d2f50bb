package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// Room is a network namespace: a thread of this process that lives in it, and the processes that were started in it.
type Room struct {
	name string
	core int // of its processes
	fd   int // of the namespace
	work chan func()
	over chan struct{} // closed when the thread has ended

	mu        sync.Mutex // guards processes
	processes []*Process
}

// newRoom makes a namespace. It has no name, so there is nothing to remove: it goes with the thread, its descriptor and its
// processes, however those end.
func newRoom(name string, core, nice int) (*Room, error) {
	r := &Room{name: name, core: core, fd: -1, work: make(chan func()), over: make(chan struct{})}
	made := make(chan error)
	go func() {
		defer close(r.over)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := errors.Join(unix.Unshare(unix.CLONE_NEWNET), hasten(nice))
		if err == nil {
			r.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		if made <- err; err != nil {
			return
		}
		for f := range r.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, err
	}
	return r, nil
}

// Do runs f on the room's thread, one at a time. Sockets made by f belong to the namespace wherever they are used.
func (r *Room) Do(f func() error) error {
	done := make(chan error)
	r.work <- func() { done <- f() }
	return <-done
}

// Go runs f on a thread of its own in the namespace, on the given core. The caller waits for f's end.
func (r *Room) Go(core int, f func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(r.fd, unix.CLONE_NEWNET)
		if err == nil {
			err = errors.Join(sys.PinThread(core), hasten(niceLab))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return done
}

// withSysfs runs f on a thread that sees the namespace's own /sys, which belongs to a mount, not to a thread as /proc/sys/net does.
func (r *Room) withSysfs(f func(sys string) error) error {
	return <-r.Go(r.core, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare mounts: %w", err)
		}
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Mount("lab", "/sys", "sysfs", 0, ""); err != nil {
			return fmt.Errorf("mount sysfs: %w", err)
		}
		return f("/sys")
	})
}

// sysctl writes a key of the namespace: /proc/sys/net shows each thread its own.
func (r *Room) sysctl(key, value string) error {
	return r.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0o644) })
}

// close ends the processes, the last first, and the thread.
func (r *Room) close() {
	r.mu.Lock()
	all := r.processes
	r.processes = nil
	r.mu.Unlock()
	for i := len(all) - 1; i >= 0; i-- {
		all[i].Kill()
	}
	close(r.work)
	<-r.over
	_ = unix.Close(r.fd)
}

// Process is a program in a room. It dies with this process at the latest.
type Process struct {
	name   string
	cmd    *exec.Cmd
	log    string        // file with what it prints
	exited chan struct{} // closed when it has been waited for
}

// Start runs argv in the namespace, on the room's core, with its output in dir.
func (r *Room) Start(dir string, argv []string, env ...string) (*Process, error) {
	name := filepath.Base(argv[0])
	out, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &Process{name: name, cmd: exec.Command(argv[0], argv[1:]...), log: out.Name(), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = out, out, dir
	p.cmd.Env = append(append(os.Environ(), "GOMAXPROCS=1"), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// Pdeathsig is about the thread that forks: it ends with the room.
	if err = r.Do(func() error { return sys.StartPinned(p.cmd, r.core) }); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.exited) }()
	r.mu.Lock()
	r.processes = append(r.processes, p)
	r.mu.Unlock()
	return p, nil
}

// Kill ends the process and its children as kill -9 does, and waits for the process.
func (p *Process) Kill() {
	if p.running() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
	<-p.exited
}

// signal is for the process alone.
func (p *Process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *Process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Log is what the process has printed.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// readyWithin is what a program gets to start on a busy core.
const readyWithin = 10 * time.Second

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
