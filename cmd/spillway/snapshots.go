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
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"spillway/tracker/swarm"
)

// snapshots keeps the swarms on disk.
type snapshots struct {
	table *swarm.Table
	path  string
	log   *slog.Logger
	every chan time.Duration // a new store.snapshot.every, for run; holds one

	everyNs        atomic.Int64 // store.snapshot.every, as run goes by it
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
		s.everyNs.Store(int64(every))
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
# HELP spillway_snapshot_every_seconds How often one is written, store.snapshot.every; 0: at the end only.
# HELP spillway_snapshot_errors_total Snapshots that could not be written.
`)
	metrics.WriteGaugeUint64(w, "spillway_snapshot_written_timestamp_seconds", uint64(s.writtenUnixSec.Load()))
	metrics.WriteGaugeUint64(w, "spillway_snapshot_bytes", uint64(s.bytes.Load()))
	metrics.WriteGaugeFloat64(w, "spillway_snapshot_took_seconds", time.Duration(s.tookNs.Load()).Seconds())
	metrics.WriteGaugeFloat64(w, "spillway_snapshot_every_seconds", time.Duration(s.everyNs.Load()).Seconds())
	metrics.WriteCounterUint64(w, "spillway_snapshot_errors_total", s.failed.Load())
}
