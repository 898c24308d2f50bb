// Package firewall has the kernel drop what certain sources send to our ports, before it costs us a socket. It is for machines
// whose sources are real: behind a proxy every address is the proxy's.
//
// A source passes, in order:
//
//	Firewall.Queue   from the path of a request; never waits
//	Firewall.Run     gathers, and hands over at most every 100 ms
//	Firewall.permit  what must never be dropped is not
//	Firewall.apply   what is dropped already, and what there is no room for
//	table.add        one transaction of nf_tables, by netlink; the nft program is not needed
//
// Everything in the kernel has a timeout, so that a killed process leaves nothing for good; the next one takes the rest over.
//
// A source must have proven its address, as whoever has opened a TCP connection has. Anybody can send a datagram in the name of
// somebody else, who would be dropped.
package firewall

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Errors a caller decides by.
var (
	// ErrUnavailable is in Open's error on a machine without nf_tables, or without the right to it.
	ErrUnavailable = errors.New("nftables cannot be used")
	// ErrNever is in Add's error for what must not be dropped.
	ErrNever = errors.New("must not be dropped")
	// ErrFull is in Add's error when Config.MaxElements are dropped already.
	ErrFull = errors.New("no room for another source")
	// ErrTakenOver is in Add's error after another process has opened the same table, and after Close.
	ErrTakenOver = errors.New("the table is not ours any more")
)

// A source is dropped for at least minTime, and for maxTime at most: the caller adds again what stays longer.
const (
	minTime = time.Second
	maxTime = 24 * time.Hour
)

const (
	defaultElements = 1 << 16 // of IPv4 hosts: some 8 MB here, and 7 in the kernel
	mostElements    = 1 << 20
	queueLen        = 4096
	batchLen        = 8192
	applyEvery      = 100 * time.Millisecond
	checkEvery      = 10 * time.Second
	// keepFor is how long a source is remembered after its end: the kernel frees it at its own pace, a second or so later.
	keepFor = 3 * time.Second
)

// Config says what to protect, and from whom never.
type Config struct {
	// Ports are the TCP ports we listen on, and UDPPorts the UDP ports. Nothing sent to others is touched. Together one at least.
	Ports, UDPPorts []uint16

	// Never are sources that are not dropped: trusted proxies, health checks. SetNever replaces them.
	Never []netip.Prefix

	// MaxElements bounds the sources dropped at once. Zero means 65,536; the most is 1,048,576.
	MaxElements int

	// TableName is the inet table's name. Empty means "spillway".
	TableName string

	// AllowLoopback lets 127.0.0.0/8, ::1 and whatever comes in on lo be dropped. For tests.
	AllowLoopback bool

	// Log gets what an operator should know. Nil means nobody does.
	Log *slog.Logger
}

// Firewall is our table in the kernel. Its methods are safe for concurrent use.
type Firewall struct {
	max      int
	loopback bool
	log      *slog.Logger
	queue    chan request

	mu     sync.Mutex // guards what follows, and is held over netlink: milliseconds
	table  *table
	held   map[netip.Prefix]time.Time // what the kernel drops, and until when
	swept  time.Time
	never  []netip.Prefix
	closed bool // or taken over
	// The counter starts anew with the table; these do not.
	earlier, counted traffic

	set                                                  *metrics.Set
	packets, bytes, queueDropped, full, refused, errored *metrics.Counter
	remade                                               *metrics.Counter
}

// traffic is what was dropped.
type traffic struct{ packets, bytes uint64 }

// request is a source to be dropped for a time.
type request struct {
	prefix netip.Prefix
	d      time.Duration
}

// Entry is a source the kernel drops.
type Entry struct {
	Prefix netip.Prefix
	Left   time.Duration
}

// Open makes the table, or takes over the one a killed process left, with the sources in it. A table of that name which is not
// of this program is left alone, and an error. The caller calls Close, and Run if it uses Queue.
func Open(cfg Config) (*Firewall, error) {
	if cfg.TableName == "" {
		cfg.TableName = "spillway"
	}
	if cfg.MaxElements == 0 {
		cfg.MaxElements = defaultElements
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Ports)+len(cfg.UDPPorts) == 0 {
		return nil, errors.New("firewall: no port to protect; give one")
	}
	if cfg.MaxElements < 1 || cfg.MaxElements > mostElements {
		return nil, fmt.Errorf("firewall: max elements: got %d; must be 1 to %d", cfg.MaxElements, mostElements)
	}
	f := &Firewall{
		max: cfg.MaxElements, loopback: cfg.AllowLoopback, log: cfg.Log, queue: make(chan request, queueLen),
		table: newTable(cfg), held: map[netip.Prefix]time.Time{}, never: canonicalAll(cfg.Never),
	}
	f.register()

	old, err := f.table.open()
	if err != nil {
		return nil, fmt.Errorf("firewall: table inet %s: %w", cfg.TableName, err)
	}
	left := map[netip.Prefix]time.Duration{}
	for _, e := range old {
		if p, err := f.permit(e.Prefix); err == nil {
			left[p] = e.Left
		}
	}
	if err := f.apply(left, time.Now()); err != nil {
		f.log.Warn("sources of an earlier process not all taken over", "table", cfg.TableName, "err", err)
	}
	return f, nil
}

