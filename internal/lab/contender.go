package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Contender is a way to relay.
type Contender struct {
	Name string

	program string                                     // what it needs on the machine
	managed bool                                       // it answers at AdminPort itself
	start   func(l *Lab, dir string) (*Process, error) // nil: the kernel's own
}

// Running is a contender at work in the relay's namespace.
type Running struct {
	Contender
	Process *Process // nil: the kernel's own
	stop    []func() error
}

// Missing says what a contender needs and the machine has not; nil: nothing.
func (c Contender) Missing() error {
	if c.program == "" {
		return nil
	}
	if _, err := os.Stat(c.program); err != nil {
		return fmt.Errorf("%s: %w; .ci/install installs it", c.Name, err)
	}
	return nil
}

// DNAT is what relays in the incident: the kernel, told where to, and nothing else.
func DNAT(masquerade bool) Contender {
	return Contender{Name: "DNAT", start: func(l *Lab, _ string) (*Process, error) {
		return nil, l.Relay.Do(func() error { return forward(masquerade) })
	}}
}

// Spillway is program, a spillway, as relay in a mode, with more flags if there are any.
func Spillway(program, mode string, flags ...string) Contender {
	return Contender{Name: "spillway " + mode, program: program, managed: true, start: func(l *Lab, dir string) (*Process, error) {
		argv := append([]string{program, "relay", "--data_dir=" + dir, "--relay.listen=:" + strconv.Itoa(PublicPort),
			"--relay.backends=" + BackendAddr(false).String() + "," + BackendAddr(true).String(), "--relay.mode=" + mode,
			"--relay.admin.listen=:" + strconv.Itoa(AdminPort)}, flags...)
		return l.Relay.Start(dir, argv)
	}}
}

// Start puts a contender between edge and backend, and returns when a client is served. It needs a lab where none was yet: what
// it leaves in the kernel goes with the namespace.
func (l *Lab) Start(c Contender, dir string) (*Running, error) {
	if err := c.Missing(); err != nil {
		return nil, err
	}
	r := &Running{Contender: c}
	var err error
	if r.Process, err = c.start(l, dir); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	if !c.managed {
		// A bystander on the relay's core plays the operator's sshd.
		stop, err := l.bystander()
		if err != nil {
			return nil, err
		}
		r.stop = append(r.stop, stop)
	}
	if err := l.waitServing(r, Public(false)); err != nil {
		r.Stop()
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	return r, nil
}

// Stop ends what was started.
func (r *Running) Stop() {
	if r.Process != nil {
		r.Process.Kill()
	}
	for _, f := range r.stop {
		_ = f()
	}
}

// waitServing polls until the tracker answers through the relay.
func (l *Lab) waitServing(r *Running, to netip.AddrPort) error {
	deadline := time.Now().Add(readyWithin)
	for {
		err := l.Edge.Do(func() error { return get(to, "/healthz", time.Second) })
		switch {
		case err == nil:
			return nil
		case r.Process != nil && !r.Process.running():
			return fmt.Errorf("ended at once: %s", r.Process.Log())
		case time.Now().After(deadline):
			said := ""
			if r.Process != nil {
				said = r.Process.Log()
			}
			return fmt.Errorf("serves nobody within %s: %w: %s", readyWithin, err, said)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// get asks addr on a connection made on the calling thread, so in its namespace.
func get(addr netip.AddrPort, path string, within time.Duration) error {
	conn, err := net.DialTimeout("tcp", addr.String(), within)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, addr); err != nil {
		return err
	}
	b := make([]byte, 1024)
	n, err := conn.Read(b)
	if err != nil {
		return err
	}
	if len(b[:n]) < len(headOK) || string(b[:len(headOK)]) != string(headOK) {
		return fmt.Errorf("answer %q", b[:min(n, 40)])
	}
	return nil
}

// bystander answers at the relay's admin port, as a process on the relay's core would.
func (l *Lab) bystander() (stop func() error, err error) {
	listening := make(chan int, 1)
	done := l.Relay.Go(l.Cores.Relay, func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, &unix.SockaddrInet6{Port: AdminPort}), unix.Listen(fd, 128))
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		listening <- fd
		b := make([]byte, 1024)
		for {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if errors.Is(err, unix.EINVAL) {
				return nil // shut down
			} else if err != nil {
				continue
			}
			_ = unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
			if n, err := unix.Read(conn, b); err == nil && n > 0 {
				_, _ = unix.Write(conn, []byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"))
			}
			_ = unix.Close(conn)
		}
	})
	select {
	case fd := <-listening:
		return func() error { return errors.Join(unix.Shutdown(fd, unix.SHUT_RDWR), <-done) }, nil
	case err := <-done:
		return nil, fmt.Errorf("bystander at port %d: %w", AdminPort, err)
	}
}
