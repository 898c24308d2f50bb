package admin

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"spillway/shedder"
)

// flooded is an Operator with the figures of a tracker under a flood. Its switches, blocks and limits can be turned.
type flooded struct {
	mu       sync.Mutex // guards the rest
	switches [shedder.EndpointCount]shedder.SwitchState
	rules    []shedder.Rule
	limits   []Limit
	orders   []string // what was asked for, in words
	fail     error    // of each change, if not nil
	cluster  bool     // one of three nodes, of which one is gone
	statuses int
}

func newFlooded() *flooded {
	f := &flooded{limits: []Limit{{"http.max_conns", 20000, 1, 20000}, {"http.backlog", 4096, 16, 65535}, {"ws.max_conns", 100000, 1, 100000}}}
	for e := range f.switches {
		f.switches[e].Endpoint = shedder.Endpoint(e)
	}
	return f
}

var errFull = fmt.Errorf("%w: no space left on device", shedder.ErrNotDurable)

func (f *flooded) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.statuses++
	wave := math.Sin(float64(f.statuses) / 7)
	snapshot := time.Now().Add(-130 * time.Second)
	st := Status{
		Version: "v0.9.0", Started: time.Now().Add(-76 * time.Hour), UptimeSeconds: 76*3600 + 1260, Listen: []string{"[::]:6969"},
		Conns: 17318 + int(200*wave), ConnsMax: 20000, WebSockets: 2310, WebSocketsMax: 100000, Swarms: 48210, Seeders: 301874, Leechers: 118022,
		StoreBytes: 61 << 20, StoreBytesMax: 1 << 30, SnapshotAt: &snapshot, LogDropped: 1822,
		Load: Load{
			State: "overload", Why: "The median request waited 38 ms of the 20 ms it may: 9,400 a second are offered, 6,100 can be served. Sources far over their share go first.",
			AgeMS: 38.2 + 4*wave, Offered: 9412 + 300*wave, Served: 6104 + 40*wave, Shed: 1203 + 90*wave, OverBudget: 2017 + 170*wave, Refused: 88,
			Level: 0.351 + 0.01*wave, Capacity: 6150, IntervalSeconds: 2820, Jitter: 0.2, Brownout: 2,
			BrownoutSteps: []string{"new WebSockets are refused", "replies have half the peers"}, Parked: 412, MemoryBytes: 402 << 20, MemoryMaxBytes: 480 << 20,
		},
		Endpoints: []EndpointLoad{{"announce", 8710, 5790, 930, 1990, 0}, {"scrape", 402, 121, 254, 27, 0}, {"ws", 300, 193, 19, 0, 88}},
	}
	if f.switches[shedder.WS].Mode != shedder.On {
		st.WebSockets = 0
		st.Endpoints[2] = EndpointLoad{"ws", 300, 0, 0, 0, 300}
	}
	if f.cluster {
		st.Redis = &Redis{}
		heard := time.Now().Add(-94 * time.Second)
		st.Nodes = []Node{
			{ID: "0a1b2c3d", Name: "alpha", Self: true, State: "overload", Shed: 0.351, Announce: "http://192.0.2.7:6969/announce", Version: "v0.9.0", Switches: modesOf(&f.switches)},
			{ID: "5e6f7a8b", Name: "beta", State: "calm", Announce: "http://192.0.2.8:6969/announce", Version: "v0.9.0", Switches: map[string]string{"ws": "off", "scrape": "drain"}},
		}
		st.NodesGone = []Node{{ID: "9c0d1e2f", Name: "gamma", State: "calm", Announce: "http://192.0.2.9:6969/announce", Version: "v0.8.3", HeardAt: &heard}}
	}
	return st
}

func modesOf(switches *[shedder.EndpointCount]shedder.SwitchState) map[string]string {
	modes := map[string]string{}
	for _, s := range switches {
		if s.Mode != shedder.On {
			modes[s.Endpoint.String()] = s.Mode.String()
		}
	}
	return modes
}

