package console

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"spillway/internal/admin"
)

var updateFrames = flag.Bool("update", false, "rewrite the frames in testdata")

// noon is when the pictures are taken.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func busyStatus() admin.Status {
	saved, since, until := noon.Add(-3*time.Minute), noon.Add(-time.Hour), noon.Add(9*time.Minute+58*time.Second)
	return admin.Status{
		Version: "v1.2.3", Started: noon.Add(-76 * time.Hour), UptimeSeconds: 76 * 3600, Listen: []string{"[::]:6969"},
		Conns: 1204, ConnsMax: 20000, WebSockets: 12001, WebSocketsMax: 100000,
		Swarms: 51234, Seeders: 400000, Leechers: 600000, StoreBytes: 60 << 20, StoreBytesMax: 512 << 20, SnapshotAt: &saved,
		Load: admin.Load{
			State: "overload", Why: "requests waited longer than 10ms (shedder.target), now 14.2ms: 1500 a second are admitted",
			AgeMS: 14.2, Offered: 2000, Served: 1500, Shed: 460, OverBudget: 40, Level: 0.25, Capacity: 1520,
			IntervalSeconds: 2700, Jitter: 0.2, Brownout: 2, BrownoutSteps: []string{"new WebSockets are refused", "scrapes are answered without counts"},
			Parked: 12, MemoryBytes: 1932735283, MemoryMaxBytes: 2 << 30,
		},
		Switches: []admin.Switch{
			{Endpoint: "announce", Mode: "on"},
			{Endpoint: "scrape", Mode: "off", Until: &until, Reason: "flood", By: "api 127.0.0.1", Since: &since},
			{Endpoint: "ws", Mode: "on"},
			{Endpoint: "udp", Mode: "on"},
		},
		Endpoints: []admin.EndpointLoad{
			{Endpoint: "announce", Offered: 1900, Served: 1450, Shed: 410, OverBudget: 40},
			{Endpoint: "scrape", Offered: 50, Refused: 50},
			{Endpoint: "ws", Offered: 50.4, Served: 50.4},
		},
	}
}

func busyBlocks() admin.Blocks {
	return admin.Blocks{
		Blocks:   []admin.Block{{Kind: "source", Value: "192.0.2.0/24", Reason: "flood", By: "api 127.0.0.1", Since: noon, Hits: 12}},
		Proposed: []admin.Proposal{{Kind: "user-agent", Value: "Evil/1.0\x1b[31m", Share: 0.83, Usual: 0.02, Why: "its share rose"}},
	}
}

func busyTalkers() admin.Talkers {
	t := admin.Talkers{Seconds: 60, Requests: 120000}
	for i := range 10 {
		t.Sources = append(t.Sources, admin.Talker{Value: fmt.Sprintf("192.0.2.%d", i+1), Share: 0.4 / float64(i*i+1), Usual: 0.01})
	}
	t.UserAgents = []admin.Talker{
		{Value: "Evil/1.0\x1b]0;owned\x07\x1b[2J\r\n\x00", Share: 0.83, Usual: 0.02},
		{Value: "全角の利用者エージェント" + strings.Repeat("長", 60), Share: 0.1, Usual: 0.1},
		{Value: "\u202eright to left\u200b\u009b31m e\u0301 \xff\xfe", Share: 0.0001},
	}
	return t
}

func busyView() *view {
	v := &view{place: "127.0.0.1:7070", now: noon, heard: noon, status: busyStatus(), talkers: busyTalkers(), blocks: busyBlocks()}
	for i := range sparkPoints {
		offered := 1000 + 1000*math.Sin(float64(i)/10)
		v.offered.push(offered)
		v.served.push(min(offered, 1500))
		v.shed.push(max(0, offered-1500))
	}
	v.offered[30], v.served[30], v.shed[30] = math.NaN(), math.NaN(), math.NaN()
	return v
}

