package relay

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A script has a word for each event: +3 probe 3 was answered, -3 it failed, ! the counts speak against the backend, . they do not
// any more. Events are 100 ms apart.
func TestRiseAndFall(t *testing.T) {
	t.Parallel()
	f := func(fall, rise int, script, want string) {
		t.Helper()
		now := time.Unix(1000, 0)
		h := newHealth(fall, rise, now)
		var got []string
		suspect := false
		for word := range strings.FieldsSeq(script) {
			now = now.Add(100 * time.Millisecond)
			e := event{at: now}
			switch word {
			case "!", ".":
				suspect = word == "!"
			default:
				n, err := strconv.Atoi(word)
				if err != nil {
					t.Fatal(err)
				}
				e.probe, e.ok = uint64(max(n, -n)), n > 0
			}
			e.suspect = suspect
			changed := h.step(e)
			if changed != (h.since == now) {
				t.Errorf("%s: at %s: changed %v, since %v", script, word, changed, h.since)
			}
			got = append(got, [...]string{"?", "u", "d"}[h.verdict])
		}
		if s := strings.Join(got, ""); s != want {
			t.Errorf("fall %d, rise %d, %s: got %s, want %s", fall, rise, script, s, want)
		}
	}
	f(2, 1, "+1 +2 -3 +4 -5 -6 +7 +8", "uuuuuddu") // two: it was up for a moment only
	f(2, 1, "-1 -2 -3 +4", "?ddu")
	f(1, 1, "-1 +2 -3", "dud")
	f(3, 2, "+1 +2 -3 -4 -5 +6 -7 +8 +9", "?uuudddd"+"d") // it was up for 300 ms: four in a row now
	f(3, 2, "+1 +2 -3 -4 -5 +6 +7 +8 +9", "?uuuddddu")

	// One lost packet is known after those started later were answered.
	f(2, 1, "+1 +3 +4 -2 +6 +7 -5", "uuuuuuu")
	f(1, 1, "+1 +3 -2", "uuu")
	// What hung before a backend came back is no news.
	f(2, 1, "-1 -2 +6 -3 -4 -5", "?duuuu")
	// A success says nothing of what was started after it.
	f(2, 1, "+1 -3 +2 -4", "uuud")
	f(2, 1, "-1 -2 -5 +4 +3 +6", "?ddddu")
	// Out of their order but in a row.
	f(2, 1, "+1 -3 -2", "uud")
	f(2, 2, "-1 -2 +4 +3", "?ddu")
	f(2, 2, "-1 -2 +3 +5 -4 +6", "?dduuu")
	f(3, 3, "-1 -2 -3 +4 +6 -5 +7 +8", "??ddddd"+"u")

	// With the path's counts against it one is enough, before or after.
	f(2, 1, "+1 -2 !", "uud")
	f(2, 1, "+1 ! -2", "uud")
	f(2, 1, "! -1", "?d")
	f(2, 1, "+1 ! +2 . -3", "uuuuu")
	f(2, 1, "+1 -2 +3 !", "uuuu")
	f(2, 1, "+1 ! +3 -2", "uuuu")
	// Called failed for being late, and answered after all.
	f(2, 1, "+1 ! -2 +2 +3 -2", "uudduu")
}

func TestFlappingBackendMustAnswerLonger(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	h := newHealth(2, 1, now)
	probe := uint64(0)
	step := func(ok bool) {
		probe++
		now = now.Add(100 * time.Millisecond)
		h.step(event{at: now, probe: probe, ok: ok})
	}
	// cycle has it up for d and then down, and tells how many answers brought it up again.
	cycle := func(d time.Duration) (answers int) {
		for until := now.Add(d); now.Before(until); {
			step(true)
		}
		step(false)
		step(false)
		if h.verdict != down {
			t.Fatalf("two failures: got verdict %v", h.verdict)
		}
		for h.verdict == down {
			step(true)
			answers++
		}
		return answers
	}
	step(true)
	for i, c := range []struct {
		up   time.Duration
		want int
	}{
		{time.Second, 2}, {time.Second, 4}, {time.Second, 8}, {time.Second, 16}, {time.Second, 16},
		{30 * time.Second, 16}, {61 * time.Second, 1}, {30 * time.Second, 1}, {9 * time.Second, 2}, {11 * time.Second, 2},
	} {
		if got := cycle(c.up); got != c.want {
			t.Errorf("cycle %d, up for %s: came up after %d answers, want %d", i, c.up, got, c.want)
		}
	}
}

// Whatever the order probes end in, the verdict is what anybody would say who had written all of them down.
func TestHealthIsWhatTheProbesSay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		fall, rise := rapid.IntRange(1, 4).Draw(t, "fall"), rapid.IntRange(1, 4).Draw(t, "rise")
		now := time.Unix(1000, 0)
		h := newHealth(fall, rise, now)
		ended := map[uint64]bool{}
		var flying []uint64
		started, suspect, downs, wasUp := uint64(0), false, 0, time.Time{}
		need := rise
		for range rapid.IntRange(1, 200).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
			for len(flying) < 4 {
				started++
				flying = append(flying, started)
			}
			e := event{at: now}
			if rapid.IntRange(0, 9).Draw(t, "signs") == 0 {
				suspect = !suspect
			} else {
				i := rapid.IntRange(0, 3).Draw(t, "which")
				e.probe, e.ok = flying[i], rapid.Bool().Draw(t, "ok")
				flying = append(flying[:i], flying[i+1:]...)
				ended[e.probe] = e.ok
			}
			e.suspect = suspect
			before := h.verdict
			h.step(e)

			newestOK, newestFailed := uint64(0), uint64(0)
			for probe, ok := range ended {
				if ok {
					newestOK = max(newestOK, probe)
				} else {
					newestFailed = max(newestFailed, probe)
				}
			}
			failed, answered := 0, 0
			for probe, ok := range ended {
				if !ok && probe > newestOK {
					failed++
				}
				if ok && probe > newestFailed {
					answered++
				}
			}
			want := before
			switch {
			case before != down && failed > 0 && (failed >= fall || suspect):
				want = down
				downs++
				if before == up && now.Sub(wasUp) < flapAfter {
					need = min(2*need, flapMost)
				} else if before == up && now.Sub(wasUp) >= forgiveAfter {
					need = rise
				}
			case before != up && answered >= need:
				want, wasUp = up, now
			}
			if h.verdict != want {
				t.Fatalf("after probe %d (%v), suspect %v: %d failed, %d answered in a row: verdict %v -> %v, want %v",
					e.probe, e.ok, suspect, failed, answered, before, h.verdict, want)
			}
			if len(h.failed) > fall || len(h.answered) > flapMost || h.need < rise || h.need > max(flapMost, rise) {
				t.Fatalf("out of bounds: %+v", h)
			}
		}
	})
}
