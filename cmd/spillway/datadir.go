package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"golang.org/x/sys/unix"

	"spillway/internal/config"
	"spillway/tracker/swarm"
)

// lockFile is in the data directory while a process uses it, and after.
const lockFile = "lock"

// lockDataDir makes dir if need be and takes it for this process, as long as
// the file returned is open: two trackers would overwrite each other's
// snapshots. The kernel drops the lock when the process ends, however it ends.
func lockDataDir(dir string) (*os.File, error) {
	// Snapshots hold addresses of people, and the token is a key: not for others.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w; make it, writable for this user, or name another", err)
	}
	// It is emptied below: not the file that a link there leads to.
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data_dir: %w; make %s writable for this user, or name another", err, dir)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		owner, _ := io.ReadAll(io.LimitReader(f, 20)) // only for the message
		_ = f.Close()
		return nil, fmt.Errorf("data_dir: %s is in use by another spillway (pid %s); stop it, or give this one a data_dir of its own",
			dir, strings.TrimSpace(string(owner)))
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("data_dir: lock %s: %w", dir, err)
	}
	return f, nil
}

// replaceFile leaves the old content or the new, whole, and writes through no link.
func replaceFile(path string, content []byte) error {
	tmp := path + ".tmp"
	_ = os.Remove(tmp) // of a process that was killed
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

// warnOfSecrets names the secrets that the configuration file shows to everybody.
func warnOfSecrets(src config.Sources, log *slog.Logger) {
	for _, name := range config.Exposed(src) {
		log.Warn("a secret is in a file that everybody on this machine can read: chmod 640 it, and change the secret", "key", name, "file", src.File)
	}
}

// warnOfWriters is for a data_dir that was there before: switches, snapshot and token are in it.
func warnOfWriters(dir string, log *slog.Logger) {
	if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o022 != 0 {
		log.Warn("others on this machine can write to data_dir, and so turn switches and read peers at the next start: chmod go-w it", "data_dir", dir)
	}
}

// snapshots keeps the swarms on disk.
type snapshots struct {
	table *swarm.Table
	path  string
	log   *slog.Logger
	every chan time.Duration // a new store.snapshot.every, for run; holds one

	writtenUnixSec atomic.Int64 // 0: not yet
	bytes          atomic.Int64
	tookNs         atomic.Int64
	failed         atomic.Uint64
}

func newSnapshots(table *swarm.Table, dataDir string, log *slog.Logger) *snapshots {
	return &snapshots{
		table: table,
		path:  filepath.Join(dataDir, "swarms.snapshot"),
		log:   log,
		every: make(chan time.Duration, 1),
	}
}

// load fills the table. A damaged snapshot is moved aside for whoever wants to
// look at it, and the tracker starts empty: clients come back by themselves
// within an interval, a tracker that does not start does not help them.
func (s *snapshots) load() error {
	began := time.Now()
	loaded, err := s.table.Load(s.path, began)
	var damaged *swarm.DamagedError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.log.Info("no snapshot, starting with no swarms", "path", s.path)
		return nil
	case errors.As(err, &damaged):
		aside := fmt.Sprintf("%s.damaged-%d", s.path, began.Unix())
		if err := os.Rename(s.path, aside); err != nil {
			return fmt.Errorf("data_dir: %w, and moving it aside: %w", damaged, err)
		}
		s.log.Error("snapshot damaged and moved aside, starting with no swarms", "reason", damaged.Reason, "moved_to", aside)
		return nil
	case err != nil:
		return fmt.Errorf("data_dir: %w", err)
	}
	s.log.Info("snapshot loaded", "swarms", loaded.Swarms, "peers", loaded.Peers, "dropped", loaded.Dropped,
		"age", loaded.Age.Round(time.Second), "took", since(began))
	return nil
}

// run writes a snapshot each time every has passed, until ctx ends. Zero means never.
func (s *snapshots) run(ctx context.Context, every time.Duration) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	restart := func() {
		timer.Stop()
		if every > 0 {
			timer.Reset(every)
		}
	}
	restart()
	for {
		select {
		case <-ctx.Done():
			return
		case every = <-s.every:
			restart()
		case <-timer.C:
			saved, took, err := s.save()
			if err != nil {
				s.log.Error("snapshot not written, the last one stays; free or repair the disk of data_dir", "err", err)
			} else {
				s.log.Debug("snapshot written", "swarms", saved.Swarms, "peers", saved.Peers, "bytes", saved.Bytes, "took", took)
			}
			restart()
		}
	}
}

// setEvery changes how often run writes. One goroutine may call it.
func (s *snapshots) setEvery(every time.Duration) {
	select {
	case <-s.every: // not taken yet, and out of date
	default:
	}
	s.every <- every
}

func (s *snapshots) save() (swarm.Saved, time.Duration, error) {
	began := time.Now()
	saved, err := s.table.Save(s.path, began)
	if err != nil {
		s.failed.Add(1)
		return saved, 0, err
	}
	took := since(began)
	s.writtenUnixSec.Store(began.Unix())
	s.bytes.Store(saved.Bytes)
	s.tookNs.Store(int64(took))
	return saved, took, nil
}

func (s *snapshots) writeMetrics(w io.Writer) {
	_, _ = io.WriteString(w, `# HELP spillway_snapshot_written_timestamp_seconds When the last snapshot was written, Unix time; 0: none since the start.
# HELP spillway_snapshot_bytes Size of the last snapshot.
# HELP spillway_snapshot_took_seconds Time the last snapshot took.
# HELP spillway_snapshot_errors_total Snapshots that could not be written.
`)
	metrics.WriteGaugeUint64(w, "spillway_snapshot_written_timestamp_seconds", uint64(s.writtenUnixSec.Load()))
	metrics.WriteGaugeUint64(w, "spillway_snapshot_bytes", uint64(s.bytes.Load()))
	metrics.WriteGaugeFloat64(w, "spillway_snapshot_took_seconds", time.Duration(s.tookNs.Load()).Seconds())
	metrics.WriteCounterUint64(w, "spillway_snapshot_errors_total", s.failed.Load())
}

// since is rounded for the log.
func since(began time.Time) time.Duration { return time.Since(began).Round(time.Microsecond) }
