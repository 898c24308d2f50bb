//go:build e2e

package kernel

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/waittest"
	"spillway/relay"
)

// village is a client, the relay and a backend, each in a network namespace of its own, which go with the test. The relay has our
// table, and another address towards the world that is not the client's.
type village struct {
	client, relay, backend string // namespaces
	public, seat           netip.AddrPort
	cfg                    Config
	nft                    *socket
}

var villages atomic.Int32

func newVillage(t *testing.T, ipv6, masquerade bool) *village {
	t.Helper()
	prefix := fmt.Sprintf("cut%d-%d", os.Getpid(), villages.Add(1))
	v := &village{client: prefix + "c", relay: prefix + "r", backend: prefix + "b",
		public: netip.MustParseAddrPort("198.18.1.1:80"), seat: netip.MustParseAddrPort("10.66.0.2:6969")}
	if ipv6 {
		v.public, v.seat = netip.MustParseAddrPort("[2001:db8:1::1]:80"), netip.MustParseAddrPort("[fd00:66::2]:6969")
	}
	for _, ns := range []string{v.client, v.relay, v.backend} {
		v.ip(t, "netns", "add", ns)
		t.Cleanup(func() { v.ip(t, "netns", "del", ns) })
		v.sysctl(t, ns, "net/ipv6/conf/default/accept_dad", "0")
		v.ip(t, "-n", ns, "link", "set", "lo", "up")
	}
	v.link(t, v.client, "198.18.1.2/24", "2001:db8:1::2/64", v.relay, "198.18.1.1/24", "2001:db8:1::1/64", "eth0")
	v.link(t, v.backend, "10.66.0.2/24", "fd00:66::2/64", v.relay, "10.66.0.1/24", "fd00:66::1/64", "wg0")
	for _, family := range []struct{ flag, world, tunnel string }{{"-4", "198.18.1.1", "10.66.0.1"}, {"-6", "2001:db8:1::1", "fd00:66::1"}} {
		v.ip(t, family.flag, "-n", v.client, "route", "add", "default", "via", family.world)
		v.ip(t, family.flag, "-n", v.backend, "route", "add", "default", "via", family.tunnel)
	}
	v.sysctl(t, v.relay, "net/ipv4/ip_forward", "1")
	v.sysctl(t, v.relay, "net/ipv6/conf/all/forwarding", "1")

	var err error
	v.cfg, err = Config{Listen: []netip.AddrPort{netip.AddrPortFrom(netip.Addr{}, 80)}, Backends: []relay.Backend{{Addr: v.seat, Weight: 1}},
		Masquerade: masquerade, Budget: maxBudget}.check()
	v.must(t, err)
	v.in(t, v.relay, func() (err error) { v.nft, err = dial(); return err })
	t.Cleanup(func() { _ = v.nft.close() })
	v.plan(t, false)
	return v
}

// link joins two namespaces. The link has the name in both.
func (v *village) link(t *testing.T, a, a4, a6, b, b4, b6, name string) {
	t.Helper()
	v.ip(t, "-n", a, "link", "add", name, "type", "veth", "peer", "name", name, "netns", b)
	for _, e := range []struct{ ns, ip4, ip6 string }{{a, a4, a6}, {b, b4, b6}} {
		v.ip(t, "-n", e.ns, "addr", "add", e.ip4, "dev", name)
		v.ip(t, "-n", e.ns, "addr", "add", e.ip6, "dev", name, "nodad")
		v.ip(t, "-n", e.ns, "link", "set", name, "up")
	}
	for _, ns := range []string{a, b} { // IPv6 finds no neighbour before the kernel has noticed, which it does in its own time
		waittest.Until(t, patience, name+" is up", func() bool {
			out, _ := exec.Command("ip", "-n", ns, "-o", "link", "show", "dev", name).Output()
			return strings.Contains(string(out), "state UP")
		})

	}
}

func (*village) ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

func (*village) must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// in runs f on a thread in a namespace, which ends with f.
func (v *village) in(t *testing.T, ns string, f func() error) {
	t.Helper()
	if err := v.try(ns, f); err != nil {
		t.Fatalf("in namespace %s: %v", ns, err)
	}
}

func (*village) try(ns string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func (v *village) sysctl(t *testing.T, ns, key, value string) {
	t.Helper()
	v.in(t, ns, func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644) })
}

