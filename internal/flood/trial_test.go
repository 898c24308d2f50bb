package flood

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"pgregory.net/rapid"
)

// exampleTrial is one in numbers: of the rounds of each, how many of 1,000 were good, and the latency of all of those in
// milliseconds.
func exampleTrial(a, b [][2]int) *Trial {
	t := &Trial{Version: ResultVersion, Command: "announce", What: "announces", A: Subject{URL: "http://127.0.0.1:1/announce"}, Rounds: len(a), CPUs: 2}
	runs := func(url string, all [][2]int) (runs []*Result) {
		for _, round := range all {
			team := newTeam(Config{
				Name: url, Mode: KeepAlive, Rate: 1000, Profile: Profile{{Duration: time.Second, Multiple: 1, Share: -1}}, Threads: 1, Conns: 2, Honest: 10,
			}, false)
			w := team.workers[0]
			w.opened = 2
			for i := range 1000 {
				r := request{due: int64(i) * 1e6}
				o := good
				if i >= round[0] {
					o = timedOut
				}
				w.tally.offer(r)
				w.tally.record(r, o, time.Duration(round[1])*time.Millisecond, time.Second)
			}
			runs = append(runs, team.result(time.Unix(0, 0), time.Second))
		}
		return runs
	}
	t.RunsA = runs(t.A.URL, a)
	if b != nil {
		t.B = &Subject{URL: "http://127.0.0.1:2/announce"}
		t.RunsB = runs(t.B.URL, b)
	}
	t.conclude()
	return t
}

// What is said of two trackers is what their figures say, and a difference is one only if all rounds agree.
func TestVerdict(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		a, b     [][2]int
		want     []string
		unwanted string
	}{
		{
			"B serves more, and sooner", [][2]int{{500, 100}, {500, 100}, {500, 100}}, [][2]int{{650, 50}, {700, 60}, {600, 40}},
			[]string{
				"B answers 1.30x (1.20-1.40) of A's announces in time: 650 against 500 a second of 1,000 asked.",
				"B's p99 is 0.50x (0.40-0.60) of A's: 50 ms against 100 ms.", "A: of all that was asked, 50 % timed out.", "B: of all that was asked, 35 % timed out.",
			}, "apart",
		},
		{
			"one round of three says the opposite", [][2]int{{500, 100}, {500, 100}, {500, 100}}, [][2]int{{700, 50}, {700, 50}, {400, 200}},
			[]string{"The rounds do not tell A and B apart by what they answer in time: B has 1.40x (0.80-1.40)", "B's p99 is not told apart from A's: 0.50x (0.50-2.00)"},
			"B answers 1",
		},
		{
			"both serve all", [][2]int{{1000, 10}, {1000, 10}, {1000, 10}}, [][2]int{{1000, 10}, {1000, 10}, {1000, 10}},
			[]string{"A and B answer all announces that are asked in time, 1,000 a second; a higher --rate shows which gives way first.", "B's p99 is not told apart from A's: 1.00x"},
			"of all that was asked",
		},
		{
			"too few rounds", [][2]int{{500, 100}, {500, 100}}, [][2]int{{1000, 1}, {1000, 1}},
			[]string{"The rounds do not tell A and B apart", "B's p99 is not told apart"}, "B answers",
		},
		{"A serves nothing", [][2]int{{0, 10}, {0, 10}, {0, 10}}, [][2]int{{1000, 10}, {1000, 10}, {1000, 10}}, []string{"A answered no announces in time"}, "x ("},
		{
			"one tracker", [][2]int{{1000, 10}, {1000, 30}, {1000, 20}}, nil,
			[]string{"It answers 1,000 of 1,000 announces a second in time (100.0 %); half of them within 20 ms", "Over 3 rounds the p99 was from 10 ms to 30 ms."}, "A",
		},
	} {
		said := strings.Join(exampleTrial(c.a, c.b).Verdict, "\n")
		for _, want := range c.want {
			if !strings.Contains(said, want) {
				t.Errorf("%s: got\n%s\nwant in it: %s", c.name, said, want)
			}
		}
		if strings.Contains(said, c.unwanted) {
			t.Errorf("%s: got\n%s\nwant nothing of %q", c.name, said, c.unwanted)
		}
	}
}

