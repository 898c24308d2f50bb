package main

import (
	"context"
	"io"
	"sync"
	"time"

	"spillway/internal/admin"
	"spillway/tracker/swarm/shared"
	"spillway/tracker/swarm/shared/link"
)

// newStore puts what store.kind says in front of the table of this node's own peers.
func (s *server) newStore() error {
	s.swarms = s.table
	cfg := s.cfg.Store
	if cfg.Kind != "redis" {
		return nil
	}
	redis, err := s.redisConfig()
	if err != nil {
		return err
	}
	s.shared = shared.New(shared.Config{
		Redis:            redis,
		NodeID:           s.cluster.ID(),
		Alive:            func(id [4]byte) bool { return s.cluster.Alive(id) },
		Dead:             func(id [4]byte) bool { return s.cluster.Dead(id) },
		Wait:             time.Duration(cfg.Redis.Wait),
		Sample:           2 * s.cfg.Tracker.NumWant.Max,
		MaxPeersPerSwarm: cfg.Memory.MaxPeersPerSwarm,
		MaxViewBytes:     int64(cfg.Memory.Max) / 2,
	}, s.table, s.logs.Limited)
	s.swarms = s.shared
	return nil
}

// redisConfig is where Redis is, for those that connect to it.
func (s *server) redisConfig() (link.Config, error) {
	r := s.cfg.Store.Redis
	cfg := link.Config{
		Addrs: r.Addrs, Username: r.Username, Password: r.Password, DB: r.DB, Cluster: r.Cluster, Name: s.nodeName,
		Sentinel: r.Sentinel, SentinelUsername: r.SentinelUsername, SentinelPassword: r.SentinelPassword,
	}
	if !r.TLS {
		return cfg, nil
	}
	var err error
	cfg.TLS, err = link.TLS(link.Files{CA: r.TLSCA, Cert: r.TLSCert, Key: r.TLSKey, Name: r.TLSName})
	return cfg, err
}

// startStore runs the store until stopStore, which comes after everybody has said what there is to say, and tells Redis the last of
// it.
func (s *server) startStore() {
	if s.shared == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.shared.Run(ctx) })
	s.endStore = func() { cancel(); running.Wait() }
}

func (s *server) stopStore() {
	if s.endStore != nil {
		s.endStore()
	}
}

func (s *server) writeStoreMetrics(w io.Writer) {
	if s.shared != nil {
		s.shared.WriteMetrics(w)
	}
}

// storeStatus is nil where swarms are not shared.
func (s *server) storeStatus() *admin.Redis {
	if s.shared == nil {
		return nil
	}
	st := &admin.Redis{}
	if d, ok := s.shared.Degraded(); ok {
		st.Degraded, st.Why, st.Since = d.Part, d.Why, &d.Since
	}
	return st
}
