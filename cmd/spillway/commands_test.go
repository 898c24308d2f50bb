package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"spillway/internal/cmdline"
)

func eachCommand(n *kong.Node, f func(*kong.Node)) {
	if n.Hidden {
		return
	}
	f(n)
	for _, child := range n.Children {
		eachCommand(child, f)
	}
}

// An example that does not work teaches the wrong thing.
func TestExamplesParse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // for flags that want one that is there
	parser := newParser(new(cli), io.Discard, io.Discard)
	eachCommand(parser.Model.Node, func(n *kong.Node) {
		for _, e := range cmdline.ExamplesOf(n.Path()) {
			parseLine(t, parser, e.Line, dir)
		}
	})
}

// The same goes for the documents people copy from.
func TestDocumentsNameRealCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	parser := newParser(new(cli), io.Discard, io.Discard)
	for _, name := range []string{"guide.md", "migration.md"} {
		text, err := os.ReadFile(filepath.Join("../../docs", name))
		if err != nil {
			t.Fatal(err)
		}
		lines := 0
		for line := range strings.Lines(string(text)) {
			line = strings.TrimRight(line, "\n")
			if !strings.HasPrefix(line, "    ") {
				continue
			}
			if i := strings.Index(line, "spillway "); i >= 0 && regexp.MustCompile(`^ +(sudo |\./)*$`).MatchString(line[:i]) {
				parseLine(t, parser, line, dir)
				lines++
			}
		}
		if lines == 0 {
			t.Errorf("docs/%s: no command of spillway in it; is its form another now?", name)
		}
	}
}

// parseLine fails unless the program takes the command line.
func parseLine(t *testing.T, parser *kong.Kong, line, dir string) {
	t.Helper()
	command, _, _ := strings.Cut(line, " # ")
	command, _, _ = strings.Cut(command, " > ")
	command, _, _ = strings.Cut(command, " | ")
	command = regexp.MustCompile(`^ *(sudo )?(\./)?spillway`).ReplaceAllString(strings.TrimSpace(command), "spillway")
	command = regexp.MustCompile(`--(out-)?dir[= ]\S+`).ReplaceAllString(command, "--${1}dir="+dir)
	words, last := cmdline.SplitLine(command)
	if last != "" {
		words = append(words, last)
	}
	if _, err := parser.Parse(cmdline.Dashed(parser.Model.Node, words)); err != nil {
		t.Errorf("%s: %v", line, err)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	root := newParser(new(cli), io.Discard, io.Discard).Model.Node
	eachCommand(root, func(n *kong.Node) {
		got := cmdline.Page(n, "v1")
		name := strings.NewReplacer(" ", `\-`, "-", `\-`).Replace(n.FullPath())
		for _, want := range []string{".TH ", ".SH NAME\n" + name + ` \- `, ".SH SYNOPSIS\n", ".SH OPTIONS\n", ".SH SEE ALSO\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", name, want, got)
			}
		}
		if n.Name == "serve" && !strings.Contains(got, `.BI "\-\-http.max_conns=" "20000"`) {
			t.Errorf("spillway-serve(1) does not tell the default of http.max_conns:\n%s", got)
		}
	})
}

// groff has nothing to complain of. groff-base is part of every Debian that has man pages.
func TestGroffTakesThePages(t *testing.T) {
	t.Parallel()
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("no groff here")
	}
	var all bytes.Buffer
	eachCommand(newParser(new(cli), io.Discard, io.Discard).Model.Node, func(n *kong.Node) { all.WriteString(cmdline.Page(n, "v1")) })
	cmd := exec.Command(groff, "-man", "-ww", "-z", "-Tutf8")
	cmd.Stdin = &all
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}

func TestComplete(t *testing.T) {
	t.Parallel()
	root := newParser(new(cli), io.Discard, io.Discard).Model.Node
	for _, c := range []struct{ line, want string }{
		{"spillway co", "words config completion"},
		{"spillway ctl w", "words ws"},
		{"spillway ctl --relay sta", "words status"},
		{"spillway ctl --admin x sta", "words status"},
		{"spillway ctl ws ", "words on reject-new drain off"},
		{"spillway ctl ws off ", "words"},
		{"spillway ctl ws o", "words on off"},
		{"spillway ctl block a", "words add accept"},
		{"spillway ctl block add s", "words source"},
		{"spillway serve --ws ", "words on reject-new drain off"},
		{"spillway serve --log.l", "words --log.level="},
		{"spillway serve --log.level=in", "words --log.level=info"},
		{"spillway serve --log.level i", "words info"},
		{"spillway serve --http.proxy_protocol", "words --http.proxy_protocol"},
		{"spillway serve --http.proxy_protocol --http.proxy_protocol", "words"}, // given already
		{"spillway relay --relay.mode ", "words auto kernel proxy"},
		{"spillway relay check --role=b", "words --role=backend"},
		{"spillway --config ", "files"},
		{"spillway serve --config=", "files"},
		{"spillway serve --data_dir ", "dirs"},
		{"spillway config check ", "files"},
		{"spillway config import --from=list ", "files"},
		{"spillway config import --out-dir=", "dirs"},
		{"spillway config import --from=tr", "words --from=trunker"},
		{"spillway serve --nonsense=", "words"},
		{"spillway serve --http.listen=", "words"},
		{"spillway complete-w", "words"}, // hidden
		{"spillway nonsense ", "words"},
		{"spillway ctl -- --", "words"},
		{"spillway completion ", "words bash zsh fish"},
	} {
		words, current := cmdline.SplitLine(c.line)
		kind, found := cmdline.Complete(root, words, current)
		got := kind
		for _, f := range found {
			got += " " + f.Word
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.line, got, c.want)
		}
	}
}

