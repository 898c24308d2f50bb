package shedder

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// openSwitches opens path and wants no problem.
func openSwitches(t testing.TB, path string) *Switches {
	t.Helper()
	s, problem := OpenSwitches(path)
	if problem != nil {
		t.Fatalf("open switches: %v", problem)
	}
	return s
}

func sameSwitch(a, b SwitchState) bool {
	return a.Endpoint == b.Endpoint && a.Mode == b.Mode && a.Reason == b.Reason && a.By == b.By && a.Until.Equal(b.Until) && a.Since.Equal(b.Since)
}

func TestEverySwitchTakesEveryMode(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "switches.json")
	s := openSwitches(t, path)
	for _, state := range s.All() {
		if state.Mode != On || !state.Since.IsZero() {
			t.Errorf("a new installation: got %+v, want it on and never turned", state)
		}
	}
	for e := range EndpointCount {
		for m := range modeCount {
			parsed, err := ParseMode(m.String())
			if parsed != m || err != nil {
				t.Errorf("mode %v does not read back: %v, %v", m, parsed, err)
			}
			state, err := s.Set(e, m, time.Hour, "flood", "api 127.0.0.1")
			if err != nil || s.Mode(e) != m || !sameSwitch(s.State(e), state) {
				t.Errorf("%v %v: got %v, %+v, %v", e, m, s.Mode(e), s.State(e), err)
			}
			if (m == On) != state.Until.IsZero() {
				t.Errorf("%v %v for an hour: ends %v; only on has no end", e, m, state.Until)
			}
			if again := openSwitches(t, path).State(e); !sameSwitch(again, state) {
				t.Errorf("%v %v after a restart: got %+v, want %+v", e, m, again, state)
			}
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: got mode %v, %v, want 0600", info.Mode(), err)
	}
	if _, err := os.Stat(path + ".tmp"); err == nil {
		t.Error("a temporary file was left behind")
	}
}

func TestOrdersThatMakeNoSense(t *testing.T) {
	t.Parallel()
	s := openSwitches(t, "")
	s.OnChange(func(state SwitchState) { t.Errorf("changed: %+v", state) })
	f := func(wantInError string, e Endpoint, m Mode, d time.Duration, reason, by string) {
		t.Helper()
		_, err := s.Set(e, m, d, reason, by)
		if err == nil || !strings.HasPrefix(err.Error(), wantInError) || errors.Is(err, ErrNotDurable) {
			t.Errorf("got %v, want an error that begins with %q", err, wantInError)
		}
	}
	f("endpoint", EndpointCount, Off, 0, "", "")
	f("mode", WS, modeCount, 0, "", "")
	f("for", WS, Off, time.Second-1, "", "")
	f("for", WS, Off, -time.Hour, "", "")
	f("for", WS, Off, MaxFor+1, "", "")
	f("reason", WS, Off, 0, strings.Repeat("x", 201), "")
	f("reason", WS, Off, 0, "two\nlines", "")
	f("reason", WS, Off, 0, "\x1b[31mred", "")
	f("reason", WS, Off, 0, "\xff", "")
	f("by", WS, Off, 0, "", strings.Repeat("x", 101))
	if s.Mode(WS) != On {
		t.Errorf("mode: got %v, want it unchanged", s.Mode(WS))
	}
}

func TestSwitchGoesBackByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "switches.json")
		s := openSwitches(t, path)
		var told []string
		s.OnChange(func(state SwitchState) { told = append(told, state.Endpoint.String()+" "+state.Mode.String()) })
		mustSet := func(e Endpoint, m Mode, d time.Duration) {
			t.Helper()
			if _, err := s.Set(e, m, d, "", "api"); err != nil {
				t.Fatal(err)
			}
		}
		mustSet(WS, Off, 10*time.Minute)
		mustSet(UDP, Drain, 20*time.Minute)
		mustSet(Scrape, Off, 0)
		time.Sleep(10*time.Minute - time.Nanosecond)
		if back := s.Expire(time.Now()); back != nil || s.Mode(WS) != Off {
			t.Errorf("too early: %+v", back)
		}
		time.Sleep(time.Nanosecond)
		back := s.Expire(time.Now())
		if len(back) != 1 || back[0].Endpoint != WS || back[0].Mode != On || back[0].By != "spillway" || s.Mode(WS) != On {
			t.Errorf("after ten minutes: got %+v, want ws on", back)
		}
		if s.Expire(time.Now()) != nil {
			t.Error("it went back twice")
		}
		time.Sleep(15 * time.Minute) // and nobody calls Expire: the process is down
		again := openSwitches(t, path)
		if again.Mode(UDP) != On || again.Mode(WS) != On || again.Mode(Scrape) != Off {
			t.Errorf("after a restart: %+v", again.All())
		}
		if want := "[ws off udp drain scrape off ws on]"; fmt.Sprint(told) != want {
			t.Errorf("told: got %v, want %v", told, want)
		}
	})
}

