package firewall

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// metric is a sample's value as WriteMetrics gives it.
func metric(f *Firewall, name string) string {
	var b strings.Builder
	f.WriteMetrics(&b)
	for line := range strings.Lines(b.String()) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return "none"
}

func TestSourceOfAnAddress(t *testing.T) {
	t.Parallel()
	f := func(addr, want string) {
		t.Helper()
		if got := Source(netip.MustParseAddr(addr)).String(); got != want {
			t.Errorf("source of %s: got %s, want %s", addr, got, want)
		}
	}
	f("192.0.2.1", "192.0.2.1/32")
	f("::ffff:192.0.2.1", "192.0.2.1/32")
	f("2001:db8::1:2:3:4", "2001:db8::/64")
	f("fe80::1%eth0", "fe80::/64")
	if got := Source(netip.Addr{}); got.IsValid() {
		t.Errorf("source of nothing: got %v", got)
	}
}

func TestWhatMayBeDropped(t *testing.T) {
	t.Parallel()
	fw := &Firewall{never: canonicalAll([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32"), {}})}
	f := func(p, want string) {
		t.Helper()
		got, err := fw.permit(netip.MustParsePrefix(p))
		switch {
		case want == "" && !errors.Is(err, ErrNever):
			t.Errorf("permit %s: got %v, %v; want ErrNever", p, got, err)
		case want != "" && (err != nil || got.String() != want):
			t.Errorf("permit %s: got %v, %v; want %s", p, got, err, want)
		}
	}
	f("198.51.100.7/32", "198.51.100.7/32")
	f("198.51.100.7/24", "198.51.100.0/24")
	f("::ffff:198.51.100.7/120", "198.51.100.0/24")
	f("::ffff:198.51.100.7/128", "198.51.100.7/32")
	f("10.0.0.0/8", "10.0.0.0/8")
	f("2002::/16", "2002::/16")
	f("fe80::1/64", "fe80::/64")

	f("192.0.2.7/32", "")
	f("192.0.0.0/16", "") // holds a trusted network
	f("::ffff:192.0.2.7/128", "")
	f("2001:db8:1::/48", "")
	f("2001::/16", "")
	f("127.0.0.1/32", "")
	f("127.0.0.0/8", "")
	f("::1/128", "")
	f("::/16", "")
	f("::ffff:0.0.0.0/96", "") // all of IPv4
	f("0.0.0.0/0", "")
	f("64.0.0.0/7", "")
	f("2000::/3", "")
	if _, err := fw.permit(netip.Prefix{}); !errors.Is(err, ErrNever) {
		t.Errorf("permit of nothing: %v", err)
	}
	fw.loopback = true
	f("127.0.0.2/32", "127.0.0.2/32")
}

func TestPlan(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a, b, c, d := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32"), netip.MustParsePrefix("192.0.2.3/32"), netip.MustParsePrefix("192.0.2.4/32")
	fw := &Firewall{max: 3, held: map[netip.Prefix]time.Time{
		a: now.Add(time.Minute), b: now.Add(-keepFor), c: now.Add(-keepFor - 1),
	}}
	f := func(p netip.Prefix, want time.Duration, fresh, again, full int) {
		t.Helper()
		gotFresh, gotAgain, gotFull := fw.plan(map[netip.Prefix]time.Duration{p: want}, now)
		if len(gotFresh) != fresh || len(gotAgain) != again || gotFull != full {
			t.Errorf("plan %v %v: got %v, %v, %d", p, want, gotFresh, gotAgain, gotFull)
		}
	}
	f(a, time.Minute, 0, 0, 0) // as it is
	f(a, time.Second, 0, 0, 0)
	f(a, time.Minute+1, 0, 1, 0)
	f(b, 0, 0, 1, 0)           // over, but the kernel may have it still
	f(d, time.Minute, 1, 0, 0) // c made room
	fw.held[d] = now.Add(time.Minute)
	f(c, time.Minute, 0, 0, 1)
	now = now.Add(time.Second)
	f(c, time.Minute, 1, 0, 0) // b made room

	for _, d := range []time.Duration{-time.Hour, 0, time.Millisecond} {
		fresh, _, _ := fw.plan(map[netip.Prefix]time.Duration{c: d}, now)
		if len(fresh) != 1 || fresh[0].d != time.Second {
			t.Errorf("plan for %v: got %v, want a second", d, fresh)
		}
	}
	fresh, _, _ := fw.plan(map[netip.Prefix]time.Duration{c: 1000 * time.Hour}, now)
	if len(fresh) != 1 || fresh[0].d != 24*time.Hour {
		t.Errorf("plan for 1000 hours: got %v, want 24 hours", fresh)
	}
}

func TestNetworksHaveNames(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"10.0.0.0/8", "192.0.2.1/32", "0.0.0.0/0", "2001:db8::/32", "::1/128", "2001:db8::/64"} {
		n := networkOf(netip.MustParsePrefix(p))
		if got, ok := parseNetwork(n.String()); !ok || got != n {
			t.Errorf("%s: %v is read as %v, %v", p, n, got, ok)
		}
	}
	for _, name := range []string{"", "ipv4_", "ipv4_33", "ipv4_032", "ipv6_129", "tcp_ports", "ipv4_32 "} {
		if n, ok := parseNetwork(name); ok {
			t.Errorf("%q is read as %v", name, n)
		}
	}
}

// Each request is in one chunk, with others of its network, and none is too long for the kernel.
func TestChunks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var all []request
		for bits, count := range rapid.MapOf(rapid.IntRange(8, 32), rapid.IntRange(0, 3*chunkLen)).Draw(t, "lengths") {
			for i := range count {
				addr := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
				all = append(all, request{netip.PrefixFrom(addr, bits), time.Duration(i)})
			}
		}
		seen := map[request]int{}
		for n, part := range chunks(all) {
			if len(part) == 0 || len(part) > chunkLen {
				t.Fatalf("a chunk of %d", len(part))
			}
			for _, r := range part {
				seen[r]++
				if networkOf(r.prefix) != n {
					t.Fatalf("%v in a chunk of %v", r.prefix, n)
				}
			}
		}
		if len(seen) != len(all) {
			t.Fatalf("got %d, want %d", len(seen), len(all))
		}
	})
}

