//go:build e2e

package profile

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A machine that has its IPv6 default route from a router, as many a VPS has, must still have it after apply: also later, when
// the router's word would have to be renewed. Without accept_ra=2 it is gone at once, which the first half shows.
func TestKernelKeepsItsDefaultRoute(t *testing.T) {
	links(t)
	for _, link := range []string{"pf0", "pf0.1"} {
		if out, err := exec.Command("ip", "link", "set", link, "up").CombinedOutput(); err != nil {
			t.Fatalf("ip link set up: %v: %s", err, out)
		}
	}
	stateFile := filepath.Join(t.TempDir(), "profile.json")
	keys := Keys(ProcSys, Options{Role: Kernel, IPv6: true})
	var forwardingAlone []Key
	for _, k := range keys {
		if !k.perLink {
			forwardingAlone = append(forwardingAlone, k)
		}
	}
	hears := func(want bool) {
		t.Helper()
		deadline := time.Now().Add(5 * time.Second)
		if !want {
			deadline = time.Now().Add(300 * time.Millisecond) // what must not come cannot be waited for
		}
		for {
			advertise(t, "pf0", "pf0.1")
			has := defaultRoute(t)
			if has && want {
				return
			}
			if has {
				t.Fatal("a default route that must not be")
			}
			if time.Now().After(deadline) {
				if want {
					t.Fatal("no default route")
				}
				return
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	hears(true)
	_, problems := Apply(ProcSys, stateFile, forwardingAlone)
	wantNoProblems(t, problems)
	if defaultRoute(t) {
		t.Error("forwarding did not cost the default route: accept_ra need not be touched")
	}
	hears(false)
	_, problems = Revert(ProcSys, stateFile)
	wantNoProblems(t, problems)

	hears(true)
	_, problems = Apply(ProcSys, stateFile, keys)
	wantNoProblems(t, problems)
	if !defaultRoute(t) {
		t.Error("the default route went with apply")
	}
	if out, err := exec.Command("ip", "-6", "route", "del", "default").CombinedOutput(); err != nil {
		t.Fatalf("ip route del: %v: %s", err, out)
	}
	hears(true)
	_, problems = Revert(ProcSys, stateFile)
	wantNoProblems(t, problems)
	hears(true)
}

func defaultRoute(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command("ip", "-6", "route", "show", "default").CombinedOutput()
	if err != nil {
		t.Fatalf("ip route: %v: %s", err, out)
	}
	return strings.Contains(string(out), "proto ra")
}

// advertise has a router say on from that it is one (RFC 4861 4.2), to its other end.
func advertise(t *testing.T, from, to string) {
	t.Helper()
	link, err := net.InterfaceByName(from)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := net.InterfaceByName(to)
	if err != nil {
		t.Fatal(err)
	}
	src, dst := netip.MustParseAddr("fe80::1").As16(), netip.MustParseAddr("ff02::1").As16()
	ra := make([]byte, 16)
	ra[0], ra[4] = 134, 64                    // router advertisement; hop limit
	binary.BigEndian.PutUint16(ra[6:8], 1800) // router lifetime, seconds
	pseudo := append(append(append([]byte{}, src[:]...), dst[:]...), 0, 0, 0, byte(len(ra)), 0, 0, 0, unix.IPPROTO_ICMPV6)
	sum := uint32(0)
	for both := append(pseudo, ra...); len(both) > 0; both = both[2:] {
		sum += uint32(binary.BigEndian.Uint16(both))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(ra[2:4], ^uint16(sum))

	frame := append([]byte{}, peer.HardwareAddr...)
	frame = append(frame, link.HardwareAddr...)
	frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(ra)), unix.IPPROTO_ICMPV6, 255)
	frame = append(append(append(frame, src[:]...), dst[:]...), ra...)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: 0xdd86})
	if closeErr := unix.Close(fd); err != nil || closeErr != nil {
		t.Fatal(err, closeErr)
	}
}
