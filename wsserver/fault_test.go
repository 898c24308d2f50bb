package wsserver

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

// senseless is a store whose replies make no sense while broken is set.
type senseless struct {
	*swarm.Table
	broken atomic.Bool
}

func (s *senseless) Announce(a *swarm.Announce, now time.Time, r *swarm.Reply) {
	if s.Table.Announce(a, now, r); s.broken.Load() {
		r.PeersWeb = append(r.PeersWeb, make([]byte, endpointBytes*(a.NumWant+1))...)
	}
}

func (s *senseless) Scrape(hashes []swarm.InfoHash, dst []swarm.Counts) []swarm.Counts {
	if s.broken.Load() {
		return dst
	}
	return s.Table.Scrape(hashes, dst)
}

// An error of ours is answered like a refusal. Ten turn the endpoint off, and it is tried again after a minute.
func TestErrorsInALoopTurnTheEndpointOff(t *testing.T) {
	t.Parallel()
	gate := newGate()
	store := &senseless{Table: swarm.New(swarm.Config{})}
	ts := serveSwarms(t, Config{Gate: gate}, store, store.Table, nil, nil)
	gate.Switches.OnChange(func(s shedder.SwitchState) { ts.SetMode(s.Mode) })
	c := ts.dial(t)
	c.send(announce(id("h"), id("p"), ""))
	if g := c.read(); g.Failure != "" {
		t.Fatalf("before: got %s", g.raw)
	}
	store.broken.Store(true)
	for i := range 9 {
		if i%2 == 0 {
			c.send(announce(id("h"), id("p"), ""))
			if g := c.read(); g.Warning == "" && g.Failure == "" || g.Interval == "" {
				t.Errorf("an announce: got %s, want a refusal with an interval", g.raw)
			}
		} else {
			c.send(`{"action":"scrape","info_hash":` + id("h") + `}`)
			c.read()
		}
		if mode := gate.Switches.Mode(shedder.WS); mode != shedder.On {
			t.Fatalf("%s after %d errors", mode, i+1)
		}
	}
	c.send(announce(id("h"), id("p"), ""))
	c.read()
	c.wantClose(statusTryAgainLater)
	if state := gate.Switches.State(shedder.WS); state.Mode != shedder.Off || state.By != "spillway" {
		t.Errorf("after ten errors: got %+v, want off", state)
	}
	store.broken.Store(false)
	gate.Switches.Expire(time.Now().Add(time.Minute))
	wait(t, "it is told", func() bool { return ts.Mode() == shedder.On })
	c = ts.dial(t)
	c.send(announce(id("h"), id("p"), ""))
	if g := c.read(); g.Failure != "" {
		t.Errorf("a minute later: got %s", g.raw)
	}
}

// breakEpoll puts a file in the place of a loop's epoll that is none.
func breakEpoll(t *testing.T, l *loop) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), l.ep, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
}

// Where epoll takes no sockets each handshake would be a socket opened and closed, which brings its client straight back.
func TestSocketsThatCannotBeWatchedTurnTheEndpointOff(t *testing.T) {
	t.Parallel()
	gate := newGate()
	ts := serve(t, Config{Gate: gate, Loops: 1})
	breakEpoll(t, ts.loops[0])
	dialed := 0 // the loop itself may meet it too, if it has not begun to wait
	for ; gate.Switches.Mode(shedder.WS) == shedder.On; dialed++ {
		if dialed == 10 {
			t.Fatal("not off after ten")
		}
		if c, err := ts.tryDial(t); err == nil {
			c.wantEnd()
		}
	}
	if dialed == 0 {
		t.Error("off at once")
	}
}

// A loop whose epoll fails goes on trying, and has the endpoint switched off meanwhile.
func TestALoopThatCannotPollTurnsTheEndpointOff(t *testing.T) {
	t.Parallel()
	gate := newGate()
	off := make(chan struct{})
	gate.Switches.OnChange(func(shedder.SwitchState) { close(off) })
	ts := serve(t, Config{Gate: gate, Loops: 1})
	l, err := ts.newLoop()
	if err != nil {
		t.Fatal(err)
	}
	breakEpoll(t, l)
	ended := make(chan struct{})
	go func() { l.run(); close(ended) }()
	<-off
	if state := gate.Switches.State(shedder.WS); state.Mode != shedder.Off || state.By != "spillway" {
		t.Errorf("got %+v, want off", state)
	}
	if err := l.file.Close(); err != nil {
		t.Error(err)
	}
	<-ended
}
