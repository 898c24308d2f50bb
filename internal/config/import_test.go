package config

import (
	"bytes"
	"cmp"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// The configurations in testdata/import, made up for this, become what is beside them.
func TestImport(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"trunker.yaml", "trunker-old.yaml", "trunker-env.json", "chihaya.yaml", "chihaya-small.yaml", "opentracker.conf", "opentracker-udp.conf",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join("testdata", "import", name)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			from, _, _ := strings.Cut(strings.TrimSuffix(name, filepath.Ext(name)), "-")
			im, err := Import(from, text, name)
			if err != nil {
				t.Fatal(err)
			}
			got := checkImported(t, im)
			golden := path + ".want"
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: got\n%s\nwant\n%s\n(go test ./internal/config -update rewrites it; read the difference)", golden, got, want)
			}
		})
	}
}

// checkImported fails unless what im writes can be used, and is what im says it is.
func checkImported(t *testing.T, im *Imported) []byte {
	t.Helper()
	for _, e := range Check(im.Config) {
		t.Errorf("imported: %v", e)
	}
	var b bytes.Buffer
	if err := im.WriteYAML(&b); err != nil {
		t.Fatal(err)
	}
	cfg, origin := Default(), make(origins)
	if err := decodeYAML(b.Bytes(), "made.yaml", &cfg, origin); err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	if got, want := Texts(cfg), Texts(im.Config); !reflect.DeepEqual(got, want) {
		for key := range want {
			if got[key] != want[key] {
				t.Errorf("%s: got %q in\n%s\nwant %q", key, got[key], b.String(), want[key])
			}
		}
	}
	if len(origin) != len(im.Taken()) {
		t.Errorf("the file has %d keys, and %d were taken over: %v", len(origin), len(im.Taken()), im.Taken())
	}
	return b.Bytes()
}

// checkAccounted fails when a key of the source is neither taken over nor noted.
func checkAccounted(t *testing.T, im *Imported, leaves []imported) {
	t.Helper()
	var said strings.Builder
	if err := im.WriteYAML(&said); err != nil {
		t.Fatal(err)
	}
	words := strings.Join(strings.Fields(strings.ReplaceAll(said.String(), "#", " ")), " ")
	for _, l := range leaves {
		if l.odd == "nothing" {
			continue // a section whose keys are all commented out
		}
		key := strings.Join(strings.Fields(strings.ReplaceAll(l.key, "#", " ")), " ")
		if i := strings.LastIndex(key, "]."); i >= 0 {
			key = key[i+2:] // of a hook
		}
		if !strings.Contains(words, key) {
			t.Errorf("%q is nowhere in\n%s", key, said.String())
		}
	}
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, from, text, want string }{
		{"an unknown tracker", "xbt", "a: 1", `from: got "xbt"; must be trunker or opentracker or chihaya`},
		{"no YAML", "trunker", "tracker: [", "f:1:"},
		{"an empty file", "chihaya", "# nothing\n", "f: no keys in it; is this the configuration?"},
		{"one word", "trunker", "hello", "f: no keys in it; is this the configuration?"},
		{"a deep file", "trunker", strings.Repeat("[", 200), "f:1: more than 100 brackets or dashes in one another"},
	} {
		_, err := Import(c.from, []byte(c.text), "f")
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

// A file with a long list is no hostile file.
func TestImportLongList(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("chihaya:\n  http: {addr: ':6969'}\n  prehooks:\n  - name: torrent approval\n    options:\n      blacklist:\n")
	for range 5000 {
		b.WriteString("      - 0123456789abcdef0123456789abcdef01234567\n")
	}
	im, err := Import("chihaya", []byte(b.String()), "f")
	if err != nil {
		t.Fatal(err)
	}
	if len(im.Lists) != 1 || len(im.Lists[0].Hashes) != 5000 || im.Config.Tracker.Access.Mode != "deny" {
		t.Fatalf("lists: got %d, mode %s; want 1 of 5000 hashes, deny", len(im.Lists), im.Config.Tracker.Access.Mode)
	}
}

func TestImportInterval(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		given                 time.Duration
		interval, maxInterval string
		noted                 string
	}{
		{30 * time.Minute, "30m", "1h30m", ""},
		{time.Minute, "5m", "1h30m", "too short"},
		{-time.Minute, "5m", "1h30m", "too short"},
		{2 * time.Hour, "2h", "2h", ""},
		{24 * time.Hour, "3h", "3h", "too long"},
	} {
		im := &Imported{Config: Default(), taken: make(map[string]string)}
		im.interval(c.given, imported{key: "k"})
		if got := im.Config.Tracker; got.Interval.String() != c.interval || got.MaxInterval.String() != c.maxInterval {
			t.Errorf("%s: got %s and %s at most, want %s and %s", c.given, got.Interval, got.MaxInterval, c.interval, c.maxInterval)
		}
		noted := slices.ContainsFunc(im.Notes, func(n ImportNote) bool { return strings.Contains(n.Text, cmp.Or(c.noted, "too")) })
		if noted != (c.noted != "") {
			t.Errorf("%s: notes are %v, want %q", c.given, im.Notes, c.noted)
		}
	}
}

