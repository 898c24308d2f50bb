//go:build e2e

package proxy

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

const haproxyConf = `global
  maxconn 4000
  nbthread 1
defaults
  mode tcp
  option splice-auto
  timeout connect 1s
  timeout client 300s
  timeout server 300s
listen relay
  bind 127.0.0.1:%d backlog 4096
  server backend %s
`

// The proxies' core, and that of the backend and the load.
const server, rest = 1, 0

// BenchmarkProxy is what connections of one small request each cost, in CPU time, beside HAProxy in mode tcp: both are on one core in
// turns, the backend and the load on another. The ratio is of the medians.
func BenchmarkProxy(b *testing.B) {
	if _, err := exec.LookPath("haproxy"); err != nil {
		b.Fatal(err)
	}
	for _, rate := range []int{0, 3000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) { compare(b, rate) })
	}
}

// pair starts both proxies in front of backend, on one core, and says where they listen; the first is ours.
func pair(b *testing.B, backend string) (proxies []*child, addrs []string) {
	ours := self(b, server, "proxy", backend)
	addrs = []string{ours.line(b)}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	port := l.Addr().(*net.TCPAddr).Port
	must(b, l.Close())
	conf := filepath.Join(b.TempDir(), "haproxy.cfg")
	must(b, os.WriteFile(conf, fmt.Appendf(nil, haproxyConf, port, backend), 0o600))
	theirs := start(b, exec.Command("haproxy", "-db", "-f", conf), server)
	b.Cleanup(func() { _ = theirs.cmd.Process.Kill() })
	addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", port))
	for begun := time.Now(); ; {
		if c, err := net.Dial("tcp", addrs[1]); err == nil {
			must(b, c.Close())
			break
		} else if time.Since(begun) > 5*time.Second {
			b.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return []*child{ours, theirs}, addrs
}

func compare(b *testing.B, rate int) {
	proxies, addrs := pair(b, self(b, rest, "backend").line(b))
	var loads []*child
	for _, addr := range addrs {
		l := self(b, rest, "load", addr, "64", strconv.Itoa(rate))
		l.line(b)
		loads = append(loads, l)
	}
	n := 10000
	if rate > 0 {
		n = rate
	}
	run := func(i, n int) (cpu, wall time.Duration) {
		before := proxies[i].cpu(b)
		fmt.Fprintln(loads[i].in, n)
		took, err := strconv.ParseInt(loads[i].line(b), 10, 64)
		must(b, err)
		return (proxies[i].cpu(b) - before) / time.Duration(n), time.Duration(took) / time.Duration(n)
	}
	run(0, 1000)
	run(1, 1000)
	var cpu, wall [2][]time.Duration
	for range 7 {
		for i := range proxies {
			c, w := run(i, n)
			cpu[i], wall[i] = append(cpu[i], c), append(wall[i], w)
		}
	}
	b.Logf("cpu a connection: %v, HAProxy %v", cpu[0], cpu[1])
	for i := range proxies {
		slices.Sort(cpu[i])
		slices.Sort(wall[i])
	}
	m := len(cpu[0]) / 2
	ratio := float64(cpu[0][m]) / float64(cpu[1][m])
	if ratio > 1.3 {
		b.Errorf("%.2f of HAProxy's CPU, want 1.3 at most", ratio)
	}
	b.ReportMetric(ratio, "of-haproxy")
	b.ReportMetric(float64(cpu[0][m].Nanoseconds())/1e3, "cpu-us/conn")
	b.ReportMetric(float64(cpu[1][m].Nanoseconds())/1e3, "haproxy-cpu-us/conn")
	b.ReportMetric(float64(wall[0][m].Nanoseconds())/1e3, "wall-us/conn")
	b.ReportMetric(float64(wall[1][m].Nanoseconds())/1e3, "haproxy-wall-us/conn")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkBulk is what a GiB that a backend sends costs, in CPU time, beside HAProxy with splicing.
func BenchmarkBulk(b *testing.B) {
	const size = 256 << 20
	zeros := make([]byte, 256<<10)
	backend := serve(b, "127.0.0.1:0", func(c *net.TCPConn) {
		for range size / len(zeros) {
			if _, err := c.Write(zeros); err != nil {
				return
			}
		}
	})
	proxies, addrs := pair(b, backend.Addr.String())
	var cpu [2][]time.Duration
	for range 5 {
		for i, addr := range addrs {
			before := proxies[i].cpu(b)
			c, err := net.Dial("tcp", addr)
			must(b, err)
			n := 0
			for into := make([]byte, 256<<10); err == nil; {
				var m int
				m, err = c.Read(into)
				n += m
			}
			must(b, c.Close())
			if n != size {
				b.Fatalf("got %d bytes of %d: %v", n, size, err)
			}
			cpu[i] = append(cpu[i], (proxies[i].cpu(b)-before)*(1<<30)/size)
		}
	}
	b.Logf("cpu a GiB: %v, HAProxy %v", cpu[0], cpu[1])
	for i := range cpu {
		slices.Sort(cpu[i])
	}
	b.ReportMetric(float64(cpu[0][2])/float64(cpu[1][2]), "of-haproxy")
	b.ReportMetric(float64(cpu[0][2].Milliseconds()), "cpu-ms/GiB")
	b.ReportMetric(0, "ns/op")
}
