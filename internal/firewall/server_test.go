//go:build e2e

package firewall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// open is a firewall for a server of its own, with a table of its own.
func open(t testing.TB, cfg Config) (*Firewall, *server) {
	t.Helper()
	s := serve(t)
	cfg.Ports, cfg.UDPPorts = []uint16{s.port}, []uint16{s.port}
	cfg.TableName = fmt.Sprintf("test%d", s.port)
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f, s
}

// server accepts on all addresses, and answers each datagram.
type server struct{ port uint16 }

func serve(t testing.TB) *server {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		b := make([]byte, 16)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(b[:n], from)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		_ = u.Close()
		<-done
		<-done
	})
	return &server{uint16(port)}
}

// silence is how long a client waits before it takes its SYN for dropped; on lo an answer takes microseconds. One that should get
// an answer is patient: the machine may be busy.
const (
	silence  = 300 * time.Millisecond
	patience = 20 * time.Second
)

// dial connects from a source. The error is nil, or a timeout: anything else fails the test.
func (s *server) dial(t testing.TB, wait time.Duration, network, from, to string) error {
	t.Helper()
	err := s.try(wait, network, from, to)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !strings.Contains(err.Error(), "i/o timeout") {
		t.Fatalf("%s from %s: %v", network, from, err)
	}
	return err
}

func (s *server) try(wait time.Duration, network, from, to string) error {
	d := net.Dialer{Timeout: wait}
	addr := netip.AddrPortFrom(netip.MustParseAddr(from), 0)
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(addr)
	} else {
		d.LocalAddr = net.TCPAddrFromAddrPort(addr)
	}
	c, err := d.Dial(network, netip.AddrPortFrom(netip.MustParseAddr(to), s.port).String())
	if err != nil {
		return err
	}
	defer c.Close()
	if network == "udp" {
		_ = c.SetDeadline(time.Now().Add(wait))
		if _, err = c.Write([]byte("ping")); err == nil {
			_, err = c.Read(make([]byte, 16))
		}
	}
	return err
}

// passes and drops are what is expected of sources.
func (s *server) passes(t testing.TB, sources ...string) {
	t.Helper()
	for _, from := range sources {
		for _, network := range []string{"tcp", "udp"} {
			if err := s.dial(t, patience, network, from, target(from)); err != nil {
				t.Errorf("%s from %s: %v", network, from, err)
			}
		}
	}
}

func (s *server) drops(t testing.TB, sources ...string) {
	t.Helper()
	for _, from := range sources {
		for _, network := range []string{"tcp", "udp"} {
			if err := s.dial(t, silence, network, from, target(from)); err == nil {
				t.Errorf("%s from %s went through", network, from)
			}
		}
	}
}

func target(from string) string {
	if strings.HasPrefix(from, "127.") {
		return "127.0.0.1"
	}
	return from
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func prefix(s string) netip.Prefix {
	if !strings.Contains(s, "/") {
		return Source(netip.MustParseAddr(s))
	}
	return netip.MustParsePrefix(s)
}