func TestTrip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "switches.json")
		s := openSwitches(t, path)
		want := func(when string, e Endpoint, mode Mode, by string) {
			t.Helper()
			if state := s.State(e); state.Mode != mode || state.By != by || s.Mode(e) != mode {
				t.Errorf("%s: got %+v, want %v by %q", when, state, mode, by)
			}
		}
		for e, m := range []Mode{On, RejectNew, Drain, Off} {
			if m != On {
				if _, err := s.Set(Endpoint(e), m, 0, "", "api"); err != nil {
					t.Fatal(err)
				}
			}
			s.Trip(Endpoint(e), time.Minute, "it\npanicked")
		}
		want("a trip of what is on", Announce, Off, "spillway")
		want("a trip loosens or hides nothing", Scrape, RejectNew, "api")
		want("a trip loosens or hides nothing", WS, Drain, "api")
		want("a trip loosens or hides nothing", UDP, Off, "api")
		if got := s.State(Announce).Reason; got != "it?panicked" {
			t.Errorf("reason: got %q", got)
		}
		if openSwitches(t, path).Mode(Announce) != On {
			t.Error("a trip was kept over a restart")
		}
		s.Trip(Announce, time.Second, "shorter")
		time.Sleep(time.Minute - time.Nanosecond)
		if s.Expire(time.Now()) != nil {
			t.Error("a second trip made the first shorter")
		}
		time.Sleep(time.Nanosecond)
		if back := s.Expire(time.Now()); len(back) != 1 || back[0].Mode != On || s.Mode(Announce) != On {
			t.Errorf("after a minute: got %+v", back)
		}
		s.Trip(Announce, time.Minute, "again")
		if _, err := s.Set(Announce, On, 0, "repaired", "api"); err != nil {
			t.Fatal(err)
		}
		want("the operator's word is the last", Announce, On, "api")
		s.Trip(Announce, time.Minute, "again")
		want("and is not taken back by another trip", Announce, On, "api")
		for _, m := range []Mode{Off, On} {
			if _, err := s.Set(Announce, m, 0, "", "api"); err != nil {
				t.Fatal(err)
			}
		}
		s.Trip(Announce, time.Minute, "again")
		want("what was turned off and on is as at first", Announce, Off, "spillway")
	})
}

