package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway/internal/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRetriesAreTheClientsOwn(t *testing.T) {
	t.Parallel()
	// As measured with libtorrent 2.0.8: announces at gaps of 17, 55, 117 and 205 s.
	for n, want := range []time.Duration{17500, 55000, 117500, 205000} {
		if got := kinds[0].retry(n + 1); got != want*time.Millisecond {
			t.Errorf("libtorrent after %d fails: got %v, want %v", n+1, got, want*time.Millisecond)
		}
	}
	if got := kinds[0].retry(200); got != time.Hour {
		t.Errorf("libtorrent's longest: got %v", got)
	}
	for fails := 1; fails < 300; fails++ {
		if got := webTorrentRetry(fails, 0.999); got < 10*time.Second || got > time.Hour+5*time.Minute {
			t.Errorf("WebTorrent after %d: %v", fails, got)
		}
		if got := trysteroRetry(fails, 0.999); got <= 0 || got > time.Minute {
			t.Errorf("trystero after %d: %v", fails, got)
		}
	}
	share := 0
	for _, k := range kinds {
		share += k.share
	}
	if share != 10 {
		t.Errorf("shares of clients add up to %d of 10", share)
	}
}

func TestAnAnnounceIsAClients(t *testing.T) {
	t.Parallel()
	honest := &clientele{many: 1000, squeeze: 10, side: honestSide}
	bad := &clientele{many: attackers, squeeze: 10, side: attackSide}
	line := regexp.MustCompile(`^GET /announce\?info_hash=(%[0-9a-f]{2}){20}&peer_id=[-0-9A-Za-z]{20}&port=\d+&uploaded=0&downloaded=0&left=\d+&numwant=50&compact=1 HTTP/1\.1\r\n` +
		`Host: [^\r]+\r\nUser-Agent: [^\r]+\r\nX-Forwarded-For: (\d+\.\d+\.\d+\.\d+)\r\nConnection: close\r\n\r\n$`)
	seen := map[string]bool{}
	for n := range uint32(2000) {
		b := honest.announce(nil, n)
		m := line.FindSubmatch(b)
		if m == nil {
			t.Fatalf("%q", b)
		}
		if !bytes.Equal(b, honest.announce(nil, n+1000)) {
			t.Fatalf("client %d is another when it comes again", n)
		}
		seen[string(m[2])] = true
	}
	if len(seen) < 990 {
		t.Errorf("1000 honest clients have %d addresses", len(seen))
	}
	for n := range uint32(attackers) {
		if m := line.FindSubmatch(bad.announce(nil, n)); seen[string(m[2])] {
			t.Errorf("an attacker has an honest client's address: %s", m[2])
		}
	}
}

func TestAnswersAreJudged(t *testing.T) {
	t.Parallel()
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
	for answer, want := range map[string]lab.Outcome{
		ok + "d8:completei0e11:external ip4:aaaa8:intervali1800e5:peers0:e": lab.OK,
		ok + "d8:intervali1800e12:min intervali1800e5:peers0:e":             lab.Shed,
		ok + "d14:failure reason4:busye":                                    lab.Shed,
		ok + "<html>":                                                       lab.Bad,
		"HTTP/1.1 502 Bad Gateway\r\n\r\n":                                  lab.Refused,
		"HTTP/1.1 503 Service Unavailable\r\n\r\n":                          lab.Shed,
		"HTTP/1.1 504 Gateway Time-out\r\n\r\n":                             lab.Timeout,
		"HTTP/1.1 500 Oops\r\n\r\n":                                         lab.Bad,
		"HTTP":                                                              lab.Bad,
		"":                                                                  lab.Bad,
	} {
		if got := judgeAnnounce([]byte(answer)); got != want {
			t.Errorf("%q: got %s, want %s", answer, got, want)
		}
	}
}

func FuzzAnswersAreJudged(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nd8:intervali1800ee"))
	f.Fuzz(func(_ *testing.T, b []byte) { judgeAnnounce(b) })
}

