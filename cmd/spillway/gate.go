package main

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"spillway/internal/admin"
	"spillway/internal/config"
	"spillway/internal/datadir"
	"spillway/internal/firewall"
	"spillway/shedder"
)

// The shedder's files in the data directory.
const (
	switchesFile = "switches.json"
	rulesFile    = "rules.json"
	capacityFile = "capacity"
)

// switchFlags turn switches before the first packet, and beat what the last run has left.
type switchFlags struct {
	Announce string `placeholder:"MODE" group:"Switches at the start: on, reject-new, drain or off; kept from then on" help:"Announces over HTTP."`
	Scrape   string `placeholder:"MODE" group:"Switches at the start: on, reject-new, drain or off; kept from then on" help:"Scrapes over HTTP."`
	WS       string `name:"ws" placeholder:"MODE" group:"Switches at the start: on, reject-new, drain or off; kept from then on" help:"WebSockets."`
	UDP      string `name:"udp" placeholder:"MODE" group:"Switches at the start: on, reject-new, drain or off; kept from then on" help:"UDP."`
}

// modes are those given, by endpoint.
func (f switchFlags) modes() (map[shedder.Endpoint]shedder.Mode, error) {
	modes := make(map[shedder.Endpoint]shedder.Mode)
	for e, text := range [...]string{shedder.Announce: f.Announce, shedder.Scrape: f.Scrape, shedder.WS: f.WS, shedder.UDP: f.UDP} {
		if text == "" {
			continue
		}
		mode, err := shedder.ParseMode(text)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", shedder.Endpoint(e), err)
		}
		modes[shedder.Endpoint(e)] = mode
	}
	return modes, nil
}

// newGate opens switches and rules, and turns what flags say. It comes after the data directory is ours.
func (s *server) newGate(flags map[shedder.Endpoint]shedder.Mode) {
	file := func(name string) string { return filepath.Join(s.cfg.DataDir, name) }
	switches, problem := shedder.OpenSwitches(file(switchesFile))
	if problem != nil {
		s.log.Error("switches of the last run not read whole; see spillway ctl status", "err", problem)
	}
	rules, problem := shedder.OpenRules(file(rulesFile))
	if problem != nil {
		s.log.Error("rules of the last run not read whole; see spillway ctl block", "err", problem)
	}
	for e, mode := range flags {
		if _, err := switches.Force(e, mode, "flag"); err != nil {
			s.log.Error("switch turned by its flag, but not saved; free or repair the disk of data_dir", "endpoint", e.String(), "err", err)
		}
	}
	cfg := s.cfg.Shedder
	s.autoRules = cfg.AutoRules > 0
	memory := int64(cfg.MemoryMax)
	if memory == 0 {
		memory = shedder.MemoryLimit()
	}
	if memory > 0 && debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(memory) // so that garbage is collected before anybody is refused
	}
	budget := func(b config.Budget) shedder.Budget { return shedder.Budget{Rate: float64(b.Rate), Burst: b.Burst} }
	s.gate = shedder.New(shedder.Config{
		Disabled:    !cfg.Enabled,
		Target:      time.Duration(cfg.Target),
		PerSource:   budget(cfg.PerSource),
		PerPrefix:   budget(cfg.PerPrefix),
		MemoryMax:   memory,
		AutoRules:   time.Duration(cfg.AutoRules),
		Interval:    time.Duration(s.cfg.Tracker.Interval),
		MaxInterval: time.Duration(s.cfg.Tracker.MaxInterval),
		Capacity:    loadCapacity(file(capacityFile)),
		Cores:       min(runtime.NumCPU(), runtime.GOMAXPROCS(0)),
		Offender:    s.offender,
	}, switches, rules, time.Now())
	switches.OnChange(s.switched)
	rules.OnChange(func(r shedder.Rule, added bool) {
		s.log.Info("rule changed", "added", added, "kind", r.Kind.String(), "value", r.Value, "by", r.By, "reason", r.Reason, "until", whenOver(r.Until))
		if p, ok := s.kernelPrefix(r); ok && added {
			s.firewall.Queue(p, kernelTime(r))
		} else if ok {
			if err := s.firewall.Remove(p); err != nil {
				s.log.Warn("the kernel drops this source until its time is up", "source", p, "err", err)
			}
		}
	})
}

// kernelPrefix is what the kernel can drop for a rule. Behind a proxy that drops nobody: there the kernel sees the proxy's
// address only.
func (s *server) kernelPrefix(r shedder.Rule) (netip.Prefix, bool) {
	if s.firewall == nil || r.Kind != shedder.RuleSource {
		return netip.Prefix{}, false
	}
	if p, err := netip.ParsePrefix(r.Value); err == nil {
		return p, true
	}
	addr, err := netip.ParseAddr(r.Value)
	return netip.PrefixFrom(addr, addr.BitLen()), err == nil
}