func TestGather(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		queue := make(chan request)
		var dropped, checks int
		type applied struct {
			after time.Duration
			batch map[netip.Prefix]time.Duration
		}
		var got []applied
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			gather(ctx, queue, func() { dropped++ }, func(b map[netip.Prefix]time.Duration) {
				c := map[netip.Prefix]time.Duration{}
				for p, d := range b {
					c[p] = d
				}
				got = append(got, applied{time.Since(start), c})
			}, func() { checks++ })
		}()
		a, b := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")

		// The first is applied at once, what comes within 100 ms of it together, a source once and with its longest time.
		queue <- request{a, time.Minute}
		synctest.Wait()
		for _, d := range []time.Duration{time.Minute, time.Hour, time.Second} {
			time.Sleep(20 * time.Millisecond)
			queue <- request{a, d}
			queue <- request{b, time.Second}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(got) != 2 || got[0].after != 0 || got[1].after != applyEvery || len(got[1].batch) != 2 || got[1].batch[a] != time.Hour {
			t.Errorf("applied: got %v", got)
		}

		// A batch is bounded; sources in it already do not count.
		got = nil
		for i := range batchLen + 10 {
			queue <- request{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32), time.Minute}
			if i == 0 {
				synctest.Wait() // goes by itself
			}
		}
		queue <- request{netip.MustParsePrefix("198.18.0.1/32"), time.Hour}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(got) != 2 || len(got[1].batch) != batchLen || dropped != 9 {
			t.Errorf("full: %d batches, %d dropped; want a second of %d, and 9", len(got), dropped, batchLen)
		}

		time.Sleep(2 * checkEvery)
		synctest.Wait()
		if checks != 2 {
			t.Errorf("checks: got %d, want 2", checks)
		}
		cancel()
		<-done
	})
}

func TestAFullQueueIsCounted(t *testing.T) {
	t.Parallel()
	f := &Firewall{queue: make(chan request, 2), closed: true}
	f.register()
	for range 5 {
		f.Queue(netip.MustParsePrefix("192.0.2.1/32"), time.Minute)
	}
	if got := metric(f, "spillway_firewall_queue_dropped_total"); got != "3" {
		t.Errorf("dropped: got %s, want 3", got)
	}
	if err := f.Add(netip.MustParsePrefix("192.0.2.1/32"), time.Minute); !errors.Is(err, ErrTakenOver) {
		t.Errorf("add: %v", err)
	}
}

func TestOpenWithoutTheRight(t *testing.T) {
	t.Parallel()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, and its lack of rights, end with the function
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Error(err)
		}
		_, err := Open(Config{Ports: []uint16{6969}})
		done <- err
	}()
	err := <-done
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("open: got %v", err)
	}
}

func TestOpenRefusesNonsense(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{{}, {Ports: []uint16{1}, MaxElements: -1}, {Ports: []uint16{1}, MaxElements: mostElements + 1}} {
		if _, err := Open(cfg); err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("open %+v: got %v", cfg, err)
		}
	}
}
