package wsserver

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

func TestTurnIsAsLongAsTheOthers(t *testing.T) {
	t.Parallel()
	for away, want := range map[time.Duration]time.Duration{
		0: leastTurn, 2 * time.Microsecond: leastTurn, 300 * time.Microsecond: 300 * time.Microsecond, time.Second: mostTurn,
	} {
		if got := turnAfter(away); got != want {
			t.Errorf("away for %s: a turn of %s, want %s", away, got, want)
		}
	}
}

// With one processor what waits for the network is served after a few turns of a loop that always has work, and not when the
// runtime's monitor comes by. Not parallel: all have that one processor.
func TestTurnLetsTheNetworkIn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const trips = 100
	var turns int
	for range 5 { // the kernel, too, may let the network wait on a busy machine, but not each time
		if turns = turnsOf(t, trips); turns <= 20*trips {
			return
		}
	}
	t.Errorf("%d round trips took %d turns", trips, turns)
}

// turnsOf is how many turns a busy loop gives until another goroutine has made so many round trips.
func turnsOf(t *testing.T, trips int) (turns int) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	failed := make(chan error, 1)
	var busy, over atomic.Bool
	go func() {
		defer over.Store(true)
		failed <- func() error {
			c, err := net.Dial("tcp4", ln.Addr().String())
			if err != nil {
				return err
			}
			defer c.Close()
			s, err := ln.Accept()
			if err != nil {
				return err
			}
			defer s.Close()
			for !busy.Load() {
				runtime.Gosched()
			}
			for i := range 2 * trips {
				from, to := c, s
				if i%2 == 1 {
					from, to = s, c
				}
				arrived := make(chan error, 1)
				go func() {
					_, err := to.Read(make([]byte, 1))
					arrived <- err
				}()
				runtime.Gosched() // it waits for the poller now
				if _, err := from.Write([]byte{1}); err != nil {
					return err
				}
				if err := <-arrived; err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	turn, err := newTurn(1)
	if err != nil {
		t.Fatal(err)
	}
	defer turn.end()
	for !over.Load() {
		busy.Store(true)
		turns++
		turn.give()
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
	return turns
}
