package flood

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A quantile of a whole phase is right to 0.1 %, so that a ratio of two of them means something; one of a tenth of a second is for
// a plot, and right to 1 %, in a tenth of the memory.
const (
	phaseDigits = 3
	binDigits   = 2

	histUnit    = time.Microsecond
	histLongest = 2 * time.Minute // more than Config.Timeout and Config.Patience may be together; what is longer counts as this
)

// hist is an HdrHistogram (Gil Tene's, hdrhistogram.org) and, as that knows its largest value only to its precision, the largest
// value. To add allocates nothing (TestRequestsAllocateNothing).
type hist struct {
	h    *hdrhistogram.Histogram
	most time.Duration
}

func newHist(digits int) hist {
	return hist{h: hdrhistogram.New(int64(histUnit), int64(histLongest), digits)}
}

func (h *hist) add(d time.Duration) {
	h.most = max(h.most, d)
	if err := h.h.RecordValue(int64(min(max(d, 0), histLongest))); err != nil {
		panic("BUG: " + err.Error())
	}
}

func (h *hist) count() int64 { return h.h.TotalCount() }

// merge adds what o has counted, whose digits are the same.
func (h *hist) merge(o *hist) {
	h.most = max(h.most, o.most)
	h.h.Merge(o.h)
}

// at is quantile q, of 0 to 1; zero if nothing was counted.
func (h *hist) at(q float64) time.Duration {
	if q >= 1 {
		return h.most
	}
	return min(time.Duration(h.h.ValueAtQuantile(100*q)), h.most)
}

// curveQuantiles are those of a latency curve: each nine more is a tenth of the requests.
var curveQuantiles = []float64{0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.99975, 0.9999, 0.99995, 0.99999, 0.999999}

// curve is the quantiles of which there is a request above, and the largest.
func (h *hist) curve() (all []Quantile) {
	n := float64(h.count())
	for _, q := range curveQuantiles {
		if n*(1-q) >= 1 {
			all = append(all, Quantile{q, ms(h.at(q))})
		}
	}
	if n > 0 {
		all = append(all, Quantile{1, ms(h.most)})
	}
	return all
}

// encoded is the histogram as other programs for HdrHistograms read it, in nanoseconds; empty if nothing was counted.
func (h *hist) encoded() string {
	if h.count() == 0 {
		return ""
	}
	b, err := h.h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		panic("BUG: a histogram cannot be written: " + err.Error())
	}
	return string(b)
}
