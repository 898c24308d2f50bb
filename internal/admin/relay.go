package admin

import (
	"time"

	"github.com/valyala/fasthttp"

	"spillway/relay"
)

// relayRoute finds what a relay has below /api/v1/. The rest of the listener is the tracker's: health, metrics, profiles, the
// token, the guards.
func (s *Server) relayRoute(path string) (route, bool) {
	var answer func() any
	switch path {
	case "/api/v1/status":
		answer = s.relayStatus
	case "/api/v1/history":
		answer = s.relayHistory
	default:
		return route{}, false
	}
	return route{get: func(ctx *fasthttp.RequestCtx) { writeJSON(ctx, answer()) }}, true
}

func (s *Server) relayStatus() any {
	st := s.cfg.Relay()
	st.Listen, st.Backends = listOf(st.Listen), listOf(st.Backends)
	st.ProfileOff, st.Events = listOf(st.ProfileOff), listOf(st.Events)
	return st
}

func (s *Server) relayHistory() any {
	if s.cfg.RelayHistory == nil {
		return &RelayHistory{}
	}
	return s.cfg.RelayHistory
}

// relaySeries are the names in JSON of what relayValues gives, in that order.
var relaySeries = [...]string{"opened", "refused", "conntrack", "conns", "backends_up", "probe_ms"}

// relayValues are what the plots show of st. Refused are connections, for whatever reason: segments without a flow were none.
func relayValues(st *relay.Status) [len(relaySeries)]float64 {
	up, slowestMS := 0, 0.0
	for i := range st.Backends {
		if b := &st.Backends[i]; b.Up { // the last answer of one that is down is old
			up++
			slowestMS = max(slowestMS, b.ProbeMS)
		}
	}
	return [...]float64{st.Opened, st.RefusedDown + st.RefusedBudget + st.RefusedSource,
		float64(st.Conntrack), float64(st.Conns), float64(up), slowestMS}
}

// RelayHistory is a relay's last hour in steps of HistoryStep. The zero RelayHistory is empty. Safe for concurrent use.
type RelayHistory struct{ hour hour }

// Add appends a point; as for History, steps that nobody measured become zeros. It is called every HistoryStep.
func (h *RelayHistory) Add(now time.Time, st relay.Status) {
	values := relayValues(&st)
	h.hour.add(now, values[:])
}

// MarshalJSON gives what GET /api/v1/history of a relay answers, in the form of the tracker's.
func (h *RelayHistory) MarshalJSON() ([]byte, error) { return h.hour.marshal(relaySeries[:]) }
