package e2e

import (
	"path/filepath"
	"testing"
)

// side is one of two clients that move a file.
type side struct {
	content func() // fails the test unless the client has nothing to complain of
	leave   func() // makes the client announce "stopped"
}

// moveFile is the story every pair plays: one seeds, the other gets the file, both leave, and the tracker, which must
// have no other swarm, counts each step. client starts one with a torrent; the file is in dir, or is to be.
func moveFile(t *testing.T, tr *tracker, p payload, client func(t *testing.T, p payload, dir string, seed bool) side) {
	t.Helper()
	seeder := client(t, p, p.seedDir, true)
	tr.wantCounts(t, p.hash, counts{Complete: 1})

	dir := filepath.Join(t.TempDir(), "leech")
	leecher := client(t, p, dir, false)
	tr.wantCounts(t, p.hash, counts{Complete: 2, Downloaded: 1})
	p.arrivesIn(t, dir)
	tr.wantStats(t, 2, 0)
	seeder.content()
	leecher.content()

	leecher.leave()
	tr.wantCounts(t, p.hash, counts{Complete: 1, Downloaded: 1})
	seeder.leave()
	tr.wantCounts(t, p.hash, counts{Downloaded: 1})
	tr.wantStats(t, 0, 0)
}
