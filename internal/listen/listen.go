// Package listen opens the sockets of a public port and hands their connections out, bounded.
//
// A connection passes, in order:
//
//	listener.Accept   waits out temporary errors (EMFILE, ...), then for a free place among max_conns; closes who is unwelcome
//	Conn              gives its place back on Close, and spares system calls on deadlines
//	Conn.early        in an overload: the answer to a request that is refused, before it is parsed
//	Conn.readHeader   the PROXY protocol header, at the first Read, in the connection's own goroutine
//	tlsConn           TLS, when there is a certificate
//
// The package knows nothing of HTTP: whatever serves its listeners sets the deadlines.
package listen

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"golang.org/x/sys/unix"
)

// Config says what to listen on, and for whom.
type Config struct {
	// Addrs are ":6969" (IPv4 and IPv6), "0.0.0.0:6969" (IPv4 only), "[::]:6969" (both, unless 0.0.0.0 with the
	// same port is listed too), "unix:/path", "systemd" (all stream sockets systemd passed which no other address
	// names) or "systemd:NAME" (those with FileDescriptorName=NAME).
	Addrs []string

	// Key prefixes the configuration keys in messages, and Endpoint is the label in metrics.
	// Empty means "http" for both.
	Key, Endpoint string

	// MaxConns bounds the open connections of all Addrs together. It must be 1 or more.
	MaxConns int

	// FixedBound says that no configuration key sets MaxConns, so that no message names one.
	FixedBound bool

	// Sockets is how many sockets share each TCP address by SO_REUSEPORT. Zero and one mean a single socket,
	// without SO_REUSEPORT: then a second program on the port is an error, as it should be. On two cores, two sockets
	// gain nothing that can be measured (BenchmarkAccept).
	Sockets int

	// DeferAccept leaves a new connection to the kernel until its first bytes are there, or for about a second. It saves a failed
	// read, a park and a wake a connection: 7 % of the CPU time of a connection per request (BenchmarkAccept). Clients of
	// HTTP and TLS speak first, so none is kept waiting; but one that says nothing is seen, and counted, a second later.
	DeferAccept bool

	// ProxyProtocol asks a PROXY header, version 1 or 2, of each unix peer and of each TCP peer Trusted accepts.
	// Others are served as they are, and refused if they send one.
	ProxyProtocol bool

	// Trusted is called once a connection, in the accept loop, with an unmapped address. Nil trusts no TCP peer.
	Trusted func(netip.Addr) bool

	// Certs turns on TLS on every socket but unix ones, whose peers are on this machine. Nil means no TLS.
	Certs *Certs

	// Inherited are the sockets systemd passed. Nil means there are none.
	Inherited *Inherited

	// Gate bounds more than MaxConns does when there is too much to do. Nil is none.
	Gate Gate

	// Early sees a request that came whole, with one read, on a connection that has carried others, before it is parsed; plain
	// connections only. A reply is written in place of whatever would have answered, and belongs to Early; decided tells that
	// the request, if there is no reply, is not to be decided upon again (Conn.Decided). Nil sees none.
	Early func(remote net.Addr, head []byte, now time.Time, age time.Duration) (reply []byte, decided bool)
}

// Gate is what a Door asks of an overload shedder. It is asked for each connection and each read, and never waits but in Park.
type Gate interface {
	// Of connections: whether there is memory for any, whether one from addr is closed with a reset, and how many may wait.
	Full() bool
	Unwelcome(addr netip.Addr, now time.Time) bool
	Backlog() int

	// Of requests: how old one was when it was read, and whether it is its connection's first; what a sampled one cost; and the
	// wait of one that Early has answered.
	Observe(age time.Duration, fresh bool)
	Spent(d time.Duration, shed bool)
	Park()
}

