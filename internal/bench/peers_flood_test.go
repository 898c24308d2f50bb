//go:build linux

package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"spillway/internal/flood"
)

// peerSpinners share the core of a tracker that is flooded: one generator cannot ask for ten times of what a core serves, but of a
// tenth of a core it can.
const peerSpinners = 9

// peersRest ends what shedding the search for the peak has begun.
const peersRest = 3 * time.Second

// flooder asks one server open loop.
type flooder interface {
	// peak is what is served a second, closed loop.
	peak(d time.Duration) (float64, error)
	run(rate float64, d time.Duration) (flooded, error)
}

// flooded is what became of requests that were due at fixed times.
type flooded struct {
	offered, good, behind int // good: served within 200 ms; behind: left late through the generator's own fault
	seconds               float64
	p99                   float64 // of those served, ms
}

// peersFlooded is each tracker's own peak, its p99 at half of it with the core to itself, and what it still serves in time when twice
// and ten times the peak are asked for, on a tenth of a core.
func peersFlooded(b *testing.B, over protocol, peers []peer) {
	figures := make([]floodFigures, len(peers))
	for round := range *peersFloods {
		for i, p := range peers {
			peersTable.say("%s: flood %d of %d, %s", over, round+1, *peersFloods, p.name)
			if err := figures[i].flood(b, over, p); err != nil { // the others are worth having
				b.Errorf("%s: %v", p.name, err)
			}
		}
	}
	for i, p := range peers {
		v := figures[i]
		if len(v.ten) == 0 {
			continue
		}
		r := peerFlood{
			Protocol: over, Peer: p.name, Rounds: len(v.ten), Peak: spreadOf(v.peak), HalfP99: spreadOf(v.calm), SmallPeak: spreadOf(v.small),
			Twice: spreadOf(v.twice), Ten: spreadOf(v.ten), Behind: spreadOf(v.behind).Median,
		}
		peersTable.addFlood(r)
		b.ReportMetric(r.Ten.Median, p.name+"/10x")
	}
}

// floodFigures are those of each flood of one tracker.
type floodFigures struct{ peak, calm, small, twice, ten, behind []float64 }

// flood starts p, and adds what becomes of it.
func (v *floodFigures) flood(b *testing.B, over protocol, p peer) error {
	b.Helper()
	s := p.start(b, over)
	defer s.stop()
	f := newFlooder(b, over, p, s)
	peak, err := f.peak(1500 * time.Millisecond)
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	half, err := f.run(peak/2, 2*time.Second)
	if err != nil {
		return err
	}
	for range peerSpinners {
		defer start(b, role(b, "spin"))()
	}
	small, err := f.peak(2 * time.Second)
	if err != nil {
		return fmt.Errorf("on a tenth of a core: %w", err)
	}
	var got [2]flooded
	for i, multiple := range []float64{2, 10} {
		time.Sleep(peersRest)
		if got[i], err = f.run(multiple*small, *peersFlood); err != nil {
			return err
		}
	}
	share := func(x flooded) float64 { return float64(x.good) / x.seconds / small }
	v.peak, v.calm, v.small = append(v.peak, peak), append(v.calm, half.p99), append(v.small, small)
	v.twice, v.ten = append(v.twice, share(got[0])), append(v.ten, share(got[1]))
	v.behind = append(v.behind, float64(got[1].behind)/float64(max(got[1].offered, 1)))
	return nil
}

func newFlooder(tb testing.TB, over protocol, p peer, s server) flooder {
	tb.Helper()
	client, _ := cores(tb)
	if over == overUDP {
		f, err := newUDPFlooder(s.addr, client)
		if err != nil {
			tb.Fatalf("%s: %v", p.name, err)
		}
		tb.Cleanup(f.close)
		return f
	}
	return httpFlooder{flood.Config{
		Name: p.name, Target: s.addr, Mode: flood.Close, GoodKey: p.goodKey, Conns: 12_000, PeakConns: closePeakConns, Cores: []int{client},
		Honest: floodPeers, Torrents: floodTorrents, Patience: 20 * time.Millisecond, Timeout: 5 * time.Second,
	}}
}

// httpFlooder opens a connection for each announce, from many addresses.
type httpFlooder struct{ config flood.Config }

func (f httpFlooder) peak(d time.Duration) (float64, error) {
	return flood.FindPeak(context.Background(), f.config, d)
}

func (f httpFlooder) run(rate float64, d time.Duration) (flooded, error) {
	c := f.config
	c.Rate, c.Profile = rate, flood.Profile{{Duration: d, Multiple: 1, Share: -1}}
	r, err := flood.Run(context.Background(), c)
	if err != nil {
		return flooded{}, err
	}
	side := r.Phases[0].Honest
	return flooded{offered: int(side.Offered), good: int(side.Good), behind: int(r.Behind), seconds: d.Seconds(), p99: side.ServedP99}, nil
}
