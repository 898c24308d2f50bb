//go:build e2e

package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"spillway/internal/netnstest"
	"spillway/internal/waittest"
)

func TestASourceIsDroppedForItsTime(t *testing.T) {
	t.Parallel()
	f, s := open(t, Config{AllowLoopback: true})
	s.passes(t, "127.0.0.2", "127.0.0.3")

	const d = 3 * time.Second
	start := time.Now()
	must(t, f.Add(prefix("127.0.0.2"), d))
	s.drops(t, "127.0.0.2")
	s.passes(t, "127.0.0.3")
	if packets, bytes, err := f.Dropped(); err != nil || packets < 2 || bytes < 60*packets/2 {
		t.Errorf("dropped: %d packets of %d bytes, %v; want a SYN and a datagram or more", packets, bytes, err)
	}

	waittest.Until(t, d+patience, "the end of its time", func() bool { return s.dial(t, silence, "tcp", "127.0.0.2", "127.0.0.1") == nil })
	if took := time.Since(start); took < d-silence {
		t.Errorf("dropped for %v only", took)
	}
	s.passes(t, "127.0.0.2")
	if list, err := f.List(); err != nil || len(list) != 0 {
		t.Errorf("list: %v, %v", list, err)
	}
}

func TestRemoveLetsThrough(t *testing.T) {
	t.Parallel()
	f, s := open(t, Config{AllowLoopback: true})
	must(t, f.Add(prefix("127.0.0.2"), time.Hour))
	s.drops(t, "127.0.0.2")
	must(t, f.Remove(prefix("127.0.0.2")))
	s.passes(t, "127.0.0.2")
	must(t, f.Remove(prefix("127.0.0.2")))
	must(t, f.Remove(prefix("127.0.0.9")))
}

// The kernel's interval sets refuse such prefixes (EEXIST).
func TestPrefixesOverlapAndEndByThemselves(t *testing.T) {
	t.Parallel()
	f, s := open(t, Config{AllowLoopback: true})
	must(t, f.Add(prefix("127.1.0.0/16"), time.Hour))
	must(t, f.Add(prefix("127.1.1.0/24"), time.Hour))
	must(t, f.Add(prefix("127.1.0.0/24"), time.Hour)) // adjacent
	must(t, f.Add(prefix("127.1.1.7"), time.Hour))
	must(t, f.Add(prefix("127.0.0.0/10"), time.Hour))
	s.drops(t, "127.1.1.7", "127.1.1.8", "127.1.2.1", "127.63.255.255")
	must(t, f.Remove(prefix("127.0.0.0/10")))
	must(t, f.Remove(prefix("127.1.0.0/16")))
	s.drops(t, "127.1.1.7", "127.1.1.8")
	s.passes(t, "127.1.2.1", "127.63.255.255", "127.2.0.1")
	must(t, f.Remove(prefix("127.1.1.0/24")))
	s.drops(t, "127.1.1.7")
	s.passes(t, "127.1.1.8")
	list, err := f.List()
	if err != nil || len(list) != 2 || list[0].Prefix != prefix("127.1.0.0/24") || list[1].Prefix != prefix("127.1.1.7") {
		t.Errorf("list: %v, %v", list, err)
	}
}

func TestTheLaterEndCounts(t *testing.T) {
	t.Parallel()
	f, _ := open(t, Config{AllowLoopback: true})
	left := func() time.Duration {
		t.Helper()
		list, err := f.List()
		if err != nil || len(list) != 1 {
			t.Fatalf("list: %v, %v", list, err)
		}
		return list[0].Left
	}
	p := prefix("127.0.0.2")
	must(t, f.Add(p, time.Minute))
	must(t, f.Add(p, 10*time.Second))
	if got := left(); got < 55*time.Second || got > time.Minute {
		t.Errorf("after a shorter time: %v left, want a minute", got)
	}
	must(t, f.Add(p, time.Hour))
	if got := left(); got < 59*time.Minute || got > time.Hour {
		t.Errorf("after a longer time: %v left, want an hour", got)
	}
	must(t, f.Add(p, 1000*time.Hour))
	if got := left(); got < 23*time.Hour || got > 24*time.Hour {
		t.Errorf("after 1000 hours: %v left, want 24 hours", got)
	}
}

func TestIPv6HostsAndNetworks(t *testing.T) {
	t.Parallel()
	f, s := open(t, Config{AllowLoopback: true})
	for _, a := range []string{"2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:2::1", "2001:db8:1::1"} {
		netnstest.IP(t, "addr", "replace", a+"/128", "dev", "lo", "nodad")
	}
	must(t, f.Add(prefix("2001:db8:0:1::1"), time.Hour)) // its /64
	s.drops(t, "2001:db8:0:1::1", "2001:db8:0:1::2")
	s.passes(t, "2001:db8:0:2::1", "2001:db8:1::1", "::1")
	must(t, f.Remove(prefix("2001:db8:0:1::1")))
	must(t, f.Add(prefix("2001:db8:0:1::1/128"), time.Hour))
	must(t, f.Add(prefix("2001:db8:1::/48"), time.Hour))
	s.drops(t, "2001:db8:0:1::1", "2001:db8:1::1")
	s.passes(t, "2001:db8:0:1::2", "2001:db8:0:2::1")
}