// hostileAgent is what a page must show and not run.
const hostileAgent = `<script>document.title="owned"</script><img src=x onerror=alert(1)>`

func (f *flooded) Talkers() Talkers {
	return Talkers{
		Seconds: 60, Requests: 564720,
		Sources: []Talker{{"198.51.100.23", 0.114, 0.0001}, {"203.0.113.77", 0.061, 0.002}, {"2001:db8:44::9", 0.012, 0.011}, {"192.0.2.200", 0.004, 0.004},
			{"198.51.100.200", 0.0038, 0}, {"192.0.2.14", 0.0031, 0.003}, {"2001:db8:7::1", 0.0028, 0.0029}, {"203.0.113.9", 0.0024, 0.002}, {"192.0.2.77", 0.0019, 0.002}, {"198.51.100.4", 0.0017, 0}},
		Prefixes:   []Talker{{"198.51.100.0/24", 0.213, 0.0004}, {"203.0.113.0/24", 0.062, 0.004}, {"2001:db8:44::/48", 0.015, 0.014}},
		UserAgents: []Talker{{"qBittorrent/4.1.0", 0.327, 0.021}, {"qBittorrent/5.0.3", 0.18, 0.31}, {"Transmission/4.0.6", 0.09, 0.14}, {hostileAgent, 0.034, 0}, {"", 0.021, 0.003}, {"..", 0.004, 0}, {"uTorrent\u202egnp.exe", 0.003, 0}},
		PeerIDs:    []Talker{{"-qB4100-", 0.331, 0.02}, {"-TR4060-", 0.09, 0.14}, {"random", 0.055, 0.001}},
		InfoHashes: []Talker{{"3f1c9a2b77d04e5f8a6b1c0d9e8f7a6b5c4d3e2f", 0.294, 0.003}, {"a94a8fe5ccb19ba61c4c0873d391e987982fbbd3", 0.012, 0.011}},
	}
}

func forAll(o Order) string {
	if o.Cluster {
		return " on all nodes"
	}
	return ""
}

func (f *flooded) Switches() []shedder.SwitchState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.switches[:])
}

func (f *flooded) Turn(e shedder.Endpoint, m shedder.Mode, o Order) (shedder.SwitchState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, fmt.Sprintf("turn %s %s %s %q %s", e, m, o.For, o.Reason, o.By)+forAll(o))
	if f.fail != nil {
		return shedder.SwitchState{}, f.fail
	}
	s := shedder.SwitchState{Endpoint: e, Mode: m, Reason: o.Reason, By: o.By, Since: time.Now()}
	if o.For > 0 {
		s.Until = s.Since.Add(o.For)
	}
	f.switches[e] = s
	return s, nil
}

func (f *flooded) Blocks() Blocks {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b Blocks
	for _, r := range f.rules {
		b.Blocks = append(b.Blocks, BlockOf(r))
	}
	for _, p := range []Proposal{
		{"user-agent", "qBittorrent/4.1.0", 0.327, 0.021, "Sixteen times its usual share, from 41 addresses that were never seen before."},
		{"source", "198.51.100.0/24", 0.213, 0.0004, "One network asks a fifth of everything."},
	} {
		if !slices.ContainsFunc(b.Blocks, func(x Block) bool { return x.Value == p.Value }) {
			b.Proposed = append(b.Proposed, p)
		}
	}
	return b
}

func (f *flooded) Block(kind shedder.RuleKind, value string, o Order) (shedder.Rule, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, fmt.Sprintf("block %s %q %s %q %s", kind, value, o.For, o.Reason, o.By)+forAll(o))
	if f.fail != nil {
		return shedder.Rule{}, f.fail
	}
	if kind == shedder.RuleSource {
		if _, _, err := net.ParseCIDR(value); err != nil && net.ParseIP(value) == nil {
			return shedder.Rule{}, errors.New("value: must be an address or a CIDR")
		}
	}
	f.rules = slices.DeleteFunc(f.rules, func(r shedder.Rule) bool { return r.Kind == kind && r.Value == value })
	r := shedder.Rule{Kind: kind, Value: value, Reason: o.Reason, By: o.By, Since: time.Now()}
	if o.For > 0 {
		r.Until = r.Since.Add(o.For)
	}
	f.rules = append(f.rules, r)
	return r, nil
}