func TestTrialWarnsOfTheGenerator(t *testing.T) {
	t.Parallel()
	trial := exampleTrial([][2]int{{1000, 10}, {1000, 10}}, [][2]int{{1000, 10}, {1000, 10}})
	trial.RunsB[1].Behind, trial.RunsB[1].BehindMost = 200, 44
	trial.RunsA[0].Mode, trial.RunsA[0].ConnsOpen = WSAnnounce, 1
	trial.conclude()
	said := strings.Join(append(trial.Warnings, trial.Verdict...), "\n")
	for _, want := range []string{
		"late in 1 of 4 rounds", "worst in B round 2: 200 of 1000 requests left more than 5 ms late, up to 44 ms; lower the rate",
		"A round 1: only 1 of 2 connections were open", "raise --connections to 125", "raise --rounds to 3",
		"Of the p99 nothing can be said: the generator was late with up to 20 %",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("got\n%s\nwant in it: %s", said, want)
		}
	}
}

// A spread holds all of its values, its median has as many above as below, and ratios are of the rounds that stood side by side.
func TestSpreads(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOfN(rapid.Float64Range(0.001, 1e6), 1, 9).Draw(t, "a")
		s := spreadOf(a)
		below, above := 0, 0
		for _, v := range a {
			if v < s.Min || v > s.Max {
				t.Fatalf("%v holds no %g", s, v)
			}
			if v < s.Median {
				below++
			}
			if v > s.Median {
				above++
			}
		}
		if below > len(a)/2 || above > len(a)/2 {
			t.Fatalf("%v: %d below and %d above %g", a, below, above, s.Median)
		}
		k := rapid.Float64Range(0.1, 10).Draw(t, "times")
		var b []float64
		for _, v := range a {
			b = append(b, k*v)
		}
		if r := ratioOf(a, b); math.Abs(r.Median/k-1) > 1e-9 || math.Abs(r.Max/r.Min-1) > 1e-9 {
			t.Fatalf("all ratios are %g: got %v", k, r)
		}
		if ratioOf(append(a, 0), append(b, 1)) != nil {
			t.Fatal("over 0: got a ratio")
		}
	})
}

// The page loads nothing from anywhere, whatever the targets are called, and its pictures are XML.
func TestTrialPageIsWhole(t *testing.T) {
	t.Parallel()
	odd := exampleTrial([][2]int{{0, 10}}, [][2]int{{1000, 1}})
	odd.B.URL, odd.RunsB[0].Name = `<script src="http://x.example/">`, `<script src="http://x.example/">`
	far := exampleTrial([][2]int{{1000, 1}, {1000, 1}}, [][2]int{{1000, 900}, {1000, 2}})
	for name, trial := range map[string]*Trial{
		"one": exampleTrial([][2]int{{1000, 10}, {900, 10}}, nil), "two": exampleTrial([][2]int{{500, 10}, {500, 10}, {500, 10}}, [][2]int{{510, 11}, {520, 9}, {500, 10}}),
		"odd": odd, "far apart": far,
	} {
		page := TrialPage(trial)
		for _, v := range trial.Verdict {
			if !bytes.Contains(page, []byte(escape(v))) {
				t.Errorf("%s: the page does not say %q", name, v)
			}
		}
		checkAlone(t, name, page)
	}
	checkAlone(t, "flood", Page("x", example("y", true)))
}

// checkAlone holds a page to needing nothing but itself.
func checkAlone(t *testing.T, name string, page []byte) {
	t.Helper()
	if m := regexp.MustCompile(`(?i)<(script|link|img|iframe|object|embed|base|form|a)\b|<[^>]*\s(src|href|action|srcset)=|url\(|@import`).Find(page); m != nil {
		t.Errorf("%s: the page has %q: it is to load and to lead nowhere", name, m)
	}
	if bytes.Contains(page, []byte("NaN")) || bytes.Contains(page, []byte("Inf")) {
		t.Errorf("%s: a coordinate or figure is no number", name)
	}
	for _, svg := range regexp.MustCompile(`(?s)<svg .*?</svg>`).FindAll(page, -1) {
		for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v in %s", name, err, svg)
			}
		}
	}
}

