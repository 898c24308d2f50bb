package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"runtime"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"spillway/internal/admin"
	"spillway/internal/logx"
	"spillway/shedder"
	"spillway/tracker/swarm"
)

// adminConfig lets the admin listener see the server. What it shows is read
// while the server runs, so it must not touch s.cfg, which a reload changes.
func (s *server) adminConfig() admin.Config {
	cfg := admin.Config{
		Token:       s.cfg.Admin.Token,
		DataDir:     s.cfg.DataDir,
		OpenMetrics: s.cfg.Admin.OpenMetrics,
		Operator:    operator{s},
		History:     &s.history,
		Audit:       s.log,
		Metrics: []func(io.Writer){
			s.tracker.WriteMetrics, s.gate.WriteMetrics, s.writeMetrics, s.snapshots.writeMetrics, s.door.WriteMetrics, s.ws.WriteMetrics,
			s.writeUDPMetrics, s.writeStoreMetrics,
			s.writeClusterMetrics,
		},
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
	writeProgramMetrics(w, s.logs)
	s.adminDoor.WriteMetrics(w)
	if s.ws.door != nil {
		s.ws.door.WriteMetrics(w)
	}
	if s.firewall != nil {
		s.firewall.WriteMetrics(w)
	}
}

// writeProgramMetrics writes those that a tracker and a relay have.
func writeProgramMetrics(w io.Writer, logs *logx.Logs) {
	_, _ = io.WriteString(w, `# HELP spillway_log_dropped_total Log lines suppressed because there were too many like them.
# HELP spillway_build_info Always 1; the labels tell the build.
`)
	metrics.WriteCounterUint64(w, "spillway_log_dropped_total", logs.Dropped())
	metrics.WriteGaugeUint64(w, fmt.Sprintf("spillway_build_info{version=%q,go=%q}", version(), runtime.Version()), 1)
}

// operator shows the server to its operator, and lets it be turned.
type operator struct{ s *server }

func (o operator) Status() admin.Status {
	s := o.s
	swarms := s.table.Stats()
	l := s.gate.Load()
	st := admin.Status{
		Version:       version(),
		Started:       s.started,
		UptimeSeconds: int64(time.Since(s.started).Seconds()),
		Listen:        addrTexts(s.door),
		Conns:         s.door.Conns(),
		ConnsMax:      s.door.MaxConns(),
		WebSockets:    s.ws.Conns(),
		WebSocketsMax: s.ws.MaxConns(),
		Swarms:        swarms.Swarms,
		Seeders:       swarms.Seeders,
		Leechers:      swarms.Leechers,
		StoreBytes:    swarms.Bytes,
		StoreBytesMax: swarms.MaxBytes,
		LogDropped:    s.logs.Dropped(),
		Redis:         s.storeStatus(),
		Load: admin.Load{
			State:           l.State.String(),
			Why:             l.Why,
			AgeMS:           float64(l.Age) / float64(time.Millisecond),
			Capacity:        l.Capacity,
			IntervalSeconds: int64(l.Interval.Seconds()),
			Jitter:          l.Jitter,
			Brownout:        l.Brownout,
			BrownoutSteps:   l.Steps,
			Parked:          l.Parked,
			MemoryBytes:     l.Memory,
			MemoryMaxBytes:  l.MemMax,
		},
	}
	st.Nodes, st.NodesGone = s.nodesStatus()
	for e, r := range l.Rates {
		if shedder.Endpoint(e) == shedder.UDP && s.udp == nil {
			continue // nothing serves it; its switch is kept for when something does
		}
		st.Endpoints = append(st.Endpoints, admin.EndpointLoad{
			Endpoint: shedder.Endpoint(e).String(),
			Offered:  r.Offered, Served: r.Served, Shed: r.Shed, OverBudget: r.OverBudget, Refused: r.Refused,
		})
		st.Load.Offered += r.Offered
		st.Load.Served += r.Served
		st.Load.Shed += r.Shed
		st.Load.OverBudget += r.OverBudget
		st.Load.Refused += r.Refused
	}
	if st.Load.Offered > 0 {
		st.Load.Level = 1 - st.Load.Served/st.Load.Offered
	}
	if sec := s.snapshots.writtenUnixSec.Load(); sec > 0 {
		at := time.Unix(sec, 0)
		st.SnapshotAt = &at
	}
	return st
}

func (o operator) Talkers() admin.Talkers {
	const most = 20
	top := o.s.gate.Talkers.Top(most)
	list := func(talkers []shedder.Talker) (l []admin.Talker) {
		for _, t := range talkers {
			l = append(l, admin.Talker{Value: t.Value, Share: t.Share, Usual: t.Usual})
		}
		return l
	}
	return admin.Talkers{
		Seconds: int64(top.Seconds), Requests: top.Samples,
		Sources: list(top.Sources), Prefixes: list(top.Prefixes), UserAgents: list(top.UserAgents),
		PeerIDs: list(top.PeerIDs), InfoHashes: list(top.InfoHashes),
	}
}

func (o operator) Switches() []shedder.SwitchState { return o.s.gate.Switches.All() }

func (o operator) Turn(e shedder.Endpoint, m shedder.Mode, order admin.Order) (shedder.SwitchState, error) {
	if err := o.s.checkCluster(order); err != nil {
		return shedder.SwitchState{}, err
	}
	state, err := o.s.gate.Switches.Set(e, m, order.For, order.Reason, order.By)
	return state, o.s.shareSwitch(state, order, err)
}

func (o operator) Blocks() admin.Blocks {
	b := admin.Blocks{Auto: o.s.autoRules}
	for _, r := range o.s.gate.Rules.List() {
		b.Blocks = append(b.Blocks, admin.BlockOf(r))
	}
	for _, p := range o.s.gate.Talkers.Proposals() {
		if !o.s.gate.Rules.Has(p.Kind, p.Value) {
			b.Proposed = append(b.Proposed, admin.Proposal{Kind: p.Kind.String(), Value: p.Value, Share: p.Share, Usual: p.Usual, Why: p.Why})
		}
	}
	return b
}

func (o operator) Block(kind shedder.RuleKind, value string, order admin.Order) (shedder.Rule, error) {
	if err := o.s.checkCluster(order); err != nil {
		return shedder.Rule{}, err
	}
	rule, err := o.s.gate.Rules.Add(kind, value, order.For, order.Reason, order.By)
	return rule, o.s.shareBlock(rule, order, err)
}

func (o operator) Unblock(kind shedder.RuleKind, value string, order admin.Order) (bool, error) {
	if err := o.s.checkCluster(order); err != nil {
		return false, err
	}
	removed, err := o.s.gate.Rules.Remove(kind, value)
	return removed, o.s.shareUnblock(kind, value, order, err)
}

// The limits that can be moved while the server runs.
const (
	limitConns      = "http.max_conns"
	limitBacklog    = "http.backlog" // no key: the kernel's bound, which the gate lowers in an overload
	limitWebSockets = "ws.max_conns"
)

func (o operator) Limits() []admin.Limit {
	s := o.s
	return []admin.Limit{
		{Name: limitConns, Value: int64(s.door.MaxConns()), Min: 1, Max: int64(s.maxConns)},
		{Name: limitBacklog, Value: int64(s.gate.BacklogLimit()), Min: shedder.MinBacklog, Max: shedder.MaxBacklog},
		{Name: limitWebSockets, Value: int64(s.ws.MaxConns()), Min: 0, Max: int64(s.wsMaxConns)},
	}
}

func (o operator) SetLimit(name string, value int64) error {
	switch name {
	case limitConns:
		o.s.door.SetMaxConns(int(value))
	case limitBacklog:
		o.s.gate.SetMaxBacklog(int(value))
	case limitWebSockets:
		o.s.ws.SetMaxConns(int(value))
	default:
		return fmt.Errorf("limit %q: not one of those listed", name)
	}
	return nil
}

func (o operator) Torrent(infoHash [20]byte) (admin.Torrent, bool) {
	c := o.s.swarms.Scrape([]swarm.InfoHash{infoHash}, nil)[0]
	t := admin.Torrent{
		InfoHash: hex.EncodeToString(infoHash[:]), Complete: int(c.Complete), Incomplete: int(c.Incomplete),
		Downloaded: uint64(c.Downloaded), Downloaders: int(c.Downloaders),
	}
	return t, c != (swarm.Counts{})
}