// What the switches do is what four variables would do, and they do it again after a restart.
func TestSwitchesAgainstModel(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, strconv.Itoa(n))
		s, problem := OpenSwitches(path)
		if problem != nil {
			t.Fatal(problem)
		}
		var set, trip [EndpointCount]SwitchState // trip: Mode On is none
		var held [EndpointCount]bool             // on, and not to trip
		for e := range set {
			set[e].Endpoint = Endpoint(e)
		}
		var told []SwitchState
		hear := func(state SwitchState) { told = append(told, state) }
		s.OnChange(hear)
		inForce := func(e Endpoint) SwitchState {
			if trip[e].Mode != On {
				return trip[e]
			}
			return set[e]
		}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			e := Endpoint(rapid.IntRange(0, int(EndpointCount)-1).Draw(t, "endpoint"))
			m := Mode(rapid.IntRange(0, int(modeCount)-1).Draw(t, "mode"))
			d := rapid.SampledFrom([]time.Duration{0, time.Hour, 2 * time.Hour}).Draw(t, "for")
			told = nil
			want := 1 // changes
			switch rapid.SampledFrom([]string{"set", "set", "force", "trip", "expire", "restart"}).Draw(t, "do") {
			case "set":
				before := time.Now()
				state, err := s.Set(e, m, d, "why", "api")
				if err != nil || state.Mode != m || state.Reason != "why" || state.By != "api" {
					t.Fatalf("set: %+v, %v", state, err)
				}
				if m == On || d == 0 {
					if !state.Until.IsZero() {
						t.Fatalf("ends at %v, want never", state.Until)
					}
				} else if state.Until.Before(before.Add(d)) || state.Until.After(time.Now().Add(d)) {
					t.Fatalf("ends at %v, want %v after %v", state.Until, d, before)
				}
				held[e] = m == On && (held[e] || trip[e].Mode != On)
				set[e], trip[e] = state, SwitchState{}
			case "force":
				state, err := s.Force(e, m, "flag")
				if err != nil || state.Mode != m || !state.Until.IsZero() || state.By != "flag" {
					t.Fatalf("force: %+v, %v", state, err)
				}
				held[e] = m == On && (held[e] || trip[e].Mode != On)
				set[e], trip[e] = state, SwitchState{}
			case "trip":
				s.Trip(e, max(d, time.Minute), "panicked")
				if set[e].Mode == On && trip[e].Mode == On && !held[e] {
					trip[e] = s.State(e)
					if trip[e].Mode != Off || trip[e].By != "spillway" {
						t.Fatalf("trip: %+v", trip[e])
					}
				} else {
					trip[e].Until = s.trips[e].Until
					want = 0
				}
			case "expire":
				now := time.Now().Add(rapid.SampledFrom([]time.Duration{0, 90 * time.Minute, 3 * time.Hour}).Draw(t, "after"))
				want = 0
				for e := range set {
					switch {
					case trip[e].Mode != On && !trip[e].Until.After(now):
						trip[e] = SwitchState{}
						want++
					case !set[e].Until.IsZero() && !set[e].Until.After(now):
						set[e] = SwitchState{Endpoint: Endpoint(e), Reason: "its time was up", By: "spillway", Since: set[e].Until}
						want++
					}
				}
				if back := s.Expire(now); len(back) != want {
					t.Fatalf("expire: %d went back, want %d", len(back), want)
				}
			case "restart":
				if s, problem = OpenSwitches(path); problem != nil {
					t.Fatal(problem)
				}
				s.OnChange(hear)
				trip, held = [EndpointCount]SwitchState{}, [EndpointCount]bool{}
				want = 0
			}
			if len(told) != want {
				t.Fatalf("told of %d changes, want %d", len(told), want)
			}
			for _, state := range told {
				if !sameSwitch(state, inForce(state.Endpoint)) {
					t.Fatalf("told %+v, want %+v", state, inForce(state.Endpoint))
				}
			}
			reopened, problem := OpenSwitches(path)
			if problem != nil {
				t.Fatal(problem)
			}
			for e := range set {
				e := Endpoint(e)
				if got := s.State(e); !sameSwitch(got, inForce(e)) || s.Mode(e) != got.Mode {
					t.Fatalf("%v: got %+v, want %+v", e, got, inForce(e))
				}
				if got := reopened.State(e); !sameSwitch(got, set[e]) {
					t.Fatalf("%v after a restart: got %+v, want %+v", e, got, set[e])
				}
			}
		}
	})
}

// What was answered before kill -9 is there afterwards. The process that is killed is this test again.
func TestSwitchesOutliveKill(t *testing.T) {
	const child = "SHEDDER_TEST_SWITCHES"
	if path := os.Getenv(child); path != "" {
		s := openSwitches(t, path)
		n, _ := strconv.Atoi(s.State(WS).Reason)
		for {
			n++
			if _, err := s.Set(WS, Mode(n)%modeCount, 0, strconv.Itoa(n), "api"); err != nil {
				t.Fatal(err)
			}
			fmt.Println("set", n)
		}
	}
	t.Parallel()
	path := filepath.Join(t.TempDir(), "switches.json")
	last := 0
	for round := range 6 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSwitchesOutliveKill$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), child+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		killed := false
		for lines, seen := bufio.NewScanner(out), 0; lines.Scan(); {
			n, err := strconv.Atoi(strings.TrimPrefix(lines.Text(), "set "))
			if err != nil {
				continue // the test's own words
			}
			last = n // also what it says until it is dead
			if seen++; seen > 3+5*round && !killed {
				killed = true
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || !killed {
			t.Fatalf("round %d: it ended by itself: %v", round, err)
		}
		got, problem := OpenSwitches(path)
		state := got.State(WS)
		if n, err := strconv.Atoi(state.Reason); problem != nil || err != nil || n < last || state.Mode != Mode(n)%modeCount {
			t.Fatalf("round %d: got %+v, problem %v, want that of %d or later", round, state, problem, last)
		}
	}
}

