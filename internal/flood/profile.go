package flood

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Phase is a time during which the rate is constant.
type Phase struct {
	Duration time.Duration
	Multiple float64 // of Config.Rate
	Share    float64 // of attack requests; negative: Config.Share
}

// Profile is a flood's phases, one after the other.
type Profile []Phase

const maxPhases = 64

// ParseProfile reads phases as 10s@0.5,60s@10/0.95,30s@0.5: how long, how many times the rate, and the share of attack requests
// if it is not the usual one.
func ParseProfile(s string) (Profile, error) {
	var p Profile
	for part := range strings.SplitSeq(s, ",") {
		bad := func(why string) error {
			return fmt.Errorf("flood: profile %q: %q: %s; it looks like 10s@0.5,60s@10,30s@0.5 or 60s@10/0.95", s, part, why)
		}
		length, rest, ok := strings.Cut(strings.TrimSpace(part), "@")
		if !ok {
			return nil, bad("no @")
		}
		multiple, share, hasShare := strings.Cut(rest, "/")
		ph := Phase{Share: -1}
		var err error
		if ph.Duration, err = time.ParseDuration(length); err != nil {
			return nil, bad("not a time")
		}
		if ph.Multiple, err = strconv.ParseFloat(multiple, 64); err != nil {
			return nil, bad("not a multiple")
		}
		if hasShare {
			if ph.Share, err = strconv.ParseFloat(share, 64); err != nil || !(ph.Share >= 0 && ph.Share <= 1) {
				return nil, bad("a share is from 0 to 1")
			}
		}
		if p = append(p, ph); len(p) > maxPhases {
			return nil, fmt.Errorf("flood: profile has more than %d phases", maxPhases)
		}
	}
	if err := p.check(0); err != nil {
		return nil, err
	}
	return p, nil
}

func (p Profile) check(rate float64) error {
	if len(p) > maxPhases {
		return fmt.Errorf("flood: profile has more than %d phases", maxPhases)
	}
	var total time.Duration
	for _, ph := range p {
		switch total += ph.Duration; {
		case ph.Duration <= 0 || ph.Duration > maxDuration || total > maxDuration:
			return fmt.Errorf("flood: profile: %s: phases are longer than 0, and all of them within %s", ph.Duration, maxDuration)
		case math.IsNaN(ph.Multiple) || ph.Multiple < 0 || ph.Multiple > 1e6 || ph.Multiple*rate > maxRate:
			return fmt.Errorf("flood: profile: %g times the rate: must be 0 or more, and within %g requests a second", ph.Multiple, float64(maxRate))
		}
	}
	return nil
}

// Total is how long it takes.
func (p Profile) Total() (d time.Duration) {
	for _, ph := range p {
		d += ph.Duration
	}
	return d
}

func (p Profile) String() string {
	var parts []string
	for _, ph := range p {
		part := fmt.Sprintf("%s@%g", ph.Duration, ph.Multiple)
		if ph.Share >= 0 {
			part += fmt.Sprintf("/%g", ph.Share)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ",")
}

// peak is the highest rate.
func (p Profile) peak(rate float64) (most float64) {
	for _, ph := range p {
		most = max(most, ph.Multiple*rate)
	}
	return most
}

// schedule lists when one worker's requests are due. It knows nothing of what becomes of them: that is the whole point.
type schedule struct {
	spans []span
	at    int // span
	n     int // requests of it so far
	first float64
}

// span is a phase in nanoseconds since the start.
type span struct {
	from, to int64
	every    float64 // between two requests of this worker; infinite for none
}

// newSchedule is the part of worker of several, numbered from 0, who take turns.
func newSchedule(p Profile, rate float64, worker, of int) schedule {
	s := schedule{first: (float64(worker) + 0.5) / float64(of)}
	var at int64
	for _, ph := range p {
		every := math.Inf(1)
		if r := ph.Multiple * rate; r > 0 {
			every = 1e9 / r * float64(of)
		}
		s.spans = append(s.spans, span{at, at + int64(ph.Duration), every})
		at += int64(ph.Duration)
	}
	return s
}

// next is when the next request is due, and its phase; ok is false when there are no more.
func (s *schedule) next() (due int64, phase int, ok bool) {
	for s.at < len(s.spans) {
		sp := &s.spans[s.at]
		if d := (float64(s.n) + s.first) * sp.every; d < float64(sp.to-sp.from) {
			return sp.from + int64(d), s.at, true
		}
		s.at++
		s.n = 0
	}
	return 0, 0, false
}

// taken goes on to the one after.
func (s *schedule) taken() { s.n++ }

// end is when the last phase ends.
func (s *schedule) end() int64 { return s.spans[len(s.spans)-1].to }
