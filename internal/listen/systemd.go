package listen

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/activation"
)

// Inherited are the sockets systemd opened for this process (sd_listen_fds(3)), as spillway.socket asks.
type Inherited struct {
	mu    sync.Mutex // guards files
	files []*os.File // not taken yet, named after FileDescriptorName
}

// Inherit collects the sockets systemd passed. Call it once, first thing, and give the result to each Open:
// it takes the environment variables away, so that no child takes the sockets for its own.
func Inherit() *Inherited {
	return &Inherited{files: activation.Files(true)}
}

// Left names the sockets no address took. They stay open, as systemd holds them open anyway.
func (in *Inherited) Left() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	var names []string
	for _, f := range in.files {
		names = append(names, f.Name())
	}
	return names
}

// take gives the stream sockets of one name, or with "" all that are left, with cfg's options. To find none is an error.
func (in *Inherited) take(name string, cfg Config) ([]net.Listener, error) {
	var socks []net.Listener
	if in != nil {
		in.mu.Lock()
		defer in.mu.Unlock()
		left := in.files[:0:0]
		for _, f := range in.files {
			if name != "" && f.Name() != name {
				left = append(left, f)
				continue
			}
			sock, err := net.FileListener(f) // a duplicate
			if err != nil {
				if name == "" {
					left = append(left, f) // a datagram socket, for udp.listen
					continue
				}
				return nil, fmt.Errorf("systemd socket %q: %w; ListenStream= is needed here", name, err)
			}
			_ = f.Close()
			if tcp, ok := sock.(*net.TCPListener); ok {
				if sock, err = adoptTCP(tcp, cfg); err != nil {
					return nil, fmt.Errorf("systemd socket %q: %w", name, err)
				}
			}
			socks = append(socks, sock)
		}
		in.files = left
	}
	if len(socks) > 0 {
		return socks, nil
	}
	if name != "" {
		return nil, fmt.Errorf("systemd passed no socket named %q; set FileDescriptorName=%s in the .socket unit and start that unit", name, name)
	}
	return nil, fmt.Errorf("systemd passed no stream socket; start the .socket unit, or give an address as :6969%s", in.hint())
}

// hint says what else was passed.
func (in *Inherited) hint() string {
	if in == nil || len(in.files) == 0 {
		return ""
	}
	var names []string
	for _, f := range in.files {
		names = append(names, f.Name())
	}
	return " (passed: " + strings.Join(names, ", ") + ")"
}

// adoptTCP makes of a socket systemd bound what bindTCP would have made.
func adoptTCP(l *net.TCPListener, cfg Config) (net.Listener, error) {
	raw, err := l.SyscallConn()
	if err == nil {
		cfg.Sockets = 1 // it is bound
		err = control(raw, func(fd int) error { return setOptions(fd, cfg) })
	}
	if err != nil {
		return nil, err
	}
	return newTCPListener(l)
}