func TestDamagedSwitches(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "switches.json")
	s := openSwitches(t, path)
	if _, err := s.Set(WS, Drain, 0, "flood", "api"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Set(Scrape, Off, time.Hour, "flood", "api"); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wantCopy := func(when string) {
		t.Helper()
		got, problem := OpenSwitches(path)
		if problem == nil || !strings.Contains(problem.Error(), path+".last was taken instead") {
			t.Errorf("%s: problem: got %v, want it to say that the copy was taken", when, problem)
		}
		for e := range EndpointCount {
			if !sameSwitch(got.State(e), s.State(e)) {
				t.Errorf("%s: %v: got %+v, want %+v", when, e, got.State(e), s.State(e))
			}
		}
	}
	wantSafe := func(when string) {
		t.Helper()
		got, problem := OpenSwitches(path)
		if problem == nil || !strings.Contains(problem.Error(), "ws is off until it is turned on") {
			t.Errorf("%s: problem: got %v, want it to say that ws is off", when, problem)
		}
		for e := range EndpointCount {
			want := On
			if e == WS {
				want = Off
			}
			if got.Mode(e) != want {
				t.Errorf("%s: %v: got %v, want %v", when, e, got.Mode(e), want)
			}
		}
		if got.State(WS).Reason == "" {
			t.Errorf("%s: no reason is given", when)
		}
	}
	for n := range len(whole) - 1 { // the last byte is only the end of the line
		write(path, whole[:n])
		wantCopy(fmt.Sprintf("cut to %d bytes", n))
	}
	for n := range len(whole) - 1 {
		write(path, whole[:n])
		write(path+".last", whole[:n])
		wantSafe(fmt.Sprintf("both cut to %d bytes", n))
	}
	write(path+".last", whole)
	write(path, make([]byte, len(whole)))
	wantCopy("zeros, as after a power cut")
	write(path, []byte(strings.Repeat(" ", 1<<17)+string(whole)))
	wantCopy("too long")
	write(path, []byte(strings.ReplaceAll(string(whole), `"drain"`, `"drane"`)))
	wantCopy("an unknown mode")
	write(path, []byte(`{"version": 1}`))
	wantCopy("no switches")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantCopy("gone")
	write(path+".last", []byte("{"))
	wantSafe("gone, and the copy damaged")
	write(path+".last", whole)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	wantCopy("a directory")
	if err := os.Remove(path + ".last"); err != nil {
		t.Fatal(err)
	}
	wantSafe("a directory and nothing")

	// And a switch turned mends the file.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(path, []byte("{"))
	broken, _ := OpenSwitches(path)
	if _, err := broken.Set(UDP, Off, 0, "", "api"); err != nil {
		t.Fatal(err)
	}
	mended := openSwitches(t, path)
	if mended.Mode(UDP) != Off || mended.Mode(WS) != Off || mended.Mode(Announce) != On {
		t.Errorf("mended: got %+v", mended.All())
	}
}

func TestSwitchesOfOtherLayouts(t *testing.T) {
	t.Parallel()
	f := func(content, wantProblem string, want [EndpointCount]Mode) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "switches.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		s, problem := OpenSwitches(path)
		if wantProblem == "" && problem != nil || wantProblem != "" && (problem == nil || !strings.Contains(problem.Error(), wantProblem)) {
			t.Errorf("%s: problem: got %v, want %q in it", content, problem, wantProblem)
		}
		for e := range EndpointCount {
			if s.Mode(e) != want[e] {
				t.Errorf("%s: %v: got %v, want %v", content, e, s.Mode(e), want[e])
			}
		}
	}
	f(`{"switches":{}}`, "", [...]Mode{On, On, On, On})
	f(`{"switches":{"ws":{"mode":"off"}}}`, "", [...]Mode{On, On, Off, On})
	f(`{"version":1,"switches":{"ws":{"mode":"off","colour":"red"},"quic":{"mode":"off"}},"extra":[]}`, `endpoint "quic"`, [...]Mode{On, On, Off, On})
	f(`{"version":2,"switches":{"ws":{"mode":"trickle"},"udp":{"mode":"drain"}}}`, "newer spillway", [...]Mode{On, On, Off, Drain})
	f(`{"version":2,"switches":{"ws":{"mode":"trickle"}}}`, `mode "trickle"`, [...]Mode{On, On, Off, On})
	f(`{"switches":{"udp":{"mode":"off","until":"9999-12-31T23:59:59-23:00"}}}`, "", [...]Mode{On, On, On, Off})
	f(`{"switches":{"udp":{"mode":"off","until":"2001-01-01T00:00:00Z"}}}`, "", [...]Mode{On, On, On, On})
}

