package lab

// Meter reads how much the relay's core does, for who looks on. It counts what is foreign too: Samples tell the two apart.
type Meter struct {
	core int
	last coreClock
}

// NewMeter begins to count now.
func (l *Lab) NewMeter() *Meter {
	m := &Meter{core: l.Cores.Relay}
	m.last, _ = readCore(m.core)
	return m
}

// Relay is the share of the core that was used since the last call, 0 if the kernel does not say.
func (m *Meter) Relay() float64 {
	now, err := readCore(m.core)
	if err != nil {
		return 0
	}
	before := m.last
	m.last = now
	u := now.useSince(before, now.user-before.user)
	return u.Relay
}