// Source is what is to be dropped for an address: itself, or an IPv6 address's /64, all of which one host can have.
func Source(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // of the zero Addr: the zero Prefix, which Add refuses
	return p
}

// Add drops what comes from p for d, at least a second and at most 24 hours. If p is dropped already, the later end counts.
// An address inside a dropped prefix may be added and removed by itself.
func (f *Firewall) Add(p netip.Prefix, d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, err := f.permit(p)
	if err != nil {
		f.refused.Inc()
		return fmt.Errorf("firewall: add: %w", err)
	}
	if err := f.apply(map[netip.Prefix]time.Duration{p: d}, time.Now()); err != nil {
		return fmt.Errorf("firewall: add %v: %w", p, err)
	}
	return nil
}

// Remove lets what comes from p through again, unless another source that was added covers it. It is no error if p is not dropped.
func (f *Firewall) Remove(p netip.Prefix) error {
	p = canonical(p)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.held[p]; !ok {
		return nil
	}
	if err := f.remove([]netip.Prefix{p}); err != nil {
		return fmt.Errorf("firewall: remove %v: %w", p, err)
	}
	return nil
}

// SetNever replaces Config.Never, and lets through what is dropped against it.
func (f *Firewall) SetNever(never []netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.never = canonicalAll(never)
	var gone []netip.Prefix
	for p := range f.held {
		if _, err := f.permit(p); err != nil {
			gone = append(gone, p)
		}
	}
	if err := f.remove(gone); err != nil {
		return fmt.Errorf("firewall: let trusted sources through: %w", err)
	}
	return nil
}

// List asks the kernel what it drops, in order of prefix.
func (f *Firewall) List() ([]Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, fmt.Errorf("firewall: list: %w", ErrTakenOver)
	}
	list, err := f.table.list()
	if err != nil {
		return nil, fmt.Errorf("firewall: list: %w", err)
	}
	slices.SortFunc(list, func(a, b Entry) int { return a.Prefix.Compare(b.Prefix) })
	return list, nil
}

// Dropped is what was dropped since Open.
func (f *Firewall) Dropped() (packets, bytes uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		var now traffic
		if now, err = f.table.dropped(); err == nil {
			if now.packets < f.counted.packets {
				f.newCounter() // somebody reset it
			}
			f.counted = now
		}
	}
	return f.earlier.packets + f.counted.packets, f.earlier.bytes + f.counted.bytes, err
}

func (f *Firewall) newCounter() {
	f.earlier.packets += f.counted.packets
	f.earlier.bytes += f.counted.bytes
	f.counted = traffic{}
}

// Close removes the table, and with it all that was dropped. A table another process has taken over is left to it.
func (f *Firewall) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	clear(f.held)
	if err := f.table.close(); err != nil {
		return fmt.Errorf("firewall: close: %w", err)
	}
	return nil
}

// A wider prefix than these is a mistake: no registry has given one to anybody.
const (
	minBits4 = 8
	minBits6 = 16
)

var loopbacks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// permit returns p in its canonical form, or ErrNever if it must not be dropped: all of it, as the kernel has no exceptions.
// f.mu is held.
func (f *Firewall) permit(p netip.Prefix) (netip.Prefix, error) {
	p = canonical(p)
	switch {
	case !p.IsValid():
		return p, fmt.Errorf("%w: not an address or prefix", ErrNever)
	case p.Addr().Is4() && p.Bits() < minBits4, p.Addr().Is6() && p.Bits() < minBits6:
		return p, fmt.Errorf("%v %w: wider than /%d (IPv4) or /%d (IPv6)", p, ErrNever, minBits4, minBits6)
	}
	if !f.loopback {
		for _, l := range loopbacks {
			if p.Overlaps(l) {
				return p, fmt.Errorf("%v %w: loopback", p, ErrNever)
			}
		}
	}
	for _, n := range f.never {
		if p.Overlaps(n) {
			return p, fmt.Errorf("%v %w: %v is trusted", p, ErrNever, n)
		}
	}
	return p, nil
}

// canonical is p as the kernel sees packets: IPv4 as such, no bits beyond the prefix. An invalid p gives an invalid one.
func canonical(p netip.Prefix) netip.Prefix {
	if addr := p.Addr(); addr.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(addr.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func canonicalAll(ps []netip.Prefix) []netip.Prefix {
	all := make([]netip.Prefix, 0, len(ps))
	for _, p := range ps {
		if p = canonical(p); p.IsValid() {
			all = append(all, p)
		}
	}
	return all
}
