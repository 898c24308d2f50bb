// Package kernel has the kernel forward connections and refuse them: a Path of nf_tables and conntrack, which goes on when this
// process does not. A packet passes, in order (rules.go):
//
//	dead        while a backend is down, and only then: every packet, its flow known, its addresses not yet translated; what is of
//	            that backend's flows is refused
//	new         the first packet of a flow: hashed by its source to a slot, and so to a backend's chain; refused there if the backend
//	            is down, or if as many as its budget has wait for its first sign of life
//	own         a segment of no flow is refused
//	forwarded   a backend's first sign of life frees a place (signs); segments no larger than the tunnel takes (syn)
//	masquerade  where configured, the backend sees this machine's address
//
// What the relay says again each second ends by itself when it does not: a killed relay leaves forwarding, not refusing.
//
//	Open           takes over or makes the table (table.go, sets.go), in one transaction
//	Path.Apply     changes elements of sets; when the first backend goes down and the last comes back, a chain, too
//	Path.Cut       ends the flows of a backend that has died (cut.go)
//	Path.Close     leaves the table; Revert removes it
//
// Only the table is ours: no other is touched. That this machine forwards packets at all (ip_forward), and that no other table drops
// them, is the caller's to see to; Neighbours and RouteBack tell.
package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"spillway/relay"
)

// Errors a caller decides by.
var (
	// ErrUnavailable is in Open's and Revert's error on a machine without nf_tables, or without the right to it.
	ErrUnavailable = errors.New("nftables cannot be used")
	// ErrRunning is in Open's and Revert's error when another relay runs in this network namespace.
	ErrRunning = errors.New("another relay is running on this machine; stop it")
)

// Path is a relay.Path through the kernel.
type Path struct {
	cfg     Config
	log     *slog.Logger
	cutter  *cutter
	cutting sync.RWMutex // held for reading by Cut, so that Close does not close under it
	ports   portGauge

	mu      sync.Mutex // guards what follows, and is held over netlink: milliseconds
	socket  *socket
	lock    int
	closed  bool
	plan    relay.Plan // what the table has
	changes uint32     // of the tables of this namespace, when ours was known to be whole
	remade  uint64
	// The counters start anew with the table; these do not.
	earlier, counted map[string]uint64
	names            []counterNames // of each backend
	quiet            []quiet        // of each backend

	tracked tracked // of Counts, which one goroutine calls at a time
}

// counterNames are a backend's counters.
type counterNames struct {
	opened, down, budget, spoken string
}

// quiet is a backend's sets of waiting connections when they were last looked at. While nothing is opened none comes to wait.
type quiet struct {
	empty  bool
	opened uint64
}

// tracked is a look at conntrack.
type tracked struct {
	at            time.Time
	entries, most int
	insertFailed  uint64
	portsUsed     float64
	err           error
}

// trackedEvery is how old a look at conntrack may be.
const trackedEvery = time.Second

var _ relay.Path = (*Path)(nil)

// Available tells why the kernel could not forward as cfg says: for want of a right, of nf_tables, or because cfg asks for what it
// cannot do, such as a backend on this machine. It changes nothing.
func Available(cfg Config) error {
	if _, err := cfg.check(); err != nil {
		return err
	}
	s, err := dial()
	if err != nil {
		return unavailable(err)
	}
	if _, _, err = owner(s); err != nil {
		err = unavailable(err)
	}
	return errors.Join(err, s.close())
}

// Open makes the table, or takes it over from an earlier relay, so that neither forwarding is interrupted nor the refusal of a
// backend that is down (take.go). Until the first Apply sources go where they went, or are spread by weight. If Open fails nothing is
// changed. The caller calls Close.
func Open(cfg Config, log *slog.Logger) (*Path, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Path{cfg: cfg, log: log, lock: -1, earlier: map[string]uint64{}, counted: map[string]uint64{}, quiet: make([]quiet, len(cfg.Backends))}
	for i := range cfg.Backends {
		p.names = append(p.names, counterNames{chainOf("opened", i), chainOf("down", i), chainOf("budget", i), chainOf("spoken", i)})
	}
	if err := p.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("table inet %s: %w", TableName, err), p.release())
	}
	for _, b := range cfg.Backends {
		if f := familyOf(b.Addr.Addr()); !slices.Contains(cfg.families(), f) {
			log.Warn("backend is sent nothing: relay.listen has no address of its family; add one, or give the port alone", "backend", b.Addr)
		}
	}
	return p, nil
}

