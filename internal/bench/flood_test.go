//go:build linux

package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/internal/flood"
)

// Floods take minutes each, so they run only when they are told where to put what they find:
//
//	go test -run='^$' -bench='^BenchmarkFlood$' -timeout=3h ./internal/bench -flood.out=/tmp/floods
//	go test -run='^$' -bench='^BenchmarkFlood$/^keepalive-2x-pool-2000$' ./internal/bench -flood.out=/tmp/floods -flood.rounds=1
var (
	floodOut      = flag.String("flood.out", "", "directory for floods' results: JSON of each run, SVG of each scenario, floods.md; empty: no floods")
	floodRounds   = flag.Int("flood.rounds", 3, "times each program is flooded; the median counts")
	floodLength   = flag.Duration("flood.length", 12*time.Second, "length of the flood itself, where a scenario has none of its own")
	floodPatience = flag.Duration("flood.patience", 50*time.Millisecond, "what a request waits for a connection of the pool")
	floodOn       = flag.String("flood.on", "--shedder.enabled=true", "flags of spillway with shedding")
	floodOff      = flag.String("flood.off", "--shedder.enabled=false", "flags of spillway without")
	floodSubjects = flag.String("flood.subjects", "on,off,opentracker", "which programs are flooded")
	floodSpinners = flag.Int("flood.spinners", -1, "programs that share the server's core; negative: as the scenario says")
)

// floodPeers are 200,000 clients, whose connections all come from proxies or each from itself.
const (
	floodPeers     = 200_000
	floodAttackers = 2000
	floodTorrents  = 1000

	// floodRest is between the search for the peak, which may look like an overload, and the flood: shedding ends within it.
	floodRest = 5 * time.Second

	// poolPeakConns have a server always busy, so that it has no more of a core that it shares than in the flood; and are few
	// enough for it to call it no overload.
	poolPeakConns = 600

	// clientTimeout is what the least patient client waits for an answer (libtorrent's receive timeout).
	clientTimeout = 10 * time.Second

	// closePeakConns keep a server busy while it has the core (closeLoad says why no more).
	closePeakConns = 120
)

// floodScenario is one way to be flooded.
type floodScenario struct {
	name    string
	config  flood.Config
	rate    float64 // requests a second of multiple 1; 0: the run's own peak
	profile string  // %s is -flood.length
	flags   []string
	// What opens a connection for each request cannot do so as fast as a server answers; beside spinners the server has its share
	// of the core and no more.
	spinners    int
	opentracker bool // it closes every connection, and knows no proxies
}

// floodedFlags are of a program that is flooded.
var floodedFlags = []string{"--admin.listen=", "--udp.listen=", "--http.max_conns=12000", "--ws.max_conns=6000", "--log.level=error"}

// behindProxy has spillway believe what the generator's connections say about where requests come from.
var behindProxy = []string{"--http.trusted_proxies=127.0.0.0/8"}