// plan is what the table does from now on: refuse what is of the backend, or not.
func (v *village) plan(t *testing.T, down bool) {
	t.Helper()
	p := &relay.Plan{Down: []bool{down}, Open: []int{relay.Bands}}
	for i := range relay.Slots {
		p.Slots4[i], p.Slots6[i] = relay.Nobody, relay.Nobody
		if v.seat.Addr().Is4() {
			p.Slots4[i] = 0
		} else {
			p.Slots6[i] = 0
		}
	}
	_, ours, err := owner(v.nft)
	v.must(t, err)
	v.must(t, v.nft.commit(v.cfg.install(p, []time.Duration{time.Minute}, ours)))
}

// serve takes connections at the backend's address until the test ends, and gives them out.
func (v *village) serve(t *testing.T) <-chan net.Conn {
	t.Helper()
	var l net.Listener
	v.in(t, v.backend, func() (err error) { l, err = net.Listen("tcp", v.seat.String()); return err })
	taken := make(chan net.Conn, 1<<14)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			taken <- c
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		for len(taken) > 0 {
			_ = (<-taken).Close()
		}
	})
	return taken
}

// connect opens connections through the relay.
func (v *village) connect(t *testing.T, n int) []net.Conn {
	t.Helper()
	var conns []net.Conn
	t.Cleanup(func() {
		for _, c := range conns {
			_ = c.Close()
		}
	})
	v.in(t, v.client, func() error {
		for range n {
			c, err := net.DialTimeout("tcp", v.public.String(), patience)
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
		return nil
	})
	return conns
}

func (v *village) cutter(t *testing.T) *cutter {
	t.Helper()
	var c *cutter
	v.in(t, v.relay, func() (err error) {
		c, err = newCutter(slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
		return err
	})
	t.Cleanup(func() { v.must(t, c.close()) })
	return c
}

// entries are those of the relay's flows to the backend.
func (v *village) entries(t *testing.T) (flows []flow) {
	t.Helper()
	v.in(t, v.relay, func() error {
		c, err := openConntrack()
		if err != nil {
			return err
		}
		return errors.Join(c.flows(v.seat, func(f *flow) { flows = append(flows, *f) }), c.close())
	})
	return flows
}

// ends waits for the end of each connection, and tells how they ended, and how long the last took.
func ends(conns []net.Conn, patience time.Duration) (how map[string]int, last time.Duration) {
	how = map[string]int{}
	start := time.Now()
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, c := range conns {
		_ = c.SetReadDeadline(start.Add(patience))
		all.Go(func() {
			_, err := c.Read(make([]byte, 1))
			mu.Lock()
			defer mu.Unlock()
			last = time.Since(start)
			switch {
			case errors.Is(err, unix.ECONNRESET):
				how["reset"]++
			case errors.Is(err, io.EOF):
				how["closed"]++
			case errors.Is(err, os.ErrDeadlineExceeded):
				how["alive"]++
			default:
				how[fmt.Sprint(err)]++
			}
		})
	}
	all.Wait()
	return how, last
}

func TestEveryIdleFlowOfADeadBackendIsEnded(t *testing.T) {
	for _, tt := range []struct {
		name                    string
		conns                   int
		ipv6, masquerade, loose bool
		hangs                   bool // the backend, instead of being gone
	}{
		{name: "3000 flows, the host is gone", conns: 3000},
		{name: "3000 flows, the process hangs", conns: 3000, hangs: true},
		{name: "masqueraded", conns: 500, masquerade: true, hangs: true},
		{name: "masqueraded, the host is gone", conns: 500, masquerade: true},
		{name: "IPv6", conns: 500, ipv6: true, hangs: true},
		{name: "IPv6, the host is gone", conns: 500, ipv6: true},
		{name: "IPv6, masqueraded", conns: 500, ipv6: true, masquerade: true, hangs: true},
		{name: "conntrack takes up flows from their middle", conns: 500, hangs: true, loose: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := newVillage(t, tt.ipv6, tt.masquerade)
			if !tt.loose {
				v.sysctl(t, v.relay, "net/netfilter/nf_conntrack_tcp_loose", "0")
			}
			taken := v.serve(t)
			conns := v.connect(t, tt.conns)
			var served []net.Conn
			for range conns {
				served = append(served, <-taken)
			}
			t.Cleanup(func() {
				for _, c := range served {
					_ = c.Close()
				}
			})
			c := v.cutter(t)

			if !tt.hangs {
				v.ip(t, "-n", v.backend, "link", "set", "wg0", "down")
			}
			start := time.Now()
			v.plan(t, true)
			var cut sync.WaitGroup
			cut.Go(func() {
				total := 0
				for try := 1; ; try++ {
					flows, err := c.cut(v.seat, nil)
					total += flows
					t.Logf("cut %d: %d flows, %v, %v after the plan", try, flows, err, time.Since(start))
					if total >= tt.conns || err == nil || try == 20 { // a busy machine may not have done it in the second that a cut has
						break
					}
				}
				if total != tt.conns {
					t.Errorf("cut: got %d flows; want %d", total, tt.conns)
				}
			})
			how, last := ends(conns, patience)
			t.Logf("clients: %v, the last after %v", how, last)
			if how["reset"] != tt.conns {
				t.Errorf("clients: got %v, the last after %v; want all reset", how, last)
			}
			cut.Wait()
			if left := v.entries(t); len(left) > 0 {
				t.Errorf("%d entries left, as %+v", len(left), left[0])
			}
			if tt.hangs {
				if how, last := ends(served, patience); how["reset"] != tt.conns {
					t.Errorf("the backend's side: got %v, the last after %v; want all reset", how, last)
				}
			}
		})
	}
}

// A client whose SYN is on its way when the backend dies would wait a second for its next one. One trial of three may be too slow for
// that to be seen: the machine may be busy.
func TestAClientThatIsConnectingIsRefused(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("ipv6=%v", ipv6), func(t *testing.T) {
			var slowest time.Duration
			for range 3 {
				if slowest = refusedWhileConnecting(t, ipv6); slowest < 800*time.Millisecond {
					return
				}
			}
			t.Errorf("a client was reset after %v; want it before its next SYN, a second after the first", slowest)
		})
	}
}

