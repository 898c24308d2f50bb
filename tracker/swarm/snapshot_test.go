package swarm_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"spillway/tracker/swarm"
	"spillway/tracker/swarm/swarmtest"
)

// smallTable has a few swarms of every kind, and writes them to a snapshot.
func smallTable(t testing.TB, now time.Time) (table *swarm.Table, path string, contents []byte) {
	t.Helper()
	table = swarm.New(swarm.Config{})
	var r swarm.Reply
	for i := range 3 {
		for j := range 3 {
			a := announce4(i, j)
			a.Seeder = j == 1
			if j == 2 {
				a.Event = swarm.EventPaused
				a.SetEndpoint(netip.MustParseAddr("2001:db8::1"), 6881)
			}
			table.Announce(&a, now, &r)
		}
	}
	a := announce4(9, 9)
	a.Seeder, a.Event = true, swarm.EventCompleted
	table.Announce(&a, now, &r)
	a.Event = swarm.EventStopped
	table.Announce(&a, now, &r)
	path = filepath.Join(t.TempDir(), "swarms.snapshot")
	saved, err := table.Save(path, now)
	if err != nil {
		t.Fatal(err)
	}
	contents, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if saved != (swarm.Saved{Swarms: 4, Peers: 12, Bytes: int64(len(contents))}) {
		t.Fatalf("saved: got %+v, the file has %d bytes", saved, len(contents))
	}
	return table, path, contents
}

func TestSnapshotKeepsEverything(t *testing.T) {
	t.Parallel()
	now := time.Now()
	table, path, _ := smallTable(t, now)
	warm := swarm.New(swarm.Config{})
	loaded, err := warm.Load(path, now.Add(90*time.Second))
	if err != nil || loaded.Swarms != 4 || loaded.Peers != 12 || loaded.Dropped != 0 || loaded.Age.Round(time.Second) < 89*time.Second {
		t.Fatalf("load: got %+v, %v", loaded, err)
	}
	for _, name := range []string{"0", "1", "2", "9"} {
		h := []swarm.InfoHash{swarmtest.Hash(name)}
		if got, want := warm.Scrape(h, nil)[0], table.Scrape(h, nil)[0]; got != want {
			t.Errorf("swarm %s: got %+v, want %+v", name, got, want)
		}
	}
	a := announce4(0, 77)
	var r swarm.Reply
	warm.Announce(&a, now, &r)
	swarmtest.Peers(t, &r)
	if len(r.Peers4) != 18 || len(r.Peers6) != 18 {
		t.Errorf("a newcomer is told %d bytes of IPv4 and %d of IPv6 peers, want 18 and 18", len(r.Peers4), len(r.Peers6))
	}
}

// Peers' lifetimes stand still while the tracker is down, and run on afterwards.
func TestSnapshotLifetimes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		down, then time.Duration
		want       uint32
	}{
		{0, 55 * time.Minute, 4},
		{2 * time.Hour, 55 * time.Minute, 4},
		{2 * time.Hour, 61 * time.Minute, 0},
		{7 * time.Hour, 0, 0},
	} {
		now := time.Now()
		_, path, _ := smallTable(t, now)
		warm := swarm.New(swarm.Config{})
		now = now.Add(c.down)
		if _, err := warm.Load(path, now); err != nil {
			t.Fatal(err)
		}
		warm.Sweep(now.Add(c.then))
		if got := warm.Scrape([]swarm.InfoHash{swarmtest.Hash("0")}, nil)[0]; got.Complete+got.Incomplete != c.want {
			t.Errorf("down %v, then %v: got %+v, want %d peers", c.down, c.then, got, c.want)
		}
		if got := warm.Scrape([]swarm.InfoHash{swarmtest.Hash("9")}, nil)[0]; got.Downloaded != 1 {
			t.Errorf("down %v, then %v: downloaded: got %d, want 1", c.down, c.then, got.Downloaded)
		}
	}
}

func wantDamaged(t *testing.T, what, path string, contents []byte) {
	t.Helper()
	if err := os.WriteFile(path, contents, 0o600); err != nil {
		t.Fatal(err)
	}
	table := swarm.New(swarm.Config{})
	_, err := table.Load(path, time.Now())
	var damaged *swarm.DamagedError
	if !errors.As(err, &damaged) {
		t.Fatalf("%s: got %v, want a DamagedError", what, err)
	}
	if st := table.Stats(); st.Swarms+st.Seeders+st.Leechers != 0 || st.Bytes != 0 {
		t.Fatalf("%s: the table is not empty: %+v", what, st)
	}
}

func TestSnapshotCutAnywhereIsRefused(t *testing.T) {
	t.Parallel()
	_, path, contents := smallTable(t, time.Now())
	for n := range contents {
		wantDamaged(t, "cut", path, contents[:n])
	}
	wantDamaged(t, "longer", path, append(contents[:len(contents):len(contents)], 0))
}

func TestSnapshotChangedAnywhereIsRefused(t *testing.T) {
	t.Parallel()
	_, path, contents := smallTable(t, time.Now())
	for i := range contents {
		contents[i] ^= 0x10
		wantDamaged(t, "changed", path, contents)
		contents[i] ^= 0x10
	}
}

// sealed gives contents a checksum that holds, as somebody who tampers would.
func sealed(contents []byte) []byte {
	n := len(contents)
	return binary.BigEndian.AppendUint32(contents[:n:n], crc32.Checksum(contents, crc32.MakeTable(crc32.Castagnoli)))
}

func TestSnapshotCutAndSealedAgainIsRefused(t *testing.T) {
	t.Parallel()
	_, path, contents := smallTable(t, time.Now())
	for n := range len(contents) - 4 {
		wantDamaged(t, "cut and sealed", path, sealed(contents[:n]))
	}
	version := append([]byte(nil), contents[:len(contents)-4]...)
	version[16] = 2
	wantDamaged(t, "another version", path, sealed(version))
}

func TestSnapshotMissing(t *testing.T) {
	t.Parallel()
	if _, err := swarm.New(swarm.Config{}).Load(filepath.Join(t.TempDir(), "none"), time.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

// A failed save leaves the last snapshot and no litter.
func TestSnapshotThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	table, path, contents := smallTable(t, time.Now())
	dir := filepath.Dir(path)
	if err := os.Mkdir(path+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Save(path, time.Now()); err == nil {
		t.Error("saving over a directory: got no error")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != string(contents) {
		t.Errorf("the last snapshot has changed (%v)", err)
	}
	if _, err := table.Save(filepath.Join(dir, "missing", "x"), time.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("saving into a missing folder: got %v, want fs.ErrNotExist", err)
	}
}

// FuzzLoad feeds contents with a checksum that holds: whatever they say, loading ends, within the table's bounds.
func FuzzLoad(f *testing.F) {
	_, _, contents := smallTable(f, time.Now())
	f.Add(contents[:len(contents)-4])
	f.Add(contents[:40])
	path := filepath.Join(f.TempDir(), "fuzz")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, sealed(b), 0o600); err != nil {
			t.Fatal(err)
		}
		table := swarm.New(swarm.Config{MaxBytes: 4 << 20})
		_, err := table.Load(path, time.Now())
		st := table.Stats()
		if st.Bytes > st.MaxBytes || err != nil && st.Swarms != 0 {
			t.Errorf("after %v: %+v", err, st)
		}
		table.Sweep(time.Now().Add(17 * time.Hour))
		if st := table.Stats(); st.Seeders+st.Leechers != 0 {
			t.Errorf("peers outlive the longest lifetime: %+v", st)
		}
	})
}
