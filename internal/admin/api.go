package admin

import (
	"errors"
	"time"

	"spillway/shedder"
)

// Operator is the program as its operator sees it: what is shown, and what can be turned. The wiring implements it. Methods
// are called by several goroutines; those that change
// something one at a time.
//
// As in shedder, an error of a change names the field that is wrong and nothing has changed (answered with 400), unless it is
// shedder.ErrNotDurable, or ErrNotShared: then the change is in force all the same (answered with 500, or 503).
type Operator interface {
	Status() Status // Switches is filled in by this package
	Talkers() Talkers

	Switches() []shedder.SwitchState
	Turn(shedder.Endpoint, shedder.Mode, Order) (shedder.SwitchState, error)

	Blocks() Blocks
	Block(kind shedder.RuleKind, value string, o Order) (shedder.Rule, error)
	Unblock(kind shedder.RuleKind, value string, o Order) (removed bool, err error)

	Limits() []Limit
	SetLimit(name string, value int64) error // of a name in Limits, within its bounds

	Torrent(infoHash [20]byte) (Torrent, bool) // false: not known
}

// Order is what comes with a change.
type Order struct {
	For    time.Duration // zero: until somebody changes it again
	Reason string
	By     string // "api 127.0.0.1"
	// Cluster has all nodes that share a Redis do the same. Where there is none, that is an error and nothing has changed.
	Cluster bool
}

// ErrNotShared comes with a change that is in force on this node, and not on the others.
var ErrNotShared = errors.New("in force on this node")

// Status is GET /api/v1/status. Fields may be added.
type Status struct {
	Version       string         `json:"version"`
	Started       time.Time      `json:"started"`
	UptimeSeconds int64          `json:"uptime_seconds"`
	Listen        []string       `json:"listen"`
	Conns         int            `json:"conns"`
	ConnsMax      int            `json:"conns_max"`
	WebSockets    int            `json:"websockets"`
	WebSocketsMax int            `json:"websockets_max"`
	Swarms        int            `json:"swarms"`
	Seeders       int            `json:"seeders"`
	Leechers      int            `json:"leechers"`
	StoreBytes    int64          `json:"store_bytes"`
	StoreBytesMax int64          `json:"store_bytes_max"`
	SnapshotAt    *time.Time     `json:"snapshot_at"` // null: none written since the start
	LogDropped    uint64         `json:"log_dropped"`
	Load          Load           `json:"load"`
	Switches      []Switch       `json:"switches"`
	Endpoints     []EndpointLoad `json:"endpoints"`
	Redis         *Redis         `json:"redis,omitempty"`      // where swarms are shared
	Nodes         []Node         `json:"nodes,omitempty"`      // the same: who shares them and was heard of in the last 3 s
	NodesGone     []Node         `json:"nodes_gone,omitempty"` // who was, in the last ten minutes, and is not
}

// Node is one of the nodes that share swarms, as it says of itself.
type Node struct {
	ID    string  `json:"id"` // of this run of it
	Name  string  `json:"name"`
	Self  bool    `json:"self,omitempty"`
	State string  `json:"state"` // of its load
	Shed  float64 `json:"shed"`  // share of what it is offered that it does not serve

	Announce string            `json:"announce,omitempty"` // its URL for torrents, as far as it can tell
	Version  string            `json:"version,omitempty"`
	Switches map[string]string `json:"switches,omitempty"` // mode by endpoint, of those that are not on
	HeardAt  *time.Time        `json:"heard_at,omitempty"` // of one that is gone
}

// Redis is how the node gets on with the Redis it shares swarms through. A node that is degraded serves from what it knows.
type Redis struct {
	Degraded float64    `json:"degraded"` // share of the swarms that Redis does not answer for
	Since    *time.Time `json:"since,omitempty"`
	Why      string     `json:"why,omitempty"` // for a person
}

