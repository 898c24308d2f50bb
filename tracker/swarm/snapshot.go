package swarm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// A snapshot is, all little endian:
//
//	magic, version (uint32), time of writing (int64, Unix seconds)
//	for each swarm: info hash, downloaded, ticks since it became empty, then for each family
//	  leechers, seeders (uint32 each), and the entries as a list holds them, the tick replaced by the ticks left to live
//	an info hash of ones, number of swarms (uint64), number of peers (uint64)
//	CRC-32C of everything before it
//
// WebSocket peers are not in it: their sockets do not outlive the process.
//
// The file is read twice: once for the checksum, and only when that holds, for its contents.
const (
	snapshotMagic   = "SPILLWAY SWARMS\n"
	snapshotVersion = 1
	snapshotHeader  = len(snapshotMagic) + 4 + 8
	snapshotTrailer = len(InfoHash{}) + 8 + 8
)

// maxSnapshotAge is how old a snapshot's peers may be. Younger than that they get the lifetime that was left to them when
// it was written: while the tracker was down nobody could announce, so nobody's silence means anything.
const maxSnapshotAge = 6 * time.Hour

var endOfSwarms = func() (h InfoHash) {
	for i := range h {
		h[i] = 0xff
	}
	return h
}()

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// DamagedError says why a snapshot was refused whole.
type DamagedError struct {
	Path   string
	Reason string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("snapshot %s is damaged: %s", e.Path, e.Reason)
}

// Saved tells what a snapshot holds.
type Saved struct {
	Swarms, Peers int
	Bytes         int64
}

// Loaded tells what was taken from a snapshot.
type Loaded struct {
	Saved
	Age     time.Duration // since it was written; never negative
	Dropped int           // peers too old, or beyond this table's bounds
}

// Save writes a snapshot to path: into a temporary file beside it, synced, then renamed over it, so that path always is a
// whole snapshot, the old one or the new. Announces go on meanwhile; what they change may or may not be in it. One Save
// runs at a time.
func (t *Table) Save(path string, now time.Time) (saved Saved, err error) {
	t.saving.Lock()
	defer t.saving.Unlock()
	tmp := path + ".tmp"
	// Made anew, so that no link to somebody's file is written through. A directory stays, and is an error.
	_ = syscall.Unlink(tmp)
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return Saved{}, fmt.Errorf("save snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(tmp)
			err = fmt.Errorf("save snapshot %s: %w", path, err)
		}
	}()
	crc := crc32.New(castagnoli)
	w := bufio.NewWriterSize(io.MultiWriter(f, crc), 256<<10)
	if saved, err = t.writeTo(w, now); err != nil {
		return Saved{}, err
	}
	if err = w.Flush(); err != nil {
		return Saved{}, err
	}
	if _, err = f.Write(crc.Sum(nil)); err != nil {
		return Saved{}, err
	}
	if err = f.Sync(); err != nil {
		return Saved{}, err
	}
	if saved.Bytes, err = f.Seek(0, io.SeekEnd); err != nil {
		return Saved{}, err
	}
	if err = f.Close(); err != nil {
		return Saved{}, err
	}
	if err = os.Rename(tmp, path); err != nil {
		return Saved{}, err
	}
	return saved, syncDir(filepath.Dir(path))
}

// syncDir makes a rename in dir last through a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (t *Table) writeTo(w *bufio.Writer, now time.Time) (saved Saved, err error) {
	b := append(make([]byte, 0, 1<<20), snapshotMagic...)
	b = binary.LittleEndian.AppendUint32(b, snapshotVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(now.Unix()))
	tick := t.tick(now)
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		at := s.n - 1
		s.mu.Unlock()
		// Backwards and in batches, as sweepShard does and for the same reason. A swarm moved between batches may be
		// written twice, which loading allows.
		for at >= 0 {
			s.mu.Lock()
			at = min(at, s.n-1)
			for swarms := 0; at >= 0 && swarms < sweepSwarms && len(b) < sweepEntries*8; at-- {
				var peers int
				b, peers = s.appendSwarm(b, s.at(at), tick)
				saved.Swarms++
				saved.Peers += peers
				swarms++
			}
			s.mu.Unlock()
			if _, err := w.Write(b); err != nil {
				return Saved{}, err
			}
			b = b[:0]
		}
	}
	b = append(b, endOfSwarms[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(saved.Swarms))
	b = binary.LittleEndian.AppendUint64(b, uint64(saved.Peers))
	_, err = w.Write(b)
	return saved, err
}

func (s *shard) appendSwarm(b []byte, sw *swarm, tick uint32) (_ []byte, peers int) {
	b = append(b, sw.hash[:]...)
	b = binary.LittleEndian.AppendUint32(b, sw.downloaded)
	var empty uint32
	if sw.emptySince != 0 {
		empty = tick - sw.emptySince
	}
	b = binary.LittleEndian.AppendUint32(b, empty)
	for _, p := range [...]struct {
		l   *list
		end int
	}{{&sw.v4, len(Endpoint4{})}, {&sw.v6, len(Endpoint6{})}} {
		p := s.open(p.l, p.end)
		b = binary.LittleEndian.AppendUint32(b, p.leechers)
		b = binary.LittleEndian.AppendUint32(b, p.n-p.leechers)
		for i := range int(p.n) {
			m := p.meta(i)
			left := uint16(0)
			if !expiredAt(m, tick) {
				left = (m - uint16(tick)) & metaTick
			}
			b = append(b, p.endpoint(i)...)
			b = binary.LittleEndian.AppendUint16(b, m&metaPaused|left)
		}
		peers += int(p.n)
	}
	return b, peers
}

