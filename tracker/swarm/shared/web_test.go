package shared

import (
	"encoding/binary"
	"log/slog"
	"testing"
	"time"

	"spillway/tracker/swarm"
)

// Of a swarm whose WebSocket peers are on three nodes, of which one is dead, those of the other two are told, each as often as any
// other, with their node where it is another; a seeder is told leechers; and nobody is told where no other node is known.
func TestWebPeersOfOtherNodes(t *testing.T) { // not parallel: it counts allocations
	dead, far := [nodeBytes]byte{'d'}, [nodeBytes]byte{'f'}
	s := New(Config{NodeID: [nodeBytes]byte{'o'}, Alive: func(n [nodeBytes]byte) bool { return n == far }}, swarm.New(swarm.Config{}), slog.New(slog.DiscardHandler))
	v := &view{}
	const each = 30 // of each node, a third of them seeders
	for i := range 3 * each {
		var kind byte = familyWeb
		if i%9 < 3 {
			kind |= kindSeeder
		}
		end := make([]byte, nodeBytes+8)
		copy(end, [][]byte{s.node[:], far[:], dead[:]}[i%3])
		binary.LittleEndian.PutUint32(end[nodeBytes:], uint32(i))
		v.apply(kind, end, metaOf(time.Now(), time.Hour, false), 1000)
	}
	var r swarm.Reply
	a := swarm.Announce{HasWeb: true, NumWant: 10}
	binary.LittleEndian.PutUint32(a.Web[:], 3) // of this node, a leecher
	told := map[uint32]int{}
	draw := func() (own, others int) {
		s.webReply(v, &a, &r)
		seen := map[uint32]bool{}
		note := func(b []byte) {
			i := binary.LittleEndian.Uint32(b)
			if i == 3 || i%3 == 2 || seen[i] || a.Seeder && i%9 < 3 {
				t.Fatalf("told peer %d: itself, of a dead node, twice, or a seeder to a seeder", i)
			}
			seen[i] = true
			told[i]++
		}
		for b := r.PeersWeb; len(b) > 0; b = b[8:] {
			note(b)
		}
		for b := r.FarWeb; len(b) > 0; b = b[nodeBytes+8:] {
			if [nodeBytes]byte(b) != far {
				t.Fatalf("node: got %q", b[:nodeBytes])
			}
			note(b[nodeBytes:])
		}
		return len(r.PeersWeb) / 8, len(r.FarWeb) / (nodeBytes + 8)
	}
	short := 0
	const rounds = 4000
	for range rounds {
		if own, others := draw(); own+others > a.NumWant {
			t.Fatalf("peers: got %d and %d, want %d at most", own, others, a.NumWant)
		} else if own+others < a.NumWant {
			short++
		}
	}
	if short > rounds/20 {
		t.Errorf("replies with less than wanted: got %d of %d", short, rounds)
	}
	want := float64(rounds) * 10 / (2*each - 1)
	for i := range uint32(3 * each) {
		if n := float64(told[i]); i != 3 && i%3 != 2 && (n < 0.75*want || n > 1.25*want) {
			t.Errorf("peer %d: told %v times, want about %.0f", i, n, want)
		}
	}
	a.Seeder = true
	draw()
	if got := testing.AllocsPerRun(100, func() { s.webReply(v, &a, &r) }); got != 0 {
		t.Errorf("allocations: got %v, want 0", got)
	}
	a.NumWant = 1000
	if own, others := draw(); own != each*2/3-1 || others != each*2/3 {
		t.Errorf("all other leechers: got %d and %d, want %d and %d", own, others, each*2/3-1, each*2/3)
	}
}

// Peers of a dead node are not counted: exactly, where the whole list is known; of a sample, as many of the rest as of it. Neither do
// scrapes count them, which fetch no other peers.
func TestGhostsAreNotCounted(t *testing.T) {
	t.Parallel()
	dead := func(n [nodeBytes]byte) bool { return n[0] == 'd' }
	var told [lists][]byte
	list := listOf(familyWeb, false)
	meta := metaOf(time.Now(), time.Hour, false)
	for i := range 40 { // a quarter are ghosts, some of them paused
		end := make([]byte, nodeBytes+8)
		end[0], end[nodeBytes] = 'f', byte(i)
		m := meta
		if i%4 == 0 {
			end[0] = 'd'
		}
		if i%8 == 0 {
			m |= metaPaused
		}
		told[list] = binary.LittleEndian.AppendUint16(append(told[list], end...), m)
	}
	for _, c := range []struct {
		asked             need
		total, want       uint32
		paused, downloads uint32
	}{{needPeers, 40, 30, 5, 30}, {needCounts, 40, 30, 5, 30}, {needPeers, 4000, 3000, 5, 3000}, {needCounts, 4000, 3000, 5, 3000}} {
		v := &view{asked: c.asked}
		var totals [lists]uint32
		totals[list], totals[0] = c.total, 7
		if err := v.fill(reply(0, c.paused, totals, told), dead); err != nil {
			t.Fatal(err)
		}
		if got := v.counts(); got.Incomplete != c.want+7 || got.Downloaders != c.downloads+7 {
			t.Errorf("%+v: got %+v", c, got)
		}
		if err := v.fill(reply(0, c.paused, totals, told), nil); err != nil || v.counts().Incomplete != c.total+7 {
			t.Errorf("%+v, while nobody is known to be dead: got %+v, %v", c, v.counts(), err)
		}
	}
}
