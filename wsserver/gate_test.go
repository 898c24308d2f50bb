package wsserver

import (
	"testing"
	"time"

	"spillway/shedder"
	"spillway/tracker/swarm"
)

func newGate() *shedder.Gate { return shedder.New(shedder.Config{}, nil, nil, time.Now()) }

// A message that meets a bug of ours ends its socket, and neither the process nor the others'; and ten of them the endpoint.
func TestAPanicEndsItsSocket(t *testing.T) {
	t.Parallel()
	gate := newGate()
	ts := serve(t, Config{Gate: gate, Refuses: func(infoHash *swarm.InfoHash, _ *[20]byte) string {
		if infoHash[0] == '!' {
			panic("of the test")
		}
		return ""
	}})
	other := ts.dial(t)
	for i := range 10 {
		if mode := gate.Switches.Mode(shedder.WS); mode != shedder.On {
			t.Fatalf("off after %d panics", i)
		}
		c := ts.dial(t)
		c.send(announce(id("!"), id("p"), ""))
		c.wantEnd()
		other.send(announce(id("h"), id("o"), ""))
		if g := other.read(); g.Interval == "" {
			t.Errorf("another's announce: got %s", g.raw)
		}
	}
	if mode := gate.Switches.Mode(shedder.WS); mode != shedder.Off {
		t.Errorf("after ten panics: %s, want off", mode)
	}
	if n := ts.metrics.panics.Get(); n != 10 {
		t.Errorf("panics counted: got %d, want 10", n)
	}
}

// In an overload announces are answered and counted, and told twice the interval; offers are not relayed, and nobody new gets in.
func TestOverload(t *testing.T) {
	t.Parallel()
	gate := newGate()
	ts := serve(t, Config{Gate: gate, Interval: 100 * time.Second})
	a, b := ts.dial(t), ts.dial(t)
	a.send(announce(id("h"), id("a"), ""))
	a.read()
	now := time.Now()
	for range 3 {
		for range 100 {
			gate.Observe(time.Second, false)
		}
		now = now.Add(shedder.TickLength)
		gate.Step(now)
	}
	b.send(announce(id("h"), id("b"), offers(3)))
	if sec, err := b.read().Interval.Int64(); err != nil || sec < 160 || sec > 240 {
		t.Errorf("interval: got %d, %v; want 200 give or take a fifth", sec, err)
	}
	a.silent()
	ts.wantCounts(t, 'h', 0, 2)
	if _, err := ts.tryDial(t); err == nil {
		t.Error("a new WebSocket was let in")
	}
	if n := ts.metrics.refused[refusedShed].Get(); n != 1 {
		t.Errorf("handshakes refused: got %d, want 1", n)
	}
}

// A rule holds on sockets that are open, and before the 101.
func TestRules(t *testing.T) {
	t.Parallel()
	gate := newGate()
	ts := serve(t, Config{Gate: gate})
	c := ts.dial(t)
	if _, err := gate.Rules.Add(shedder.RuleSource, "127.0.0.1", time.Hour, "", "test"); err != nil {
		t.Fatal(err)
	}
	c.send(announce(id("h"), id("a"), ""))
	if g := c.read(); g.Warning == "" && g.Failure == "" || g.Interval == "" {
		t.Errorf("got %s, want a refusal with an interval", g.raw)
	}
	ts.wantCounts(t, 'h', 0, 0)
	if _, err := ts.tryDial(t); err == nil {
		t.Error("a new WebSocket was let in")
	}
}

// The bound of sockets can be moved; those that are open stay.
func TestMaxConnsCanBeMoved(t *testing.T) {
	t.Parallel()
	ts := serve(t, Config{MaxConns: 10})
	c := ts.dial(t)
	ts.SetMaxConns(1)
	if _, err := ts.tryDial(t); err == nil {
		t.Error("let in above the bound")
	}
	ts.SetMaxConns(2)
	ts.dial(t)
	c.send(announce(id("h"), id("a"), ""))
	c.read()
}