// Load is what the shedder thinks and does. Rates are per second over the last seconds.
type Load struct {
	State           string   `json:"state"` // calm, ramp, overload, escalated
	Why             string   `json:"why"`   // for a person
	AgeMS           float64  `json:"age_ms"`
	Offered         float64  `json:"offered"`
	Served          float64  `json:"served"`
	Shed            float64  `json:"shed"`
	OverBudget      float64  `json:"over_budget"`
	Refused         float64  `json:"refused"`
	Level           float64  `json:"level"`    // share of what is offered that is not served
	Capacity        float64  `json:"capacity"` // requests a second; zero: not known
	IntervalSeconds int64    `json:"interval_seconds"`
	Jitter          float64  `json:"jitter"`
	Brownout        int      `json:"brownout"`
	BrownoutSteps   []string `json:"brownout_steps"` // in force
	Parked          int      `json:"parked"`
	MemoryBytes     int64    `json:"memory_bytes"`
	MemoryMaxBytes  int64    `json:"memory_max_bytes"`
}

// EndpointLoad is one endpoint's part of Load.
type EndpointLoad struct {
	Endpoint   string  `json:"endpoint"`
	Offered    float64 `json:"offered"`
	Served     float64 `json:"served"`
	Shed       float64 `json:"shed"`
	OverBudget float64 `json:"over_budget"`
	Refused    float64 `json:"refused"`
}

// Switches is GET /api/v1/switches.
type Switches struct {
	Switches []Switch `json:"switches"`
}

// Switch is one of Switches, and what PUT /api/v1/switches/{endpoint} answers.
type Switch struct {
	Endpoint string     `json:"endpoint"`
	Mode     string     `json:"mode"`
	Until    *time.Time `json:"until"` // null: does not go back by itself
	Reason   string     `json:"reason"`
	By       string     `json:"by"`
	Since    *time.Time `json:"since"` // null: never turned
}

func switchOf(s shedder.SwitchState) Switch {
	return Switch{s.Endpoint.String(), s.Mode.String(), timeOrNull(s.Until), s.Reason, s.By, timeOrNull(s.Since)}
}

// Blocks is GET /api/v1/blocks.
type Blocks struct {
	Blocks   []Block    `json:"blocks"`
	Proposed []Proposal `json:"proposed"`
	Auto     bool       `json:"auto"` // proposals become rules by themselves
}

// Block is a rule in force, and what PUT /api/v1/blocks/{kind}/{value} answers.
type Block struct {
	Kind   string     `json:"kind"`
	Value  string     `json:"value"`
	Until  *time.Time `json:"until"` // null: for good
	Reason string     `json:"reason"`
	By     string     `json:"by"`
	Since  time.Time  `json:"since"`
	Hits   uint64     `json:"hits"`
}

// BlockOf is r as the API has it.
func BlockOf(r shedder.Rule) Block {
	return Block{r.Kind.String(), r.Value, timeOrNull(r.Until), r.Reason, r.By, r.Since, r.Hits}
}

// Proposal is a rule the shedder would make.
type Proposal struct {
	Kind  string  `json:"kind"`
	Value string  `json:"value"`
	Share float64 `json:"share"` // of all requests
	Usual float64 `json:"usual"` // its share before
	Why   string  `json:"why"`
}

// Talkers is GET /api/v1/talkers: who asks most.
type Talkers struct {
	Seconds    int64    `json:"seconds"` // what the shares are of
	Requests   uint64   `json:"requests"`
	Sources    []Talker `json:"sources"`
	Prefixes   []Talker `json:"prefixes"`
	UserAgents []Talker `json:"user_agents"`
	PeerIDs    []Talker `json:"peer_ids"`
	InfoHashes []Talker `json:"info_hashes"`
}

// Talker is one of Talkers. Value is in the form PUT /api/v1/blocks takes.
type Talker struct {
	Value string  `json:"value"`
	Share float64 `json:"share"`
	Usual float64 `json:"usual"`
}

// Limits is GET /api/v1/limits.
type Limits struct {
	Limits []Limit `json:"limits"`
}

// Limit is a bound that can be moved while the program runs; it is forgotten at a restart.
type Limit struct {
	Name  string `json:"name"` // its key in the configuration
	Value int64  `json:"value"`
	Min   int64  `json:"min"`
	Max   int64  `json:"max"`
}

// Torrent is GET /api/v1/torrents/{hash}.
type Torrent struct {
	InfoHash    string `json:"info_hash"`
	Complete    int    `json:"complete"`
	Incomplete  int    `json:"incomplete"`
	Downloaded  uint64 `json:"downloaded"`
	Downloaders int    `json:"downloaders"`
}

// listOf makes a list that is empty in JSON out of one that would be null: clients go through it without asking.
func listOf[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
