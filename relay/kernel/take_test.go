//go:build e2e

package kernel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spillway/internal/waittest"
	"spillway/relay"
)

// holder is set in the environment of a child that opens a path to a backend, which is "down" or "up", and waits.
const holder = "SPILLWAY_RELAY_KERNEL_HOLDER"

func hold() {
	backend, state, _ := strings.Cut(os.Getenv(holder), " ")
	p, err := Open((&lab{}).config(netip.MustParseAddrPort(backend)), nil)
	if err == nil {
		err = p.Apply(plan(p, func(n *relay.Plan) { n.Down[0] = state == "down" }))
	}
	if err != nil {
		panic(err)
	}
	fmt.Println("held")
	select {}
}

// killed is a relay in another process that is killed, its table as it left it.
func killed(t *testing.T, backend netip.AddrPort, state string, while func()) {
	t.Helper()
	cmd := self("-test.run=^$")
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%v %s", holder, backend, state))
	cmd.Stdout = nil
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if _, err := io.ReadFull(out, make([]byte, 5)); err != nil {
		t.Errorf("child: %v", err)
	}
	if while != nil {
		while()
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
}

// busy connects and echoes without pause, until it is told to stop; it returns how often, how many were refused, and the first
// failure of another kind.
func (l *lab) busy(t *testing.T) (stop func() (n, refused int, err error)) {
	t.Helper()
	var ended atomic.Bool
	done := make(chan struct{})
	var n, refused int
	var failed error
	go func() {
		defer close(done)
		within(t, l.client, func() error {
			for i := 0; !ended.Load() && failed == nil; i++ {
				c, err := try(fmt.Sprintf("198.18.1.%d", 1+i%250), front4, patience)
				if err == nil {
					_ = c.SetDeadline(time.Now().Add(patience))
					if _, err = readLine(c); err == nil {
						err = echoes(c)
					}
					_ = c.Close()
				}
				n++
				if errors.Is(err, syscall.ECONNREFUSED) {
					refused++
				} else {
					failed = err
				}
			}
			return nil
		})
	}()
	var once sync.Once
	t.Cleanup(func() { ended.Store(true); <-done })
	return func() (int, int, error) {
		once.Do(func() { ended.Store(true); <-done })
		return n, refused, failed
	}
}

func TestAKilledRelayGoesOnForwarding(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	var old net.Conn
	killed(t, backend4(0), "up", func() { old, _, _ = l.reach(t, "", front4) })
	must(t, echoes(old))
	l.reach(t, "", front4)

	for _, same := range []bool{true, false} {
		times := 20
		if same {
			times = 300
		}
		stop := l.busy(t)
		for i := range times {
			cfg := l.config(backend4(0))
			// Those that were answered keep their places until they are collected, which waits for whoever changes tables: here that is us.
			cfg.Budget = maxBudget / 2
			if !same {
				cfg.Budget += i + 1
			}
			p := open(t, cfg)
			must(t, p.Apply(plan(p, nil)))
			must(t, echoes(old))
			must(t, p.Close())
		}
		n, refused, err := stop()
		t.Logf("same=%v: %d of %d connections refused while the table was taken over %d times", same, refused, n, times)
		if err != nil || n < 20 {
			t.Errorf("same=%v: %d connections, %v", same, n, err)
		}
		// What is replaced may cost the one connection that is just between.
		if same && refused > 0 || refused > 10 {
			t.Errorf("same=%v: %d of %d connections refused while the table was taken over %d times", same, refused, n, times)
		}
	}
	must(t, echoes(old))
}

func TestARefusalIsTakenOver(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	killed(t, backend4(0), "down", nil)
	l.refused(t, "", front4)
	p := open(t, l.config(backend4(0))) // the same table
	l.refused(t, "", front4)
	must(t, p.Close())
	p = open(t, l.config(backend4(0), backend6(0))) // another
	l.refused(t, "", front4)
	l.reach(t, "", front6)
	if !p.plan.Down[0] || p.plan.Down[1] {
		t.Errorf("down: %v; want the first", p.plan.Down)
	}
	waittest.Until(t, relay.Forget+patience, "the end of the earlier relay's refusal", func() bool {
		c, err := l.dial(t, "", front4, patience)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})

}

func TestATableThatIsTheSameStays(t *testing.T) {
	l := newLab(t, 2)
	l.serve(t, 0)
	l.serve(t, 1)
	cfg := l.config(backend4(0), backend4(1), backend6(1))
	cfg.PerSource, cfg.Masquerade = 1000, true
	first := open(t, cfg)
	must(t, first.Apply(plan(first, func(n *relay.Plan) {
		for s := range n.Slots4 {
			n.Slots4[s] = int16(s % 3 % 2)
		}
		n.Slots4[9] = relay.Nobody
		n.Open = []int{2, 4, 1}
		n.Down[1] = true
	})))
	for i := range 20 {
		if c, err := l.dial(t, fmt.Sprintf("198.18.1.%d", 1+i), front4, patience); err == nil {
			_ = c.Close()
		}
	}
	before := counts(t, first)
	must(t, first.Close())
	s, err := dial()
	must(t, err)
	defer s.close()
	generations, err := generation(s)
	must(t, err)
	second := open(t, cfg)
	if !reflect.DeepEqual(second.plan, first.plan) {
		t.Errorf("plan taken over: %+v, want %+v", second.plan, first.plan)
	}
	if now, err := generation(s); err != nil || now != generations {
		t.Errorf("the tables were changed: generation %d, then %d, %v", generations, now, err)
	}
	if c := counts(t, second).Backends; c[0].Opened != 0 || c[1].Down != 0 {
		t.Errorf("counts: %+v; want those since Open", c)
	}
	for i := range 20 {
		if c, err := l.dial(t, fmt.Sprintf("198.18.1.%d", 1+i), front4, patience); err == nil {
			_ = c.Close()
		}
	}
	if c := counts(t, second).Backends; before.Backends[0].Opened == 0 || c[0].Opened != before.Backends[0].Opened || c[1].Down != before.Backends[1].Down {
		t.Errorf("counts: %+v, want as those before, %+v", c, before.Backends)
	}
	must(t, second.Close())
	cfg.Backends = cfg.Backends[:2]
	third := open(t, cfg)
	if now, err := generation(s); err != nil || now == generations {
		t.Errorf("another configuration changed nothing: generation %d, %v", now, err)
	}
	must(t, third.Apply(plan(third, func(n *relay.Plan) { n.Down[1] = false })))
	l.reach(t, "", front4)
}

func TestPlansChangeWhileConnectionsAreOpened(t *testing.T) {
	l := newLab(t, 2)
	l.serve(t, 0)
	l.serve(t, 1)
	p := open(t, l.config(backend4(0), backend4(1)))
	stop := l.busy(t)
	var slowest time.Duration
	const times = 200
	for i := range times {
		start := time.Now()
		must(t, p.Apply(plan(p, func(n *relay.Plan) { all(&n.Slots4, int16(i%2)); n.Open = []int{3 + i%2, 4 - i%2} })))
		slowest = max(slowest, time.Since(start))
	}
	n, refused, err := stop()
	if err != nil || refused > 0 || n < 20 {
		t.Errorf("%d connections while the plan changed %d times: %d refused, %v", n, times, refused, err)
	}
	t.Logf("%d connections; the slowest change took %v", n, slowest)
	if b := counts(t, p).Backends; b[0].Opened == 0 || b[1].Opened == 0 || b[0].Opened+b[1].Opened != uint64(n) {
		t.Errorf("%+v; want %d opened in all, at both", b, n)
	}
}

func TestTheTableIsMadeAgain(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	p := open(t, l.config(backend4(0)))
	l.reach(t, "", front4)
	counts(t, p)
	remove := func(kind uint16, attrs []byte) {
		t.Helper()
		s, err := dial()
		must(t, err)
		defer s.close()
		b := &batch{}
		b.add(kind, 0, "", attrs)
		must(t, s.commit(b))
		if c, err := l.dial(t, "", front4, patience); err == nil {
			_ = c.Close()
			t.Fatal("without a table: connected")
		}
	}
	for i, do := range []func(){
		func() { remove(unix.NFT_MSG_DELTABLE, appendText(nil, unix.NFTA_TABLE_NAME, TableName)) },
		func() { remove(unix.NFT_MSG_DELRULE, appendText(nil, unix.NFTA_RULE_TABLE, TableName)) }, // nft flush table
		func() {
			remove(unix.NFT_MSG_DELRULE, appendText(appendText(nil, unix.NFTA_RULE_TABLE, TableName), unix.NFTA_RULE_CHAIN, "check_0"))
		},
	} {
		do()
		must(t, p.Apply(plan(p, func(n *relay.Plan) { n.Open[0] = 1 + i })))
		l.reach(t, "", front4)
		if b := counts(t, p).Backends[0]; b.Opened != uint64(2+i) {
			t.Errorf("opened: %d, want %d: totals are since Open", b.Opened, 2+i)
		}
	}
	if p.remade != 3 {
		t.Errorf("made again %d times, want 3", p.remade)
	}
}

func TestOneRelayAtATime(t *testing.T) {
	l := newLab(t, 1)
	l.serve(t, 0)
	p := open(t, l.config(backend4(0)))
	if _, err := Open(l.config(backend4(1)), nil); !errors.Is(err, ErrRunning) {
		t.Errorf("a second relay: %v", err)
	}
	if err := Revert(); !errors.Is(err, ErrRunning) {
		t.Errorf("revert while it runs: %v", err)
	}
	l.reach(t, "", front4)
	must(t, p.Close())
	must(t, p.Close())
	l.reach(t, "", front4)
	must(t, Revert())
	if c, err := l.dial(t, "", front4, patience); err == nil {
		_ = c.Close()
		t.Error("connected after a revert")
	}
	must(t, Revert())
	if err := p.Apply(p.plan); err == nil {
		t.Error("apply after Close: no error")
	}
	if _, err := p.Counts(); err == nil {
		t.Error("counts after Close: no error")
	}
	if _, err := p.Cut(0, nil); err == nil {
		t.Error("cut after Close: no error")
	}
}
