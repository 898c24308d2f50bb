//go:build e2e

package kernel

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// talk is a connection's packets, as they reach the relay: an announce that is answered.
type talk [9]struct {
	fromBackend bool
	frame       []byte
}

// newTalk has the i-th client, of addresses 198.18.1.0/24.
func newTalk(i int, toClient, toBackend net.HardwareAddr) (t talk) {
	client, front, backend := spoofed(i), netip.MustParseAddrPort(front4), backend4(0)
	const c, s = 1000, 5000
	request, reply := make([]byte, 200), make([]byte, 150)
	for n, p := range []struct {
		fromBackend bool
		flags       byte
		seq, ack    uint32
		data        []byte
	}{
		{false, syn, c, 0, nil}, {true, syn | ack, s, c + 1, nil}, {false, ack, c + 1, s + 1, nil},
		{false, psh | ack, c + 1, s + 1, request}, {true, ack, s + 1, c + 201, nil}, {true, psh | ack, s + 1, c + 201, reply},
		{false, fin | ack, c + 201, s + 151, nil}, {true, fin | ack, s + 151, c + 202, nil}, {false, ack, c + 202, s + 152, nil},
	} {
		from, to, mac := client, front, toClient
		if p.fromBackend {
			from, to, mac = backend, client, toBackend
		}
		ip := append(packet(from, to, p.flags, p.seq, p.ack), p.data...)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		ip[10], ip[11] = 0, 0
		var sum uint32
		for i := 0; i < 20; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(ip[i:]))
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
		frame := append(append(slices.Clone(mac), 2, 0, 0, 0, 0, 1), 8, 0)
		t[n].fromBackend, t[n].frame = p.fromBackend, append(frame, ip...)
	}
	return t
}

// BenchmarkTalk is what the nine packets of a connection cost this machine's core to forward, through one dnat rule and through our table, by
// turns. What Go and the sending of a packet take is in both.
func BenchmarkTalk(b *testing.B) {
	l := newLab(b, 1)
	for _, key := range []struct{ name, value string }{{"nf_conntrack_checksum", "0"}, {"nf_conntrack_tcp_timeout_time_wait", "120"}} {
		must(b, os.WriteFile("/proc/sys/net/netfilter/"+key.name, []byte(key.value), 0o644))
	}
	// What is forwarded goes to no machine: it is dropped where it arrives.
	ip(b, "neigh", "replace", "198.19.0.2", "lladdr", "02:00:00:00:00:99", "dev", "backend0")
	ip(b, "-n", l.client, "route", "del", "local", "198.18.1.0/24", "dev", "lo")
	ip(b, "route", "add", "198.18.1.0/24", "via", "198.18.0.9")
	ip(b, "neigh", "replace", "198.18.0.9", "lladdr", "02:00:00:00:00:98", "dev", "client")
	mac := func(link string) net.HardwareAddr {
		n, err := netlink.LinkByName(link)
		must(b, err)
		return n.Attrs().HardwareAddr
	}
	toClient, toBackend := mac("client"), mac("backend0")
	raw := func(ns string) (fd int, to *unix.SockaddrLinklayer) {
		within(b, ns, func() (err error) {
			n, err := net.InterfaceByName("eth0")
			if err == nil {
				to = &unix.SockaddrLinklayer{Ifindex: n.Index}
				if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err == nil {
					err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
				}
			}
			return err
		})
		b.Cleanup(func() { _ = unix.Close(fd) })
		return fd, to
	}
	client, clientLink := raw(l.client)
	backend, backendLink := raw(l.backends[0])
	s, err := dial()
	must(b, err)
	defer s.close()

	const n = 3000
	talks := make([]talk, n)
	for i := range talks {
		talks[i] = newTalk(i, toClient, toBackend)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cpu := func() time.Duration {
		var ts unix.Timespec
		must(b, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts))
		return time.Duration(ts.Nano())
	}
	demux := func(value string) { must(b, os.WriteFile("/proc/sys/net/ipv4/tcp_early_demux", []byte(value), 0o644)) }
	play := func() float64 {
		must(b, netlink.ConntrackTableFlush(netlink.ConntrackTable))
		var took time.Duration
		for some := range slices.Chunk(talks, 20) {
			start := cpu()
			for i := range some {
				for j := range some[i] {
					p := &some[i][j]
					fd, to := client, clientLink
					if p.fromBackend {
						fd, to = backend, backendLink
					}
					if err := unix.Sendto(fd, p.frame, 0, to); err != nil {
						b.Fatal(err)
					}
				}
			}
			took += cpu() - start
			time.Sleep(2 * time.Millisecond)
		}
		return float64(took.Nanoseconds()) / n
	}
	var costs [2][]float64
	var more []float64
	for b.Loop() {
		var cost [2]float64
		for i := range cost {
			var p *Path
			if i == 0 {
				demux("1")
				add := &batch{}
				plainDNAT(add, "plain")
				must(b, s.commit(add))
			} else {
				demux("0") // as the profile has it
				cfg := l.config(backend4(0), backend6(0))
				cfg.Budget = 6000
				if p, err = Open(cfg, nil); err != nil {
					b.Fatal(err)
				}
			}
			cost[i] = play()
			if entries, _, _, err := conntrackCounts(); err != nil || entries < n {
				b.Fatalf("%d entries, %v; want %d", entries, err, n)
			}
			if i == 0 {
				remove := &batch{}
				remove.add(unix.NFT_MSG_DELTABLE, 0, "", appendText(nil, unix.NFTA_TABLE_NAME, "plain"))
				must(b, s.commit(remove))
			} else {
				c, err := p.Counts()
				must(b, err)
				if o := c.Backends[0]; o.Opened != n || o.Budget != 0 || o.Spoken != n {
					b.Fatalf("%+v", o)
				}
				must(b, p.Close())
				must(b, Revert())
			}
			costs[i] = append(costs[i], cost[i])
		}
		more = append(more, cost[1]-cost[0])
	}
	for i := range costs {
		slices.Sort(costs[i])
	}
	slices.Sort(more)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(costs[0][len(costs[0])/2], "dnat-ns")
	b.ReportMetric(costs[1][len(costs[1])/2], "relay-ns")
	b.ReportMetric(more[len(more)/2], "more-ns")
}
