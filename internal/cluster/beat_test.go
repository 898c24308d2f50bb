package cluster

import (
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// Who is not heard of any more is gone, for ten minutes or until it is back; of many the last are told.
func TestGone(t *testing.T) {
	t.Parallel()
	n, _ := New(Config{}, slog.New(slog.DiscardHandler))
	peers := func(ids ...byte) (p []Peer) {
		for _, id := range ids {
			p = append(p, Peer{ID: ID{id}})
		}
		return p
	}
	now := time.Now()
	f := func(were, are []Peer, at time.Time, want string) {
		t.Helper()
		n.miss(were, are, at)
		got := ""
		for _, g := range n.Gone() {
			got += fmt.Sprint(g.ID[0])
		}
		if got != want {
			t.Errorf("%v, then %v: got %q, want %q", were, are, got, want)
		}
	}
	f(nil, peers(1, 2, 3), now, "")
	f(peers(1, 2, 3), peers(1, 2), now, "3")
	f(peers(1, 2), peers(1), now, "23")
	f(peers(1), peers(1, 3), now, "2")
	f(peers(1, 3), peers(1), now.Add(-keepGone-time.Second), "2")
	var many []byte
	for i := range byte(2 * maxGone) {
		many = append(many, 100+i)
	}
	n.miss(peers(many...), peers(1), now)
	if got := len(n.Gone()); got != maxGone {
		t.Errorf("of many: got %d, want %d", got, maxGone)
	}
}

// A node is known to be dead only where whoever lives has had the time to say so.
func TestDead(t *testing.T) {
	t.Parallel()
	n, _ := New(Config{}, slog.New(slog.DiscardHandler))
	deaf, well, gone := ID{1}, ID{2}, ID{3}
	n.alive.Store(&map[ID]bool{deaf: false, well: true})
	n.up.Store(true)
	for _, sure := range []bool{false, true} {
		n.sure.Store(sure)
		for id, want := range map[ID]bool{deaf: false, well: false, gone: sure, n.id: false} {
			if got := n.Dead(id); got != want {
				t.Errorf("sure %v: %s dead: got %v, want %v", sure, id, got, want)
			}
		}
		if n.Alive(deaf) || !n.Alive(well) || n.Alive(gone) {
			t.Errorf("alive: got %v, %v, %v, want the one that listens", n.Alive(deaf), n.Alive(well), n.Alive(gone))
		}
	}
}