func (p *Path) open() (err error) {
	if p.socket, err = dial(); err != nil {
		return unavailable(err)
	}
	if p.lock, err = lock(); err != nil {
		return err
	}
	exists, ours, err := owner(p.socket)
	if err != nil {
		return unavailable(err)
	}
	if exists && !ours {
		return errForeign
	}
	if p.cutter, err = newCutter(p.log); err != nil {
		return unavailable(err)
	}
	if exists {
		if adopted, err := p.adopt(); adopted || err != nil {
			return err
		}
	}
	left := p.cfg.downBefore(p.socket, exists)
	p.plan = p.cfg.first(left)
	if err := p.commit(p.cfg.install(&p.plan, left, exists)); err != nil {
		return unavailable(err)
	}
	return nil
}

// unavailable says what a machine lacks.
func unavailable(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %w; give the program CAP_NET_ADMIN and CAP_NET_RAW", ErrUnavailable, err)
	case errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: %w; allow it AF_NETLINK", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w; is nf_tables in the kernel, with nft_fib_inet, nft_reject_inet, nft_nat, nft_masq and nft_hash?", ErrUnavailable, err)
}

// checkPlan refuses a plan that is not for these backends: a bug of the caller's.
func (cfg Config) checkPlan(p *relay.Plan) error {
	if n := len(cfg.Backends); len(p.Down) != n || len(p.Open) != n {
		return fmt.Errorf("plan: %d backends down or not, %d open; there are %d", len(p.Down), len(p.Open), n)
	}
	for i, open := range p.Open {
		if open < 1 || open > relay.Bands {
			return fmt.Errorf("plan: backend %d: %d bands open; 1 to %d", i, open, relay.Bands)
		}
	}
	for _, f := range []*family{&ipv4, &ipv6} {
		for s, i := range f.slots(p) {
			if i != relay.Nobody && (i < 0 || int(i) >= len(cfg.Backends) || familyOf(cfg.Backends[i].Addr.Addr()) != f) {
				return fmt.Errorf("plan: slot %d of IPv%s: backend %d is not of that family, or not there", s, f.name, i)
			}
		}
	}
	return nil
}

// Apply changes what differs from the last plan, and tells the kernel again what it would forget. If somebody has removed the table,
// as nft flush ruleset does, it is made again.
func (p *Path) Apply(plan relay.Plan) error {
	if err := p.cfg.checkPlan(&plan); err != nil {
		return fmt.Errorf("relay: kernel: %w", err)
	}
	plan.Down, plan.Open = slices.Clone(plan.Down), slices.Clone(plan.Open)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("relay: kernel: the path is closed")
	}
	whole, err := p.isWhole()
	if err == nil && whole {
		b := &batch{}
		p.cfg.fill(b, &plan, &p.plan)
		p.cfg.refresh(b, &plan, &p.plan, nil)
		p.cfg.watch(b, &plan, &p.plan)
		if err = p.commit(b); errors.Is(err, unix.ENOENT) {
			whole, err = false, nil // it went between the look and now
		}
	}
	if err == nil && !whole {
		err = p.remake(&plan)
	}
	if err != nil {
		return fmt.Errorf("relay: kernel: table inet %s: %w", TableName, err)
	}
	p.plan = plan
	return nil
}

// isWhole looks at the table only if the tables have been changed by somebody else.
func (p *Path) isWhole() (bool, error) {
	now, err := generation(p.socket)
	if err != nil || now == p.changes {
		return err == nil, err
	}
	whole, err := p.cfg.whole(p.socket, &p.plan)
	if whole {
		p.changes = now
	}
	return whole, err
}

func (p *Path) remake(plan *relay.Plan) error {
	exists, ours, err := owner(p.socket)
	if err != nil {
		return err
	}
	if exists && !ours {
		if theirs, err := hasRules(p.socket); err != nil {
			return err
		} else if theirs {
			return errForeign
		}
	}
	for name, n := range p.counted {
		p.earlier[name] += n
	}
	clear(p.counted)
	p.remade++
	p.log.Warn("relay's table was removed or changed by somebody, as by nft flush ruleset; it is made again", "table", TableName, "times", p.remade)
	return p.commit(p.cfg.install(plan, nil, exists))
}

// commit is a change of ours, which isWhole need not look at.
func (p *Path) commit(b *batch) error {
	if len(b.msgs) == 0 {
		return nil
	}
	if err := p.socket.commit(b); err != nil {
		return err
	}
	p.changes++
	return nil
}

