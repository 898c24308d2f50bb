//go:build e2e

package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"spillway/internal/netnstest"
	"spillway/relay"
)

// TestMain runs the tests in a network namespace of their own, which is the relay's. There is one table, so the tests run one after the
// other.
func TestMain(m *testing.M) {
	netnstest.Main(func() error {
		if os.Getenv(holder) != "" {
			hold()
		}
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644),
			noDAD(),
		)
	}, func() { goleak.VerifyTestMain(m) })
}

var self, ip, within = netnstest.Self, netnstest.IP, netnstest.Within

// lab is a client and backends, each in a namespace behind a veth; the relay between them is this process.
//
//	client 198.18.0.2, fd00:18::2, and any address of 198.18.1.0/24    relay 198.18.0.1, fd00:18::1
//	backend i 198.19.i.2, fd00:19:i::2                                  relay 198.19.i.1, fd00:19:i::1
type lab struct {
	client   string
	backends []string
}

const (
	front4, front6 = "198.18.0.1:80", "[fd00:18::1]:80"
	client4        = "198.18.0.2"
	servePort      = 6969
)

func backend4(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("198.19.%d.2", i)), servePort)
}

func backend6(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd00:19:%d::2", i)), servePort)
}

func newLab(t testing.TB, backends int) *lab {
	t.Helper()
	l := &lab{client: fmt.Sprintf("rkc%d", os.Getpid())}
	join := func(ns, link, net4, net6, bits string) {
		t.Helper()
		_ = exec.Command("ip", "netns", "del", ns).Run() // of a test that was killed
		_ = exec.Command("ip", "link", "del", link).Run()
		ip(t, "netns", "add", ns)
		t.Cleanup(func() { ip(t, "netns", "del", ns) })
		within(t, ns, noDAD)
		ip(t, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", ns)
		t.Cleanup(func() { ip(t, "link", "del", link) }) // a namespace takes its time to go, and its links with it
		ip(t, "addr", "add", net4+"1/"+bits, "dev", link)
		ip(t, "addr", "add", net6+"1/64", "dev", link, "nodad")
		ip(t, "link", "set", link, "up")
		ip(t, "-n", ns, "addr", "add", net4+"2/"+bits, "dev", "eth0")
		ip(t, "-n", ns, "addr", "add", net6+"2/64", "dev", "eth0", "nodad")
		ip(t, "-n", ns, "link", "set", "lo", "up")
		ip(t, "-n", ns, "link", "set", "eth0", "up")
		ip(t, "-n", ns, "route", "add", "default", "via", net4+"1")
		ip(t, "-n", ns, "-6", "route", "add", "default", "via", net6+"1")
	}
	join(l.client, "client", "198.18.0.", "fd00:18::", "16")
	ip(t, "-n", l.client, "route", "add", "local", "198.18.1.0/24", "dev", "lo")
	for i := range backends {
		ns := fmt.Sprintf("rkb%d-%d", i, os.Getpid())
		join(ns, fmt.Sprintf("backend%d", i), fmt.Sprintf("198.19.%d.", i), fmt.Sprintf("fd00:19:%d::", i), "24")
		l.backends = append(l.backends, ns)
	}
	must(t, Revert())
	t.Cleanup(func() { must(t, Revert()) })
	must(t, netlink.ConntrackTableFlush(netlink.ConntrackTable)) // a port used before would not be a fresh flow
	return l
}

// noDAD lets new links speak IPv6 at once. Until its link-local address is settled a machine does not ask for its neighbours.
func noDAD() error {
	return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644)
}