func floodScenarios() []floodScenario {
	// A generator that also has to count what it cannot send does not keep up with a server that has a core for itself.
	pool := func(multiple float64, conns, spinners int) floodScenario {
		return floodScenario{
			name: fmt.Sprintf("keepalive-%gx-pool-%d", multiple, conns), profile: fmt.Sprintf("3s@0.5,%%s@%g,5s@0.5", multiple), flags: behindProxy,
			config:   flood.Config{Mode: flood.KeepAlive, Conns: conns, PeakConns: poolPeakConns, Source: flood.SourceHeader, Timeout: clientTimeout},
			spinners: spinners,
		}
	}
	each := func(multiple float64, spinners int) floodScenario {
		return floodScenario{
			name: fmt.Sprintf("close-%gx", multiple), profile: fmt.Sprintf("3s@0.5,%%s@%g,5s@0.5", multiple), spinners: spinners, opentracker: true,
			config: flood.Config{Mode: flood.Close, Conns: 15_000, PeakConns: closePeakConns},
		}
	}
	// Honest clients ask at one rate throughout; the attackers' requests come on top.
	attack := func(name string, rate float64, c flood.Config) floodScenario {
		c.Attackers = floodAttackers
		s := floodScenario{name: name, rate: rate, profile: "3s@0.5/0,%s@10/0.95,5s@0.5/0", config: c}
		if rate > 0 {
			s.profile = "3s@1/0,%s@10/0.9,5s@1/0"
		}
		return s
	}
	header := flood.Config{Mode: flood.KeepAlive, Conns: 2000, PeakConns: poolPeakConns, Source: flood.SourceHeader, Timeout: clientTimeout}
	real := flood.Config{Mode: flood.Close, Conns: 15_000, PeakConns: closePeakConns}
	const reference = 2000 // requests a second of the reference deployment
	all := []floodScenario{
		pool(2, 2000, 1), pool(2, 10_000, 1), pool(5, 2000, 2), pool(5, 10_000, 2),
		each(1.5, 3), each(3, 5),
		attack("sources-10x-header", 0, header), attack("sources-10x-real", 0, real),
		attack("sources-20000-header", reference, header), attack("sources-20000-real", reference, real),
	}
	for i := range all {
		if s := &all[i]; s.config.Attackers > 0 {
			if s.config.Source == flood.SourceHeader {
				s.flags = behindProxy
			} else {
				s.opentracker = true
				if s.rate == 0 {
					s.spinners = 9 // a tenth of a core, which the generator can flood tenfold
				}
			}
		}
	}
	spread := pool(10, 2000, 3)
	spread.name, spread.profile = "spread-10x", "5s@0.5,20s@10,15s@0.5"
	return append(all, spread)
}

// BenchmarkFlood is what a tracker still serves when more is asked than it can, and how soon it is well again: for each scenario
// spillway with shedding, without, and opentracker where it can be compared, in turn. Each run begins with a server of its own,
// whose peak is found first; figures are ratios to that.
func BenchmarkFlood(b *testing.B) {
	if *floodOut == "" {
		b.Skip("floods take an hour; give -flood.out=DIR")
	}
	for _, s := range floodScenarios() {
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				s.run(b)
			}
		})
	}
}

func (s floodScenario) run(b *testing.B) {
	subjects := s.subjects(b)
	found := make([][]*flood.Result, len(subjects))
	for round := range *floodRounds {
		for i, subject := range subjects {
			r, text := s.flood(b, subject)
			name := fmt.Sprintf("%s-%s-%d", s.name, subject.name, round+1)
			writeFloodJSON(b, name+".json", r)
			writeFloodFile(b, name+".txt", text)
			fmt.Printf("\n%s\n%s", name, text)
			found[i] = append(found[i], r)
		}
	}
	var medians []*flood.Result
	for i, subject := range subjects {
		runs := found[i]
		slices.SortFunc(runs, func(x, y *flood.Result) int { return cmp.Compare(judge(x).good, judge(y).good) })
		r := runs[len(runs)/2]
		medians = append(medians, r)
		v := judge(r)
		b.ReportMetric(v.good, subject.name+"-good")
		b.ReportMetric(v.p99, subject.name+"-p99-ms")
		floodTable.add(floodRow{s.name, subject.name, judge(runs[0]).good, judge(runs[len(runs)-1]).good, v, r})
	}
	writeFloodFile(b, s.name+".svg", flood.SVG(medians...))
	writeFloodFile(b, "floods.md", floodTable.markdown())
	fmt.Printf("\n%s\n", floodTable.markdown()) // the testing package shortens what a benchmark logs
}

// floodSubject is a program to be flooded.
type floodSubject struct {
	name    string
	goodKey string
	start   func(tb testing.TB) server
}

func (s floodScenario) subjects(tb testing.TB) (all []floodSubject) {
	for _, name := range strings.Split(*floodSubjects, ",") {
		switch name {
		case "on", "off":
			flags := append(slices.Concat(floodedFlags, s.flags), strings.Fields(map[string]string{"on": *floodOn, "off": *floodOff}[name])...)
			all = append(all, floodSubject{name, "external ip", func(tb testing.TB) server { return startSpillway(tb, flags...) }})
		case "opentracker":
			if _, err := exec.LookPath("opentracker"); err != nil {
				tb.Log("opentracker is not installed: it is left out")
			} else if s.opentracker {
				all = append(all, floodSubject{name, "interval", func(tb testing.TB) server {
					s, _ := startOpentracker(tb, floodTorrents)
					return s
				}})
			}
		default:
			tb.Fatalf("-flood.subjects: %q: must be on, off or opentracker", name)
		}
	}
	return all
}