// Cut ends the flows to a backend; see relay.Path.
func (p *Path) Cut(backend int, cancelled <-chan struct{}) (flows int, err error) {
	if backend < 0 || backend >= len(p.cfg.Backends) {
		return 0, fmt.Errorf("relay: kernel: cut: backend %d of %d", backend, len(p.cfg.Backends))
	}
	p.cutting.RLock()
	defer p.cutting.RUnlock()
	if p.cutter == nil {
		return 0, errors.New("relay: kernel: the path is closed")
	}
	return p.cutter.cut(p.cfg.Backends[backend].Addr, cancelled)
}

// Counts reads the counters, and looks at who waits, once a second at conntrack as well. What cannot be had is zero, and in the error.
func (p *Path) Counts() (relay.Counts, error) {
	c, errs := p.tableCounts()
	if time.Since(p.tracked.at) >= trackedEvery {
		p.tracked = p.track()
	}
	t := &p.tracked
	c.Conntrack, c.ConntrackMax, c.InsertFailed, c.PortsUsed = t.entries, t.most, t.insertFailed, t.portsUsed
	errs = append(errs, t.err)
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("relay: kernel: counts: %w", err)
	}
	return c, nil
}

// track looks at conntrack.
func (p *Path) track() tracked {
	t := tracked{at: time.Now()}
	t.entries, t.most, t.insertFailed, t.err = conntrackCounts()
	if t.err != nil || !p.cfg.Masquerade {
		return t
	}
	addrs := make([]netip.AddrPort, len(p.cfg.Backends))
	for i, b := range p.cfg.Backends {
		addrs[i] = b.Addr
	}
	t.portsUsed, t.err = p.ports.used(addrs, t.entries)
	return t
}

// tableCounts are those of our table.
func (p *Path) tableCounts() (c relay.Counts, errs []error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Backends = make([]relay.BackendCounts, len(p.cfg.Backends))
	if p.closed {
		return c, []error{errors.New("the path is closed")}
	}
	errs = append(errs, p.readCounters())
	total := func(name string) uint64 { return p.earlier[name] + p.counted[name] }
	c.NoFlow, c.Source = total("no_flow"), total("source")
	for i := range c.Backends {
		b := &c.Backends[i]
		n, q := &p.names[i], &p.quiet[i]
		b.Opened, b.Down, b.Budget, b.Spoken = total(n.opened), total(n.down), total(n.budget), total(n.spoken)
		if q.empty && q.opened == b.Opened {
			continue
		}
		var err error
		b.Unanswered, err = p.unanswered(i)
		*q = quiet{empty: err == nil && b.Unanswered == 0, opened: b.Opened}
		errs = append(errs, err)
	}
	return c, errs
}

// readCounters asks for all at once. One that has gone back was reset by somebody, or its table made again.
func (p *Path) readCounters() error {
	attrs := append32(appendText(nil, unix.NFTA_OBJ_TABLE, TableName), unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	_, err := p.socket.ask(unix.NFT_MSG_GETOBJ, unix.NLM_F_DUMP, attrs, func(attrs []byte) {
		if text(attribute(attrs, unix.NFTA_OBJ_TABLE)) != TableName {
			return
		}
		name, now := text(attribute(attrs, unix.NFTA_OBJ_NAME)), uint64Of(attribute(attrs, unix.NFTA_OBJ_DATA, unix.NFTA_COUNTER_PACKETS))
		if now < p.counted[name] {
			p.earlier[name] += p.counted[name]
		}
		p.counted[name] = now
	})
	return err
}

// unanswered counts the connections that wait for a backend.
func (p *Path) unanswered(backend int) (n int, err error) {
	if !slices.Contains(p.cfg.families(), familyOf(p.cfg.Backends[backend].Addr.Addr())) {
		return 0, nil
	}
	for k := range relay.Bands {
		_, err := p.socket.ask(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, setAttrs(waitingSet(backend, k)), func(attrs []byte) {
			for _, left := range elementsOf(attrs) {
				if left > 2*answered {
					n++
				}
			}
		})
		if errors.Is(err, unix.ENOENT) {
			return 0, nil // the next Apply makes the table again
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Close leaves the table: forwarding goes on. It waits for Cut.
func (p *Path) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	return p.release()
}

func (p *Path) release() error {
	p.closed = true
	p.cutting.Lock()
	defer p.cutting.Unlock()
	var errs []error
	if p.cutter != nil {
		errs = append(errs, p.cutter.close())
		p.cutter = nil
	}
	if p.socket != nil {
		errs = append(errs, p.socket.close())
	}
	if p.lock >= 0 {
		errs = append(errs, unix.Close(p.lock))
	}
	return errors.Join(errs...)
}
