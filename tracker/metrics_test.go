package tracker

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var sample = regexp.MustCompile(`^(spillway_[a-z0-9_]+)(\{[a-z_]+="[^"\\]+"(?:,[a-z_]+="[^"\\]+")*\})? ([0-9.e+-]+)$`)

// samplesOf reads what WriteMetrics writes, every line of it.
func samplesOf(t *testing.T, tracker *Tracker) map[string]float64 {
	t.Helper()
	var text bytes.Buffer
	tracker.WriteMetrics(&text)
	samples := map[string]float64{}
	for line := range strings.Lines(text.String()) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "# TYPE ") {
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("not a sample: %q", line)
			continue
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if _, twice := samples[m[1]+m[2]]; twice {
			t.Errorf("twice: %q", line)
		}
		samples[m[1]+m[2]] = value
	}
	return samples
}

func TestMetricsSayWhatHappened(t *testing.T) {
	t.Parallel()
	s := serve(t, func(cfg *Config) { cfg.BlockPeerIDs = []string{"-XX"} })
	c := s.dial()
	for range 3 {
		c.announce(announceURI(""))
	}
	c.announce("/announce")
	c.announce(strings.Replace(announceURI(""), "-qB4500", "-XX4500", 1))
	c.announce("/scrape?info_hash=" + hash20)
	c.announce("/scrape")
	c.get("/nothing")
	got := samplesOf(t, s.tracker)
	for name, want := range map[string]float64{
		`spillway_announces_total{proto="http",result="served"}`:      3,
		`spillway_announces_total{proto="http",result="bad"}`:         1,
		`spillway_announces_total{proto="http",result="off"}`:         1,
		`spillway_scrapes_total{proto="http",result="served"}`:        1,
		`spillway_scrapes_total{proto="http",result="bad"}`:           1,
		`spillway_http_refused_total{reason="not_a_tracker_request"}`: 1,
		`spillway_http_refused_total{reason="not_readable"}`:          0,
		`spillway_proxy_header_missing_total`:                         0,
		`spillway_announce_seconds_count`:                             3,
		`spillway_announce_seconds_bucket{le="+Inf"}`:                 3,
		`spillway_peers{kind="leecher"}`:                              1,
		`spillway_peers{kind="seeder"}`:                               0,
		`spillway_peers_by_family{family="ipv4"}`:                     1,
		`spillway_swarms`: 1,
	} {
		if value, there := got[name]; !there || value != want {
			t.Errorf("%s: got %v, want %v", name, value, want)
		}
	}
	if sum := got["spillway_announce_seconds_sum"]; sum <= 0 || sum > 3 {
		t.Errorf("sum: got %v", sum)
	}
}

func TestHistogramIsCumulative(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	h := &s.tracker.metrics.seconds
	for _, d := range []time.Duration{-1, 0, 999, 1000, 1500, 3 * time.Microsecond, time.Millisecond, 500 * time.Millisecond, time.Second, time.Hour} {
		h.observe(d)
	}
	got := samplesOf(t, s.tracker)
	last, lastBound, buckets := 0.0, 0.0, 0
	for i := range histogramBuckets {
		bound := strconv.FormatFloat(float64(uint64(1)<<i)/1e6, 'g', -1, 64)
		value, there := got[`spillway_announce_seconds_bucket{le="`+bound+`"}`]
		if !there || value < last {
			t.Errorf("le=%s: got %v after %v", bound, value, last)
		}
		last = value
		lastBound, _ = strconv.ParseFloat(bound, 64)
		buckets++
	}
	if buckets != histogramBuckets || lastBound < 0.5 {
		t.Errorf("the buckets end at %v s", lastBound)
	}
	for name, want := range map[string]float64{
		`bucket{le="1e-06"}`: 3, `bucket{le="2e-06"}`: 5, `bucket{le="4e-06"}`: 6, `bucket{le="0.001024"}`: 7, `bucket{le="0.524288"}`: 8,
		`bucket{le="+Inf"}`: 10, `count`: 10,
	} {
		if value := got["spillway_announce_seconds_"+name]; value != want {
			t.Errorf("%s: got %v, want %v", name, value, want)
		}
	}
}
