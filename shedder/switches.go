package shedder

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Mode is what a switch says.
type Mode uint8

// The modes (contract: switches).
const (
	On        Mode = iota
	RejectNew      // WebSockets that are open stay; announces are served but those of peers that start; scrapes: as Drain
	Drain          // open WebSockets are closed over a minute; HTTP and UDP requests are answered politely and not served
	Off
	modeCount
)

var modeNames = [modeCount]string{"on", "reject-new", "drain", "off"}

func (m Mode) String() string { return modeNames[m] }

// ParseMode reads a mode's name.
func ParseMode(s string) (Mode, error) {
	for m, name := range modeNames {
		if s == name {
			return Mode(m), nil
		}
	}
	return 0, fmt.Errorf("mode %q: must be on, reject-new, drain or off", s)
}

// SwitchState is one switch as it stands.
type SwitchState struct {
	Endpoint Endpoint
	Mode     Mode
	Until    time.Time // when it goes back to on by itself; zero: never
	Reason   string
	By       string    // who turned it: "api 127.0.0.1", "flag", "spillway" (itself)
	Since    time.Time // zero: never turned
}

// Switches hold what the operator has turned off, in memory for each request and on disk for the next start.
type Switches struct {
	modes [EndpointCount]atomic.Uint32 // in force: all that a request looks at

	file    stateFile
	changes changes[SwitchState]

	mu      sync.Mutex                 // guards what follows; never held while the disk is waited for
	set     [EndpointCount]SwitchState // the operator's
	trips   [EndpointCount]SwitchState // our own; Mode On: none
	held    [EndpointCount]bool        // on, by the operator's word over a trip: it does not trip
	version uint64                     // of set
}

// OpenSwitches reads path and always returns switches that work; problem is what the operator should know of it. Without a
// file all are on. A file that cannot be read is replaced by its copy, path + ".last"; when that is no good either, ws is
// off, because what is most often turned off by hand under attack must not come back by an accident, and the rest is on. The
// path "" keeps nothing.
func OpenSwitches(path string) (s *Switches, problem error) {
	s = &Switches{file: stateFile{path: path, maxBytes: 64 << 10}}
	now := time.Now()
	for e := range s.set {
		s.set[e].Endpoint, s.trips[e].Endpoint = Endpoint(e), Endpoint(e)
	}
	var notes []error
	lost, problem := s.file.load(func(content []byte) error {
		states, said, err := parseSwitches(content, s.set, now)
		if err == nil {
			s.set, notes = states, said
		}
		return err
	})
	if lost {
		s.set[WS] = SwitchState{
			Endpoint: WS, Mode: Off, By: bySpillway, Since: now.UTC(),
			Reason: "the file of the switches and its copy could not be read; turn it on again if it was on",
		}
		problem = fmt.Errorf("%w; ws is off until it is turned on, the others are on", problem)
	}
	for e := range s.set {
		s.modes[e].Store(uint32(s.set[e].Mode))
	}
	return s, errors.Join(append(notes, problem)...)
}

// bySpillway is who turned a switch that nobody turned.
const bySpillway = "spillway"

// OnChange has f called after each change, with what is then in force, outside locks and in order. It may run in another
// goroutine than the one that asked for the change, and shortly after that has its answer. Register before the first change.
func (s *Switches) OnChange(f func(SwitchState)) { s.changes.told = append(s.changes.told, f) }

// Mode is one atomic load.
func (s *Switches) Mode(e Endpoint) Mode { return Mode(s.modes[e].Load()) }

// State returns what is in force for e.
func (s *Switches) State(e Endpoint) SwitchState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inForce(e)
}

// All returns what is in force, in the order of the endpoints.
func (s *Switches) All() []SwitchState {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]SwitchState, EndpointCount)
	for e := range all {
		all[e] = s.inForce(Endpoint(e))
	}
	return all
}

// Ordered returns what the operator has set for e, whether or not a trip is over it.
func (s *Switches) Ordered(e Endpoint) SwitchState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set[e]
}

// inForce is called with mu held.
func (s *Switches) inForce(e Endpoint) SwitchState {
	if s.trips[e].Mode != On {
		return s.trips[e]
	}
	return s.set[e]
}

// Set turns a switch, for d or, if that is 0, for good. On has no end: d is then not looked at. It is in force at once and on
// disk when Set returns nil. An error that is ErrNotDurable comes with the new state, which is in force; any other error
// names the field that is wrong, and nothing has changed.
func (s *Switches) Set(e Endpoint, mode Mode, d time.Duration, reason, by string) (SwitchState, error) {
	if mode == On {
		d = 0
	}
	if e >= EndpointCount {
		return SwitchState{}, fmt.Errorf("endpoint %d: must be announce, scrape, ws or udp", uint8(e))
	}
	if mode >= modeCount {
		return SwitchState{}, fmt.Errorf("mode %d: must be on, reject-new, drain or off", uint8(mode))
	}
	if err := checkOrder(d, reason, by); err != nil {
		return SwitchState{}, err
	}
	now := time.Now().UTC()
	s.mu.Lock()
	s.held[e] = mode == On && (s.held[e] || s.trips[e].Mode != On)
	s.trips[e] = SwitchState{Endpoint: e}
	state := SwitchState{Endpoint: e, Mode: mode, Until: endOf(now, d), Reason: reason, By: by, Since: now}
	version := s.put(state)
	s.mu.Unlock()
	s.changes.tell()
	return state, s.file.save(version, s.render)
}

// Force is what a flag at the start does: for good, over what the file says, and kept as by Set.
func (s *Switches) Force(e Endpoint, mode Mode, by string) (SwitchState, error) {
	return s.Set(e, mode, 0, "", by)
}

