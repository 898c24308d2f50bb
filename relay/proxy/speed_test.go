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
  timeout connect 1s
  timeout client 300s
  timeout server 300s
listen relay
  bind 127.0.0.1:%d backlog 4096
  server backend %s
`

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

func compare(b *testing.B, rate int) {
	const server, rest = 1, 0
	backend := self(b, rest, "backend").line(b)
	ours := self(b, server, "proxy", backend)
	addrs := []string{ours.line(b)}

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
	proxies := []*child{ours, theirs}
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
	b.ReportMetric(float64(cpu[0][m])/float64(cpu[1][m]), "of-haproxy")
	b.ReportMetric(float64(cpu[0][m].Nanoseconds())/1e3, "cpu-us/conn")
	b.ReportMetric(float64(cpu[1][m].Nanoseconds())/1e3, "haproxy-cpu-us/conn")
	b.ReportMetric(float64(wall[0][m].Nanoseconds())/1e3, "wall-us/conn")
	b.ReportMetric(float64(wall[1][m].Nanoseconds())/1e3, "haproxy-wall-us/conn")
	b.ReportMetric(0, "ns/op")
}