// flood starts a server, finds its peak, and floods it.
func (s floodScenario) flood(tb testing.TB, subject floodSubject) (r *flood.Result, text []byte) {
	tb.Helper()
	client, _ := cores(tb)
	server := subject.start(tb)
	defer server.stop()
	spinners := s.spinners
	if *floodSpinners >= 0 {
		spinners = *floodSpinners
	}
	for range spinners {
		defer start(tb, role(tb, "spin"))()
	}
	c := s.config
	c.Name, c.Target, c.GoodKey, c.Cores = s.name+", "+subject.name, server.addr, subject.goodKey, []int{client}
	c.Honest, c.Torrents, c.Patience = floodPeers, floodTorrents, *floodPatience
	if c.Patience == 0 {
		c.Patience = -1
	}
	profile := s.profile
	if strings.Contains(profile, "%s") {
		profile = fmt.Sprintf(profile, *floodLength)
	}
	var err error
	if c.Profile, err = flood.ParseProfile(profile); err != nil {
		tb.Fatal(err)
	}
	used := func(f func()) (share float64) {
		start := time.Now()
		before, _ := usage(tb, server)
		f()
		after, _ := usage(tb, server)
		return float64(after-before) / float64(time.Since(start))
	}
	var peak float64
	peakCPU := used(func() { peak, err = flood.FindPeak(context.Background(), c, 5*time.Second) })
	if err != nil {
		tb.Fatalf("%s: %v", c.Name, err)
	}
	time.Sleep(floodRest)
	if c.Rate = s.rate; c.Rate == 0 {
		c.Rate = peak
	}
	floodCPU := used(func() { r, err = flood.Run(context.Background(), c) })
	if err != nil {
		tb.Fatalf("%s: %v", c.Name, err)
	}
	r.Peak = peak
	var b bytes.Buffer
	fmt.Fprintf(&b, "the server used %.0f %% of its core, which it shares with %d, at the peak, and %.0f %% in the flood\n", 100*peakCPU, spinners, 100*floodCPU)
	if err := r.Print(&b); err != nil {
		tb.Fatal(err)
	}
	return r, b.Bytes()
}

func writeFloodJSON(tb testing.TB, name string, r *flood.Result) {
	tb.Helper()
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		tb.Fatal(err)
	}
	writeFloodFile(tb, name, append(b, '\n'))
}

