//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkSyscalls counts the system calls of an announce with a connection of its own, per server: what the distance
// between them is made of. strace slows the server many times over, so only the numbers of calls mean anything, not the
// times.
func BenchmarkSyscalls(b *testing.B) {
	if _, err := exec.LookPath("strace"); err != nil {
		b.Skip("strace is not installed")
	}
	client, _ := cores(b)
	load := closeLoad(client)
	for b.Loop() {
		spillway := startSpillway(b, "").server
		reply := fill(b, load, spillway)
		servers := []server{spillway, startFloor(b, reply)}
		if oracle, ok := startOpentracker(b, load.Torrent); ok {
			fill(b, load, oracle)
			servers = append(servers, oracle)
		}
		for _, s := range servers {
			b.Logf("%-12s %s", s.name, callsPerAnnounce(b, s, load))
		}
	}
}

// callsPerAnnounce traces s under load and renders the calls it made, most first.
func callsPerAnnounce(tb testing.TB, s server, load Load) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), "calls")
	trace := exec.Command("strace", "-f", "-c", "-U", "name,calls", "-o", out, "-p", strconv.Itoa(s.pid))
	stderr, err := trace.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := trace.Start(); err != nil {
		tb.Fatal(err)
	}
	// It says so once it is attached to all threads.
	if line, err := bufio.NewReader(stderr).ReadString('\n'); err != nil || !strings.Contains(line, "attached") {
		tb.Fatalf("strace: %q, %v", line, err)
	}
	load.Addr = s.addr
	n, err := load.For(time.Second)
	if err != nil {
		tb.Fatalf("%s: %v", s.name, err)
	}
	if err := trace.Process.Signal(syscall.SIGINT); err != nil {
		tb.Fatal(err)
	}
	_ = trace.Wait() // ends by the signal
	table, err := os.ReadFile(out)
	if err != nil {
		tb.Fatal(err)
	}
	calls := map[string]int{}
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) != 2 || f[0] == "total" {
			continue
		}
		if count, err := strconv.Atoi(f[1]); err == nil {
			calls[f[0]] = count
		}
	}
	var parts []string
	total := 0
	for _, name := range slices.SortedFunc(maps.Keys(calls), func(a, b string) int { return cmp.Compare(calls[b], calls[a]) }) {
		total += calls[name]
		if each := float64(calls[name]) / float64(n.Replies); each >= 0.05 {
			parts = append(parts, fmt.Sprintf("%s %.2f", name, each))
		}
	}
	return fmt.Sprintf("%.2f calls: %s", float64(total)/float64(n.Replies), strings.Join(parts, ", "))
}