// Pictures of ctl top and of what the other commands print: go test -update rewrites them, and a review reads them.
func TestCtlPictures(t *testing.T) {
	t.Parallel()
	picture := func(change func(*view)) *view {
		v := busyView()
		change(v)
		return v
	}
	wantPicture(t, "top-80x24", frame(busyView(), 80, 24))
	wantPicture(t, "top-agents-100x30", frame(picture(func(v *view) { v.dimension = 2 }), 100, 30))
	wantPicture(t, "top-colour-80x24", frame(picture(func(v *view) { v.colour = true }), 80, 24))
	wantPicture(t, "top-question-60x16", frame(picture(func(v *view) { v.question = "switch WebSockets on? They are off" }), 60, 16))
	wantPicture(t, "top-silent-80x24", frame(picture(func(v *view) {
		v.now, v.trouble = noon.Add(12*time.Second), "nothing answers at 127.0.0.1:7070; is spillway serve running?"
	}), 80, 24))
	wantPicture(t, "top-fresh-80x24", frame(&view{place: "127.0.0.1:7070", now: noon, heard: noon, status: admin.Status{
		Version: "v1.2.3", Load: admin.Load{State: "calm", Why: "requests wait 0s, far from 10ms", IntervalSeconds: 1800, Jitter: 0.2},
		Switches: []admin.Switch{{Endpoint: "announce", Mode: "on"}, {Endpoint: "scrape", Mode: "on"}, {Endpoint: "ws", Mode: "on"}, {Endpoint: "udp", Mode: "on"}},
	}}, 80, 24))
	st, blocks := busyStatus(), busyBlocks()
	wantPicture(t, "status", statusLines(&st, noon, false))
	wantPicture(t, "status-colour", statusLines(&st, noon, true))
	since := noon.Add(-90 * time.Second)
	st.Redis = &admin.Redis{Degraded: 5.0 / 16, Since: &since, Why: "dial tcp 10.0.0.5:6379: connect: connection refused"}
	wantPicture(t, "status-redis", statusLines(&st, noon, false))
	wantPicture(t, "block", blockLines(&blocks, noon, false))
	wantPicture(t, "block-none", blockLines(&admin.Blocks{}, noon, false))
}

// wantPicture compares lines with a file of testdata/ctl, in which ␛ stands for an escape character.
func wantPicture(t *testing.T, name string, lines []string) {
	t.Helper()
	file := filepath.Join("testdata", "ctl", name)
	got := strings.ReplaceAll(strings.Join(lines, "\n")+"\n", "\x1b", "␛")
	if *updateFrames {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

var rendition = regexp.MustCompile("\x1b\\[[0-9;]*m")

// checkScreen fails if lines could do anything to a terminal of that size but be read.
func checkScreen(t interface {
	Helper()
	Fatalf(string, ...any)
}, lines []string, width, height int) {
	t.Helper()
	if len(lines) > height {
		t.Fatalf("%d lines on %d", len(lines), height)
	}
	for _, l := range lines {
		text := rendition.ReplaceAllString(l, "")
		if columns(text) > max(width, 1) {
			t.Fatalf("%d columns on %d: %q", columns(text), width, text)
		}
		if !utf8.ValidString(text) {
			t.Fatalf("not UTF-8: %q", l)
		}
		for _, r := range text {
			if !unicode.IsPrint(r) || unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) {
				t.Fatalf("character %U in %q", r, l)
			}
		}
	}
}

// No size of the terminal and no stranger's text breaks the picture.
func TestFrameFits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
			rapid.SampledFrom([]string{"\x1b[31mx", "\x1b]0;t\x07", "漢字漢字", "\u0301\u0301", ""}))
		v := busyView()
		v.colour = rapid.Bool().Draw(t, "colour")
		v.dimension = rapid.IntRange(0, len(dimensions)-1).Draw(t, "dimension")
		for _, s := range []*string{
			&v.status.Version, &v.status.Load.State, &v.status.Load.Why, &v.status.Load.BrownoutSteps[0], &v.status.Switches[1].Reason, &v.status.Switches[1].Mode,
			&v.status.Switches[1].By, &v.status.Switches[1].Endpoint, &v.talkers.Sources[0].Value, &v.talkers.UserAgents[0].Value,
			&v.blocks.Proposed[0].Value, &v.blocks.Proposed[0].Why, &v.blocks.Proposed[0].Kind, &v.question, &v.message, &v.trouble, &v.place,
		} {
			*s = text.Draw(t, "text")
		}
		v.status.Load.Offered = rapid.Float64().Draw(t, "offered")
		v.status.Load.Level = rapid.Float64().Draw(t, "level")
		v.offered.push(rapid.Float64().Draw(t, "point"))
		width, height := rapid.IntRange(0, 200).Draw(t, "width"), rapid.IntRange(0, 60).Draw(t, "height")
		checkScreen(t, frame(v, width, height), width, height)
		lines := statusLines(&v.status, noon, v.colour)
		checkScreen(t, append(lines, blockLines(&v.blocks, noon, v.colour)...), math.MaxInt, math.MaxInt)
	})
}

