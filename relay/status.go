package relay

import "time"

// Status is how the relay fares, for people; what GET /api/v1/status of its admin side answers. Fields may be added.
type Status struct {
	Version       string    `json:"version"`
	Started       time.Time `json:"started"`
	UptimeSeconds int64     `json:"uptime_seconds"`

	Mode       string   `json:"mode"`     // kernel or proxy
	ModeWhy    string   `json:"mode_why"` // for a person
	Listen     []string `json:"listen"`
	Masquerade bool     `json:"masquerade"`

	State string    `json:"state"` // forwarding, degraded: some backends are down, refusing: all are
	Why   string    `json:"why"`   // for a person
	Since time.Time `json:"since"` // of the state

	Backends []BackendStatus `json:"backends"`

	// Per second, lately.
	Opened        float64 `json:"opened"`
	RefusedDown   float64 `json:"refused_down"`
	RefusedBudget float64 `json:"refused_budget"`
	RefusedSource float64 `json:"refused_source"`
	NoFlow        float64 `json:"no_flow"`

	Conntrack    int     `json:"conntrack"`
	ConntrackMax int     `json:"conntrack_max"` // 0: not known, or proxy mode
	InsertFailed uint64  `json:"insert_failed"`
	PortsUsed    float64 `json:"ports_used"` // share; 0 without masquerade
	Conns        int     `json:"conns"`      // proxy mode
	ConnsMax     int     `json:"conns_max"`

	Profile    string   `json:"profile"`     // fast-fail or none
	ProfileOff []string `json:"profile_off"` // keys whose value is not what the profile wants; filled in by the wiring
	LogDropped uint64   `json:"log_dropped"`

	Events []Event `json:"events"` // the newest first, at most MaxEvents
}

// BackendStatus is one backend's part of Status.
type BackendStatus struct {
	Addr       string    `json:"addr"`
	Weight     int       `json:"weight"`
	Share      float64   `json:"share"` // of the sources of its family that go to it now
	Up         bool      `json:"up"`
	Since      time.Time `json:"since"`
	Why        string    `json:"why"`      // what the last failure was; empty: none
	ProbeMS    float64   `json:"probe_ms"` // of the last answer
	Level      float64   `json:"level"`    // share of what it is offered that it sheds, as it says itself; 0 to 1
	Budget     int       `json:"budget"`   // connections that may wait for its first sign of life, now
	BudgetMax  int       `json:"budget_max"`
	Unanswered int       `json:"unanswered"` // of those
	Opened     float64   `json:"opened"`     // per second, lately
	Refused    float64   `json:"refused"`    // per second, lately
}

// Event is something that has happened.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// MaxEvents bounds Status.Events.
const MaxEvents = 50
