package swarm_test

import (
	"net/netip"
	"testing"
	"time"

	"spillway/tracker/swarm"
)

// A reply with room for one family is filled with it, though the other has as many.
func TestOneFamily(t *testing.T) {
	t.Parallel()
	table := swarm.New(swarm.Config{})
	now := time.Now()
	var r swarm.Reply
	ask := func(a swarm.Announce) {
		a.InfoHash, a.TTL = swarm.InfoHash{1}, time.Hour
		table.Announce(&a, now, &r)
	}
	for i := range 100 {
		var a swarm.Announce
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		if i >= 60 {
			addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i)})
		}
		a.SetEndpoint(addr, 6881)
		a.Seeder = i%2 == 0
		ask(a)
	}
	for _, f := range []struct {
		family           swarm.Family
		seeder           bool
		want, got4, got6 int
	}{
		{swarm.Family4, false, 50, 50, 0}, {swarm.Family4, false, 200, 59, 0}, {swarm.Family6, false, 30, 0, 30},
		{swarm.Family6, false, 200, 0, 40}, {swarm.Family4, true, 200, 30, 0}, {swarm.Family6, true, 10, 0, 10}, {swarm.Family6, true, 0, 0, 0},
	} {
		a := swarm.Announce{NumWant: f.want, OneFamily: true, PreferFamily: f.family, Seeder: f.seeder}
		a.SetEndpoint(netip.AddrFrom4([4]byte{192, 0, 2, 0}), 6881) // one of them, who is not told of itself
		ask(a)
		if got4, got6 := len(r.Peers4)/6, len(r.Peers6)/18; got4 != f.got4 || got6 != f.got6 {
			t.Errorf("%+v: got %d and %d", f, got4, got6)
		}
	}
}
