package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// Machine is a backend as small as those that break: its tracker gets a part of a core, as a container's CPU quota gives it, and is
// killed when it takes more memory than there is, and then started again, as the kernel and systemd would. It can be gone as a whole.
type Machine struct {
	Share  float64 // of the core
	Memory int64   // bytes

	lab   *Lab
	dir   string
	args  []string
	watch atomic.Bool
	done  <-chan error
	boots sync.WaitGroup

	mu      sync.Mutex // guards what follows
	process *Process
	gone    bool
	booting bool
	deaths  []time.Time
	samples []MachineSample
	failed  error
}

// MachineSample is what the tracker takes at one time.
type MachineSample struct {
	At     time.Time
	CPU    time.Duration // since its start; of dead ones too
	Memory int64         // resident bytes
	Alive  bool
}

const (
	quotaTurn   = 20 * time.Millisecond
	startsAfter = time.Second // as RestartSec would have it
)

// NewMachine starts program as the lab's backend on a machine of share of a core and memory bytes.
func (l *Lab) NewMachine(program, dir string, share float64, memory int64, flags ...string) (*Machine, error) {
	m := &Machine{Share: share, Memory: memory, lab: l, dir: dir, args: trackerArgs(program, dir, flags)}
	m.done = l.Backend.Go(l.Cores.Backend, m.govern)
	if err := m.boot(); err != nil {
		m.Stop()
		return nil, err
	}
	return m, nil
}

func trackerArgs(program, dir string, flags []string) []string {
	return append([]string{program, "serve", "--data_dir=" + dir, "--http.listen=:" + strconv.Itoa(BackendPort), "--log.level=warn",
		"--store.snapshot.every=0s",
		// The CDN and the relay say who a client is; without that, a relay which masquerades would be one client.
		"--http.trusted_proxies=10.0.0.0/8,198.18.0.0/15,fc00::/7"}, flags...)
}

// boot starts the tracker, and returns when it accepts.
func (m *Machine) boot() error {
	p, err := m.lab.Backend.Start(m.dir, m.args)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.process, m.gone = p, false
	m.mu.Unlock()
	return p.waitListening(m.lab.Backend, netip.AddrPortFrom(BackendAddr4, BackendPort))
}

// govern is the thread that stands for the quota, the memory and systemd.
func (m *Machine) govern() error {
	sys.LockThread()
	_ = sys.SetPolicy(unix.SCHED_FIFO) // where it may not, turns are less even
	run := time.Duration(m.Share * float64(quotaTurn))
	sleep := func(d time.Duration) {
		ts := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&ts, nil)
	}
	var before time.Duration // CPU of those that are dead
	var last time.Duration
	var of *Process
	next := time.Now()
	for !m.watch.Load() {
		m.mu.Lock()
		p := m.process
		m.mu.Unlock()
		if p != of {
			before, last, of = before+last, 0, p
		}
		if p != nil && p.running() {
			p.signal(syscall.SIGCONT)
			sleep(run)
			if m.Share < 1 {
				p.signal(syscall.SIGSTOP)
			}
		}
		sleep(quotaTurn - run)
		now := time.Now()
		if now.Before(next) {
			continue
		}
		if next = next.Add(SampleEvery); next.Before(now) {
			next = now
		}
		s := MachineSample{At: now, CPU: before + last}
		if p != nil && p.running() {
			last, _ = sys.ProcessCPU(p.cmd.Process.Pid) // 0 when it has ended
			s.CPU, s.Memory, s.Alive = before+last, residentBytes(p.cmd.Process.Pid), true
		}
		m.look(p, s)
	}
	return nil
}

// look writes a sample down, and does what the kernel and systemd do.
func (m *Machine) look(p *Process, s MachineSample) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.samples) < maxSamples {
		m.samples = append(m.samples, s)
	}
	if p == nil || m.gone || m.booting || m.process != p {
		return
	}
	if s.Alive && s.Memory <= m.Memory {
		return
	}
	m.deaths = append(m.deaths, s.At)
	m.booting = true
	m.boots.Go(func() {
		p.Kill()
		time.Sleep(startsAfter)
		err := error(nil)
		if !m.watch.Load() && !m.isGone() {
			err = m.boot()
		}
		m.mu.Lock()
		if m.booting = false; err != nil && !m.gone {
			m.failed = errors.Join(m.failed, err)
		}
		m.mu.Unlock()
	})
}

func (m *Machine) isGone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gone
}

// Vanish has the machine gone: its process is dead, and packets to it get no answer.
func (m *Machine) Vanish() error {
	m.mu.Lock()
	m.gone = true
	p := m.process
	m.mu.Unlock()
	err := m.lab.Backend.Do(vanish)
	p.Kill()
	return err
}

// Return has it back, and returns when its tracker accepts: until then its host answers with resets, as a machine's that boots.
func (m *Machine) Return() error {
	m.boots.Wait()
	if err := m.lab.Backend.Do(appear); err != nil {
		return err
	}
	return m.boot()
}

// Stop ends the machine.
func (m *Machine) Stop() (samples []MachineSample, deaths []time.Time, err error) {
	m.watch.Store(true)
	err = <-m.done
	m.boots.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.process; p != nil {
		p.Kill()
	}
	return m.samples, m.deaths, errors.Join(err, m.failed)
}

// Ask is a request to the tracker's admin listener, from its own machine, as ctl sends it. It needs --admin.listen=127.0.0.1:7070.
func (m *Machine) Ask(method, path, body string, within time.Duration) error {
	return <-m.lab.Backend.Go(m.lab.Cores.Backend, func() error {
		token, err := os.ReadFile(filepath.Join(m.dir, "admin.token"))
		if err != nil {
			return err
		}
		request, err := http.NewRequest(method, "http://127.0.0.1:7070"+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		request.Header.Set("Content-Type", "application/json")
		request.Close = true
		// The connection is made on this thread, so in the namespace; net/http's transport would make it on another.
		conn, err := net.DialTimeout("tcp", request.URL.Host, within)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
			return err
		}
		if err := request.Write(conn); err != nil {
			return err
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			said, _ := io.ReadAll(io.LimitReader(answer.Body, 1024))
			return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, said)
		}
		return nil
	})
}

// residentBytes is a process's, 0 when it has ended.
func residentBytes(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
