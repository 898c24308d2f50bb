package cmdline

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
		words, current := SplitLine(line)
		if !slices.Equal(words, want.words) || current != want.current {
			t.Errorf("%q: got %q and %q, want %q and %q", line, words, current, want.words, want.current)
		}
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

func TestEscape(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{`a-b`: `a\-b`, `.x`: `\&.x`, `'x`: `\(aqx`, `a\b`: `a\eb`, "": ""} {
		if got := escape(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got, want := quoted(`a "b"`), `"a \(dqb\(dq"`; got != want {
		t.Errorf("quoted: got %q, want %q", got, want)
	}
}