// Trip turns e off for d because something is wrong with it, in memory only. It never loosens what the operator has set: if
// that is not On, nothing happens. Set ends it; else the operator's state is back when it is over. A second Trip can make it
// longer, not shorter. What the operator has turned on again while it was tripped does not trip any more, until it is turned off
// or the process starts anew.
func (s *Switches) Trip(e Endpoint, d time.Duration, reason string) {
	now := time.Now().UTC()
	until := endOf(now, min(max(d, MinFor), MaxFor))
	s.mu.Lock()
	trip := &s.trips[e]
	switch {
	case s.set[e].Mode != On, s.held[e]:
	case trip.Mode != On:
		if until.After(trip.Until) {
			trip.Until = until
		}
	default:
		*trip = SwitchState{Endpoint: e, Mode: Off, Until: until, Reason: cleanText(reason, MaxReasonBytes), By: bySpillway, Since: now}
		s.changed(e)
	}
	s.mu.Unlock()
	s.changes.tell()
}

// Tripped tells whether e is off by a Trip.
func (s *Switches) Tripped(e Endpoint) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trips[e].Mode != On
}

// mayTrip tells whether a Trip of e would turn it off.
func (s *Switches) mayTrip(e Endpoint) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set[e].Mode == On && s.trips[e].Mode == On && !s.held[e]
}

// Expire turns on what was off until now, and returns the new states. When there is any it waits for the disk, as it does
// every 10 seconds while a change could not be saved: call it where that holds up nothing.
func (s *Switches) Expire(now time.Time) []SwitchState {
	var back []SwitchState
	s.mu.Lock()
	save := s.file.retryDue(now)
	for e := range EndpointCount {
		switch trip, set := &s.trips[e], &s.set[e]; {
		case trip.Mode != On:
			if isDue(trip.Until, now) {
				*trip = SwitchState{Endpoint: e}
				s.changed(e)
				back = append(back, s.set[e])
			}
		case isDue(set.Until, now):
			s.put(backOn(*set))
			back = append(back, *set)
			save = true
		}
	}
	version := s.version
	s.mu.Unlock()
	s.changes.tell()
	if save {
		// Nothing is lost by an error: what is over is over for the next start too, and the next try is noted.
		_ = s.file.save(version, s.render)
	}
	return back
}

// backOn is the state after a switch went back by itself.
func backOn(s SwitchState) SwitchState {
	return SwitchState{Endpoint: s.Endpoint, By: bySpillway, Reason: "its time was up", Since: s.Until}
}

// put changes what the operator has set. It is called with mu held.
func (s *Switches) put(state SwitchState) (version uint64) {
	s.set[state.Endpoint] = state
	s.version++
	s.changed(state.Endpoint)
	return s.version
}

// changed puts in force what set and trips say. It is called with mu held.
func (s *Switches) changed(e Endpoint) {
	state := s.inForce(e)
	s.modes[e].Store(uint32(state.Mode))
	s.changes.push(state)
}

// switchesFile is the file: names, not numbers, for people read it.
type switchesFile struct {
	Version  int                    `json:"version"`
	Switches map[string]switchEntry `json:"switches"`
}

type switchEntry struct {
	Mode   string     `json:"mode"`
	Until  *time.Time `json:"until"`
	Reason string     `json:"reason"`
	By     string     `json:"by"`
	Since  *time.Time `json:"since"`
}

const switchesVersion = 1

func (s *Switches) render() (version uint64, file any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := make(map[string]switchEntry, EndpointCount)
	for _, state := range s.set {
		entries[state.Endpoint.String()] = switchEntry{
			Mode: state.Mode.String(), Until: timeOrNil(state.Until), Reason: state.Reason, By: state.By, Since: timeOrNil(state.Since),
		}
	}
	return s.version, switchesFile{Version: switchesVersion, Switches: entries}
}

// parseSwitches returns states as the file changes them. What it can do without, it notes and leaves out; a mode it does not
// know is damage, but in a newer program's file it is taken for off, the next best to what somebody wanted.
func parseSwitches(content []byte, states [EndpointCount]SwitchState, now time.Time) (_ [EndpointCount]SwitchState, notes []error, err error) {
	var file switchesFile
	if err := json.Unmarshal(content, &file); err != nil {
		return states, nil, err
	}
	if file.Switches == nil {
		return states, nil, errors.New("has no switches in it")
	}
	if file.Version > switchesVersion {
		notes = append(notes, fmt.Errorf("the switches were saved by a newer spillway (layout %d, this one knows %d); read as far as they are understood",
			file.Version, switchesVersion))
	}
	names := slices.Sorted(maps.Keys(file.Switches))
	for _, name := range names {
		entry := file.Switches[name]
		e, err := ParseEndpoint(name)
		if err != nil {
			if len(notes) < 5 { // the rest is of the same kind
				notes = append(notes, fmt.Errorf("a switch that does not exist was ignored: %w", err))
			}
			continue
		}
		mode, err := ParseMode(entry.Mode)
		if err != nil {
			if file.Version <= switchesVersion {
				return states, nil, fmt.Errorf("switch %s: %w", e, err)
			}
			mode = Off
			notes = append(notes, fmt.Errorf("switch %s: %w; it is off", e, err))
		}
		state := SwitchState{
			Endpoint: e, Mode: mode, Until: timeOrZero(entry.Until), Since: timeOrZero(entry.Since),
			Reason: cleanText(entry.Reason, MaxReasonBytes), By: cleanText(entry.By, maxByBytes),
		}
		if mode == On {
			state.Until = time.Time{}
		} else if isDue(state.Until, now) {
			state = backOn(state) // while nobody was here to see it
		}
		states[e] = state
	}
	return states, notes, nil
}