// Door is one public port: some listeners, and the bound they share.
type Door struct {
	// Listeners are to be served each, by one goroutine. Their Accept fails only after Close, with net.ErrClosed.
	Listeners []net.Listener

	cfg    Config
	log    *slog.Logger
	places chan struct{} // one element an open connection
	peak   atomic.Int64

	limiting sync.Mutex   // one SetMaxConns at a time
	withheld atomic.Int64 // places that nobody gets, in places
	owed     atomic.Int64 // and those that will be withheld when their connection ends

	set          *metrics.Set
	full         *metrics.Counter
	acceptErrors *metrics.Counter
	unwelcome    *metrics.Counter
	held         *metrics.Counter
	proxyResults [proxyResultCount]*metrics.Counter
	tlsErrors    *metrics.Counter

	fullLog, acceptLog, proxyLog sometimes
}

// Open binds all addresses of cfg, or none. The caller serves Door.Listeners and calls Close.
func Open(cfg Config, log *slog.Logger) (*Door, error) {
	if cfg.Key == "" {
		cfg.Key = "http"
	}
	if cfg.Endpoint == "" {
		cfg.Endpoint = "http"
	}
	if cfg.MaxConns < 1 {
		return nil, fmt.Errorf("%s.max_conns: got %d; must be 1 or more", cfg.Key, cfg.MaxConns)
	}
	d := &Door{cfg: cfg, log: log, places: make(chan struct{}, cfg.MaxConns)}
	d.register()

	var tlsConfig *tls.Config
	if cfg.Certs != nil {
		tlsConfig = cfg.Certs.TLSConfig()
	}
	// Named sockets first, so that a bare "systemd" gets what is left.
	addrs := slices.Clone(cfg.Addrs)
	slices.SortStableFunc(addrs, func(a, b string) int { return boolInt(a == "systemd") - boolInt(b == "systemd") })
	for _, addr := range addrs {
		socks, err := bind(addr, cfg)
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("%s.listen: %w", cfg.Key, err)
		}
		for _, sock := range socks {
			l := &listener{Listener: sock, door: d, closed: make(chan struct{}), plain: true}
			l.fresh.wake = make(chan struct{}, 1)
			if tlsConfig != nil && sock.Addr().Network() != "unix" {
				l.plain = false
				d.Listeners = append(d.Listeners, &tlsListener{listener: l, config: tlsConfig})
			} else {
				d.Listeners = append(d.Listeners, l)
			}
		}
	}
	return d, nil
}

// Addrs are the bound addresses, with the ports the kernel chose where zero was asked.
func (d *Door) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(d.Listeners))
	for i, l := range d.Listeners {
		addrs[i] = l.Addr()
	}
	return addrs
}

// Close closes the listeners; connections stay. More calls, and listeners closed already, do no harm.
func (d *Door) Close() {
	for _, l := range d.Listeners {
		_ = l.Close() // a listening socket has nothing to lose
	}
}

// Conns is how many connections are open now.
func (d *Door) Conns() int { return max(len(d.places)-int(d.withheld.Load()), 0) }

// MaxConns is the bound on Conns.
func (d *Door) MaxConns() int {
	return cap(d.places) - int(d.withheld.Load()) - int(d.owed.Load())
}

// SetMaxConns changes the bound, between 1 and Config.MaxConns. Connections that are open stay.
func (d *Door) SetMaxConns(n int) {
	d.limiting.Lock()
	defer d.limiting.Unlock()
	want := int64(cap(d.places) - min(max(n, 1), cap(d.places)))
	for d.withheld.Load()+d.owed.Load() < want {
		select {
		case d.places <- struct{}{}:
			d.withheld.Add(1)
		default:
			d.owed.Add(1)
		}
	}
	for d.withheld.Load()+d.owed.Load() > want {
		if !takeOne(&d.owed) {
			d.withheld.Add(-1)
			<-d.places
		}
	}
}

// takeOne takes one off n, if there is one.
func takeOne(n *atomic.Int64) bool {
	for old := n.Load(); old > 0; old = n.Load() {
		if n.CompareAndSwap(old, old-1) {
			return true
		}
	}
	return false
}

// WriteMetrics writes the door's metrics in Prometheus text format.
func (d *Door) WriteMetrics(w io.Writer) { d.set.WritePrometheus(w) }