// played is what was seen of a run in which half of the honest clients are served but in the fault, when all fail after took.
func played(took time.Duration, returns bool) *observed {
	o := &observed{start: time.Unix(1_800_000_000, 0), honest: &lab.Tally{}, announce: &lab.Tally{}, upgrades: &lab.Tally{}, switched: 20 * time.Millisecond}
	var at time.Duration
	for _, p := range quickPlan {
		o.phases = append(o.phases, span{p, at, at + p.last})
		for ; at < o.phases[len(o.phases)-1].to; at += 10 * time.Millisecond {
			a := lab.Attempt{At: at, Took: 20 * time.Millisecond}
			if p.name == gone || !returns && (p.name == back || p.name == after) {
				a.Outcome, a.Took = lab.Timeout, took
			}
			o.honest.Attempts = append(o.honest.Attempts, a)
			if p.name == attack {
				o.announce.Attempts = append(o.announce.Attempts, a)
			}
		}
		if p.name == gone {
			o.returned = at + time.Second
		}
	}
	o.length = at
	return o
}

func report() *Report {
	r := &Report{Started: time.Unix(1_800_000_000, 0).UTC(), Machine: "a <machine>", Cores: 2, Squeeze: 10, CDN: true, Rate: 100, Attack: 6, AttackRate: 600, BackendShare: backendShare,
		BackendMemory: backendMemory, Runs: []*Run{judge(Unprotected, played(5*time.Second, false)), judge(Protected, played(time.Millisecond, true))}}
	r.conclude()
	return r
}

func TestARunIsJudged(t *testing.T) {
	t.Parallel()
	r := report()
	a, b := r.Runs[0], r.Runs[1]
	if a.Recovery >= 0 || b.Recovery < 0 || b.Recovery > 0.3 {
		t.Errorf("recovery: got %g and %g, want never and at once", a.Recovery, b.Recovery)
	}
	if g := b.find(gone); g.Failed != g.Offered || g.Offered == 0 || g.FailP50 != 1 {
		t.Errorf("the fault: %+v", *g)
	}
	if c := a.find(calm); c.InTime != c.Offered || c.P99 != 20 || c.Attack != 0 {
		t.Errorf("calm: %+v", *c)
	}
	if p := a.find(attack); p.Attack != p.Offered {
		t.Errorf("attack: %+v", *p)
	}
	for _, run := range r.Runs {
		for i, offered := range run.Series.Offered {
			s := &run.Series
			if sum := s.InTime[i] + s.Late[i] + s.Shed[i] + s.Failed[i]; sum != offered {
				t.Fatalf("%s: step %d: %g offered, parts add up to %g", run.Name, i, offered, sum)
			}
		}
	}
	want := []string{
		"Under an attack of 6 times the usual traffic, 100 of 100 announces were answered in time with Spillway, and 100 without.",
		"With the backend gone, clients were told in 1.0 ms with Spillway; without, half of them waited 5.0 s or more.",
		"After its return, service was as usual at once with Spillway, and not before the drill ended without it.",
	}
	for i, s := range r.Result {
		if s != want[i] {
			t.Errorf("sentence %d:\ngot  %s\nwant %s", i, s, want[i])
		}
	}
}

// outside is what would be loaded from elsewhere.
var outside = regexp.MustCompile(`(?i)https?://|src=|<link|<script|@import|url\(`)

func TestThePageIsWhole(t *testing.T) {
	t.Parallel()
	page := report().Page()
	if m := outside.Find(page); m != nil {
		t.Errorf("the page refers to something outside: %s", m)
	}
	for _, want := range []string{"<h1>Under an attack", "a &lt;machine&gt;", "<svg", "prefers-color-scheme:dark", "calm again"} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("the page has no %s", want)
		}
	}
	if bytes.Contains(page, []byte("NaN")) || bytes.Contains(page, []byte("Inf ")) {
		t.Error("the page draws what is no number")
	}
	if one := report(); one.Runs != nil {
		one.Runs = one.Runs[:1]
		if n := strings.Count(string(one.Page()), "<svg"); n != len(plots(one)) {
			t.Errorf("a page of one run has %d pictures", n)
		}
	}
	if len((&Report{}).Page()) == 0 {
		t.Error("no page of nothing")
	}
}

func TestTheTableIsPrinted(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	r := report()
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\n"+"              "); n > 0 {
		t.Logf("%s", b.String())
	}
	if err := r.Print(brokenWriter{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a broken pipe: got %v", err)
	}
	j, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := json.Unmarshal(j, &again); err != nil || len(again.Runs) != 2 || again.Runs[1].Name != Protected {
		t.Errorf("JSON: %v, %d runs", err, len(again.Runs))
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWhatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Rate: 1}, "--rate=1: must be from"},
		{Config{Attack: 0.5}, "--attack=0.5: must be from"},
		{Config{Only: "both"}, "--only=both: must be"},
	} {
		if _, err := Play(context.Background(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want one with %q", err, c.want)
		}
	}
}
