package listen

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"spillway/internal/logx/logxtest"

	"github.com/valyala/fasthttp"
)

// BenchmarkAccept is a connection per request against a fasthttp server with a constant answer, in a process of its own.
// server-us/op is the CPU time, user and system, of that process: on loopback it carries the softirq work of the client's segments too.
//
//	go test -c -o l ./internal/listen; for i in $(seq 8); do ./l -test.run '^$' -test.bench Accept -test.benchtime 15000x; done
//
// Eight rounds on two cores that others used too, Linux 6.18, server-us/op, the median ratio to sockets=1 of the same round:
// net.Listen 1.05, sockets=2 0.99, sockets=1,defer 0.93, sockets=2,defer 0.92; sockets=1 itself 34.7 to 50.7.
func BenchmarkAccept(b *testing.B) {
	for _, variant := range []string{"net.Listen", "sockets=1", "sockets=2", "sockets=1,defer", "sockets=2,defer"} {
		b.Run(variant, func(b *testing.B) { benchmarkAccept(b, variant) })
	}
}

func benchmarkAccept(b *testing.B, variant string) {
	cmd := role(b, "floor")
	cmd.Env = append(cmd.Env, "LISTEN_TEST_FLOOR="+variant)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	}()
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	addr = strings.TrimSpace(addr)
	const request = "GET /announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=6881 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"

	before := cpuTime(b, cmd.Process.Pid)
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 4096)
		for pb.Next() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(c, request)
			for err == nil {
				_, err = c.Read(buf)
			}
			if err != io.EOF {
				b.Error(err)
			}
			_ = c.Close()
		}
	})
	b.StopTimer()
	used := cpuTime(b, cmd.Process.Pid) - before
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "server-us/op")
}

// BenchmarkDeadlines are the three calls fasthttp makes for a request on a kept connection.
func BenchmarkDeadlines(b *testing.B) {
	for _, name := range []string{"socket", "coarse"} {
		b.Run(name, func(b *testing.B) {
			d, _ := open(b, Config{})
			dial(b, d.Addrs()[0])
			c, err := d.Listeners[0].Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			if name == "socket" {
				c = c.(*Conn).Conn
			}
			b.ReportAllocs()
			for b.Loop() {
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
				_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
			}
		})
	}
}

// cpuTime is what the process used, to the hundredth of a second.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):])) // proc(5): utime and stime are 14 and 15
	user, _ := strconv.Atoi(fields[12])
	system, _ := strconv.Atoi(fields[13])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// serveFloor serves a constant body of 400 bytes, as an announce with 50 peers has, until its input ends.
func serveFloor(out io.Writer, variant string) error {
	var listeners []net.Listener
	if variant == "net.Listen" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	} else {
		cfg := Config{Addrs: []string{"127.0.0.1:0"}, MaxConns: 10000, DeferAccept: strings.HasSuffix(variant, "defer")}
		if strings.HasPrefix(variant, "sockets=2") {
			cfg.Sockets = 2
		}
		d, err := Open(cfg, (&logxtest.Buffer{}).Logger())
		if err != nil {
			return err
		}
		listeners = d.Listeners
	}
	body := make([]byte, 400)
	s := &fasthttp.Server{
		Handler:      func(ctx *fasthttp.RequestCtx) { ctx.Response.SetBodyRaw(body) },
		ReadTimeout:  20 * time.Second,
		IdleTimeout:  20 * time.Second,
		WriteTimeout: 20 * time.Second,
	}
	for _, l := range listeners {
		go func() { _ = s.Serve(l) }()
	}
	fmt.Fprintln(out, listeners[0].Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}
