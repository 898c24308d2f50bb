package firewall

import (
	"context"
	"io"
	"net/netip"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Queue drops what comes from p for d, soon. It never waits; if too much is queued already, p is counted and forgotten: should it
// go on, it is queued again.
func (f *Firewall) Queue(p netip.Prefix, d time.Duration) {
	select {
	case f.queue <- request{p, d}:
	default:
		f.queueDropped.Inc()
	}
}

// Run applies what is queued, at most every 100 ms, until ctx ends. It also makes the table again when somebody has removed it,
// within 10 seconds.
func (f *Firewall) Run(ctx context.Context) {
	gather(ctx, f.queue, f.queueDropped.Inc, f.applyQueued, f.check)
}

// gather collects requests into batches. The queue is emptied all the time, but while apply runs, so that a source that is queued a
// thousand times takes one place of a batch.
func gather(ctx context.Context, queue <-chan request, drop func(), apply func(map[netip.Prefix]time.Duration), check func()) {
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	<-due.C
	batch := map[netip.Prefix]time.Duration{}
	var applied time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-queue:
			have, ok := batch[r.prefix]
			switch {
			case !ok && len(batch) == batchLen:
				drop()
				continue
			case len(batch) == 0: // at once, unless there was a batch just now
				due.Reset(applyEvery - min(time.Since(applied), applyEvery))
			}
			batch[r.prefix] = max(have, r.d)
		case <-due.C:
			apply(batch)
			clear(batch)
			applied = time.Now()
		case <-ticker.C:
			check()
		}
	}
}

// applyQueued is apply for sources nobody waits for: what goes wrong is counted.
func (f *Firewall) applyQueued(batch map[netip.Prefix]time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	permitted := make(map[netip.Prefix]time.Duration, len(batch))
	for p, d := range batch {
		p, err := f.permit(p)
		if err != nil {
			f.refused.Inc()
			continue
		}
		permitted[p] = max(permitted[p], d)
	}
	_ = f.apply(permitted, time.Now()) // counted, each kind by itself
}

// WriteMetrics writes the firewall's metrics in Prometheus text format. It asks the kernel for its counter.
func (f *Firewall) WriteMetrics(w io.Writer) {
	packets, bytes, err := f.Dropped()
	if err != nil {
		f.errored.Inc()
	}
	f.packets.Set(packets)
	f.bytes.Set(bytes)
	f.set.WritePrometheus(w)
}

func (f *Firewall) register() {
	f.set = metrics.NewSet()
	f.set.NewGauge("spillway_firewall_sources", func() float64 {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.sweep(time.Now())
		return float64(len(f.held))
	})
	f.set.NewGauge("spillway_firewall_sources_max", func() float64 { return float64(f.max) })
	f.packets = f.set.NewCounter("spillway_firewall_dropped_packets_total")
	f.bytes = f.set.NewCounter("spillway_firewall_dropped_bytes_total")
	f.queueDropped = f.set.NewCounter("spillway_firewall_queue_dropped_total")
	f.full = f.set.NewCounter(`spillway_firewall_refused_total{reason="full"}`)
	f.refused = f.set.NewCounter(`spillway_firewall_refused_total{reason="never"}`)
	f.errored = f.set.NewCounter("spillway_firewall_errors_total")
	f.remade = f.set.NewCounter("spillway_firewall_restored_total")
	f.set.NewGauge("spillway_firewall_up", func() float64 {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.closed {
			return 0
		}
		return 1
	})
}