// refusedWhileConnecting is how long the slowest of clients that connect waits for its reset.
func refusedWhileConnecting(t *testing.T, ipv6 bool) (slowest time.Duration) {
	t.Helper()
	v := newVillage(t, ipv6, false)
	v.serve(t)
	v.connect(t, 1) // so that all have found their neighbours
	v.ip(t, "-n", v.backend, "link", "set", "wg0", "down")
	c := v.cutter(t)
	const clients = 20
	type end struct {
		err  error
		when time.Time
	}
	ends := make(chan end, clients)
	for range clients {
		go func() {
			err := v.try(v.client, func() error {
				c, err := net.DialTimeout("tcp", v.public.String(), patience)
				if err == nil {
					_ = c.Close()
				}
				return err
			})
			ends <- end{err, time.Now()}
		}()
	}
	for end := time.Now().Add(patience); len(v.entries(t)) < 1+clients; {
		if time.Now().After(end) {
			t.Fatalf("%d connections, want %d", len(v.entries(t)), 1+clients)
		}
	}
	v.plan(t, true)
	start := time.Now()
	if flows, err := c.cut(v.seat, nil); err != nil || flows != 1+clients {
		t.Errorf("cut: got %d flows, %v; want %d", flows, err, 1+clients)
	}
	for range clients {
		e := <-ends
		if !errors.Is(e.err, unix.ECONNRESET) && !errors.Is(e.err, unix.ECONNREFUSED) {
			t.Errorf("a client got %v; want a reset", e.err)
		}
		slowest = max(slowest, e.when.Sub(start))
	}
	return slowest
}

