package cluster

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// dropReason is why a message, or a payload of several, did not arrive.
type dropReason uint8

const (
	dropDown       dropReason = iota // Redis does not answer
	dropQueue                        // more wait for it than may
	dropLong                         // longer than a message may be
	dropFailed                       // given to Redis, which did not take it
	dropUnheard                      // its node did not listen
	dropInbox                        // payloads: came faster than they could be handled
	dropUnreadable                   // payloads
	dropCount
)

func (d dropReason) String() string {
	return [...]string{"down", "queue", "too_long", "failed", "unheard", "inbox", "unreadable"}[d]
}

// counters are what is counted. docs/metrics.md lists them.
type counters struct {
	sent, received, resubscribed, beatsFailed  atomic.Uint64
	ordersGiven, ordersApplied, ordersUnheeded atomic.Uint64
	lost                                       atomic.Uint64
	beatSeconds                                atomic.Int64 // ns of the last
	dropped                                    [dropCount]atomic.Uint64
}

// WriteMetrics writes the node's metrics in Prometheus's text format.
func (n *Node) WriteMetrics(w io.Writer) {
	m := &n.metrics
	metrics.WriteGaugeUint64(w, "spillway_cluster_nodes", uint64(len(n.Peers())))
	metrics.WriteGaugeUint64(w, "spillway_cluster_nodes_max", maxNodes)
	metrics.WriteGaugeFloat64(w, "spillway_cluster_beat_seconds", time.Duration(m.beatSeconds.Load()).Seconds())
	metrics.WriteCounterUint64(w, "spillway_cluster_beats_failed_total", m.beatsFailed.Load())
	metrics.WriteCounterUint64(w, "spillway_cluster_resubscribed_total", m.resubscribed.Load())
	metrics.WriteCounterUint64(w, "spillway_cluster_sent_total", m.sent.Load())
	metrics.WriteCounterUint64(w, "spillway_cluster_received_total", m.received.Load())
	for why := range m.dropped {
		metrics.WriteCounterUint64(w, fmt.Sprintf("spillway_cluster_dropped_total{reason=%q}", dropReason(why)), m.dropped[why].Load())
	}
	metrics.WriteGaugeUint64(w, "spillway_cluster_queue_bytes", uint64(n.out.waiting()))
	metrics.WriteGaugeUint64(w, "spillway_cluster_queue_bytes_max", maxQueue)
	metrics.WriteGaugeUint64(w, "spillway_cluster_inbox_bytes", uint64(max(n.in.bytes.Load(), 0)))
	metrics.WriteGaugeUint64(w, "spillway_cluster_inbox_bytes_max", maxInbox)
	held, untold := n.orders.count()
	metrics.WriteGaugeUint64(w, "spillway_cluster_orders", uint64(held))
	metrics.WriteGaugeUint64(w, "spillway_cluster_orders_max", maxOrders)
	metrics.WriteGaugeUint64(w, "spillway_cluster_orders_untold", uint64(untold))
	metrics.WriteCounterUint64(w, `spillway_cluster_orders_total{result="given"}`, m.ordersGiven.Load())
	metrics.WriteCounterUint64(w, `spillway_cluster_orders_total{result="applied"}`, m.ordersApplied.Load())
	metrics.WriteCounterUint64(w, `spillway_cluster_orders_total{result="unreadable"}`, m.ordersUnheeded.Load())
	metrics.WriteCounterUint64(w, "spillway_cluster_lost_total", m.lost.Load())
}
