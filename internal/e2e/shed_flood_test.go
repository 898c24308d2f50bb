//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"

	"spillway/internal/flood"
	"spillway/internal/waittest"
)

// Floods here take seconds: what is asked is what an operator can do in one, not how much is served
// (go test -bench=Flood ./internal/bench).

// flooder is spillway bench flood, a process like an attacker's.
type flooder struct {
	*process
	result string
}

func startFlood(t *testing.T, tr *tracker, name string, flags ...string) flooder {
	t.Helper()
	f := flooder{result: filepath.Join(t.TempDir(), name+".json")}
	argv := append([]string{spillwayPath, "bench", "flood", strings.TrimSuffix(strings.TrimPrefix(tr.announce, "http://"), "/announce"), "--json=" + f.result}, flags...)
	f.process = start(t, name, argv...)
	return f
}

// end stops it early and returns what it saw.
func (f flooder) end(t *testing.T) (r flood.Result) {
	t.Helper()
	f.quit(t, syscall.SIGTERM, 20*time.Second)
	b, err := os.ReadFile(f.result)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		t.Fatalf("%s: %v", f.name, err)
	}
	return r
}

// cpuTime is what a process has used of the processors so far; 10 ms is the kernel's grain.
func (p *process) cpuTime(t *testing.T) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	var ticks time.Duration
	for _, f := range fields[11:13] { // utime, stime: 14 and 15 of proc(5), of which two are cut off, counted from 1
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond
}

// cores is the share of a core a process uses over d.
func (p *process) cores(t *testing.T, d time.Duration) float64 {
	t.Helper()
	from, begun := p.cpuTime(t), time.Now()
	<-time.After(d)
	return (p.cpuTime(t) - from).Seconds() / time.Since(begun).Seconds()
}

var logTime = regexp.MustCompile(`(?m)^time=(\S+) `)

// wantQuietLog: not more than ten lines in any second between the start and the stop.
func (tr *tracker) wantQuietLog(t *testing.T) {
	t.Helper()
	_, log, _ := strings.Cut(tr.log(), "msg=serving")
	log, _, _ = strings.Cut(log, "msg=stopping")
	var times []time.Time
	for _, m := range logTime.FindAllStringSubmatch(log, -1) {
		at, err := time.Parse(time.RFC3339Nano, m[1])
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, at)
	}
	most := 0
	for i := range times {
		n := 0
		for n < len(times)-i && times[i+n].Sub(times[i]) < time.Second {
			n++
		}
		most = max(most, n)
	}
	t.Logf("log: %d lines, at most %d in a second", len(times), most)
	if most > 10 {
		t.Errorf("log lines: got %d in a second, want at most 10", most)
	}
}

// status is some of what the API says.
type status struct {
	WebSockets int
	Load       struct{ State, Why string }
}

func (o operator) status(t *testing.T) (s status) {
	t.Helper()
	o.do(t, http.MethodGet, "status", "", &s)
	return s
}

// An operator turns WebSockets off in the middle of a flood of them. It helps at once, though the flood goes on knocking.
func TestShedWebSocketsOffInAFlood(t *testing.T) {
	tr := serve(t)
	op := tr.operator(t)
	hash := metainfo.HashBytes([]byte(t.Name()))
	var best outage
	calmest := time.Hour
	for try := range 3 {
		c := newCrowd(t, tr, 50, 200*time.Millisecond)
		attack := startFlood(t, tr, "ws-offers", "--mode=ws-offers", "--rate=12000", "--conns=2000", "--profile=12s@1")
		waittest.Done(t, 10*time.Second, "flood", func() error {
			if n := op.status(t).WebSockets; n < 1500 {
				return fmt.Errorf("%d sockets open, want 1500", n)
			}
			return nil
		})

		stop := c.knock(tr)
		during := tr.cores(t, 2*time.Second)
		before := op.status(t)

		answered := op.turn(t, "ws", "off")
		waittest.Done(t, 20*time.Second, "sockets gone", func() error {
			if n := op.status(t).WebSockets; n > 0 {
				return fmt.Errorf("%d sockets open", n)
			}
			return nil
		})

		gone := time.Since(answered)
		c.wantGone(t, 20*time.Second)
		knocking := tr.cores(t, time.Second)
		if reply := (announce{from: "127.0.0.2", hash: hash, port: 1002, left: 1}).mustTo(t, tr.announce); reply.External == "" {
			t.Errorf("an announce while ws is off: got %+v, want it served", reply)
		}
		stop()
		seen := attack.end(t)
		ended := time.Now()
		var after float64
		waittest.Done(t, 30*time.Second, "calm processor", func() error {
			if after = tr.cores(t, 250*time.Millisecond); after >= 0.1 {
				return fmt.Errorf("%.2f cores", after)
			}
			return nil
		})

		calm := time.Since(ended)
		got := c.outage(answered)
		got.closed = max(got.closed, gone)
		t.Logf("flood: %d sockets, %q, %.2f cores; off: %v; %.2f cores while the flood knocks (%d handshakes refused); %.2f cores %v after its end",
			before.WebSockets, before.Load.State, during, got, knocking, seen.Sockets.Refused, after, calm.Round(time.Millisecond))
		calmest = min(calmest, calm)
		if seen.Sockets.ClosedByIt == 0 || seen.Sockets.FramesIn == 0 {
			t.Errorf("the flood: got %+v, want sockets that were answered, and closed", seen.Sockets)
		}
		if try == 0 || got.worst() < best.worst() {
			best = got
		}
		op.turn(t, "ws", "on")
	}
	best.check(t)
	if calmest > 2*time.Second {
		t.Errorf("processor: below a tenth of a core %v after a flood at best, want 2 s", calmest)
	}
	tr.wantQuietLog(t)
	tr.stop(t)
}