// Given two trackers, one of which sheds half and is slow, when they are asked in turn, then both get the same, and the verdict is
// of the honest one's side.
func TestTrialOfTwo(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	a := serveHTTP(t, func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString(servedBody) })
	b := serveHTTP(t, func(ctx *fasthttp.RequestCtx) {
		if n.Add(1)%2 == 0 {
			ctx.SetBodyString(shedBody)
			return
		}
		ctx.SetBodyString(servedBody)
	})
	plan := Plan{
		Command: "announce", What: "announces", A: Subject{URL: "a", Target: a}, B: Subject{URL: "b", Target: b}, Rounds: 3, Length: 300 * time.Millisecond,
		Warmup: 100 * time.Millisecond,
		Load:   Config{Mode: KeepAlive, Rate: 1000, Conns: 20, Good: time.Minute, Patience: time.Minute, Timeout: time.Minute, GoodKey: "complete"},
	}
	trial, err := RunTrial(context.Background(), plan)
	if err != nil {
		t.Fatal(err)
	}
	if len(trial.RunsA) != 3 || len(trial.RunsB) != 3 || trial.Rounds != 3 {
		t.Fatalf("got %d and %d rounds, want 3 of each", len(trial.RunsA), len(trial.RunsB))
	}
	for i, r := range trial.RunsA {
		if s := r.Phases[0].Honest; s.Good != 300 {
			t.Errorf("A, round %d: %s", i, s)
		}
		if s := trial.RunsB[i].Phases[0].Honest; s.Offered != 300 || s.Shed < 149 || s.Shed > 151 {
			t.Errorf("B, round %d: %s", i, s)
		}
		if !trial.RunsB[i].Start.After(r.Start) || i > 0 && !r.Start.After(trial.RunsB[i-1].Start) {
			t.Errorf("round %d: not A B A B", i)
		}
	}
	if m := trial.metric("good_per_second"); m.Ratio.Median < 0.49 || m.Ratio.Median > 0.51 || !strings.Contains(trial.Verdict[0], "B answers 0.50x") {
		t.Errorf("got %v, %q; want B to answer half", m.Ratio, trial.Verdict)
	}
	var out bytes.Buffer
	if err := trial.Print(&out); err != nil || !strings.Contains(out.String(), trial.Verdict[0]) {
		t.Errorf("printed: %v\n%s", err, out.String())
	}
	written, err := json.Marshal(trial)
	if err != nil {
		t.Fatal(err)
	}
	var again Trial
	if err := json.Unmarshal(written, &again); err != nil || again.Version != ResultVersion || len(again.RunsB) != 3 || again.RunsA[0].Phases[0].Honest.HDR == "" {
		t.Errorf("written and read again: %v, version %d", err, again.Version)
	}
}

func TestTrialsThatCannotBe(t *testing.T) {
	t.Parallel()
	sheds := serveHTTP(t, func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString(shedBody) })
	stranger, _, err := ParseTarget("192.0.2.1:1")
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Plan){
		"no key \"complete\": see --good-key": func(p *Plan) { p.Warmup = 100 * time.Millisecond },
		"rounds 99":                           func(p *Plan) { p.Rounds = 99 },
		"rate is 0":                           func(p *Plan) { p.Load.Rate = 0 },
		"warm-up":                             func(p *Plan) { p.Warmup = -1 },
		"within an hour":                      func(p *Plan) { p.Rounds, p.Length = 50, 5*time.Minute },
		"not private":                         func(p *Plan) { p.B.Target = stranger },
		"must be from 1 to 74":                func(p *Plan) { p.Load.Mode, p.Load.Hashes = Scrape, 75 },
	} {
		p := Plan{
			A: Subject{URL: "a", Target: sheds}, Length: 100 * time.Millisecond, Rounds: 1,
			Load: Config{Mode: KeepAlive, Rate: 100, Conns: 2, GoodKey: "complete"},
		}
		change(&p)
		if _, err := RunTrial(context.Background(), p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// A trial that is interrupted keeps the rounds that were over.
func TestTrialInterrupted(t *testing.T) {
	t.Parallel()
	addr := serveHTTP(t, func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString(servedBody) })
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	plan := Plan{
		A: Subject{URL: "a", Target: addr}, Rounds: 50, Length: 1100 * time.Millisecond, Load: Config{Rate: 100, Conns: 2},
		Progress: func(p TrialProgress) {
			if p.Round >= 2 {
				cancel()
			}
			if p.Whole != 55*time.Second || p.Done > p.Whole {
				t.Errorf("progress: %s of %s", p.Done, p.Whole)
			}
		},
	}
	trial, err := RunTrial(ctx, plan)
	if err != nil || trial.Rounds < 1 || trial.Rounds == 50 {
		t.Fatalf("got %v, %v; want the rounds before", trial, err)
	}
	if _, err := RunTrial(ctx, plan); err == nil || !strings.Contains(err.Error(), "nothing to report") {
		t.Errorf("interrupted before it began: got %v", err)
	}
}

// docs/bench.md has each field of the JSON files.
func TestFieldsAreDocumented(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../../docs/bench.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[reflect.Type]bool{}
	var missing []string
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() || seen[typ] {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue
			}
			if !bytes.Contains(docs, []byte("`"+name+"`")) {
				missing = append(missing, name)
			}
			walk(typ.Field(i).Type)
		}
	}
	walk(reflect.TypeFor[Trial]())
	for _, m := range metrics {
		if !bytes.Contains(docs, []byte("`"+m.name+"`")) {
			missing = append(missing, m.name)
		}
	}
	if slices.Sort(missing); len(missing) > 0 {
		t.Errorf("docs/bench.md says nothing of %v", missing)
	}
}
