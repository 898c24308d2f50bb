package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Contender is a way to relay.
type Contender struct {
	Name  string
	Proxy bool // it ends TCP itself

	program string                                     // what it needs on the machine
	managed bool                                       // it answers at AdminPort itself
	start   func(l *Lab, dir string) (*Process, error) // nil: the kernel's own
}

// Where Debian has what is compared.
const (
	haproxyProgram = "/usr/sbin/haproxy"
	nginxProgram   = "/usr/sbin/nginx"
	streamModule   = "/usr/lib/nginx/modules/ngx_stream_module.so" // libnginx-mod-stream
)

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

// FastFail is the profile's keys that act on a relay which only forwards, and that each namespace has for itself.
var FastFail = map[string]string{
	"net/netfilter/nf_conntrack_tcp_timeout_syn_sent":   "6",
	"net/netfilter/nf_conntrack_tcp_timeout_syn_recv":   "6",
	"net/netfilter/nf_conntrack_tcp_timeout_fin_wait":   "10",
	"net/netfilter/nf_conntrack_tcp_timeout_close_wait": "10",
	"net/netfilter/nf_conntrack_tcp_timeout_last_ack":   "10",
	"net/ipv4/tcp_tw_reuse":                             "1",
	"net/ipv4/tcp_max_syn_backlog":                      "10000",
	"net/ipv4/tcp_abort_on_overflow":                    "1",
	"net/ipv4/tcp_syncookies":                           "1",
}

// DNAT is what relays in the incident: the kernel, told where to, and nothing else.
func DNAT(masquerade bool) Contender {
	return Contender{Name: "DNAT", start: func(l *Lab, _ string) (*Process, error) {
		return nil, l.Relay.Do(func() error { return forward(masquerade) })
	}}
}

// DNATProfile is DNAT with the operator's cure.
func DNATProfile(masquerade bool) Contender {
	return Contender{Name: "DNAT + profile", start: func(l *Lab, _ string) (*Process, error) {
		for key, value := range FastFail {
			if err := l.Relay.sysctl(key, value); err != nil {
				return nil, err
			}
		}
		return nil, l.Relay.Do(func() error { return forward(masquerade) })
	}}
}

// HAProxy is one in tcp mode that asks for the backend's health as often as we do.
func HAProxy() Contender {
	return Contender{Name: "HAProxy", Proxy: true, program: haproxyProgram, start: func(l *Lab, dir string) (*Process, error) {
		return l.startConfigured(dir, "haproxy.cfg", fmt.Sprintf(`global
	maxconn %[5]d
	nbthread 1
defaults
	mode tcp
	timeout connect 1s
	timeout client 60s
	timeout server 60s
	timeout check 300ms
	retries 0
	option redispatch 0
frontend public
	bind :%[1]d
	bind [::]:%[1]d v6only
	use_backend tracker6 if { dst %[4]s }
	default_backend tracker
backend tracker
	option httpchk GET /healthz
	server tracker %[2]s check inter 100ms fastinter 100ms downinter 100ms fall 2 rise 1 on-marked-down shutdown-sessions
backend tracker6
	option httpchk GET /healthz
	server tracker6 %[3]s check inter 100ms fastinter 100ms downinter 100ms fall 2 rise 1 on-marked-down shutdown-sessions
`, PublicPort, BackendAddr(false), BackendAddr(true), RelayPublic6, l.files/2-200), func(file string) []string {
			return []string{haproxyProgram, "-db", "-f", file}
		})
	}}
}

// NginxStream is nginx as a TCP proxy, which asks nobody for health.
func NginxStream() Contender {
	return Contender{Name: "nginx stream", Proxy: true, program: streamModule, start: func(l *Lab, dir string) (*Process, error) {
		return l.startConfigured(dir, "nginx.conf", fmt.Sprintf(`load_module %[6]s;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log crit;
worker_processes 1;
events { worker_connections %[5]d; }
stream {
	server { listen %[2]d; proxy_connect_timeout 1s; proxy_pass %[3]s; }
	server { listen [::]:%[2]d ipv6only=on; proxy_connect_timeout 1s; proxy_pass %[4]s; }
}
`, dir, PublicPort, BackendAddr(false), BackendAddr(true), l.files-100, streamModule), func(file string) []string {
			return []string{nginxProgram, "-p", dir, "-c", file}
		})
	}}
}

// Spillway is program, a spillway, as relay in a mode, with more flags if there are any.
func Spillway(program, mode string, flags ...string) Contender {
	return Contender{Name: "spillway " + mode, Proxy: mode == "proxy", program: program, managed: true, start: func(l *Lab, dir string) (*Process, error) {
		argv := append([]string{program, "relay", "--data_dir=" + dir, "--relay.listen=:" + strconv.Itoa(PublicPort),
			"--relay.backends=" + BackendAddr(false).String() + "," + BackendAddr(true).String(), "--relay.mode=" + mode,
			"--relay.admin.listen=:" + strconv.Itoa(AdminPort)}, flags...)
		return l.Relay.Start(dir, argv)
	}}
}

func (l *Lab) startConfigured(dir, name, config string, argv func(file string) []string) (*Process, error) {
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return l.Relay.Start(dir, argv(file))
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
