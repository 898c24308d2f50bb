package swarm

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/maphash"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Whoever can write to the data directory, or knows the program, is the adversary here. docs/security.md names these tests.

// saved is a snapshot of one swarm with one peer, and its bytes.
func saved(t *testing.T) (path string, contents []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "swarms.snapshot")
	table := New(Config{})
	a := Announce{InfoHash: InfoHash{1}, TTL: time.Hour, Has4: true, V4: Endpoint4{192, 0, 2, 1, 0x1a, 0xe1}}
	table.Announce(&a, time.Now(), new(Reply))
	if _, err := table.Save(path, time.Now()); err != nil {
		t.Fatal(err)
	}
	contents, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, contents
}

// seal puts a checksum that holds behind contents.
func seal(contents []byte) []byte {
	return binary.BigEndian.AppendUint32(contents, crc32.Checksum(contents, castagnoli))
}

// A link where the temporary file goes must not have the tracker write over what it points to.
func TestSnapshotIsNotWrittenThroughALink(t *testing.T) {
	t.Parallel()
	path, _ := saved(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, link := range []func() error{
		func() error { return os.Symlink(victim, path+".tmp") },
		func() error { return os.Link(victim, path+".tmp") },
		func() error { return syscall.Mkfifo(path+".tmp", 0o666) },                     // would hang
		func() error { return os.WriteFile(path+".tmp", []byte("old"), 0o666) },        // of others' mode
		func() error { return errors.Join(os.Remove(path), os.Symlink(victim, path)) }, // the name itself
	} {
		if err := link(); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{}).Save(path, time.Now()); err != nil {
			t.Errorf("save: %v", err)
		}
		if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
			t.Fatalf("the file behind the link: got %q, %v", got, err)
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("the snapshot: got mode %v, %v; want a file of 0600", info.Mode(), err)
		}
	}
}

// What is no file is damage, and neither waited for nor read without end.
func TestSnapshotThatIsNoFile(t *testing.T) {
	t.Parallel()
	for what, make := range map[string]func(path string) error{
		"fifo":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"device":    func(path string) error { return os.Symlink("/dev/zero", path) },
	} {
		path := filepath.Join(t.TempDir(), "swarms.snapshot")
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		done := goLoad(path)
		select {
		case err := <-done:
			if damaged := (*DamagedError)(nil); !errors.As(err, &damaged) {
				t.Errorf("%s: got %v, want a DamagedError", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: loading hangs", what)
		}
	}
	if _, err := New(Config{}).Load(filepath.Join(t.TempDir(), "gone"), time.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: got %v", err)
	}
}

func goLoad(path string) <-chan error {
	done := make(chan error, 1)
	go func() { _, err := New(Config{}).Load(path, time.Now()); done <- err }()
	return done
}

// A count is a promise: nothing is allocated for it, and the file's end ends it.
func TestSnapshotThatPromisesMuch(t *testing.T) {
	t.Parallel()
	path, contents := saved(t)
	const counts = snapshotHeader + len(InfoHash{}) + 4 + 4 // leechers of IPv4, then seeders
	for at := counts; at < counts+8; at += 4 {
		huge := append([]byte(nil), contents[:len(contents)-crc32.Size]...)
		binary.LittleEndian.PutUint32(huge[at:], 0xffffffff)
		if err := os.WriteFile(path, seal(huge), 0o600); err != nil {
			t.Fatal(err)
		}
		table := New(Config{MaxBytes: 1 << 20})
		began := time.Now()
		_, err := table.Load(path, time.Now())
		if damaged := (*DamagedError)(nil); !errors.As(err, &damaged) {
			t.Errorf("four billion peers: got %v, want a DamagedError", err)
		}
		if st := table.Stats(); st.Bytes != 0 || st.Swarms != 0 {
			t.Errorf("what is left of it: %+v", st)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	}
}

// A lifetime longer than any of ours wraps: the peer would come back from the dead half a day later.
func TestSnapshotOfLongerLifetimes(t *testing.T) {
	t.Parallel()
	path, contents := saved(t)
	entry := snapshotHeader + len(InfoHash{}) + 4 + 4 + 4 + 4 + len(Endpoint4{}) // the first peer's ticks
	for _, ticks := range []uint16{uint16(MaxTTL/Tick) + 1, 20000, metaTick} {
		long := append([]byte(nil), contents[:len(contents)-crc32.Size]...)
		binary.LittleEndian.PutUint16(long[entry:], ticks)
		if err := os.WriteFile(path, seal(long), 0o600); err != nil {
			t.Fatal(err)
		}
		table, now := New(Config{}), time.Now()
		if loaded, err := table.Load(path, now); err != nil || loaded.Peers != 1 || loaded.Dropped != 0 {
			t.Fatalf("load: got %+v, %v", loaded, err)
		}
		if table.Sweep(now.Add(MaxTTL / 2)); table.Stats().Leechers != 1 {
			t.Errorf("%d ticks: gone at once", ticks)
		}
		if table.Sweep(now.Add(MaxTTL + time.Minute)); table.Stats().Leechers != 0 {
			t.Errorf("%d ticks: it outlives the longest lifetime", ticks)
		}
	}
}

// Whoever finds out, on a tracker of his own, which info hashes fall together has found nothing out about another.
func TestHashesThatFallTogetherElsewhereAreSpreadHere(t *testing.T) {
	t.Parallel()
	here, elsewhere := New(Config{}), New(Config{})
	place := func(t *Table, h *InfoHash) uint64 { return maphash.Bytes(t.seed, h[:]) }
	random := rand.New(rand.NewPCG(1, 2))
	var shards [shardCount]int
	const crafted = 3200
	for n := 0; n < crafted; {
		var h InfoHash
		binary.LittleEndian.PutUint64(h[:], random.Uint64())
		if place(elsewhere, &h)>>(64-shardBits) != 0 {
			continue
		}
		n++
		shards[place(here, &h)>>(64-shardBits)]++
	}
	for i, n := range shards {
		if n > 5*crafted/shardCount { // 50 are the mean, 7 the deviation
			t.Errorf("shard %d: got %d of %d, want about %d", i, n, crafted, crafted/shardCount)
		}
	}
	// The same for the endpoints of a swarm, whose index has the table's seed.
	if a, b := here.shards[0].seed, elsewhere.shards[0].seed; maphash.Bytes(a, []byte("endpoint")) == maphash.Bytes(b, []byte("endpoint")) {
		t.Error("two tables hash endpoints alike")
	}
}
