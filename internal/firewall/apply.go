package firewall

import (
	"maps"
	"net/netip"
	"time"
)

// apply drops each prefix of batch, all permitted, for its time. Times that are longer already stay. f.mu is held.
func (f *Firewall) apply(batch map[netip.Prefix]time.Duration, now time.Time) error {
	if f.closed {
		return ErrTakenOver
	}
	fresh, again, full := f.plan(batch, now)
	f.full.Add(full)
	err := f.install(fresh, again)
	if err == nil && full > 0 {
		return ErrFull
	}
	return err
}

// plan sorts a batch into what is new to the kernel, what gets a later end, and how many have no room.
func (f *Firewall) plan(batch map[netip.Prefix]time.Duration, now time.Time) (fresh, again []request, full int) {
	for p, d := range batch {
		d = min(max(d, minTime), maxTime)
		until, have := f.held[p]
		switch {
		case have && now.Add(d).After(until):
			again = append(again, request{p, d})
		case have:
		case len(f.held)+len(fresh) < f.max, f.sweep(now) && len(f.held)+len(fresh) < f.max:
			fresh = append(fresh, request{p, d})
		default:
			full++
		}
	}
	return fresh, again, full
}

// sweep forgets what the kernel has let through again. A sweep looks at each, so there is one a second at most; it tells whether
// it was time for one.
func (f *Firewall) sweep(now time.Time) bool {
	if now.Sub(f.swept) < time.Second {
		return false
	}
	f.swept = now
	maps.DeleteFunc(f.held, func(_ netip.Prefix, until time.Time) bool { return now.Sub(until) > keepFor })
	return true
}

// install has the kernel drop fresh and again. If our table is gone, as after nft flush ruleset, it is made once more.
func (f *Firewall) install(fresh, again []request) error {
	add := func() error { return f.table.add(fresh, again, f.hold) }
	err := add()
	if err == nil {
		return nil
	}
	f.errored.Inc()
	if f.restore(); f.closed {
		return ErrTakenOver
	}
	if err = add(); err != nil { // those that went in the first time go in again, which does no harm
		f.errored.Inc()
	}
	return err
}

// hold notes what the kernel has accepted.
func (f *Firewall) hold(rs []request) {
	now := time.Now()
	for _, r := range rs {
		f.held[r.prefix] = now.Add(r.d)
	}
}

// remove lets prefixes through that are held.
func (f *Firewall) remove(prefixes []netip.Prefix) error {
	if f.closed {
		return ErrTakenOver
	}
	err := f.table.remove(prefixes)
	if err != nil {
		f.errored.Inc()
		if f.restore(); f.closed {
			return ErrTakenOver
		}
		if err = f.table.remove(prefixes); err != nil {
			f.errored.Inc()
			return err
		}
	}
	for _, p := range prefixes {
		delete(f.held, p)
	}
	return nil
}

// check sees whether the table is still there and still ours, and forgets what has ended.
func (f *Firewall) check() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sweep(time.Now())
	f.restore()
}

// restore makes the table again if it is gone, with what it dropped, and gives up if another process has it.
func (f *Firewall) restore() {
	if f.closed {
		return
	}
	switch owner, err := f.table.owner(); {
	case err != nil:
		f.errored.Inc()
		f.log.Warn("firewall table not seen", "table", f.table.name(), "err", err)
	case owner == f.table.self:
	case owner != nobody:
		f.closed = true
		clear(f.held)
		f.log.Warn("firewall table taken over by another process; this one drops no more sources", "table", f.table.name())
	default:
		f.remade.Inc()
		f.newCounter()
		f.log.Warn("firewall table was removed by somebody, as by nft flush ruleset; it is made again", "table", f.table.name(), "sources", len(f.held))
		if err := f.table.install(false); err != nil {
			f.errored.Inc()
			f.log.Error("firewall table not made again", "table", f.table.name(), "err", err)
			return
		}
		var all []request
		now := time.Now()
		for p, until := range f.held {
			if left := until.Sub(now); left >= minTime {
				all = append(all, request{p, left})
			}
		}
		clear(f.held)
		if err := f.table.add(all, nil, f.hold); err != nil {
			f.errored.Inc()
			f.log.Error("sources not dropped again", "table", f.table.name(), "err", err)
		}
	}
}
