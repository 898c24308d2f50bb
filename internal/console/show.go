package console

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway/internal/admin"
)

// statusLines is what ctl status prints.
func statusLines(st *admin.Status, now time.Time, colour bool) []string {
	s := &screen{colour: colour}
	load := &st.Load
	s.row("spillway", func(l *line) {
		l.addf(plain, "%s, up %s since %s", st.Version, span(time.Duration(st.UptimeSeconds)*time.Second), clock(st.Started, now))
		l.addf(plain, ", listens on %s", strings.Join(st.Listen, " "))
	})
	s.row("state", func(l *line) {
		l.add(stateStyle(load.State), strings.ToUpper(load.State))
		l.add(plain, "  "+load.Why)
	})
	s.row("rates", func(l *line) {
		l.addf(plain, "offered %s/s, served %s/s, shed %s/s, over budget %s/s, refused %s/s",
			number(load.Offered), number(load.Served), number(load.Shed), number(load.OverBudget), number(load.Refused))
	})
	s.row("level", func(l *line) {
		l.addf(levelStyle(load.Level), "%s of what is offered is not served", percent(load.Level))
	})
	s.row("age", func(l *line) {
		l.addf(plain, "requests are %s ms old when they are read; capacity %s", number(load.AgeMS), capacityText(load.Capacity))
	})
	s.row("interval", func(l *line) { l.add(plain, intervalText(load)) })
	s.row("brownout", func(l *line) {
		if len(load.BrownoutSteps) == 0 {
			l.add(plain, "nothing is given up")
			return
		}
		l.addf(yellow, "step %d: %s", load.Brownout, strings.Join(load.BrownoutSteps, "; "))
	})
	for _, u := range usesOf(st) {
		s.row(u.name, u.add)
	}
	s.row("swarms", func(l *line) { addSwarms(l, st, now) })
	if st.Redis != nil {
		s.row("redis", func(l *line) { addRedis(l, st.Redis, now) })
	}
	if len(st.Nodes) > 0 {
		s.row("nodes", func(l *line) { addNodes(l, st.Nodes) })
	}
	if load.Parked > 0 || st.LogDropped > 0 {
		s.row("besides", func(l *line) {
			l.addf(plain, "%s refused clients wait for their answer, %s log lines were dropped", count(int64(load.Parked)), count(int64(st.LogDropped)))
		})
	}
	s.lines = append(s.lines, "")
	s.endpoints(st, now)
	return s.lines
}

func addSwarms(l *line, st *admin.Status, now time.Time) {
	l.addf(plain, "%s, with %s seeders and %s leechers", count(int64(st.Swarms)), count(int64(st.Seeders)), count(int64(st.Leechers)))
	if st.SnapshotAt != nil {
		l.addf(plain, "; saved %s ago", span(now.Sub(*st.SnapshotAt)))
	} else {
		l.add(plain, "; not saved since the start")
	}
}

func addRedis(l *line, r *admin.Redis, now time.Time) {
	if r.Degraded == 0 {
		l.add(plain, "answers; these are the peers of this node, replies have those of all")
		return
	}
	l.addf(red, "does not answer for %s of the swarms", percent(r.Degraded))
	if r.Since != nil {
		l.addf(plain, ", for %s", span(now.Sub(*r.Since)))
	}
	l.add(plain, ": "+r.Why)
}

// addNodes names the nodes that share swarms, as long as they fit.
func addNodes(l *line, nodes []admin.Node) {
	const most = 8
	for i, n := range nodes[:min(len(nodes), most)] {
		if i > 0 {
			l.add(plain, ", ")
		}
		l.add(plain, n.Name+" ")
		l.add(stateStyle(n.State), n.State)
		if n.Shed > 0 {
			l.addf(plain, " sheds %s", percent(n.Shed))
		}
		if n.Self {
			l.add(dim, " (this one)")
		}
	}
	if more := len(nodes) - most; more > 0 {
		l.addf(plain, " and %d more", more)
	}
}

func stateStyle(state string) style {
	switch state {
	case "calm":
		return green
	case "ramp":
		return yellow
	}
	return alarm
}

func levelStyle(level float64) style {
	switch {
	case level >= 0.05:
		return red
	case level > 0:
		return yellow
	}
	return plain
}

func capacityText(perSecond float64) string {
	if perSecond <= 0 {
		return "not known yet"
	}
	return number(perSecond) + "/s"
}

func intervalText(load *admin.Load) string {
	text := span(time.Duration(load.IntervalSeconds) * time.Second)
	return fmt.Sprintf("%s is what clients are told, +-%s", strings.TrimSuffix(text, " 0s"), percent(load.Jitter))
}

// use is something there is a bound on.
type use struct {
	name      string
	used, max int64
	text      func(int64) string
}

func usesOf(st *admin.Status) []use {
	return []use{
		{"connections", int64(st.Conns), int64(st.ConnsMax), count},
		{"websockets", int64(st.WebSockets), int64(st.WebSocketsMax), count},
		{"memory", st.Load.MemoryBytes, st.Load.MemoryMaxBytes, bytesText},
		{"store", st.StoreBytes, st.StoreBytesMax, bytesText},
	}
}

// add adds "1,204/20,000 6 %".
func (u use) add(l *line) {
	if u.max <= 0 {
		l.add(plain, u.text(u.used))
		return
	}
	share, s := float64(u.used)/float64(u.max), plain
	switch {
	case share >= 0.9:
		s = alarm
	case share >= 0.75:
		s = yellow
	}
	l.addf(plain, "%s/%s ", u.text(u.used), u.text(u.max))
	l.add(s, percent(share))
}

