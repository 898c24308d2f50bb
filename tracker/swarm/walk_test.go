package swarm_test

import (
	"testing"
	"time"

	"spillway/tracker/swarm"
)

// Walk shows each peer that lives as it announced, whatever its family, and goes on with announces meanwhile.
func TestWalk(t *testing.T) {
	t.Parallel()
	table := swarm.New(swarm.Config{})
	now := time.Now()
	type seen struct {
		seeder, paused bool
		left           time.Duration
	}
	want := map[string]seen{}
	var r swarm.Reply
	announce := func(i int, ttl time.Duration) string {
		a := swarm.Announce{InfoHash: swarm.InfoHash{byte(i % 50), 1}, TTL: ttl, Seeder: i%4 == 0}
		if i%4 == 1 {
			a.Event = swarm.EventPaused
		}
		var end []byte
		switch i % 3 {
		case 0:
			a.Has4, a.V4 = true, swarm.Endpoint4{10, 0, byte(i >> 8), byte(i), 0, 1}
			end = a.V4[:]
		case 1:
			a.Has6, a.V6 = true, swarm.Endpoint6{0x20, byte(i >> 8), byte(i), 17: 1}
			end = a.V6[:]
		default:
			a.HasWeb, a.Web = true, swarm.EndpointWeb{byte(i >> 8), byte(i)}
			end = a.Web[:]
		}
		table.Announce(&a, now, &r)
		return string(a.InfoHash[:]) + string(end)
	}
	for i := range 3000 {
		want[announce(i, time.Hour)] = seen{i%4 == 0, i%4 == 1, time.Hour}
	}
	for i := range 300 {
		announce(3000+i, time.Minute) // gone by then
	}
	later := now.Add(10 * time.Minute)
	got := map[string]seen{}
	for batch := range table.Walk(func() time.Time { return later }) {
		for i := range batch {
			p := &batch[i]
			got[string(p.InfoHash[:])+string(p.Endpoint())] = seen{p.Seeder, p.Paused, p.Left}
		}
		announce(1, time.Hour) // takes the lock of any shard
	}
	if len(got) != len(want) {
		t.Errorf("got %d peers, want %d", len(got), len(want))
	}
	for key, w := range want {
		g := got[key]
		if d := w.left - 10*time.Minute - g.left; g.seeder != w.seeder || g.paused != w.paused || d.Abs() > swarm.Tick {
			t.Fatalf("%x: got %+v, want %+v less ten minutes", key, g, w)
		}
	}
	for range table.Walk(time.Now) {
		break // and an early end is one
	}
}
