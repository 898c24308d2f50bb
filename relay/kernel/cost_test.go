//go:build e2e

package kernel

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// plainDNAT is what forwards without refusing: one rule.
func plainDNAT(b *batch, name string) {
	b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "table", appendText(nil, unix.NFTA_TABLE_NAME, name))
	chain := appendText(appendText(nil, unix.NFTA_CHAIN_TABLE, name), unix.NFTA_CHAIN_NAME, "pre")
	hook := append32(append32(nil, unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_PRE_ROUTING), unix.NFTA_HOOK_PRIORITY, 1<<32-100)
	b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "chain", appendText(appendNest(chain, unix.NFTA_CHAIN_HOOK, hook), unix.NFTA_CHAIN_TYPE, "nat"))
	r := newRule("pre", "", ipv4.is(r0), isTCP(r0), toPort(r0), equal(r0, []byte{0, 80}), isLocal(r0), ipv4.constant(backend4(0), r0), dnat(ipv4.proto, r0, r0+1))
	var steps []byte
	for _, s := range r.steps {
		steps = append(steps, s...)
	}
	rule := appendText(appendText(nil, unix.NFTA_RULE_TABLE, name), unix.NFTA_RULE_CHAIN, "pre")
	b.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "rule", appendNest(rule, unix.NFTA_RULE_EXPRESSIONS, steps))
}

// BenchmarkForward is what a connection (opened, answered, closed) and a segment of one that is open cost, through one dnat rule and
// through our table, client's and backend's part included. The time of the processor counts: the machine may be busy.
func BenchmarkForward(b *testing.B) {
	l := newLab(b, 1)
	l.serve(b, 0)
	s, err := dial()
	must(b, err)
	defer s.close()
	must(b, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", []byte("1"), 0o644)) // the segments are all the same
	through := func(by string, f func(b *testing.B)) {
		b.Run(by, func(b *testing.B) {
			if strings.HasSuffix(by, "/relay") {
				p := open(b, l.config(backend4(0)))
				defer func() { must(b, p.Close()); must(b, Revert()) }()
			} else {
				add, remove := &batch{}, &batch{}
				plainDNAT(add, "plain")
				must(b, s.commit(add))
				remove.add(unix.NFT_MSG_DELTABLE, 0, "", appendText(nil, unix.NFTA_TABLE_NAME, "plain"))
				defer func() { must(b, s.commit(remove)) }()
			}
			f(b)
		})
	}
	cpu := func(who int) time.Duration {
		var u unix.Rusage
		must(b, unix.Getrusage(who, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	for _, by := range []string{"dnat", "relay"} {
		through("connection/"+by, func(b *testing.B) {
			within(b, l.client, func() error {
				start := cpu(unix.RUSAGE_SELF)
				for b.Loop() {
					c, err := try("", front4, patience)
					if err != nil {
						return err
					}
					if _, err := readLine(c); err != nil {
						return err
					}
					_ = c.(*net.TCPConn).SetLinger(0)
					_ = c.Close()
				}
				b.ReportMetric(float64(cpu(unix.RUSAGE_SELF)-start)/float64(b.N), "cpu-ns/op")
				return nil
			})
		})
		through("segment/"+by, func(b *testing.B) {
			c, _, _ := l.reach(b, "", front4)
			within(b, l.client, func() error {
				from, to := netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(front4)
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				p, addr := packet(from, to, ack, 1, 1), &unix.SockaddrInet4{Addr: to.Addr().As4()}
				start := cpu(unix.RUSAGE_THREAD)
				for b.Loop() {
					if err := unix.Sendto(fd, p, 0, addr); err != nil {
						return err
					}
				}
				b.ReportMetric(float64(cpu(unix.RUSAGE_THREAD)-start)/float64(b.N), "cpu-ns/op")
				return nil
			})
		})
	}
}