// Load fills an empty table from the snapshot at path. A missing file is fs.ErrNotExist. A file that is cut short, changed
// or of another version is a *DamagedError, and the table stays empty.
func (t *Table) Load(path string, now time.Time) (Loaded, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // O_NONBLOCK: a FIFO must not hang the start
	if err != nil {
		return Loaded{}, fmt.Errorf("load snapshot: %w", err)
	}
	defer f.Close()
	size, err := checkSum(f)
	if err != nil {
		return Loaded{}, damaged(path, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Loaded{}, fmt.Errorf("load snapshot: %w", err)
	}
	r := &snapshotReader{r: bufio.NewReaderSize(io.LimitReader(f, size-crc32.Size), 256<<10)}
	loaded, err := t.readFrom(r, now)
	if err != nil {
		t.reset()
		return Loaded{}, damaged(path, err)
	}
	loaded.Bytes = size
	return loaded, nil
}

// damaged tells a file that cannot be read from one that can and is wrong.
func damaged(path string, err error) error {
	if pathErr := (*os.PathError)(nil); errors.As(err, &pathErr) {
		return fmt.Errorf("load snapshot: %w", err)
	}
	return &DamagedError{Path: path, Reason: err.Error()}
}

// checkSum reads the whole file and returns its size, or says what is wrong with it.
func checkSum(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, errors.New("it is not a file")
	}
	size := st.Size()
	if least := int64(snapshotHeader + snapshotTrailer + crc32.Size); size < least {
		return 0, fmt.Errorf("it has %d bytes, a snapshot at least %d", size, least)
	}
	crc := crc32.New(castagnoli)
	if _, err := io.CopyN(crc, f, size-crc32.Size); err != nil {
		return 0, err
	}
	var want [crc32.Size]byte
	if _, err := io.ReadFull(f, want[:]); err != nil {
		return 0, err
	}
	if got := crc.Sum(nil); string(got) != string(want[:]) {
		return 0, fmt.Errorf("its checksum is %x, its contents have %x", want, got)
	}
	return size, nil
}

// snapshotReader reads fixed-size fields; the first error sticks and makes the rest zero.
type snapshotReader struct {
	r   *bufio.Reader
	buf [20]byte
	err error
}

func (r *snapshotReader) bytes(n int) []byte {
	b := r.buf[:n]
	if r.err == nil {
		_, r.err = io.ReadFull(r.r, b)
	}
	if r.err != nil {
		clear(b)
	}
	return b
}

func (r *snapshotReader) uint32() uint32 { return binary.LittleEndian.Uint32(r.bytes(4)) }
func (r *snapshotReader) uint64() uint64 { return binary.LittleEndian.Uint64(r.bytes(8)) }

func (t *Table) readFrom(r *snapshotReader, now time.Time) (l Loaded, err error) {
	if got := string(r.bytes(len(snapshotMagic))); got != snapshotMagic {
		return l, fmt.Errorf("it begins with %q, not %q", got, snapshotMagic)
	}
	if v := r.uint32(); v != snapshotVersion {
		return l, fmt.Errorf("its version is %d, this program reads %d", v, snapshotVersion)
	}
	l.Age = max(now.Sub(time.Unix(int64(r.uint64()), 0)), 0)
	tick := t.tick(now)
	for {
		hash := InfoHash(r.bytes(len(InfoHash{})))
		if hash == endOfSwarms || r.err != nil {
			break
		}
		t.readSwarm(r, hash, tick, &l)
		l.Swarms++
	}
	if swarms, peers := r.uint64(), r.uint64(); r.err == nil && (swarms != uint64(l.Swarms) || peers != uint64(l.Peers)) {
		return l, fmt.Errorf("it holds %d swarms and %d peers, and says %d and %d", l.Swarms, l.Peers, swarms, peers)
	}
	if _, err := r.r.ReadByte(); r.err == nil && err == nil {
		return l, errors.New("it goes on behind its end")
	}
	return l, r.err
}

func (t *Table) readSwarm(r *snapshotReader, ih InfoHash, tick uint32, l *Loaded) {
	downloaded, empty := r.uint32(), r.uint32()
	hash := maphash.Bytes(t.seed, ih[:])
	s := &t.shards[hash>>(64-shardBits)]
	s.mu.Lock()
	defer s.mu.Unlock()
	sw, room := s.find(hash, &ih), true
	if sw == nil {
		sw = t.create(s, hash, &ih)
	}
	if sw == nil {
		sw, room = &swarm{}, false // read past it
	}
	sw.downloaded = downloaded
	for _, family := range [...]struct {
		l   *list
		end int
	}{{&sw.v4, len(Endpoint4{})}, {&sw.v6, len(Endpoint6{})}} {
		p := s.open(family.l, family.end)
		leechers := uint64(r.uint32())
		n := leechers + uint64(r.uint32())
		for i := uint64(0); i < n && r.err == nil; i++ {
			entry := r.bytes(p.width)
			l.Peers++
			endpoint, meta := entry[:p.end], binary.LittleEndian.Uint16(entry[p.end:])
			left := min(meta&metaTick, uint16(MaxTTL/Tick)) // more is not of ours, and would wrap
			stale := left == 0 || l.Age > maxSnapshotAge
			full := !room || sw.peers() >= t.cfg.MaxPeersPerSwarm
			at := -1
			if !stale && !full && p.find(endpoint) < 0 {
				at = p.insert(endpoint, i >= leechers, meta&metaPaused|(left+uint16(tick))&metaTick)
			}
			if at < 0 {
				l.Dropped++
				continue
			}
			s.count(sw, &p, at)
		}
	}
	if sw.peers() == 0 {
		sw.emptySince = tick - min(empty, uint32(keepEmpty))
	}
}