func (f *flooded) Unblock(kind shedder.RuleKind, value string, o Order) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, fmt.Sprintf("unblock %s %q", kind, value)+forAll(o))
	n := len(f.rules)
	f.rules = slices.DeleteFunc(f.rules, func(r shedder.Rule) bool { return r.Kind == kind && r.Value == value })
	return len(f.rules) < n, f.fail
}

func (f *flooded) Limits() []Limit {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.limits)
}

func (f *flooded) SetLimit(name string, value int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, fmt.Sprintf("limit %s %d", name, value))
	for i := range f.limits {
		if f.limits[i].Name == name && f.fail == nil {
			f.limits[i].Value = value
		}
	}
	return f.fail
}

func (f *flooded) Torrent(hash [20]byte) (Torrent, bool) {
	if hash[0] != 0xab {
		return Torrent{}, false
	}
	return Torrent{InfoHash: hex.EncodeToString(hash[:]), Complete: 3, Incomplete: 2, Downloaded: 40, Downloaders: 1}, true
}

// floodedHour is an hour that ends in a flood.
func floodedHour() *History {
	h := new(History)
	now := time.Now()
	for i := range historyPoints {
		x := float64(i)
		quiet := 2150 + 170*math.Sin(x/25) + 60*math.Sin(x*1.7) + 40*math.Cos(x*2.9)
		flood := 0.0
		switch {
		case i > 120 && i < 150:
			flood = 2600
		case i > 262:
			flood = 7300 * (1 - math.Exp(-(x-262)/16)) * (1 + 0.05*math.Sin(x/3))
		}
		offered := quiet + flood
		served := min(offered, 6100+90*math.Sin(x*1.3))
		age := 0.9 + 0.3*math.Abs(math.Sin(x*0.9))
		if offered > served {
			age = 14 + 26*(1-math.Exp(-(x-265)/30)) + 5*math.Sin(x*0.7)
		} else if flood > 0 {
			age = 4.2 + math.Sin(x)
		}
		h.Add(now.Add(time.Duration(i+1-historyPoints)*HistoryStep), Sample{offered, served, offered - served, age, 9000 + int(flood), 2310, 400 << 20})
	}
	return h
}

// TestServePage serves the page of a flooded tracker until it is interrupted, for whoever works on it:
//
//	SPILLWAY_SERVE_PAGE=127.0.0.1:7099 SPILLWAY_SERVE_CLUSTER=1 go test -run TestServePage -timeout 0 ./internal/admin
func TestServePage(t *testing.T) {
	addr := os.Getenv("SPILLWAY_SERVE_PAGE")
	if addr == "" {
		t.Skip("SPILLWAY_SERVE_PAGE=127.0.0.1:7099 serves the page for whoever works on it")
	}
	op := newFlooded()
	op.cluster = os.Getenv("SPILLWAY_SERVE_CLUSTER") != ""
	op.switches[shedder.Scrape] = shedder.SwitchState{Endpoint: shedder.Scrape, Mode: shedder.Drain, Until: time.Now().Add(26 * time.Minute), Reason: "flood", By: "api 127.0.0.1", Since: time.Now().Add(-34 * time.Minute)}
	op.rules = []shedder.Rule{
		{Kind: shedder.RuleSource, Value: "192.0.2.0/24", Until: time.Now().Add(43 * time.Minute), Reason: "scanner", By: "api 127.0.0.1", Since: time.Now(), Hits: 184213},
		{Kind: shedder.RulePeerID, Value: "-XL0019", Reason: "leeches only", By: "api 127.0.0.1", Since: time.Now(), Hits: 92},
	}
	s := start(t, Config{Operator: op, History: floodedHour()}, "tcp", addr)
	fmt.Printf("http://%s/#token=%s\n", s.addr, token)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
	t.Log(strings.TrimSpace(s.log.String()))
}