func (d *Door) register() {
	d.set = metrics.NewSet()
	name := func(name string, labels ...string) string {
		labels = append([]string{fmt.Sprintf("endpoint=%q", d.cfg.Endpoint)}, labels...)
		return name + "{" + strings.Join(labels, ",") + "}"
	}
	d.set.NewGauge(name("spillway_conns"), func() float64 { return float64(d.Conns()) })
	d.set.NewGauge(name("spillway_conns_max"), func() float64 { return float64(d.MaxConns()) })
	d.set.NewGauge(name("spillway_conns_peak"), func() float64 { return float64(d.peak.Load()) })
	d.full = d.set.NewCounter(name("spillway_conns_full_total"))
	d.acceptErrors = d.set.NewCounter(name("spillway_accept_errors_total"))
	if d.cfg.Gate != nil {
		d.unwelcome = d.set.NewCounter(name("spillway_conns_reset_total"))
		d.held = d.set.NewCounter(name("spillway_conns_held_total"))
	}
	if d.cfg.ProxyProtocol {
		for r := range d.proxyResults {
			d.proxyResults[r] = d.set.NewCounter(name("spillway_proxy_protocol_total", fmt.Sprintf("result=%q", proxyResult(r))))
		}
	}
	if d.cfg.Certs != nil {
		d.tlsErrors = d.set.NewCounter(name("spillway_tls_handshake_errors_total"))
	}
}

// enter takes a place, waiting while all are taken. It reports false if closed ends first.
func (d *Door) enter(closed <-chan struct{}) bool {
	select {
	case d.places <- struct{}{}:
	default:
		d.full.Inc()
		if d.fullLog.ok(time.Now()) {
			if d.cfg.FixedBound {
				d.log.Warn("all connections in use, new ones wait in the kernel's queue", "endpoint", d.cfg.Endpoint, "max", d.MaxConns())
			} else {
				d.log.Warn(d.cfg.Key+".max_conns reached, new connections wait in the kernel's queue; raise it or add a node", "max", d.MaxConns())
			}
		}
		select {
		case d.places <- struct{}{}:
		case <-closed:
			return false
		}
	}
	for n := int64(d.Conns()); ; {
		peak := d.peak.Load()
		if n <= peak || d.peak.CompareAndSwap(peak, n) {
			return true
		}
	}
}

func (d *Door) leave() {
	if takeOne(&d.owed) {
		d.withheld.Add(1)
		return
	}
	<-d.places
}

// sometimes lets an event be logged once in ten seconds.
type sometimes struct {
	next atomic.Int64 // nanoseconds of Unix time
}

func (s *sometimes) ok(now time.Time) bool {
	next := s.next.Load()
	return now.UnixNano() >= next && s.next.CompareAndSwap(next, now.Add(10*time.Second).UnixNano())
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// reservedFiles are kept for what is no public connection: the admin listener's 256, listeners, logs, snapshots.
const reservedFiles = 512

// FitMaxConns raises the soft limit of open files as far as maxConns needs it and the hard limit lets it, and returns how many
// connections fit, at most maxConns. It warns, naming key (as "http.max_conns"), if that is fewer: accept would fail with EMFILE,
// and so would the snapshot.
func FitMaxConns(maxConns int, key string, log *slog.Logger) int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		log.Warn("limit of open files unknown", "err", err)
		return maxConns
	}
	need := uint64(maxConns) + reservedFiles
	if limit.Cur < need && limit.Cur < limit.Max {
		raised := unix.Rlimit{Cur: min(need, limit.Max), Max: limit.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err == nil {
			limit = raised
		}
	}
	fits := fitConns(maxConns, limit.Cur)
	if fits < maxConns {
		log.Warn(key+" lowered to the limit of open files; raise LimitNOFILE (ulimit -n) or lower "+key,
			"wanted", maxConns, "fits", fits, "limit_nofile", limit.Cur, "needed", need)
	}
	return fits
}

// fitConns is how many connections files leaves room for. Under a tiny limit, connections and the rest share it.
func fitConns(maxConns int, files uint64) int {
	room := max(files/2, files-min(files, reservedFiles), 1)
	return int(min(uint64(maxConns), room))
}