func TestClean(t *testing.T) {
	t.Parallel()
	f := func(in, want string) {
		t.Helper()
		if got := clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	f("", "")
	f("qBittorrent/5.0.1", "qBittorrent/5.0.1")
	f("Zoë 漢字", "Zoë 漢字")
	f("a\x1b[31mb\x1b[0m", "a·b·")
	f("a\x1b[38;2;1;2;3mb", "a·b")
	f("a\x1b]0;title\x07b", "a·b")
	f("a\x1b]8;;http://x\x1b\\b", "a·b")
	f("a\x1b]0;no end", "a·0;no end") // hides nothing
	f("a\x1bPq\x1b\\b", "a·b")
	f("a\x1bcb", "a·b")
	f("a\x1b", "a·")
	f("a\x1b\x1b[31mb", "a··b")
	f("a\u009b31mb", "a·b")
	f("a\r\n\tb\x00\x7f", "a···b··")
	f("a\u202eb\u200b\ufeff", "a·b··")
	f("e\u0301", "e·")
	f("\xff\xc0a", "··a")
	f("\ue000\U000e0001", "··") // private use, tags
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"a", "\x1b[31m", "\x1b]0;t\x07", "\u009b1m", "\xff", "漢"} {
		f.Add(s, 10)
	}
	f.Fuzz(func(t *testing.T, s string, width int) {
		width = min(max(width, 1), 100)
		got := clean(s)
		if clean(got) != got {
			t.Errorf("%q: cleaning twice gives %q, then %q", s, got, clean(got))
		}
		checkScreen(t, []string{left(s, width), right(s, width), cut(got, width)}, width, 3)
		if columns(left(s, width)) != width || columns(right(s, width)) != width {
			t.Errorf("%q: not filled up to %d", s, width)
		}
	})
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f(count(0), "0")
	f(count(999), "999")
	f(count(1234), "1,234")
	f(count(-1234567), "-1,234,567")
	f(count(math.MinInt64), "-9,223,372,036,854,775,808")
	f(number(0), "0")
	f(number(0.04), "0")
	f(number(1.25), "1.2")
	f(number(2), "2")
	f(number(9.96), "10")
	f(number(1234.4), "1,234")
	f(number(math.Inf(1)), "1,000,000,000,000,000")
	f(percent(0), "0 %")
	f(percent(0.0005), "<0.1 %")
	f(percent(0.004), "0.4 %")
	f(percent(0.25), "25 %")
	f(bytesText(0), "0 B")
	f(bytesText(1023), "1,023 B")
	f(bytesText(1536), "1.5 KiB")
	f(bytesText(2<<30), "2 GiB")
	f(span(-time.Second), "0s")
	f(span(9*time.Minute+58*time.Second), "9m 58s")
	f(span(26*time.Hour), "1d 2h")
	f(clock(noon.Add(time.Hour), noon), "13:00:00")
	f(clock(noon.Add(48*time.Hour), noon), "2026-01-04 12:00:00")
	f(cut("abc", 3), "abc")
	f(cut("abcd", 3), "ab…")
	f(cut("漢字", 3), "漢…")
	f(cut("漢", 1), "…")
	f(cut("a", 0), "")
	f(strings.Join(wrap("aa bb cc", 5), "|"), "aa bb|cc")
	f(strings.Join(wrap("aa bb cc", 4), "|"), "aa|bb|cc")
	f(strings.Join(wrap("aa bb", 5), "|"), "aa bb")
	f(strings.Join(wrap("aaaaaaa bb", 5), "|"), "aaaaaaa bb") // cut later
	f(strings.Join(wrap("aaaaaaa", 5), "|"), "aaaaaaa")
}

func TestSpark(t *testing.T) {
	t.Parallel()
	f := func(c curve, points int, most float64, want string) {
		t.Helper()
		if got := spark(c, points, most); got != want {
			t.Errorf("%v: got %q, want %q", c, got, want)
		}
	}
	f(nil, 3, 0, "   ")
	f(curve{0, 0}, 3, 0, " ▁▁")
	f(curve{0, 1, 100}, 3, 100, "▁▂█")
	f(curve{math.NaN(), 50, 100}, 3, 100, " ▅█")
	f(curve{1, 2, 100}, 1, 100, "█")
	f(curve{-5, 1e308}, 2, 1e308, "▁█")
	var c curve
	for i := range 100 {
		c.push(float64(i))
	}
	if len(c) != sparkPoints || c[0] != 40 || c[sparkPoints-1] != 99 {
		t.Errorf("push: got %v", c)
	}
}

// writeRaw must change nothing that JSON says.
func TestWriteRaw(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := writeRaw(&b, []byte("{\"a\":\"\u009b漢\u202e\x7f\"}\n\n")); err != nil {
		t.Fatal(err)
	}
	if want := "{\"a\":\"\\u009b漢\\u202e\\u007f\"}\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}
