package main

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"spillway/internal/admin"
)

// adminConfig lets the admin listener see the server. What it shows is read
// while the server runs, so it must not touch s.cfg, which a reload changes.
func (s *server) adminConfig() admin.Config {
	cfg := admin.Config{
		Token:       s.cfg.Admin.Token,
		DataDir:     s.cfg.DataDir,
		OpenMetrics: s.cfg.Admin.OpenMetrics,
		Status:      func() any { return s.status() },
		Metrics:     []func(io.Writer){s.tracker.WriteMetrics, s.writeMetrics, s.snapshots.writeMetrics, s.door.WriteMetrics, s.ws.WriteMetrics},
	}
	if host, _, err := net.SplitHostPort(s.cfg.Admin.Listen); err == nil && host != "" {
		cfg.Hosts = []string{host}
	}
	if s.certs != nil {
		cfg.Metrics = append(cfg.Metrics, s.certs.WriteMetrics)
	}
	return cfg
}

func (s *server) writeMetrics(w io.Writer) {
	_, _ = io.WriteString(w, `# HELP spillway_log_dropped_total Log lines suppressed because there were too many like them.
# HELP spillway_build_info Always 1; the labels tell the build.
`)
	metrics.WriteCounterUint64(w, "spillway_log_dropped_total", s.logs.Dropped())
	metrics.WriteGaugeUint64(w, fmt.Sprintf("spillway_build_info{version=%q,go=%q}", version(), runtime.Version()), 1)
	s.adminDoor.WriteMetrics(w)
	if s.ws.door != nil {
		s.ws.door.WriteMetrics(w)
	}
}

// status is GET /api/v1/status. Fields may be added.
type status struct {
	Version       string     `json:"version"`
	Started       time.Time  `json:"started"`
	UptimeSeconds int64      `json:"uptime_seconds"`
	Listen        []string   `json:"listen"`
	Conns         int        `json:"conns"`
	ConnsMax      int        `json:"conns_max"`
	WebSockets    int        `json:"websockets"`
	Swarms        int        `json:"swarms"`
	Seeders       int        `json:"seeders"`
	Leechers      int        `json:"leechers"`
	StoreBytes    int64      `json:"store_bytes"`
	StoreBytesMax int64      `json:"store_bytes_max"`
	SnapshotAt    *time.Time `json:"snapshot_at"` // null: none written since the start
	LogDropped    uint64     `json:"log_dropped"`
}

func (s *server) status() status {
	swarms := s.table.Stats()
	st := status{
		Version:       version(),
		Started:       s.started,
		UptimeSeconds: int64(time.Since(s.started).Seconds()),
		Listen:        addrTexts(s.door),
		Conns:         s.door.Conns(),
		ConnsMax:      s.door.MaxConns(),
		WebSockets:    s.ws.Conns(),
		Swarms:        swarms.Swarms,
		Seeders:       swarms.Seeders,
		Leechers:      swarms.Leechers,
		StoreBytes:    swarms.Bytes,
		StoreBytesMax: swarms.MaxBytes,
		LogDropped:    s.logs.Dropped(),
	}
	if sec := s.snapshots.writtenUnixSec.Load(); sec > 0 {
		at := time.Unix(sec, 0)
		st.SnapshotAt = &at
	}
	return st
}
