package admin

import (
	"encoding/json"
	"math"
	"sync"
	"time"
)

// HistoryStep is how often to call History.Add.
const HistoryStep = 10 * time.Second

// historyPoints is an hour.
const historyPoints = 360

// Sample is the load in one step. Rates are per second.
type Sample struct {
	Offered, Served, Shed float64 // Shed: all that was not served, whatever the reason
	AgeMS                 float64
	Conns, WebSockets     int
	MemoryBytes           int64
}

// historySeries are the names in JSON of what Sample.values gives, in that order.
var historySeries = [...]string{"offered", "served", "shed", "age_ms", "conns", "websockets", "memory_bytes"}

func (s *Sample) values() [len(historySeries)]float64 {
	return [...]float64{s.Offered, s.Served, s.Shed, s.AgeMS, float64(s.Conns), float64(s.WebSockets), float64(s.MemoryBytes)}
}

// History is the last hour in steps of HistoryStep, in a fixed 20 KB. The zero History is empty. Safe for concurrent use.
type History struct{ hour hour }

// Add appends a point. Steps since the last that nobody measured (the machine slept, the process was stopped) become zeros:
// nothing was served in them.
func (h *History) Add(now time.Time, s Sample) {
	values := s.values()
	h.hour.add(now, values[:])
}

// MarshalJSON gives what GET /api/v1/history answers: the oldest point first, each series as long as the others.
func (h *History) MarshalJSON() ([]byte, error) { return h.hour.marshal(historySeries[:]) }

// hour is the last hour of several series.
type hour struct {
	mu     sync.Mutex // guards the rest
	points [historyPoints][len(historySeries)]float64
	next   int // index the next point goes to
	n      int // points that are filled
	to     time.Time
}

// add appends a point of at most len(historySeries) values.
func (h *hour) add(now time.Time, values []float64) {
	now = now.Round(0) // the wall's clock: the other one stands still while the machine sleeps
	var point [len(historySeries)]float64
	for i, v := range values {
		point[i] = tidy(v)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n > 0 {
		missed := int64(math.Round(float64(now.Sub(h.to))/float64(HistoryStep))) - 1
		for range min(missed, historyPoints) {
			h.push([len(historySeries)]float64{})
		}
	}
	h.push(point)
	h.to = now
}

func (h *hour) push(point [len(historySeries)]float64) {
	h.points[h.next] = point
	h.next = (h.next + 1) % historyPoints
	h.n = min(h.n+1, historyPoints)
}

// marshal gives the first len(names) values of each point, as series of these names.
func (h *hour) marshal(names []string) ([]byte, error) {
	series := make(map[string][]float64, len(names))
	h.mu.Lock()
	for i, name := range names {
		list := make([]float64, h.n)
		for j := range list {
			list[j] = h.points[(h.next-h.n+j+historyPoints)%historyPoints][i]
		}
		series[name] = list
	}
	to := h.to
	h.mu.Unlock()

	var toUnixSec int64
	if !to.IsZero() {
		toUnixSec = to.Unix()
	}
	return json.Marshal(struct {
		StepSeconds int64                `json:"step_seconds"`
		To          int64                `json:"to"`
		Series      map[string][]float64 `json:"series"`
	}{int64(HistoryStep / time.Second), toUnixSec, series})
}

// tidy keeps two decimals, which is more than anybody can see, and no number that JSON has not.
func tidy(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	if math.Abs(v) >= 1e12 { // multiplied it would lose more than it gains
		return math.Round(v)
	}
	return math.Round(v*100) / 100
}
