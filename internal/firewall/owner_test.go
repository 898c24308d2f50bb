//go:build e2e

package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"spillway/internal/netnstest"
	"spillway/internal/waittest"
)

func TestOtherTablesAreLeftAlone(t *testing.T) {
	t.Parallel()
	other := &nftables.Table{Name: "others", Family: nftables.TableFamilyINet}
	chain := &nftables.Chain{Table: other, Name: "theirs"}
	must(t, transact(func(c *nftables.Conn) error {
		c.AddTable(other)
		c.AddChain(chain)
		c.AddRule(&nftables.Rule{Table: other, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
		return nil
	}))
	t.Cleanup(func() { must(t, transact(func(c *nftables.Conn) error { c.DelTable(other); return nil })) })
	// Of the same name, in another family.
	s := serve(t)
	namesake := &nftables.Table{Name: fmt.Sprintf("test%d", s.port), Family: nftables.TableFamilyIPv4}
	must(t, transact(func(c *nftables.Conn) error { c.AddTable(namesake); return nil }))

	for range 2 {
		f, err := Open(Config{Ports: []uint16{s.port}, TableName: namesake.Name})
		must(t, err)
		must(t, f.Add(prefix("192.0.2.1"), time.Hour))
		must(t, f.Close())
	}
	c, err := connect()
	must(t, err)
	if rules, err := c.GetRules(other, chain); err != nil || len(rules) != 1 {
		t.Errorf("rules of another table: %v, %v", rules, err)
	}
	if _, err := c.ListTableOfFamily(namesake.Name, namesake.Family); err != nil {
		t.Errorf("table of the same name in another family: %v", err)
	}
	if _, err := c.ListTableOfFamily(namesake.Name, nftables.TableFamilyINet); !errors.Is(err, unix.ENOENT) {
		t.Errorf("our own table after Close: %v", err)
	}

	_, err = Open(Config{Ports: []uint16{s.port}, TableName: other.Name})
	if err == nil || errors.Is(err, ErrUnavailable) {
		t.Errorf("open over somebody else's table: %v", err)
	}
	if rules, err := c.GetRules(other, chain); err != nil || len(rules) != 1 {
		t.Errorf("rules of another table of that name: %v, %v", rules, err)
	}
}

func TestTheTableIsMadeAgain(t *testing.T) {
	t.Parallel()
	f, s := open(t, Config{AllowLoopback: true})
	must(t, f.Add(prefix("127.0.0.2"), time.Hour))
	must(t, f.Add(prefix("127.8.0.0/24"), time.Hour))
	s.drops(t, "127.0.0.2")
	before, _, err := f.Dropped()
	must(t, err)

	remove := func() {
		must(t, transact(func(c *nftables.Conn) error { c.DelTable(f.table.Table); return nil }))
		s.passes(t, "127.0.0.2")
	}
	remove()
	f.check() // as Run does
	s.drops(t, "127.0.0.2", "127.8.0.1")
	if after, _, err := f.Dropped(); err != nil || after <= before {
		t.Errorf("dropped: %d, then %d, %v", before, after, err)
	}

	remove()
	must(t, f.Add(prefix("127.0.0.3"), time.Hour))
	s.drops(t, "127.0.0.2", "127.0.0.3", "127.8.0.1")

	remove()
	must(t, f.Remove(prefix("127.0.0.3")))
	s.drops(t, "127.0.0.2")
	s.passes(t, "127.0.0.3")
}

func TestOpenTwiceTakesOver(t *testing.T) {
	t.Parallel()
	first, s := open(t, Config{AllowLoopback: true})
	must(t, first.Add(prefix("127.0.0.2"), time.Hour))
	must(t, first.Add(prefix("127.9.0.0/24"), time.Hour))
	second, err := Open(Config{AllowLoopback: true, Ports: []uint16{s.port}, UDPPorts: []uint16{s.port}, TableName: first.table.Name,
		Never: []netip.Prefix{prefix("127.9.0.3")}})
	must(t, err)
	s.drops(t, "127.0.0.2")
	s.passes(t, "127.9.0.3") // trusted now

	first.check()
	if err := first.Add(prefix("127.0.0.3"), time.Hour); !errors.Is(err, ErrTakenOver) {
		t.Errorf("add after the table was taken over: %v", err)
	}
	must(t, first.Close())
	s.drops(t, "127.0.0.2") // it is not the first one's to remove
	third, err := Open(Config{AllowLoopback: true, Ports: []uint16{s.port}, UDPPorts: []uint16{s.port}, TableName: first.table.Name})
	must(t, err)
	must(t, second.Close()) // which has not noticed
	s.drops(t, "127.0.0.2")
	must(t, third.Close())
	s.passes(t, "127.0.0.2")
}

// holder is set in the environment of a child that drops a source for as long as it says, and waits.
const holder = "SPILLWAY_FIREWALL_HOLDER"

func hold() {
	var port uint16
	var d time.Duration
	var text string
	if _, err := fmt.Sscan(os.Getenv(holder), &port, &text); err != nil {
		panic(err)
	}
	d, _ = time.ParseDuration(text)
	f, err := Open(Config{AllowLoopback: true, Ports: []uint16{port}, UDPPorts: []uint16{port}, TableName: fmt.Sprintf("test%d", port)})
	if err == nil {
		err = f.Add(prefix("127.0.0.2"), d)
	}
	if err != nil {
		panic(err)
	}
	fmt.Println("held")
	select {}
}

func TestAKilledProcessLeavesNothingForGood(t *testing.T) {
	t.Parallel()
	s := serve(t)
	killed := func(d time.Duration) {
		t.Helper()
		cmd := netnstest.Self("-test.run=^$")
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d %v", holder, s.port, d))
		cmd.Stdout = nil
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if _, err := out.Read(make([]byte, 16)); err != nil {
			t.Errorf("child: %v", err)
		}
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
	killed(3 * time.Second)
	s.drops(t, "127.0.0.2")
	waittest.Until(t, 6*time.Second, "the end of its time", func() bool { return s.dial(t, silence, "tcp", "127.0.0.2", "127.0.0.1") == nil })
	s.passes(t, "127.0.0.2")

	killed(time.Hour)
	f, err := Open(Config{AllowLoopback: true, Ports: []uint16{s.port}, UDPPorts: []uint16{s.port}, TableName: fmt.Sprintf("test%d", s.port)})
	must(t, err)
	if list, err := f.List(); err != nil || len(list) != 1 || list[0].Left < 59*time.Minute {
		t.Errorf("taken over: %v, %v", list, err)
	}
	s.drops(t, "127.0.0.2")
	must(t, f.Remove(prefix("127.0.0.2")))
	s.passes(t, "127.0.0.2")
	must(t, f.Close())
}
