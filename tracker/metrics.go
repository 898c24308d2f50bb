package tracker

import (
	"fmt"
	"io"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// counters are what the front counts. docs/metrics.md lists them.
type counters struct {
	set                                           *metrics.Set
	announceServed                                *metrics.Counter
	announceBad                                   *metrics.Counter
	announceOff                                   *metrics.Counter
	announceTrimmed, announceShed, announceSource *metrics.Counter
	scrapeServed                                  *metrics.Counter
	scrapeShed                                    *metrics.Counter
	scrapeBad                                     *metrics.Counter
	noHeader                                      *metrics.Counter
	notTracker                                    *metrics.Counter
	garbage                                       *metrics.Counter
	base64                                        *metrics.Counter
	panics                                        *metrics.Counter
	seconds                                       histogram
	udpAnnounce                                   results
	udpScrape                                     results
}

func (c *counters) init() {
	set := metrics.NewSet()
	c.set = set
	c.announceServed = set.NewCounter(`spillway_announces_total{proto="http",result="served"}`)
	c.announceBad = set.NewCounter(`spillway_announces_total{proto="http",result="bad"}`)
	c.announceOff = set.NewCounter(`spillway_announces_total{proto="http",result="off"}`)
	c.announceTrimmed = set.NewCounter(`spillway_announces_total{proto="http",result="trimmed"}`)
	c.announceShed = set.NewCounter(`spillway_announces_total{proto="http",result="shed"}`)
	c.announceSource = set.NewCounter(`spillway_announces_total{proto="http",result="source"}`)
	c.scrapeShed = set.NewCounter(`spillway_scrapes_total{proto="http",result="shed"}`)
	c.scrapeServed = set.NewCounter(`spillway_scrapes_total{proto="http",result="served"}`)
	c.scrapeBad = set.NewCounter(`spillway_scrapes_total{proto="http",result="bad"}`)
	c.noHeader = set.NewCounter(`spillway_proxy_header_missing_total`)
	c.notTracker = set.NewCounter(`spillway_http_refused_total{reason="not_a_tracker_request"}`)
	c.garbage = set.NewCounter(`spillway_http_refused_total{reason="not_readable"}`)
	c.base64 = set.NewCounter(`spillway_http_refused_total{reason="base64"}`)
	c.panics = set.NewCounter(`spillway_http_refused_total{reason="panic"}`)
	c.initUDP()
}

// announces and scrapes are those served in full, over HTTP and UDP.
func (c *counters) announces() uint64 { return c.announceServed.Get() + c.udpAnnounce.served.Get() }
func (c *counters) scrapes() uint64   { return c.scrapeServed.Get() + c.udpScrape.served.Get() }

// WriteMetrics writes the tracker's and its store's metrics in Prometheus's text format.
func (t *Tracker) WriteMetrics(w io.Writer) {
	t.metrics.set.WritePrometheus(w)
	t.metrics.seconds.write(w, "spillway_announce_seconds")

	st := t.swarms.Stats()
	metrics.WriteGaugeUint64(w, `spillway_peers{kind="seeder"}`, uint64(st.Seeders))
	metrics.WriteGaugeUint64(w, `spillway_peers{kind="leecher"}`, uint64(st.Leechers))
	metrics.WriteGaugeUint64(w, `spillway_peers_by_family{family="ipv4"}`, uint64(st.Peers4))
	metrics.WriteGaugeUint64(w, `spillway_peers_by_family{family="ipv6"}`, uint64(st.Peers6))
	metrics.WriteGaugeUint64(w, `spillway_peers_by_family{family="web"}`, uint64(st.PeersWeb))
	metrics.WriteGaugeUint64(w, `spillway_swarms`, uint64(st.Swarms))
	metrics.WriteGaugeUint64(w, `spillway_swarms_max`, uint64(st.MaxSwarms))
	metrics.WriteGaugeUint64(w, `spillway_swarm_peers_max`, uint64(st.MaxPeersPerSwarm))
	metrics.WriteGaugeUint64(w, `spillway_store_bytes`, uint64(st.Bytes))
	metrics.WriteGaugeUint64(w, `spillway_store_bytes_max`, uint64(st.MaxBytes))
	metrics.WriteCounterUint64(w, `spillway_peers_expired_total`, st.Expired)
	metrics.WriteCounterUint64(w, `spillway_store_refused_total{limit="swarms"}`, st.RefusedSwarms)
	metrics.WriteCounterUint64(w, `spillway_store_refused_total{limit="peers_per_swarm"}`, st.RefusedPeers)
	metrics.WriteCounterUint64(w, `spillway_store_refused_total{limit="memory"}`, st.RefusedMemory)
}

// histogram counts durations in buckets that double from a microsecond. Its observe is two atomic additions; the
// library's takes a lock, which would be an announce's second.
type histogram struct {
	buckets [histogramBuckets + 1]atomic.Uint64
	sumNs   atomic.Uint64
}

const histogramBuckets = 20 // up to about half a second; what is above is in +Inf only

func (h *histogram) observe(d time.Duration) {
	h.buckets[min(bits.Len64(uint64(max(d, 0))/1000), histogramBuckets)].Add(1)
	h.sumNs.Add(uint64(max(d, 0)))
}

func (h *histogram) write(w io.Writer, name string) {
	fmt.Fprintf(w, "# TYPE %s histogram\n", name)
	total := uint64(0)
	for i := range histogramBuckets {
		total += h.buckets[i].Load()
		fmt.Fprintf(w, "%s_bucket{le=\"%g\"} %d\n", name, float64(uint64(1)<<i)/1e6, total)
	}
	total += h.buckets[histogramBuckets].Load()
	fmt.Fprintf(w, "%s_bucket{le=\"+Inf\"} %d\n", name, total)
	fmt.Fprintf(w, "%s_sum %g\n", name, float64(h.sumNs.Load())/1e9)
	fmt.Fprintf(w, "%s_count %d\n", name, total)
}
