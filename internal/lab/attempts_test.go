package lab

import (
	"testing"
	"time"
)

const s = time.Second

func TestAttemptsAreCountedByWhenTheyBegan(t *testing.T) {
	t.Parallel()
	all := Attempts{
		{At: 0, Took: 10 * time.Millisecond, Outcome: OK},
		{At: s, Took: time.Millisecond, Outcome: Refused},
		{At: s + s/2, Took: 3 * time.Millisecond, Outcome: Reset, Try: 1},
		{At: 2*s - 1, Took: 5 * s, Outcome: Timeout, Try: 3},
		{At: 2 * s, Took: time.Millisecond, Outcome: Local},
		{At: 3 * s, Took: 40 * time.Millisecond, Outcome: OK},
		{At: 3*s + 10*time.Millisecond, Took: 20 * time.Millisecond, Outcome: OK, Try: 2},
	}
	fault := all.Between(s, 2*s)
	if got := len(fault); got != 3 {
		t.Fatalf("in the second second: got %d, want 3", got)
	}
	if got := len(all.Failed()); got != 3 {
		t.Errorf("failed: got %d, want 3: what this machine could not do is not the relay's", got)
	}
	for _, c := range []struct {
		q    float64
		want time.Duration
	}{{0, time.Millisecond}, {0.5, 3 * time.Millisecond}, {0.99, 5 * s}, {1, 5 * s}} {
		if got := fault.Failed().Quantile(c.q); got != c.want {
			t.Errorf("quantile %g: got %v, want %v", c.q, got, c.want)
		}
	}
	if got := (Attempts)(nil).Quantile(0.5); got != 0 {
		t.Errorf("median of none: got %v", got)
	}
	if got, ok := all.FirstOK(2 * s); !ok || got != s+30*time.Millisecond {
		t.Errorf("first success: got %v, %t; want the one that ended first", got, ok)
	}
	if _, ok := all.FirstOK(4 * s); ok {
		t.Error("a success after all")
	}
	if got := all.Count(OK, Refused); got != 4 {
		t.Errorf("ok and refused: got %d, want 4", got)
	}
	if got, want := fault.String(), "1 refused, 1 reset, 1 timeout (2 of 3 were repeats)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestGoodputIsOfNewClients(t *testing.T) {
	t.Parallel()
	all := Attempts{
		{At: 0, Took: 2 * s, Outcome: OK},              // came before, ended inside
		{At: s, Took: s / 10, Outcome: Refused},        // a new client
		{At: s, Took: s / 10, Outcome: OK},             // another
		{At: s, Took: 5 * s, Outcome: OK},              // and one who is served too late
		{At: s, Took: s / 10, Outcome: Shed, Try: 1},   // not a success
		{At: 2 * s, Took: s / 10, Outcome: OK, Try: 1}, // a success of one who came before
	}
	if got, want := all.Goodput(s, 3*s), 3.0/3; got != want {
		t.Errorf("got %g, want %g", got, want)
	}
	if got := all.Goodput(10*s, 11*s); got != 0 {
		t.Errorf("with nobody: got %g", got)
	}
}

func TestRepliesAreJudged(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
	for reply, want := range map[string]Outcome{
		ok + "d8:completei1e8:intervali1800e5:peers0:e":  OK,
		ok + "d8:intervali1800e14:failure reason4:fulle": Shed,
		ok + "d14:failure reason4:full8:intervali1800ee": Shed,
		ok + "d8:completei1ee":                           Bad,
		ok + "ok\n":                                      Bad,
		ok:                                               Bad,
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n":       Bad,
		"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>":         Shed,
		"HTTP/1.1 503 Service Unavailable\r\n\r\n":       Shed,
		"HTTP/1.1 301 Moved\r\n\r\nd8:intervali1800e":    Bad,
		"HTTP/1.0 200 OK\r\n\r\nd8:intervali1800ee":      Bad,
		"SSH-2.0-OpenSSH_9.2\r\n":                        Bad,
		"H":                                              Bad,
		"":                                               Bad,
	} {
		if got := classify([]byte(reply)); got != want {
			t.Errorf("%q: got %s, want %s", reply, got, want)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nd8:intervali1800ee"))
	f.Add([]byte("HTTP/1.1 502 \r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o := classify(b); o != OK && o != Shed && o != Bad {
			t.Errorf("%q: got %s", b, o)
		}
	})
}
