package shared

import (
	"fmt"
	"io"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// counters are what the store counts. docs/metrics.md lists them.
type counters struct {
	trips, calls, failed, noScript, unreadable             atomic.Uint64
	sent, coalesced, dropped, deferred                     atomic.Uint64
	fetches, waits, waitTimeouts, waitSkipped, waitRefused atomic.Uint64
	noView, evicted, ownReplies                            atomic.Uint64
	degraded, lost, refills, refilled                      atomic.Uint64
	seconds, waited                                        histogram
}

// WriteMetrics writes the store's metrics in Prometheus's text format.
func (s *Store) WriteMetrics(w io.Writer) {
	c := &s.metrics
	d, _ := s.Degraded()
	metrics.WriteGaugeFloat64(w, "spillway_redis_degraded", d.Part)
	metrics.WriteCounterUint64(w, "spillway_redis_degraded_total", c.degraded.Load())
	c.seconds.write(w, "spillway_redis_trip_seconds")
	c.waited.write(w, "spillway_redis_wait_seconds")
	metrics.WriteCounterUint64(w, "spillway_redis_calls_total", c.calls.Load())
	metrics.WriteCounterUint64(w, "spillway_redis_failed_total", c.failed.Load())
	metrics.WriteCounterUint64(w, "spillway_redis_noscript_total", c.noScript.Load())
	metrics.WriteCounterUint64(w, "spillway_redis_unreadable_total", c.unreadable.Load())
	metrics.WriteCounterUint64(w, "spillway_redis_sent_total", c.sent.Load())
	metrics.WriteCounterUint64(w, "spillway_redis_coalesced_total", c.coalesced.Load())
	metrics.WriteCounterUint64(w, "spillway_redis_dropped_total", c.dropped.Load())
	metrics.WriteCounterUint64(w, "spillway_redis_deferred_total", c.deferred.Load())
	metrics.WriteGaugeUint64(w, "spillway_redis_buffer_bytes", uint64(max(s.buffered.Load(), 0)))
	metrics.WriteGaugeUint64(w, "spillway_redis_buffer_bytes_max", uint64(s.cfg.MaxBufferBytes))
	metrics.WriteCounterUint64(w, "spillway_redis_fetches_total", c.fetches.Load())
	metrics.WriteCounterUint64(w, `spillway_redis_waits_total{result="asked"}`, c.waits.Load())
	metrics.WriteCounterUint64(w, `spillway_redis_waits_total{result="timeout"}`, c.waitTimeouts.Load())
	metrics.WriteCounterUint64(w, `spillway_redis_waits_total{result="skipped"}`, c.waitSkipped.Load())
	metrics.WriteCounterUint64(w, `spillway_redis_waits_total{result="refused"}`, c.waitRefused.Load())
	metrics.WriteGaugeUint64(w, "spillway_redis_waiting", uint64(max(s.waiting.Load(), 0)))
	metrics.WriteGaugeUint64(w, "spillway_redis_waiting_max", uint64(s.cfg.MaxWaiting))
	metrics.WriteCounterUint64(w, "spillway_redis_own_replies_total", c.ownReplies.Load())
	views, bytes := s.views()
	metrics.WriteGaugeUint64(w, "spillway_redis_views", uint64(views))
	metrics.WriteGaugeUint64(w, "spillway_redis_view_bytes", uint64(max(bytes, 0)))
	metrics.WriteGaugeUint64(w, "spillway_redis_view_bytes_max", uint64(s.cfg.MaxViewBytes))
	metrics.WriteCounterUint64(w, "spillway_redis_views_evicted_total", c.evicted.Load())
	metrics.WriteCounterUint64(w, "spillway_redis_views_refused_total", c.noView.Load())
	metrics.WriteCounterUint64(w, "spillway_redis_lost_total", c.lost.Load())
	metrics.WriteCounterUint64(w, "spillway_redis_refills_total", c.refills.Load())
	metrics.WriteCounterUint64(w, "spillway_redis_refilled_peers_total", c.refilled.Load())
}

func (s *Store) views() (n int, bytes int64) {
	for i := range s.lanes {
		l := &s.lanes[i]
		l.mu.Lock()
		n += len(l.views)
		bytes += l.bytes
		l.mu.Unlock()
	}
	return n, bytes
}

// histogram counts durations in buckets that double from 16 microseconds, with two atomic additions.
type histogram struct {
	buckets [histogramBuckets + 1]atomic.Uint64
	sumNs   atomic.Uint64
}

const (
	histogramBuckets = 16 // up to about half a second; what is above is in +Inf only
	firstBucketNs    = 16_000
)

func (h *histogram) observe(d time.Duration) {
	h.buckets[min(bits.Len64(uint64(max(d, 0))/firstBucketNs), histogramBuckets)].Add(1)
	h.sumNs.Add(uint64(max(d, 0)))
}

func (h *histogram) write(w io.Writer, name string) {
	fmt.Fprintf(w, "# TYPE %s histogram\n", name)
	total := uint64(0)
	for i := range histogramBuckets {
		total += h.buckets[i].Load()
		fmt.Fprintf(w, "%s_bucket{le=\"%g\"} %d\n", name, float64(uint64(firstBucketNs)<<i)/1e9, total)
	}
	total += h.buckets[histogramBuckets].Load()
	fmt.Fprintf(w, "%s_bucket{le=\"+Inf\"} %d\n", name, total)
	fmt.Fprintf(w, "%s_sum %g\n", name, float64(h.sumNs.Load())/1e9)
	fmt.Fprintf(w, "%s_count %d\n", name, total)
}