func TestLoopbackIsNeverDropped(t *testing.T) {
	t.Parallel()
	f, s := open(t, Config{})
	for _, p := range []string{"127.0.0.2", "127.0.0.0/16", "::1/128"} {
		if err := f.Add(prefix(p), time.Hour); !errors.Is(err, ErrNever) {
			t.Errorf("add %s: %v", p, err)
		}
	}
	// Our own address, dropped by mistake, or claimed by somebody: what we send ourselves comes in on lo.
	netnstest.IP(t, "addr", "replace", "198.18.9.1/32", "dev", "lo")
	must(t, f.Add(prefix("198.18.9.1"), time.Hour))
	s.passes(t, "127.0.0.2", "198.18.9.1")
}

func TestTrustedSourcesAreLetThrough(t *testing.T) {
	t.Parallel()
	f, s := open(t, Config{AllowLoopback: true, Never: []netip.Prefix{prefix("127.5.0.0/16")}})
	for _, p := range []string{"127.5.0.1", "127.5.0.0/24", "127.0.0.0/8"} {
		if err := f.Add(prefix(p), time.Hour); !errors.Is(err, ErrNever) {
			t.Errorf("add %s: %v", p, err)
		}
	}
	must(t, f.Add(prefix("127.6.0.1"), time.Hour))
	must(t, f.Add(prefix("127.7.0.1"), time.Hour))
	s.drops(t, "127.6.0.1")
	must(t, f.SetNever([]netip.Prefix{prefix("127.6.0.0/24")}))
	s.passes(t, "127.6.0.1")
	s.drops(t, "127.7.0.1")
	must(t, f.Add(prefix("127.5.0.1"), time.Hour))
	s.drops(t, "127.5.0.1")
}

func TestWhatIsForwardedIsSpared(t *testing.T) {
	t.Parallel()
	f, s := open(t, Config{})
	client, backend := fmt.Sprintf("fwc%d", os.Getpid()), fmt.Sprintf("fwb%d", os.Getpid())
	for i, ns := range []string{client, backend} {
		a, b, net := fmt.Sprintf("fw%da", i), fmt.Sprintf("fw%db", i), fmt.Sprintf("198.18.%d.", 20+i)
		netnstest.IP(t, "netns", "add", ns)
		t.Cleanup(func() { netnstest.IP(t, "netns", "del", ns) })
		netnstest.IP(t, "link", "add", a, "type", "veth", "peer", "name", b, "netns", ns)
		t.Cleanup(func() { netnstest.IP(t, "link", "del", a) }) // a namespace takes its time to go, and its links with it
		netnstest.IP(t, "addr", "add", net+"254/24", "dev", a)
		netnstest.IP(t, "link", "set", a, "up")
		netnstest.IP(t, "-n", ns, "addr", "add", net+"1/24", "dev", b)
		netnstest.IP(t, "-n", ns, "link", "set", b, "up")
		netnstest.IP(t, "-n", ns, "route", "add", "default", "via", net+"254")
	}
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	netnstest.Within(t, backend, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf("198.18.21.1:%d", s.port)) // the same port, of somebody else
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	})
	reaches := func(to string) (ok bool) {
		t.Helper()
		netnstest.Within(t, client, func() error {
			err := s.try(silence, "tcp", "198.18.20.1", to)
			ok = err == nil
			return nil
		})
		return ok
	}
	if !reaches("198.18.20.254") || !reaches("198.18.21.1") {
		t.Fatal("the namespaces are not joined")
	}
	must(t, f.Add(prefix("198.18.20.1"), time.Hour))
	if reaches("198.18.20.254") {
		t.Error("a dropped source reached our port")
	}
	if !reaches("198.18.21.1") {
		t.Error("a dropped source did not reach somebody else's port through this machine")
	}
}

func TestRunAppliesWhatIsQueued(t *testing.T) {
	t.Parallel()
	f, s := open(t, Config{AllowLoopback: true})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	start := time.Now()
	f.Queue(prefix("127.0.0.2"), time.Hour)
	waittest.Until(t, patience, "a queued source", func() bool { list, _ := f.List(); return len(list) == 1 })
	t.Logf("a queued source was dropped within %v", time.Since(start))
	for i := range 500 {
		f.Queue(netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32), time.Hour)
	}
	f.Queue(netip.Prefix{}, time.Hour)
	waittest.Until(t, patience, "all queued sources", func() bool { list, _ := f.List(); return len(list) == 501 })
	s.drops(t, "127.0.0.2")
	cancel()
	<-done
	if got := metric(f, `spillway_firewall_refused_total{reason="never"}`); got != "1" {
		t.Errorf("refused: got %s, want 1", got)
	}
}

func TestAFullTableIsCounted(t *testing.T) {
	t.Parallel()
	f, s := open(t, Config{AllowLoopback: true, MaxElements: 10})
	for i := range 10 {
		must(t, f.Add(netip.PrefixFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}), 32), time.Second+time.Duration(i/5)*time.Hour))
	}
	if err := f.Add(prefix("127.0.2.1"), time.Hour); !errors.Is(err, ErrFull) {
		t.Errorf("the eleventh: %v", err)
	}
	must(t, f.Add(prefix("127.0.1.9"), 2*time.Hour)) // has a place
	if got := metric(f, `spillway_firewall_refused_total{reason="full"}`); got != "1" {
		t.Errorf("refused: got %s, want 1", got)
	}
	waittest.Until(t, patience, "places of sources whose time is over", func() bool { return f.Add(prefix("127.0.2.1"), time.Hour) == nil })
	s.drops(t, "127.0.2.1")
	if got := metric(f, "spillway_firewall_errors_total"); got != "0" {
		t.Errorf("errors: got %s", got)
	}
}
