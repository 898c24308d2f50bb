//go:build e2e

package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/waittest"
	"spillway/relay"
)

func TestForwards(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	for _, masquerade := range []bool{false, true} {
		cfg := l.config(backend4(0), backend6(0))
		cfg.Masquerade = masquerade
		p := open(t, cfg)
		for _, front := range []string{front4, front6} {
			c, _, seen := l.reach(t, "", front)
			must(t, echoes(c))
			client := netip.MustParseAddrPort(c.LocalAddr().String())
			if !masquerade && seen != client {
				t.Errorf("%s: the backend sees %v; want the client, %v", front, seen, client)
			}
			if masquerade && seen.Addr() == client.Addr() {
				t.Errorf("%s: the backend sees %v, the client, in spite of masquerading", front, seen)
			}
		}
		if c := counts(t, p); c.Backends[0].Opened != 1 || c.Backends[1].Opened != 1 || c.NoFlow != 0 || c.Source != 0 {
			t.Errorf("counts: %+v", c)
		}
		must(t, p.Close())
	}
}

func TestSourcesAreSpreadByWeightAndStay(t *testing.T) {
	l := newLab(t, 3)
	for i := range 3 {
		l.serve(t, i)
	}
	cfg := l.config(backend4(0), backend4(1), backend4(2))
	cfg.Backends[1].Weight = 2
	p := open(t, cfg)
	const sources = 240
	var got [3]int
	at := map[int]int{}
	for round := range 2 {
		for i := range sources {
			c, backend, _ := l.reach(t, fmt.Sprintf("198.18.1.%d", 1+i), front4)
			_ = c.Close()
			if round == 0 {
				at[i] = backend
				got[backend]++
			} else if at[i] != backend {
				t.Errorf("source %d went to backend %d, and then to %d", i, at[i], backend)
			}
		}
	}
	for i, want := range []int{sources / 4, sources / 2, sources / 4} {
		if got[i] < want*2/3 || got[i] > want*3/2 {
			t.Errorf("sources: %v; want some %d at backend %d", got, want, i)
		}
	}
	if c := counts(t, p); c.Backends[1].Opened != uint64(2*got[1]) {
		t.Errorf("opened at backend 1: %d, want %d", c.Backends[1].Opened, 2*got[1])
	}
}

// all gives every slot of a family to one backend.
func all(slots *[relay.Slots]int16, backend int16) {
	for s := range slots {
		slots[s] = backend
	}
}

func TestABackendThatIsDownIsLeft(t *testing.T) {
	for _, masquerade := range []bool{false, true} {
		t.Run(fmt.Sprintf("masquerade=%v", masquerade), func(t *testing.T) {
			l := newLab(t, 2)
			stop := l.serve(t, 0)
			l.serve(t, 1)
			cfg := l.config(backend4(0), backend4(1), backend6(0), backend6(1))
			cfg.Masquerade = masquerade
			p := open(t, cfg)
			must(t, p.Apply(plan(p, func(n *relay.Plan) { all(&n.Slots4, 0); all(&n.Slots6, 2) })))
			old4, at4, _ := l.reach(t, "", front4)
			old6, at6, _ := l.reach(t, "", front6)
			idle, _, _ := l.reach(t, "", front4)
			if at4 != 0 || at6 != 0 {
				t.Fatalf("at backends %d, %d; want 0, 0", at4, at6)
			}
			must(t, p.Apply(plan(p, func(n *relay.Plan) {
				n.Down = []bool{true, false, true, false}
				all(&n.Slots4, 1)
				all(&n.Slots6, 3)
			})))
			for _, c := range []net.Conn{old4, old6} {
				if err := echoes(c); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("a flow to it: %v; want a reset", err)
				}
				raw, err := c.(*net.TCPConn).SyscallConn()
				must(t, err)
				must(t, raw.Control(func(fd uintptr) { // not after how long: the machine may be busy
					if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err != nil || info.Total_retrans > 0 {
						t.Errorf("a flow to it: %+v, %v; want its first segment to be answered with a reset", info, err)
					}
				}))
			}
			for _, front := range []string{front4, front6} {
				if _, at, _ := l.reach(t, "", front); at != 1 {
					t.Errorf("%s: at backend %d, which is down", front, at)
				}
			}
			c := counts(t, p)
			if c.Backends[0].Down == 0 || c.Backends[2].Down == 0 || c.Backends[1].Down != 0 {
				t.Errorf("counts: %+v", c)
			}
			// The backend's side of the flow that nobody has touched yet: it closes, and is told.
			resets := watch(t, l.backends[0], func(ip []byte) bool { return tcpFlags(ip)&rst != 0 })
			stop()
			waittest.Until(t, patience, "a reset at the backend", func() bool { return resets() > 0 })
			_ = idle.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if _, err := readLine(idle); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("what it sent came through: %v", err)
			}
		})
	}
}