// A disk that is full must not keep an endpoint on that has to be off.
func TestOffWithoutDisk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "switches.json")
		s := openSwitches(t, path)
		if err := os.Mkdir(path+".tmp", 0o700); err != nil { // nothing can be written, not even by root
			t.Fatal(err)
		}
		state, err := s.Set(WS, Off, 0, "flood", "api")
		if !errors.Is(err, ErrNotDurable) || state.Mode != Off || s.Mode(WS) != Off {
			t.Errorf("got %+v, %v, want it off and ErrNotDurable", state, err)
		}
		if openSwitches(t, path).Mode(WS) != On {
			t.Error("it is on disk after all")
		}
		time.Sleep(retrySave)
		s.Expire(time.Now()) // in vain
		if err := os.Remove(path + ".tmp"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retrySave - time.Nanosecond)
		s.Expire(time.Now())
		if openSwitches(t, path).Mode(WS) != On {
			t.Error("tried again too soon after a try in vain")
		}
		time.Sleep(time.Nanosecond)
		s.Expire(time.Now())
		if openSwitches(t, path).Mode(WS) != Off {
			t.Error("it was not saved when the disk took it again")
		}
	})
}

// One who is told of a change may ask for another, and order is kept.
func TestChangesAreToldInOrder(t *testing.T) {
	t.Parallel()
	s := openSwitches(t, "")
	var told []string
	s.OnChange(func(state SwitchState) {
		told = append(told, "a "+state.Mode.String())
		if state.Mode == Off {
			if _, err := s.Set(WS, Drain, 0, "", ""); err != nil {
				t.Error(err)
			}
		}
	})
	s.OnChange(func(state SwitchState) { told = append(told, "b "+state.Mode.String()) })
	if _, err := s.Set(WS, Off, 0, "", ""); err != nil {
		t.Fatal(err)
	}
	if want := "[a off b off a drain b drain]"; fmt.Sprint(told) != want {
		t.Errorf("told: got %v, want %v", told, want)
	}

	// A panic of one who is told is his: the next change is told all the same.
	panics := true
	s.OnChange(func(SwitchState) {
		if panics {
			panic("not ours")
		}
	})
	func() {
		defer func() { _ = recover() }()
		_, _ = s.Set(WS, RejectNew, 0, "", "")
	}()
	panics, told = false, nil
	if _, err := s.Set(WS, On, 0, "", ""); err != nil || fmt.Sprint(told) != "[a on b on]" {
		t.Errorf("after a panic: told %v, %v", told, err)
	}
}

func TestSwitchesTurnedByMany(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "switches.json")
	s := openSwitches(t, path)
	var last [EndpointCount]SwitchState // what was told last; the calls do not overlap
	s.OnChange(func(state SwitchState) { last[state.Endpoint] = state })
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 20 {
				e := Endpoint((w + i) % int(EndpointCount))
				if _, err := s.Set(e, Mode(i)%modeCount, 0, fmt.Sprint(w, i), "api"); err != nil {
					t.Error(err)
				}
				s.Trip(e, time.Minute, "panicked")
				s.Expire(time.Now().Add(time.Hour))
				_, _ = s.Mode(e), s.All()
			}
		})
	}
	wg.Wait()
	again := openSwitches(t, path)
	for e := range EndpointCount {
		if state := s.State(e); !sameSwitch(state, last[e]) || !sameSwitch(state, again.State(e)) || state.Mode != s.Mode(e) {
			t.Errorf("%v: in force %+v, told %+v, on disk %+v", e, state, last[e], again.State(e))
		}
	}
}

func FuzzParseSwitches(f *testing.F) {
	f.Add([]byte(`{"version":1,"switches":{"ws":{"mode":"off","until":"2026-01-02T15:04:05Z","reason":"flood","by":"api","since":null}}}`))
	f.Add([]byte(`{"version":9,"switches":{"ws":{"mode":"x","until":"0000-01-01T00:00:00+23:59"},"q":{}}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, content []byte) {
		s := openSwitches(t, "")
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		states, _, err := parseSwitches(content, s.set, now)
		if err != nil {
			return
		}
		s.set = states
		s.file.path = filepath.Join(t.TempDir(), "switches.json")
		if err := s.file.save(1, s.render); err != nil {
			t.Fatal(err)
		}
		written, err := os.ReadFile(s.file.path)
		if err != nil {
			t.Fatal(err)
		}
		again, notes, err := parseSwitches(written, s.set, now)
		if err != nil || notes != nil {
			t.Fatalf("what was written does not read back: %v, %v", err, notes)
		}
		for e := range again {
			if !sameSwitch(again[e], states[e]) {
				t.Errorf("got %+v, want %+v", again[e], states[e])
			}
			if err := checkOrder(0, again[e].Reason, again[e].By); err != nil {
				t.Errorf("out of bounds: %v", err)
			}
		}
	})
}

func BenchmarkSwitchMode(b *testing.B) {
	s := openSwitches(b, "")
	for b.Loop() {
		if s.Mode(WS) != On {
			b.Fatal("off")
		}
	}
}