// endpoints adds the table of endpoints: rates, and the switch of each. What is not counted has no rates.
func (s *screen) endpoints(st *admin.Status, now time.Time) {
	const name, rate = 10, 9
	s.line(func(l *line) {
		l.add(dim, left("per second", name))
		for _, column := range []string{"offered", "served", "shed", "over", "refused"} {
			l.add(dim, right(column, rate))
		}
		l.add(dim, "  switch")
	})
	for i := range st.Switches {
		sw := &st.Switches[i]
		s.line(func(l *line) {
			l.add(plain, left(sw.Endpoint, name))
			at := slices.IndexFunc(st.Endpoints, func(e admin.EndpointLoad) bool { return e.Endpoint == sw.Endpoint })
			if at < 0 {
				l.add(dim, strings.Repeat(right("-", rate), 5))
			} else {
				e := &st.Endpoints[at]
				l.add(plain, right(number(e.Offered), rate)+right(number(e.Served), rate))
				for _, lost := range []float64{e.Shed, e.OverBudget, e.Refused} {
					style := plain
					if lost > 0 {
						style = yellow
					}
					l.add(style, right(number(lost), rate))
				}
			}
			l.add(plain, "  ")
			addSwitch(l, sw, now)
		})
	}
}

// addSwitch adds "off, 9m 58s left, flood, by api 127.0.0.1, until 03:14:05": what is cut first matters least.
func addSwitch(l *line, sw *admin.Switch, now time.Time) {
	if sw.Mode == "on" {
		l.add(green, "on")
		return
	}
	l.add(alarm, sw.Mode)
	if sw.Until != nil {
		l.addf(plain, ", %s left", span(sw.Until.Sub(now)))
	}
	if sw.Reason != "" {
		l.add(plain, ", "+sw.Reason)
	}
	if sw.By != "" {
		l.add(plain, ", by "+sw.By)
	}
	if sw.Until != nil {
		l.addf(plain, ", until %s", clock(*sw.Until, now))
	}
}

// switchText is what ctl ws prints.
func switchText(sw *admin.Switch, now time.Time) string {
	var l line
	l.add(plain, sw.Endpoint+" ")
	addSwitch(&l, sw, now)
	if sw.Since != nil && sw.Mode != "on" {
		l.addf(plain, ", since %s", clock(*sw.Since, now))
	}
	return l.String()
}

// turnedText confirms what was switched: "ws off for 10m0s (until 03:14:05), reason: flood".
func turnedText(sw *admin.Switch, asked time.Duration, now time.Time) string {
	var l line
	l.add(plain, sw.Endpoint+" "+sw.Mode)
	switch {
	case sw.Until != nil:
		l.addf(plain, " for %s (until %s)", asked, clock(*sw.Until, now))
	case sw.Mode != "on":
		l.add(plain, " until it is switched on again")
	}
	if sw.Reason != "" {
		l.add(plain, ", reason: "+sw.Reason)
	}
	return l.String()
}

// blockedText confirms a block.
func blockedText(b *admin.Block, now time.Time) string {
	var l line
	l.addf(plain, "%s %s is blocked %s", b.Kind, b.Value, untilText(b.Until, now))
	if b.Reason != "" {
		l.add(plain, ", reason: "+b.Reason)
	}
	return l.String()
}

func untilText(until *time.Time, now time.Time) string {
	if until == nil {
		return "until it is removed"
	}
	return fmt.Sprintf("until %s (%s left)", clock(*until, now), span(until.Sub(now)))
}

// blockLines is what ctl block prints.
func blockLines(b *admin.Blocks, now time.Time, colour bool) []string {
	s := &screen{colour: colour}
	if len(b.Blocks) == 0 {
		s.lines = append(s.lines, "nothing is blocked")
	}
	for i := range b.Blocks {
		if i == 0 {
			s.line(func(l *line) { l.add(dim, left("kind", 12)+right("hits", 12)+"  value") })
		}
		rule := &b.Blocks[i]
		s.line(func(l *line) {
			l.add(plain, left(rule.Kind, 12)+right(count(int64(min(rule.Hits, 1<<62))), 12)+"  ")
			l.add(bold, rule.Value)
			l.add(plain, "  "+untilText(rule.Until, now))
			if rule.Reason != "" {
				l.add(plain, ", "+rule.Reason)
			}
			if rule.By != "" {
				l.add(plain, ", by "+rule.By)
			}
		})
	}
	for i := range b.Proposed {
		if i == 0 {
			s.lines = append(s.lines, "")
			s.line(func(l *line) {
				l.add(bold, "proposed")
				if b.Auto {
					l.add(plain, ", and blocked by itself if it goes on")
				} else {
					l.add(plain, `; "spillway ctl block accept ID" makes it a block`)
				}
			})
			s.line(func(l *line) {
				l.add(dim, left("id", 8)+left("kind", 12)+right("share", 8)+right("usual", 8)+"  value")
			})
		}
		proposed := &b.Proposed[i]
		s.line(func(l *line) { addProposal(l, proposed) })
	}
	return s.lines
}

func addProposal(l *line, p *admin.Proposal) {
	l.add(plain, left(proposalID(p), 8)+left(p.Kind, 12)+right(percent(p.Share), 8)+right(percent(p.Usual), 8)+"  ")
	l.add(bold, p.Value)
	if p.Why != "" {
		l.add(plain, "  "+p.Why)
	}
}

// limitLines is what ctl limits prints.
func limitLines(limits []admin.Limit, colour bool) []string {
	s := &screen{colour: colour}
	s.line(func(l *line) { l.add(dim, left("name", 24)+right("value", 12)+right("min", 12)+right("max", 12)) })
	for _, limit := range limits {
		s.line(func(l *line) {
			l.add(plain, left(limit.Name, 24)+right(count(limit.Value), 12)+right(count(limit.Min), 12)+right(count(limit.Max), 12))
		})
	}
	return s.lines
}
