//go:build !race

package cluster

import "testing"

// To send costs a copy, and to ask who lives nothing: both are done while a WebSocket's message is handled.
func TestSendAllocatesNothing(t *testing.T) {
	n := newNode(t, Config{})
	n.up.Store(true)
	n.alive.Store(&map[ID]bool{{1}: true})
	message := make([]byte, 3000)
	n.out.buf = make([]byte, 0, 1<<20)
	if got := testing.AllocsPerRun(1000, func() {
		n.Send(ID{1}, message)
		if len(n.out.buf) > 1<<19 {
			n.out.buf = n.out.buf[:0]
		}
		if !n.Alive(ID{1}) || n.Alive(ID{2}) {
			t.Error("alive: want node 1 alone")
		}
	}); got != 0 {
		t.Errorf("allocations: got %v, want 0", got)
	}
}

func BenchmarkSend(b *testing.B) {
	n := newNode(b, Config{})
	n.up.Store(true)
	message := make([]byte, 3000)
	for b.Loop() {
		if !n.Send(ID{1}, message) {
			n.out.buf = n.out.buf[:0]
		}
	}
}