// serve has backend i answer each connection with its number and the address it sees, and then echo.
func (l *lab) serve(t testing.TB, i int) (stop func()) {
	t.Helper()
	var listener net.Listener
	within(t, l.backends[i], func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf(":%d", servePort))
		return err
	})
	var wait sync.WaitGroup
	var mu sync.Mutex // guards conns, which is nil in the end
	conns := map[net.Conn]bool{}
	wait.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if conns == nil {
				_ = c.Close()
			} else {
				conns[c] = true
				wait.Go(func() {
					defer c.Close()
					_, _ = fmt.Fprintf(c, "%d %s\n", i, c.RemoteAddr())
					r := bufio.NewReader(c)
					for {
						line, err := r.ReadString('\n')
						if err != nil {
							break
						}
						_, _ = c.Write([]byte(line))
					}
					mu.Lock()
					delete(conns, c)
					mu.Unlock()
				})
			}
			mu.Unlock()
		}
	})
	var once sync.Once
	stop = func() {
		once.Do(func() {
			_ = listener.Close()
			mu.Lock()
			for c := range conns {
				_ = c.Close()
			}
			conns = nil
			mu.Unlock()
			wait.Wait()
		})
	}
	t.Cleanup(stop)
	return stop
}

// patience is for what should come at once; the machine may be busy.
const patience = 20 * time.Second

// dial connects from the client's namespace, from any of its addresses if from is empty.
func (l *lab) dial(t testing.TB, from, to string, wait time.Duration) (c net.Conn, err error) {
	t.Helper()
	within(t, l.client, func() error {
		c, err = try(from, to, wait)
		return nil
	})
	return c, err
}

func try(from, to string, wait time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: wait, KeepAlive: -1}
	if from != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
	}
	return d.Dial("tcp", to)
}

// reach connects, and tells which backend has answered, and whom it sees.
func (l *lab) reach(t testing.TB, from, to string) (c net.Conn, backend int, seen netip.AddrPort) {
	t.Helper()
	c, err := l.dial(t, from, to, patience)
	if err != nil {
		t.Fatalf("%s from %q: %v", to, from, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	line, err := readLine(c)
	if err != nil {
		t.Fatalf("%s from %q: %v", to, from, err)
	}
	var text string
	if _, err := fmt.Sscan(line, &backend, &text); err != nil {
		t.Fatalf("%s from %q: %q: %v", to, from, line, err)
	}
	return c, backend, netip.MustParseAddrPort(text)
}

// readLine takes no more than the line.
func readLine(c net.Conn) (string, error) {
	var line strings.Builder
	for b := make([]byte, 1); ; {
		if _, err := c.Read(b); err != nil {
			return line.String(), err
		}
		if b[0] == '\n' {
			return line.String(), nil
		}
		line.WriteByte(b[0])
	}
}

// echoes tells whether a connection still works.
func echoes(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("ping\n")); err != nil {
		return err
	}
	line, err := readLine(c)
	if err == nil && line != "ping" {
		err = fmt.Errorf("echo: %q", line)
	}
	return err
}

// refused expects a reset in answer to a SYN, at once.
func (l *lab) refused(t testing.TB, from, to string) {
	t.Helper()
	best := time.Hour
	for range 5 {
		start := time.Now()
		c, err := l.dial(t, from, to, patience)
		took := time.Since(start)
		if err == nil {
			_ = c.Close()
			t.Fatalf("%s from %q: connected; want refused", to, from)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("%s from %q: %v; want refused", to, from, err)
		}
		best = min(best, took)
	}
	if best > 200*time.Millisecond { // a SYN that is dropped comes again after a second
		t.Errorf("%s: refused after %v at best; want at once", to, best)
	}
}

func (l *lab) config(backends ...netip.AddrPort) Config {
	cfg := Config{Listen: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:80")}, Budget: 1500}
	for _, b := range backends {
		cfg.Backends = append(cfg.Backends, relay.Backend{Addr: b, Weight: 1})
	}
	return cfg
}

func open(t testing.TB, cfg Config) *Path {
	t.Helper()
	p, err := Open(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// plan is what p has, changed by change.
func plan(p *Path, change func(*relay.Plan)) relay.Plan {
	n := relay.Plan{Slots4: p.plan.Slots4, Slots6: p.plan.Slots6, Down: append([]bool{}, p.plan.Down...), Open: append([]int{}, p.plan.Open...)}
	if change != nil {
		change(&n)
	}
	return n
}

func counts(t testing.TB, p *Path) relay.Counts {
	t.Helper()
	c, err := p.Counts()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