func TestTheFlowsOfABackendThatIsBackGoOn(t *testing.T) {
	v := newVillage(t, false, true)
	taken := v.serve(t)
	conns := v.connect(t, 300)
	c := v.cutter(t)
	cancelled := make(chan struct{})
	close(cancelled)
	if flows, err := c.cut(v.seat, cancelled); err != nil || flows != 0 {
		t.Errorf("cut: got %d flows, %v; want none", flows, err)
	}
	if n := len(v.entries(t)); n != len(conns) {
		t.Errorf("entries: got %d, want %d", n, len(conns))
	}
	for _, conn := range conns {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for range conns {
		served := <-taken
		_ = served.SetDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(served, make([]byte, 1)); err != nil {
			t.Fatalf("a flow has not gone on: %v", err)
		}
		_ = served.Close()
	}
}

// The backend is back while its flows are being cut: the cut ends at once, and what is new is left alone.
func TestACutEndsWithTheBackendsReturn(t *testing.T) {
	v := newVillage(t, false, false)
	taken := v.serve(t)
	old := v.connect(t, 200)
	for range old {
		c := <-taken
		t.Cleanup(func() { _ = c.Close() })
	}
	v.ip(t, "-n", v.client, "link", "set", "eth0", "down") // so that clients do not answer, and the cut waits for them
	c := v.cutter(t)
	v.plan(t, true)
	cancelled, returned := make(chan struct{}), make(chan struct{})
	go func() {
		if _, err := c.cut(v.seat, cancelled); err != nil {
			t.Errorf("cut: %v", err)
		}
		close(returned)
	}()
	time.Sleep(100 * time.Millisecond) // into its waiting; whenever it is, what follows holds
	v.plan(t, false)
	close(cancelled)
	start := time.Now()
	if <-returned; time.Since(start) > cutTime-200*time.Millisecond {
		t.Errorf("the cut went on for %v", time.Since(start))
	}
	v.ip(t, "-n", v.client, "link", "set", "eth0", "up")
	v.ip(t, "-4", "-n", v.client, "route", "replace", "default", "via", "198.18.1.1")
	fresh := v.connect(t, 50)
	for range fresh {
		served := <-taken
		if _, err := served.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		t.Cleanup(func() { _ = served.Close() })
	}
	for _, conn := range fresh {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatalf("a flow of after the return was cut: %v", err)
		}
	}
}

// Whoever has the same addresses later is another flow.
func TestAFlowMadeSinceIsNotDeleted(t *testing.T) {
	v := newVillage(t, false, false)
	v.serve(t)
	v.connect(t, 10)
	c := v.cutter(t)
	held, _, _, err := c.list(v.seat, false)
	v.must(t, err)
	if len(held) != 10 {
		t.Fatalf("flows: got %d, want 10", len(held))
	}
	for i := range held[:5] {
		held[i].id++
	}
	if n, err := c.ct.delete(held); err != nil || n != 5 {
		t.Errorf("deleted: got %d, %v; want 5", n, err)
	}
	if n := len(v.entries(t)); n != 5 {
		t.Errorf("entries: got %d, want 5", n)
	}
}

func TestTheProbesOfADeadBackendGoOn(t *testing.T) {
	v := newVillage(t, false, false)
	taken := v.serve(t)
	var probe net.Conn
	v.in(t, v.relay, func() (err error) { probe, err = net.DialTimeout("tcp", v.seat.String(), patience); return err })
	defer func() { _ = probe.Close() }()
	served := <-taken
	defer func() { _ = served.Close() }()
	c := v.cutter(t)
	v.plan(t, true)
	if flows, err := c.cut(v.seat, nil); err != nil || flows != 0 {
		t.Errorf("cut: got %d flows, %v; want none", flows, err)
	}
	_, err := served.Write([]byte("x"))
	v.must(t, err)
	_ = probe.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(probe, make([]byte, 1)); err != nil {
		t.Errorf("a probe was cut: %v", err)
	}
}

func TestTheCounts(t *testing.T) {
	v := newVillage(t, false, true)
	v.serve(t)
	v.connect(t, 25)
	v.in(t, v.relay, func() error {
		entries, most, failed, err := conntrackCounts()
		if err != nil || entries < 25 || entries > 35 || failed != 0 {
			t.Errorf("counts: got %d entries, %d failed, %v; want 25 or some more, 0", entries, failed, err)
		}
		raw, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
		if want := strings.TrimSpace(string(raw)); err != nil || fmt.Sprint(most) != want {
			t.Errorf("most: got %d, want %s, %v", most, want, err)
		}
		used, err := new(portGauge).used([]netip.AddrPort{v.seat}, entries)
		if err != nil || used < 25./ports || used > 35./ports {
			t.Errorf("ports used: got %v, %v", used, err)
		}
		return err
	})
}
