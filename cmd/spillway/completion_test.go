package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSplitLine(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]struct {
		words   []string
		current string
	}{
		"":                                      {nil, ""},
		"spillway":                              {nil, "spillway"},
		"spillway ":                             {nil, ""},
		"spillway ctl w":                        {[]string{"ctl"}, "w"},
		"spillway ctl ws  off ":                 {[]string{"ctl", "ws", "off"}, ""},
		`spillway ctl ws off --reason "a b" --`: {[]string{"ctl", "ws", "off", "--reason", "a b"}, "--"},
		`spillway --config 'a b`:                {[]string{"--config"}, "a b"},
		`spillway --config a\ b`:                {[]string{"--config"}, "a b"},
		`spillway '' x`:                         {[]string{""}, "x"},
	} {
		words, current := splitLine(line)
		if !slices.Equal(words, want.words) || current != want.current {
			t.Errorf("%q: got %q and %q, want %q and %q", line, words, current, want.words, want.current)
		}
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
		words, current := splitLine(c.line)
		kind, found := complete(root, words, current)
		got := kind
		for _, f := range found {
			got += " " + f.word
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
		words, current := splitLine(line)
		_, found := complete(root, words, current)
		for _, c := range found {
			if !strings.HasPrefix(c.word, current) {
				t.Errorf("%q: offers %q", line, c.word)
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

// zsh and fish are seldom installed; where they are, they can read what is for them.
func TestOtherShellsReadTheirScripts(t *testing.T) {
	t.Parallel()
	for shell, script := range map[string]string{"zsh": zshScript, "fish": fishScript, "bash": bashScript} {
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("no %s here", shell)
			continue
		}
		file := filepath.Join(t.TempDir(), shell)
		if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(path, "-n", file).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("%s -n: %v %s", shell, err, out)
		}
	}
}
