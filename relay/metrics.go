package relay

import (
	"fmt"
	"io"

	"github.com/VictoriaMetrics/metrics"
)

// WriteMetrics writes the relay's metrics in Prometheus's text format. docs/metrics.md lists them.
func (r *Relay) WriteMetrics(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts.last(len(r.watched))
	gauge := func(name string, value func(*watched, *BackendCounts) float64) {
		for i, b := range r.watched {
			metrics.WriteGaugeFloat64(w, fmt.Sprintf("%s{backend=%q}", name, b.Addr), value(b, &c.Backends[i]))
		}
	}
	counter := func(name string, value func(*watched, *BackendCounts) uint64) {
		for i, b := range r.watched {
			metrics.WriteCounterUint64(w, fmt.Sprintf("%s{backend=%q}", name, b.Addr), value(b, &c.Backends[i]))
		}
	}
	gauge("spillway_relay_backend_up", func(b *watched, _ *BackendCounts) float64 { return oneIf(b.health.verdict != down) })
	counter("spillway_relay_backend_downs_total", func(b *watched, _ *BackendCounts) uint64 { return b.downs })
	counter("spillway_relay_probes_excused_total", func(b *watched, _ *BackendCounts) uint64 { return b.excused })
	gauge("spillway_relay_backend_level", func(b *watched, _ *BackendCounts) float64 { return b.answer.Level })
	gauge("spillway_relay_backend_share", func(b *watched, _ *BackendCounts) float64 { return r.share(b) })
	counter("spillway_relay_opened_total", func(_ *watched, n *BackendCounts) uint64 { return n.Opened })
	gauge("spillway_relay_unanswered", func(_ *watched, n *BackendCounts) float64 { return float64(n.Unanswered) })
	gauge("spillway_relay_budget", func(b *watched, _ *BackendCounts) float64 { return float64(openOf(r.cfg.Budget, b.budget.open)) })
	metrics.WriteGaugeUint64(w, "spillway_relay_budget_max", uint64(r.cfg.Budget))
	gauge("spillway_relay_probe_seconds", func(b *watched, _ *BackendCounts) float64 { return b.took.Seconds() })
	for _, b := range r.watched {
		for o, name := range outcomeNames {
			metrics.WriteCounterUint64(w, fmt.Sprintf("spillway_relay_probes_total{backend=%q,result=%q}", b.Addr, name), b.ended[o])
		}
	}

	reasons := []struct {
		name string
		n    uint64
	}{
		{"down", sum(func(b *BackendCounts) uint64 { return b.Down })(&c)},
		{"budget", sum(func(b *BackendCounts) uint64 { return b.Budget })(&c)},
		{"source", c.Source},
		{"no_flow", c.NoFlow},
	}
	for _, reason := range reasons {
		metrics.WriteCounterUint64(w, fmt.Sprintf("spillway_relay_refused_total{reason=%q}", reason.name), reason.n)
	}
	metrics.WriteGaugeUint64(w, "spillway_relay_conntrack", uint64(max(c.Conntrack, 0)))
	metrics.WriteGaugeUint64(w, "spillway_relay_conntrack_max", uint64(max(c.ConntrackMax, 0)))
	metrics.WriteGaugeFloat64(w, "spillway_relay_ports_used_ratio", c.PortsUsed)
	metrics.WriteCounterUint64(w, "spillway_relay_insert_failed_total", c.InsertFailed)
	metrics.WriteGaugeUint64(w, "spillway_relay_conns", uint64(max(c.Conns, 0)))
	metrics.WriteGaugeUint64(w, "spillway_relay_conns_max", uint64(max(c.ConnsMax, 0)))
	metrics.WriteCounterUint64(w, "spillway_relay_cut_flows_total", r.cutFlows)
	metrics.WriteCounterUint64(w, "spillway_relay_cut_errors_total", r.cutErrors)
	metrics.WriteCounterUint64(w, "spillway_relay_apply_errors_total", r.applyErrors)
	metrics.WriteCounterUint64(w, "spillway_relay_counts_errors_total", r.countErrors)
	for _, mode := range []string{"kernel", "proxy"} {
		metrics.WriteGaugeFloat64(w, fmt.Sprintf("spillway_relay_mode{mode=%q}", mode), oneIf(r.cfg.Mode == mode))
	}
	for _, state := range []string{stateForwarding, stateDegraded, stateRefusing} {
		metrics.WriteGaugeFloat64(w, fmt.Sprintf("spillway_relay_state{state=%q}", state), oneIf(r.state == state))
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
