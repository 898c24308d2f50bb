//go:build !race

package proxy

import (
	"fmt"
	"runtime"
	"testing"
)

// The backend and the clients are other processes: all that is counted is the proxy's.
func TestConnectionsAllocateNothing(t *testing.T) {
	backend := self(t, -1, "backend")
	p := open(t, config(backendAt(backend.line(t))))
	load := self(t, -1, "load", p.Addrs()[0].String(), "16", "0")
	load.line(t)
	run := func(n int) {
		fmt.Fprintln(load.in, n)
		load.line(t)
	}
	run(2000)
	const n = 5000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run(n)
	runtime.ReadMemStats(&after)
	if got := after.Mallocs - before.Mallocs; got > n/100 { // the test's own lines, and the runtime's
		t.Errorf("allocations for %d connections: %d", n, got)
	}
	if opened := counts(t, p).Backends[0].Opened; opened != 2000+n {
		t.Errorf("opened: got %d, want %d", opened, 2000+n)
	}
}