// kernelTime is how long it drops it: as long as the rule is in force, a day at the most.
func kernelTime(r shedder.Rule) time.Duration {
	if r.Until.IsZero() {
		return 24 * time.Hour
	}
	return min(time.Until(r.Until), 24*time.Hour)
}

// dropRules has the kernel drop what all rules block: at the start, and each hour, for those without an end.
func (s *server) dropRules() {
	for _, r := range s.gate.Rules.List() {
		if p, ok := s.kernelPrefix(r); ok {
			s.firewall.Queue(p, kernelTime(r))
		}
	}
}

// switched is told of each change of a switch, also of those that go back by themselves.
func (s *server) switched(st shedder.SwitchState) {
	if !strings.HasPrefix(st.By, "api ") { // those are in the admin side's audit
		s.log.Info("switch turned", "endpoint", st.Endpoint.String(), "mode", st.Mode.String(), "by", st.By, "reason", st.Reason, "until", whenOver(st.Until))
	}
	if st.Endpoint == shedder.WS {
		s.ws.SetMode(s.gate.Switches.Mode(shedder.WS))
	}
}

func whenOver(t time.Time) string {
	if t.IsZero() {
		return "turned again"
	}
	return t.Format(time.RFC3339)
}

// offenderTime is how long the kernel drops a source far above its budget.
const offenderTime = 5 * time.Minute

// offender is told of such a source, on the path of a request.
func (s *server) offender(addr netip.Addr) {
	if s.firewall != nil {
		s.firewall.Queue(firewall.Source(addr), offenderTime)
	}
}

// openFirewall comes after the sockets are bound, whose ports it protects. A machine without the right goes on without.
func (s *server) openFirewall() {
	if !s.cfg.Shedder.Firewall {
		return
	}
	cfg := firewall.Config{Log: s.logs.Limited, Never: s.tracker.ProxyPrefixes()}
	for _, a := range s.door.Addrs() {
		if ap, err := netip.ParseAddrPort(a.String()); err == nil {
			cfg.Ports = append(cfg.Ports, ap.Port())
		}
	}
	if s.ws.door != nil {
		for _, a := range s.ws.door.Addrs() {
			if ap, err := netip.ParseAddrPort(a.String()); err == nil {
				cfg.Ports = append(cfg.Ports, ap.Port())
			}
		}
	}
	cfg.UDPPorts = s.udpPorts()
	fw, err := firewall.Open(cfg)
	if err != nil {
		s.log.Warn("shedder.firewall: the kernel will drop nobody, all else works; give the right, or set it to false", "err", err)
		return
	}
	s.firewall = fw
	s.log.Info("the kernel drops sources far above their budget in an overload", "table", "inet spillway")
}

// watchGate says in the log when the tracker begins and ends to refuse, keeps the capacity for the next start, and the last hour
// for the operator's page.
func (s *server) watchGate(ctx context.Context, dataDir string) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	file := filepath.Join(dataDir, capacityFile)
	state, saved := shedder.Calm, s.gate.CapacityNow()
	s.dropRules()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			s.saveCapacity(file, saved)
			return
		case <-second.C:
		}
		l := s.gate.Load()
		if l.State != state {
			s.logs.Limited.Warn("load: "+l.State.String(), "why", l.Why, "offered", math.Round(offered(&l)), "capacity", math.Round(l.Capacity))
			state = l.State
		}
		if n%int(admin.HistoryStep/time.Second) == 0 {
			s.history.Add(time.Now(), s.sample(&l))
		}
		if n%3600 == 0 {
			s.dropRules()
		}
		if n%60 == 0 {
			saved = s.saveCapacity(file, saved)
		}
	}
}

func offered(l *shedder.Load) (sum float64) {
	for _, r := range l.Rates {
		sum += r.Offered
	}
	return sum
}

func (s *server) sample(l *shedder.Load) admin.Sample {
	sample := admin.Sample{
		AgeMS:       float64(l.Age) / float64(time.Millisecond),
		Conns:       s.door.Conns(),
		WebSockets:  s.ws.Conns(),
		MemoryBytes: l.Memory,
	}
	for _, r := range l.Rates {
		sample.Offered += r.Offered
		sample.Served += r.Served
	}
	sample.Shed = sample.Offered - sample.Served
	return sample
}

// loadCapacity is 0 where nothing was kept, or nothing that makes sense.
func loadCapacity(file string) float64 {
	b, err := datadir.Read(file, 100)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
	if err != nil || !(n >= 0 && n < 1e9) {
		return 0
	}
	return n
}

// saveCapacity writes it if it has changed by a twentieth, and returns what is written now. To lose it costs a slow start.
func (s *server) saveCapacity(file string, saved float64) float64 {
	now := s.gate.CapacityNow()
	if math.Abs(now-saved) <= saved/20 {
		return saved
	}
	if err := datadir.Replace(file, fmt.Appendf(nil, "%.0f\n", now)); err != nil {
		s.logs.Limited.Warn("capacity not kept for the next start; free or repair the disk of data_dir", "err", err)
		return saved
	}
	return now
}