func FuzzComplete(f *testing.F) {
	f.Add("spillway ctl ws off --for=10m --reason 'a b' -- --")
	f.Add("spillway serve --log.level=in")
	root := newParser(new(cli), io.Discard, io.Discard).Model.Node
	f.Fuzz(func(t *testing.T, line string) {
		words, current := cmdline.SplitLine(line)
		_, found := cmdline.Complete(root, words, current)
		for _, c := range found {
			if !strings.HasPrefix(c.Word, current) {
				t.Errorf("%q: offers %q", line, c.Word)
			}
		}
	})
}

// The script in a real bash, as readline calls it.
func TestBashCompletion(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("no bash here")
	}
	dir := t.TempDir()
	for _, name := range []string{"spillway.yaml", "lists/x", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const harness = `
source <(spillway completion bash)
compopt() { :; } # it works within a completion only
ask() {
	COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=("${@:2}")
	COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
	_spillway
	echo "$1 -> ${COMPREPLY[*]}"
}
ask 'spillway ctl w' spillway ctl w
ask 'spillway ctl ws o' spillway ctl ws o
ask 'spillway serve --log.fo' spillway serve --log.fo
ask 'spillway serve --log.format=' spillway serve --log.format =
ask 'spillway serve --log.format=j' spillway serve --log.format = j
ask 'spillway serve --config=spill' spillway serve --config = spill
ask 'spillway config check sp' spillway config check sp
ask 'spillway serve --data_dir=' spillway serve --data_dir =
ask 'spillway nonsense x' spillway nonsense x
`
	want := []string{
		"spillway ctl w -> ws",
		"spillway ctl ws o -> on off",
		"spillway serve --log.fo -> --log.format=",
		"spillway serve --log.format= -> text json",
		"spillway serve --log.format=j -> json",
		"spillway serve --config=spill -> spillway.yaml",
		"spillway config check sp -> spillway.yaml",
		"spillway serve --data_dir= -> lists",
		"spillway nonsense x -> ",
	}
	bin := t.TempDir()
	if err := os.Symlink(os.Args[0], filepath.Join(bin, "spillway")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "--norc", "-c", harness)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", out, strings.Join(want, "\n"))
	}
}

// A prefix of peer ids begins with a dash nearly always, and is no flag.
func TestDashedValues(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"spillway ctl block add peer-id -XL0019":                  "peer-id -XL0019",
		"spillway ctl block add --for=1d peer-id -XL0019":         "peer-id -XL0019",
		"spillway ctl block add peer-id -hX0001 --for 1d --json":  "peer-id -hX0001",
		"spillway ctl --json block add --reason x peer-id -qB4- ": "peer-id -qB4-",
		"spillway ctl block add peer-id -- -XL0019":               "peer-id -XL0019",
		"spillway ctl block add --cluster peer-id -- --X":         "peer-id --X",
		"spillway ctl block add peer-id -XL0019 --reason=-TR":     "peer-id -XL0019",
		"spillway ctl block add source 192.0.2.1 -x":              "unknown flag -x",
		"spillway ctl block add -x source":                        "unknown flag -x",
		"spillway ctl block add --reason -XL0019 peer-id a":       `expected string value but got "-XL0019" (short flag); perhaps try --reason="-XL0019"?`,
		"spillway ctl limits set ws.max_conns -5":                 "unknown flag -5",
		"spillway ctl ws -off":                                    "unknown flag -o",
	} {
		c := new(cli)
		parser := newParser(c, io.Discard, io.Discard)
		words, last := cmdline.SplitLine(line)
		if last != "" {
			words = append(words, last)
		}
		_, err := parser.Parse(cmdline.Dashed(parser.Model.Node, words))
		got := c.Ctl.Block.Add.Kind + " " + c.Ctl.Block.Add.Value
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}