func TestAllDownIsRefusedAtOnce(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	p := open(t, l.config(backend4(0), backend6(0)))
	must(t, p.Apply(plan(p, func(n *relay.Plan) { n.Down = []bool{true, true} })))
	l.refused(t, "", front4)
	l.refused(t, "", front6)
	for _, b := range p.cfg.Backends { // from this machine itself, as probes are
		c, err := try("", b.Addr.String(), patience)
		must(t, err)
		_, err = readLine(c)
		must(t, err)
		must(t, echoes(c))
		must(t, c.Close())
	}
	must(t, p.Apply(plan(p, func(n *relay.Plan) { n.Down = []bool{false, false} })))
	for _, front := range []string{front4, front6} {
		c, _, _ := l.reach(t, "", front)
		must(t, echoes(c))
	}
	// Each has sent its greeting and an echo. What it told this machine itself is not counted.
	if b := counts(t, p).Backends; b[0].Down != 5 || b[1].Down != 5 || b[0].Spoken != 2 || b[1].Spoken != 2 {
		t.Errorf("counts: %+v; want 5 refused each, and data twice", b)
	}
}

func TestTheKernelForgetsByItself(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	p := open(t, l.config(backend4(0)))
	down := plan(p, func(n *relay.Plan) { n.Down[0], n.Open[0] = true, 1 })
	must(t, p.Apply(down))
	time.Sleep(relay.Forget / 2) // a refresh gives the whole time again, which is what is tested
	start := time.Now()
	must(t, p.Apply(down))
	waittest.Until(t, relay.Forget+patience, "the end of a refusal nobody repeats", func() bool {
		c, err := l.dial(t, "", front4, patience)
		if err == nil {
			_ = c.Close()
		} else if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
		return err == nil
	})

	if took := time.Since(start); took < relay.Forget-100*time.Millisecond {
		t.Errorf("forgotten after %v, want %v", took, relay.Forget)
	}
	must(t, p.Apply(down))
	l.refused(t, "", front4)
}

func TestSegmentsOfNoFlowAreRefused(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	p := open(t, l.config(backend4(0)))
	front := netip.MustParseAddrPort(front4)
	resets := watch(t, l.client, func(ip []byte) bool { return tcpFlags(ip)&rst != 0 })
	for i, loose := range []string{"0", "1"} {
		must(t, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", []byte(loose), 0o644))
		const n = 20
		for _, f := range []byte{ack, ack | 8, fin | ack, rst, rst | ack} {
			send(t, l.client, 0, n, func(j int) []byte { return packet(spoofed(1000*i+100*int(f)+j), front, f, 1, 1) })
		}
		waittest.Until(t, patience, "resets", func() bool { return resets() >= 3*n*(i+1) })
		if got := resets(); got != 3*n*(i+1) {
			t.Errorf("loose=%s: %d resets, want %d: nobody answers a reset", loose, got, 3*n*(i+1))
		}
		if c := counts(t, p); c.NoFlow != uint64(3*n*(i+1)) || c.Backends[0].Opened != 0 {
			t.Errorf("loose=%s: counts: %+v", loose, c)
		}
	}
}

func TestSegmentsAreAsSmallAsTheTunnel(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	open(t, l.config(backend4(0), backend6(0)))
	ip(t, "link", "set", "backend0", "mtu", "1280")
	ip(t, "-n", l.client, "link", "set", "eth0", "mtu", "9000")
	try := func(front string, most int) {
		t.Helper()
		offered := watch(t, l.backends[0], func(ip []byte) bool { return isSYN(ip) && offersMSS(ip) <= most })
		c, _, _ := l.reach(t, "", front)
		raw, err := c.(*net.TCPConn).SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG); err != nil || got > most || got < most-40 {
				t.Errorf("%s: the client sends segments of %d, %v; want %d at most", front, got, err, most)
			}
		}))
		if got := offered(); got != 1 {
			t.Errorf("%s: the backend got %d SYNs that offer %d at most; want 1", front, got, most)
		}
	}
	for front, most := range map[string]int{front4: 1240, front6: 1220} {
		try(front, most)
		try(front, most) // by what is remembered
	}
	ip(t, "link", "set", "backend0", "mtu", "1400")
	time.Sleep(2 * foundFor)
	try(front4, 1360)
	try(front6, 1340)
}

