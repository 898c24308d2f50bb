//go:build linux

package bench

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"spillway/internal/flood"
)

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
	server, stop := subject.start(tb)
	defer stop()
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