func writeFloodFile(tb testing.TB, name string, b []byte) {
	tb.Helper()
	err := os.MkdirAll(*floodOut, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(*floodOut, name), b, 0o644)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// wsFloods are those that announces over HTTP are measured beside. Rates are what the generator can do beside the measuring thread
// on one core; a message of ws-offers or ws-slow is 10 to 20 KiB.
var wsFloods = []struct {
	mode    flood.Mode
	rate    float64
	sockets int
}{
	{flood.WSHandshake, 5000, 5000},
	{flood.WSMessage, 20_000, 5000},
	{flood.WSOffers, 2000, 1000},
	{flood.WSSlow, 2000, 1000},
}

// BenchmarkFloodWebSocket is what announces over HTTP at 2,000 a second lose while WebSockets are flooded, on a server with one core:
// good replies and p99, with the flood and without, in turn. The thread that measures goes before the one that floods.
func BenchmarkFloodWebSocket(b *testing.B) {
	if *floodOut == "" {
		b.Skip("give -flood.out=DIR")
	}
	table := fmt.Appendf(nil, "%s\n\n| flood | messages/s | program | HTTP: good, of that without | p99 ms | without | ratio |\n|---|---|---|---|---|---|---|\n", machine())
	for _, f := range wsFloods {
		b.Run(string(f.mode), func(b *testing.B) {
			for b.Loop() {
				for _, subject := range (floodScenario{flags: behindProxy}).subjects(b) {
					var quiet, flooded, floods []*flood.Result
					for round := range *floodRounds {
						q, h, w := floodBeside(b, subject, f.mode, f.rate, f.sockets)
						for name, r := range map[string]*flood.Result{"without": q, "with": h, "flood": w} {
							writeFloodJSON(b, fmt.Sprintf("%s-%s-%s-%d.json", f.mode, subject.name, name, round+1), r)
						}
						quiet, flooded, floods = append(quiet, q), append(flooded, h), append(floods, w)
					}
					byP99 := func(x, y *flood.Result) int { return cmp.Compare(x.Phases[0].Honest.P99, y.Phases[0].Honest.P99) }
					slices.SortFunc(quiet, byP99)
					slices.SortFunc(flooded, byP99)
					q, h := quiet[len(quiet)/2], flooded[len(flooded)/2]
					kept := float64(h.Phases[0].Honest.Good) / float64(q.Phases[0].Honest.Good)
					slower := h.Phases[0].Honest.P99 / q.Phases[0].Honest.P99
					b.ReportMetric(kept, subject.name+"-kept")
					b.ReportMetric(slower, subject.name+"-p99-ratio")
					sent := float64(floods[0].Phases[0].Attack.Sent) / floods[0].Phases[0].To
					table = fmt.Appendf(table, "| %s | %.0f | %s | %.3f | %.2f | %.2f | %.2f |\n", f.mode, sent, subject.name, kept, h.Phases[0].Honest.P99,
						q.Phases[0].Honest.P99, slower)
					writeFloodFile(b, fmt.Sprintf("%s-%s.svg", f.mode, subject.name), flood.SVG(q, h, floods[0]))
					writeFloodFile(b, "floods-ws.md", table)
					fmt.Printf("\n%s\n", table)
				}
			}
		})
	}
}

// floodBeside measures HTTP without the flood and with it, on one server.
func floodBeside(tb testing.TB, subject floodSubject, mode flood.Mode, rate float64, sockets int) (quiet, flooded, flooding *flood.Result) {
	tb.Helper()
	client, _ := cores(tb)
	server := subject.start(tb)
	defer server.stop()
	length := *floodLength
	http := flood.Config{
		Name: "HTTP, " + subject.name, Target: server.addr, Rate: 2000, Conns: 64, Source: flood.SourceHeader, Honest: floodPeers, Torrents: floodTorrents,
		GoodKey: subject.goodKey, Cores: []int{client}, First: os.Geteuid() == 0, Profile: flood.Profile{{Duration: length, Multiple: 1, Share: -1}},
	}
	ws := flood.Config{
		Name: string(mode), Target: server.addr, Mode: mode, Rate: rate, Conns: sockets, Source: flood.SourceHeader, Attackers: floodAttackers, Share: 1,
		Torrents: floodTorrents, Cores: []int{client}, Profile: flood.Profile{{Duration: length + 4*time.Second, Multiple: 1, Share: -1}},
	}
	run := func(c flood.Config) *flood.Result {
		r, err := flood.Run(context.Background(), c)
		if err != nil {
			tb.Errorf("%s: %v", c.Name, err)
		}
		return r
	}
	warm := http
	warm.Profile = flood.Profile{{Duration: 2 * time.Second, Multiple: 1, Share: -1}}
	run(warm)
	quiet = run(http)
	done := make(chan struct{})
	started := make(chan struct{}, 1)
	ws.Progress = func(flood.Progress) { // once a second, when the sockets are open
		select {
		case started <- struct{}{}:
		default:
		}
	}
	go func() {
		defer close(done)
		flooding = run(ws)
	}()
	select {
	case <-started:
	case <-done:
	}
	http.Name += " beside " + string(mode)
	flooded = run(http)
	<-done
	if quiet == nil || flooded == nil || flooding == nil {
		tb.FailNow()
	}
	fmt.Printf("%s, %s: quiet %s; flooded %s; sockets %+v\n", mode, subject.name, quiet.Phases[0].Honest, flooded.Phases[0].Honest, flooding.Sockets)
	for _, r := range []*flood.Result{quiet, flooded, flooding} {
		for _, w := range r.Warnings() {
			fmt.Printf("%s: %s\n", r.Name, w)
		}
	}
	return quiet, flooded, flooding
}
