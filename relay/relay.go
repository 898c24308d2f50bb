// Package relay forwards connections to backends behind a tunnel, and refuses them at once while no backend can take them.
//
// It is the control plane. A Path carries the packets: spillway/relay/kernel has the kernel do it, spillway/relay/proxy does it
// itself. What happens, in order:
//
//	prober.ask       each backend is asked for its health, many times a second (prober.go, probe.go)
//	health.step      rise and fall: what answers and failures mean (health.go)
//	readSigns        what the path's counts say of a backend before a probe can (counts.go)
//	budget.step      how many connections may wait for a backend's first sign of life (budget.go)
//	spread.fill      which sources go to which backend (spread.go)
//	Path.Apply       the plan is carried out
//	Path.Cut         the flows of a backend that has just died are ended
//
// Nothing here waits for a backend: a relay that waits is what died in the incident this package exists for.
package relay

import (
	"net/netip"
	"time"
)

// Backend is one that connections are forwarded to.
type Backend struct {
	Addr   netip.AddrPort
	Weight int // share of the sources, in proportion to the others of its family; 1 or more
}

// Slots is how many parts the sources are spread over: a source's address is hashed to one of them.
const Slots = 256

// Nobody is in a slot of a family without backends.
const Nobody = -1

// Bands is how many parts a backend's budget is opened in: 1/8, 1/4, 1/2 of it, all.
const Bands = 4

// Forget is how long the kernel goes on refusing when nobody tells it to any more: a relay that was killed while a backend was
// down leaves a refusal that ends by itself.
const Forget = 3 * time.Second

// Plan is what a Path is to do.
type Plan struct {
	// Slots4 and Slots6 have the index of the backend that the sources of a slot go to, of the family; Nobody where it has none.
	// While all of a family are down they stay as they were.
	Slots4, Slots6 [Slots]int16

	// Down backends are sent nothing: what would go to them is refused with a reset, whatever flow it belongs to.
	Down []bool

	// Open is how many bands of each backend's budget are open, from 1 to Bands.
	Open []int
}

// Path carries connections. Its methods are called by one goroutine at a time, except Cut.
type Path interface {
	// Apply has the path do as p says. It is called at each change, and every second even so, so that what the kernel would
	// forget after Forget is told again. It takes milliseconds.
	Apply(p Plan) error

	// Cut ends the flows to a backend that has gone down: both sides of each get a reset, and the kernel forgets them. It is called
	// after Apply, takes a second at most, and ends early with the backend's return, when cancelled is closed.
	Cut(backend int, cancelled <-chan struct{}) (flows int, err error)

	// Counts are totals since the path was opened. It takes milliseconds.
	Counts() (Counts, error)
}

// Counts is what a Path has seen.
type Counts struct {
	Backends []BackendCounts // as Config.Backends

	NoFlow uint64 // segments that belonged to no flow, answered with a reset
	Source uint64 // connections refused because their source opens too many (relay.per_source)

	Conntrack, ConntrackMax int     // entries of the kernel's table; 0 in proxy mode
	InsertFailed            uint64  // connections the kernel could not track, as for want of a port
	PortsUsed               float64 // share of the ports towards the busiest backend that are taken; 0 without masquerade
	Conns, ConnsMax         int     // connections in proxy mode; 0 in kernel mode
}

// BackendCounts is one backend's part of Counts.
type BackendCounts struct {
	Opened     uint64 // connections sent on
	Down       uint64 // segments and connections refused because it is down
	Budget     uint64 // connections refused because too many wait already
	Unanswered int    // connections that wait for its first sign of life
	Spoken     uint64 // segments or reads with data from it: who speaks is not dead, however late a probe is answered
}
