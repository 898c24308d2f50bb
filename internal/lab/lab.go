// Package lab is a laboratory in which a relay is proved and compared with others: three network namespaces on one machine,
//
//	edge ---- veth ---- relay ---- veth, MTU 1420 ---- backend
//
// where edge plays the CDN and its clients, and backend runs a real `spillway serve` behind what plays the tunnel. In order:
//
//	New            the namespaces, each with a thread and processes (room.go), links, addresses and routes (network.go)
//	NewMachine     the tracker on a small machine, which can be gone (machine.go)
//	Start          what forwards: bare DNAT, or a spillway relay (contender.go); Front, an nginx before it (front.go)
//	Load           an open loop of connections with clients' impatience (load.go, crowd.go), each attempt written down (attempts.go);
//	               WebPeers, WebSockets that come back (webpeers.go)
//	Watch          what the relay holds and costs, ten times a second (sample.go, cores.go)
//
// Its tests are the promises of docs/relay.md: a Trial is all of that with a fault in the middle (trial_test.go, fault_test.go), drawn
// as a Timeline, also of other relays (contender_test.go).
//
// What the kernel does for packets belongs to no process. So the relay has a core of its own: packets that reach its ends of the
// links are worked on there (RPS), its processes are pinned there, everything else is kept off, and its cost is the time in which
// that core is not idle. The figures are as good as the machine is quiet.
//
// Nothing outside is touched: the namespaces have no name and go with the last process in them, which all die with this one.
// It needs root, two cores and Linux. Loads go to addresses inside only.
package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"spillway/internal/sys"
)

// Config is a lab. The zero value of a field means its default.
type Config struct {
	// NoRouteBack leaves the backend without a route to the clients, so that a relay has to masquerade.
	NoRouteBack bool

	MTU int // of the tunnel; 1420, as WireGuard's
}

// Where everything is. Each address exists in a lab's own namespaces only, so several labs do not meet.
var (
	RelayPublic4  = netip.MustParseAddr("198.18.0.1") // RFC 2544: set aside for tests of network devices
	RelayPublic6  = netip.MustParseAddr("fd18::1")
	RelayTunnel4  = netip.MustParseAddr("10.66.0.1")
	RelayTunnel6  = netip.MustParseAddr("fd66::1")
	BackendAddr4  = netip.MustParseAddr("10.66.0.2")
	BackendAddr6  = netip.MustParseAddr("fd66::2")
	edgePublic4   = netip.MustParseAddr("198.18.0.2")
	edgePublic6   = netip.MustParseAddr("fd18::2")
	clients4      = netip.MustParsePrefix("10.77.0.0/16") // all of them are edge's own
	clients6      = netip.MustParsePrefix("fd77::/64")
	spoofed4      = netip.MustParsePrefix("10.99.0.0/16") // routed to edge, where nobody has them
	behindTheEdge = []netip.Prefix{clients4, clients6, spoofed4}
)

// Ports of the lab.
const (
	PublicPort  = 80   // of the relay
	BackendPort = 6969 // of the tracker
	AdminPort   = 7071 // of the relay, which must always answer
)

// Public is where clients connect to.
func Public(v6 bool) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(RelayPublic6, PublicPort)
	}
	return netip.AddrPortFrom(RelayPublic4, PublicPort)
}

// BackendAddr is where the relay finds the tracker.
func BackendAddr(v6 bool) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(BackendAddr6, BackendPort)
	}
	return netip.AddrPortFrom(BackendAddr4, BackendPort)
}

// Lab is three namespaces. Close ends it.
type Lab struct {
	Config
	Cores
	Edge, Relay, Backend *Room

	Unsteered bool // the kernel did not let the relay have its core for itself: what that does is not the relay's cost

	files int // that each process may have open
	unpin func()
	once  sync.Once
}

// ErrNotRoot is New's answer to anybody else.
var ErrNotRoot = errors.New("the lab makes network namespaces, which needs root; run it with sudo")

// New makes the namespaces and joins them. From now until Close this process keeps off the relay's core.
func New(cfg Config) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	if cfg.MTU == 0 {
		cfg.MTU = 1420
	}
	cores, err := pickCores()
	if err != nil {
		return nil, err
	}
	l := &Lab{Config: cfg, Cores: cores, unpin: func() {}}
	if err := l.build(); err != nil {
		l.Close()
		return nil, fmt.Errorf("lab: %w", err)
	}
	return l, nil
}

func (l *Lab) build() (err error) {
	if l.files, err = sys.RaiseFileLimit(wantFiles); err != nil {
		return err
	}
	if l.files < minFiles {
		return fmt.Errorf("%d open files are allowed; raise the limit to %d or more (ulimit -n)", l.files, minFiles)
	}
	if l.unpin, err = pinProcess(l.Cores.Edge); err != nil {
		return err
	}
	for _, r := range []struct {
		room **Room
		name string
		core int
		nice int
	}{{&l.Edge, "edge", l.Cores.Edge, niceLab}, {&l.Relay, "relay", l.Cores.Relay, niceLab}, {&l.Backend, "backend", l.Cores.Backend, niceTracker}} {
		if *r.room, err = newRoom(r.name, r.core, r.nice); err != nil {
			return fmt.Errorf("namespace %s: %w", r.name, err)
		}
	}
	return l.join()
}

// Close ends every process of the lab, and the namespaces with them.
func (l *Lab) Close() {
	l.once.Do(func() {
		for _, r := range []*Room{l.Edge, l.Relay, l.Backend} {
			if r != nil {
				r.close()
			}
		}
		l.unpin()
	})
}

// wantFiles is enough for all connections of an impatient crowd that wait for their timeout, minFiles for any.
const wantFiles, minFiles = 200_000, 8192