func TestParseOpentrackerAddr(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"0.0.0.0": "0.0.0.0:6969", "192.0.2.7:80": "192.0.2.7:80", "::": "[::]:6969", "[::]:80": "[::]:80", "[::1]": "[::1]:6969",
		"": "", "tracker.example": "", "192.0.2.7:": "", "192.0.2.7:99999": "", ":80": "",
	} {
		got, err := parseOpentrackerAddr(text)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%q: got %v, %v, want %q", text, got, err, want)
		}
	}
}

func TestImportOpentrackerList(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ conf, want string }{
		{"access.whitelist white.txt", "white.txt"},
		{"tracker.rootdir /srv/ot\naccess.whitelist white.txt", "/srv/ot/white.txt"},
		{"access.whitelist /white.txt\ntracker.rootdir /srv/ot/", "/srv/ot/white.txt"},
		{"tracker.rootdir /etc/opentracker\naccess.whitelist /etc/opentracker/white.txt", "/etc/opentracker/white.txt"},
	} {
		im, err := Import("opentracker", []byte(c.conf), "f")
		if err != nil {
			t.Fatal(err)
		}
		if got := im.Config.Tracker.Access; got.Mode != "allow" || got.File != c.want {
			t.Errorf("%q: got %+v, want allow and %s", c.conf, got, c.want)
		}
	}
}

func TestHashes(t *testing.T) {
	t.Parallel()
	const a, b, c = "0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef", "cccccccccccccccccccccccccccccccccccccccc"
	for _, test := range []struct {
		name, list string
		want       []string
		missed     int
	}{
		{"one a line", a + "\n" + b + "\n", []string{a, b}, 0},
		{"capitals, blanks, Windows", " " + strings.ToUpper(b) + " \r\n\r\n", []string{b}, 0},
		{"comments", "# mine\n" + a + "# this one\n" + b + " a film\n", []string{a, b}, 0},
		{"twice", a + "\n" + b + "\n" + a + "\n", []string{a, b}, 0},
		{"a journal", "+" + a + "\n+ " + b + "\n-" + a + "\n+" + c + "\n", []string{b, c}, 0},
		{"out and in again", a + "\n" + b + "\n-" + a + "\n+" + a + "\n", []string{b, a}, 0},
		{"out without having been in", "-" + a + "\n", nil, 0},
		{"not hashes", "hello\n" + a + "0\n" + a[1:] + "\n" + c + "\n", []string{c}, 3},
		{"no end of line", a, []string{a}, 0},
		{"nothing", "", nil, 0},
	} {
		var h Hashes
		if err := h.Read(strings.NewReader(test.list), "list"); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		var out bytes.Buffer
		if err := h.Write(&out); err != nil {
			t.Fatal(err)
		}
		if got := strings.Fields(out.String()); !slices.Equal(got, test.want) || h.Len() != len(test.want) || h.Missed != test.missed {
			t.Errorf("%s: got %v (Len %d), %d missed; want %v, %d missed", test.name, got, h.Len(), h.Missed, test.want, test.missed)
		}
	}
}

func FuzzImportYAML(f *testing.F) {
	for _, name := range []string{"trunker.yaml", "trunker-old.yaml", "trunker-env.json", "chihaya.yaml", "chihaya-small.yaml"} {
		text, err := os.ReadFile(filepath.Join("testdata", "import", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("tracker: {hostPorts: &a x, ttl: *a, mode: !!str rpc, ? [1]: 2}"))
	f.Add([]byte("chihaya:\n  prehooks: [[name, jwt], {name: {a: b}}]\n  http: {real_ip_header: 'a: b #\u2028', addr: \"a\\nb:1\"}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, from := range []string{"trunker", "chihaya"} {
			im, err := Import(from, text, "f")
			if err != nil {
				continue
			}
			leaves, err := importYAML(text, "f")
			if err != nil {
				t.Fatalf("read once, and not a second time: %v", err)
			}
			checkImported(t, im)
			checkAccounted(t, im, leaves)
		}
	})
}

func FuzzImportOpentracker(f *testing.F) {
	for _, name := range []string{"opentracker.conf", "opentracker-udp.conf"} {
		text, err := os.ReadFile(filepath.Join("testdata", "import", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		im, err := Import("opentracker", text, "f")
		if err != nil {
			return
		}
		leaves, err := importLines(text, "f")
		if err != nil {
			t.Fatal(err)
		}
		checkImported(t, im)
		checkAccounted(t, im, leaves)
	})
}

func FuzzHashes(f *testing.F) {
	f.Add("+0123456789abcdef0123456789abcdef01234567\n-0123456789abcdef0123456789abcdef01234567 # out\n")
	f.Fuzz(func(t *testing.T, text string) {
		var h, again Hashes
		if h.Read(strings.NewReader(text), "f") != nil {
			return // a line of megabytes
		}
		var out, twice bytes.Buffer
		if err := h.Write(&out); err != nil {
			t.Fatal(err)
		}
		if err := again.Read(bytes.NewReader(out.Bytes()), "out"); err != nil || again.Missed != 0 || again.Len() != h.Len() {
			t.Fatalf("what was written: %v, %d missed, %d of %d hashes", err, again.Missed, again.Len(), h.Len())
		}
		if err := again.Write(&twice); err != nil || twice.String() != out.String() {
			t.Fatalf("written again: got %q, want %q (%v)", twice.String(), out.String(), err)
		}
	})
}
