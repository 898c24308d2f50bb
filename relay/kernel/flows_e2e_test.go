//go:build e2e

package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fill enters n established flows to the backend that nobody has, and as many to another, into conntrack.
func (v *village) fill(t testing.TB, c *conntrack, n int) {
	t.Helper()
	const (
		ctNew       = 0
		ctaTimeout  = 7
		ctaNATDst   = 13
		established = 3
	)
	nat := func(to netip.AddrPort) []byte {
		kinds := []uint16{1, 2} // CTA_NAT_V4_MINIP, and the highest address
		if to.Addr().Is6() {
			kinds = []uint16{4, 5}
		}
		b := appendBytes(nil, kinds[0], to.Addr().AsSlice())
		b = appendBytes(b, kinds[1], to.Addr().AsSlice())
		port := binary.BigEndian.AppendUint16(nil, to.Port())
		return appendNest(b, 3, appendBytes(appendBytes(nil, 1, port), 2, port)) // CTA_NAT_PROTO
	}
	state := appendNest(nil, ctaProtoInfo, appendNest(nil, ctaProtoInfoTCP, appendBytes(nil, ctaTCPState, []byte{established})))
	other := netip.AddrPortFrom(v.seat.Addr().Next(), v.seat.Port())
	for i := range 2 * n {
		to := v.seat
		if i%2 == 1 {
			to = other
		}
		from := netip.AddrFrom4([4]byte{198, 18, byte(1 + i>>14), 2})
		if v.seat.Addr().Is6() {
			from = netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x:2", 1+i>>14))
		}
		client := netip.AddrPortFrom(from, uint16(10000+i&0x3fff))
		b := appendTuple(nil, ctaTupleOrig, client, v.public)
		b = appendTuple(b, ctaTupleReply, v.public, client)
		b = append(append32(b, ctaTimeout, 600), state...)
		b = appendNest(b, ctaNATDst, nat(to))
		if err := c.ask(ctNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, familyOf(from).proto, b, func([]byte) {}); err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
	}
}

// wantOf matches the flows to a backend, for the library.
type wantOf struct{ backend netip.AddrPort }

func (w wantOf) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	src, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	return src.Unmap() == w.backend.Addr() && f.Reverse.SrcPort == w.backend.Port()
}

// 50,000 flows to the backend, and 50,000 to another.
func TestManyFlowsAreForgottenInTime(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("ipv6=%v", ipv6), func(t *testing.T) {
			const n = 50_000
			v := newVillage(t, ipv6, false)
			v.plan(t, true)
			c := v.cutter(t)
			v.fill(t, c.ct, n)

			var gauge portGauge
			used := func() (share float64, took time.Duration) {
				v.in(t, v.relay, func() error {
					start := time.Now()
					entries, _, _, err := conntrackCounts()
					if err == nil {
						share, err = gauge.used([]netip.AddrPort{v.seat}, entries)
					}
					took = time.Since(start)
					return err
				})
				return share, took
			}
			asked := time.Now()
			share, took := used()
			t.Logf("ports used: %v, in %v", share, took)
			if want := float64(n) / ports; share != want {
				t.Errorf("ports used: got %v, want %v", share, want)
			}

			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			held, _, beyond, err := c.list(v.seat, false)
			listed := time.Since(start)
			if err != nil || len(held) != n || beyond != 0 {
				t.Fatalf("listed %d flows, %d beyond, %v", len(held), beyond, err)
			}
			start = time.Now()
			forgotten, _, err := c.forget(held, start.Add(time.Minute), nil)
			if err != nil || forgotten != n {
				t.Fatalf("forgotten: got %d, %v", forgotten, err)
			}
			runtime.ReadMemStats(&after)
			t.Logf("ours: listed in %v, deleted in %v, %d KiB allocated", listed, time.Since(start), (after.TotalAlloc-before.TotalAlloc)>>10)
			if left := len(v.entries(t)); left != 0 {
				t.Errorf("%d left", left)
			}
			if again, took := used(); again != share && time.Since(asked) < 5*time.Second {
				t.Errorf("ports used, within 5s: got %v in %v, want %v", again, took, share)
			}

			start = time.Now()
			if flows, err := c.cut(v.seat, nil); err != nil || flows != 0 {
				t.Errorf("cut of nothing among %d: got %d, %v in %v", n, flows, err, time.Since(start))
			}
		})
	}
}

func TestTheLibraryIsSlower(t *testing.T) {
	const n = 50_000
	v := newVillage(t, false, false)
	c := v.cutter(t)
	v.fill(t, c.ct, n)
	v.in(t, v.relay, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer h.Close()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		deleted, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, wantOf{v.seat})
		runtime.ReadMemStats(&after)
		t.Logf("the library: %d in %v, %d KiB allocated", deleted, time.Since(start), (after.TotalAlloc-before.TotalAlloc)>>10)
		return err
	})
}

// 5,000 more than are held.
func TestACutOfVeryManyFlowsTakesASecond(t *testing.T) {
	v := newVillage(t, false, false)
	v.plan(t, true)
	c := v.cutter(t)
	v.fill(t, c.ct, cutFlows+5000)
	total := 0
	for try := 1; len(v.entries(t)) > 0; try++ {
		start := time.Now()
		flows, err := c.cut(v.seat, nil)
		took := time.Since(start)
		t.Logf("%d flows cut in %v, %v", flows, took, err)
		if total += flows; took > cutTime+10*time.Second || try > 50 { // this machine may be busy
			t.Fatalf("cut %d: got %d flows in %v", try, flows, took)
		}
	}
	// None is counted twice. One whose client was told by a cut that had no time to delete it is over when the next comes.
	if total > cutFlows+5000 || total < cutFlows/2 {
		t.Errorf("got %d flows, want %d at most, and most of them", total, cutFlows+5000)
	}
}
