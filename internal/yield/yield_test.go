package yield

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Beside a goroutine that always has work, one that waits for the network is served after a few turns, and not when the runtime's
// monitor comes by. Not parallel: it has one processor for all.
func TestTurnLetsTheNetworkIn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const trips = 100
	var turns int
	for range 5 { // the kernel, too, may let the network wait on a busy machine, but not each time
		// Two waits a round trip; that the echo's event is seen may take another turn or two.
		if turns = turnsOf(t, trips); turns <= 20*trips {
			return
		}
	}
	t.Errorf("%d round trips took %d turns", trips, turns)
}

// turnsOf tells how many turns a busy goroutine gives until another has made so many round trips.
func turnsOf(t *testing.T, trips int) (turns int) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	finished := make(chan error, 2)
	var busy, over atomic.Bool
	go func() { // echoes
		c, err := ln.Accept()
		if err != nil {
			finished <- err
			return
		}
		defer c.Close()
		var b [1]byte
		for {
			if _, err = c.Read(b[:]); err != nil {
				finished <- nil // the other has closed it
				return
			}
			if _, err = c.Write(b[:]); err != nil {
				finished <- err
				return
			}
		}
	}()
	go func() {
		defer over.Store(true)
		c, err := net.Dial("tcp4", ln.Addr().String())
		if err != nil {
			finished <- err
			return
		}
		defer c.Close()
		for !busy.Load() {
			runtime.Gosched()
		}
		var b [1]byte
		for range trips {
			if _, err = c.Write(b[:]); err == nil {
				_, err = c.Read(b[:])
			}
			if err != nil {
				break
			}
		}
		finished <- err
	}()
	turn, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for !over.Load() {
		busy.Store(true)
		turns++
		turn.Give()
	}
	for range 2 {
		if err := <-finished; err != nil {
			t.Error(err)
		}
	}
	turn.Close()
	turn.Give() // and does not hang
	return turns
}