// A crash in a flood: who starts the tracker again with --ws=off serves announces at once, and WebSockets stay off.
func TestShedKilledInAFlood(t *testing.T) {
	dataDir := filepath.Join(t.TempDir(), "data")
	listen := fmt.Sprintf("--http.listen=127.0.0.1:%d", freePort(t))
	tr := serveOn(t, dataDir, listen, "--store.snapshot.every=1s")
	hash := metainfo.HashBytes([]byte(t.Name()))
	announces := startFlood(t, tr, "keepalive", "--rate=9000", "--conns=1000", "--profile=30s@1")
	handshakes := startFlood(t, tr, "ws-handshake", "--mode=ws-handshake", "--rate=1000", "--conns=600", "--profile=30s@1")
	<-time.After(5 * time.Second)
	killed := time.Now()
	tr.kill()

	exec := time.Now()
	again := &tracker{process: start(t, "spillway-again", spillwayPath, "serve", "--data_dir="+dataDir, "--admin.listen=127.0.0.1:0", "--udp.listen=", listen, "--ws=off"),
		dataDir: dataDir, announce: tr.announce}
	waittest.Done(t, 10*time.Second, "a good reply", func() error {
		reply, err := announce{from: "127.0.0.2", hash: hash, port: 1002, left: 1}.to(again.announce)
		if err == nil && reply.External == "" {
			err = errors.New("not served")
		}
		return err
	})

	served := time.Since(exec)
	for range 20 {
		if status := handshake(t, again); status != http.StatusServiceUnavailable {
			t.Errorf("handshake with --ws=off: got %d, want 503", status)
		}
	}
	<-time.After(6 * time.Second)
	seen, knocked := announces.end(t), handshakes.end(t)

	level := goodRate(&seen, killed.Add(-3*time.Second), killed)
	var seconds []string
	best := 0.0
	for i := range 5 {
		from := exec.Add(served + time.Duration(i)*time.Second)
		rate := goodRate(&seen, from, from.Add(time.Second))
		seconds = append(seconds, fmt.Sprintf("%.0f", rate))
		if best = max(best, rate); rate <= 0 {
			t.Errorf("second %d after the first good reply: none, want some", i+1)
		}
	}
	t.Logf("good replies a second: %.0f before kill -9; the first %v after exec, then %s; handshakes: %v", level, served.Round(time.Millisecond), strings.Join(seconds, ", "), knocked.Phases[0].Honest)
	if served > 10*time.Second { // a second or two on a machine that has no flood to make
		t.Errorf("first good reply: got %v after exec", served)
	}
	if best < level/2 || level < 100 {
		t.Errorf("good replies a second within 5 s: got %.0f at best, want half of the %.0f before", best, level)
	}
	again.wantQuietLog(t)
	again.stop(t)

	// The flag was for one start; what it turned stays turned.
	last := serveOn(t, dataDir, listen)
	if mode, by := last.operator(t).mode(t, "ws"); mode != "off" || by != "flag" {
		t.Errorf("ws one start later: got %q by %q, want off by the flag", mode, by)
	}
	if status := handshake(t, last); status != http.StatusServiceUnavailable {
		t.Errorf("handshake one start later: got %d, want 503", status)
	}
	last.operator(t).turn(t, "ws", "on")
	if status := handshake(t, last); status != http.StatusSwitchingProtocols {
		t.Errorf("handshake when it is on again: got %d, want 101", status)
	}
	last.stop(t)
}

// goodRate is the good replies a second to requests that were due in that time.
func goodRate(r *flood.Result, from, to time.Time) float64 {
	bin := time.Duration(r.Series.BinSeconds * float64(time.Second))
	good := r.Series.Honest.Good
	first, end := max(int(from.Sub(r.Start)/bin), 0), min(int(to.Sub(r.Start)/bin), len(good))
	if first >= end {
		return 0
	}
	sum := 0.0
	for _, rate := range good[first:end] {
		sum += rate
	}
	return sum / float64(end-first)
}