// offersMSS is the first option of a SYN, which Linux's is.
func offersMSS(ip []byte) int {
	tcp := ip[20:]
	if ip[0]>>4 == 6 {
		tcp = ip[40:]
	}
	if len(tcp) < 24 || tcp[20] != 2 || tcp[21] != 4 {
		return 1 << 16
	}
	return int(tcp[22])<<8 | int(tcp[23])
}

// What is not addressed to what is listened to is nobody's business of ours.
func TestOthersAreLeftAlone(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	ip(t, "addr", "replace", "198.18.0.9/32", "dev", "client")
	t.Cleanup(func() { ip(t, "addr", "del", "198.18.0.9/32", "dev", "client") })
	local := func(network, addr string) {
		t.Helper()
		s, err := net.Listen(network, addr)
		must(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := s.Accept()
				if err != nil {
					return
				}
				_, _ = fmt.Fprintln(c, "9 127.0.0.1:1")
				_ = c.Close()
			}
		}()
		t.Cleanup(func() { _ = s.Close(); <-done })
	}
	local("tcp4", "198.18.0.9:80")
	local("tcp4", "127.0.0.1:80")
	local("tcp6", "[::]:80")
	cfg := l.config(backend4(0))
	cfg.Listen = []netip.AddrPort{netip.MustParseAddrPort(front4)}
	p := open(t, cfg)
	if _, at, _ := l.reach(t, "", front4); at != 0 {
		t.Errorf("%s: at %d, want the backend", front4, at)
	}
	if _, at, _ := l.reach(t, "", "198.18.0.9:80"); at != 9 {
		t.Errorf("another address of ours: at %d, want this machine's own socket", at)
	}
	must(t, p.Close())

	p = open(t, l.config(backend4(0))) // all IPv4 addresses; no backend for IPv6
	must(t, p.Apply(plan(p, func(n *relay.Plan) { n.Down[0] = true })))
	if _, at, _ := l.reach(t, "", front6); at != 9 {
		t.Errorf("IPv6: at %d, want this machine's own socket", at)
	}
	for _, own := range []string{"127.0.0.1:80", "198.18.0.9:80"} { // from this machine to itself
		c, err := try("", own, patience)
		must(t, err)
		_, err = readLine(c)
		must(t, err)
		must(t, c.Close())
	}
	// Through this machine to somebody else's port of that number.
	within(t, l.backends[0], func() error {
		s, err := net.Listen("tcp4", ":80")
		if err == nil {
			t.Cleanup(func() { _ = s.Close() })
		}
		return err
	})
	c, err := l.dial(t, "", "198.19.0.2:80", patience)
	must(t, err)
	must(t, c.Close())
	if c := counts(t, p); c.Backends[0].Opened != 0 || c.Backends[0].Down != 0 || c.NoFlow != 0 {
		t.Errorf("counts: %+v; want none", c)
	}
}
