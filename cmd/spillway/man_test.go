package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
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
		for _, e := range examplesOf(n.Path()) {
			parseLine(t, parser, e.line, dir)
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
	words, last := splitLine(command)
	if last != "" {
		words = append(words, last)
	}
	if _, err := parser.Parse(words); err != nil {
		t.Errorf("%s: %v", line, err)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	root := newParser(new(cli), io.Discard, io.Discard).Model.Node
	eachCommand(root, func(n *kong.Node) {
		got := page(n)
		for _, want := range []string{".TH ", ".SH NAME\n" + escape(pageName(n)) + ` \- `, ".SH SYNOPSIS\n", ".SH OPTIONS\n", ".SH SEE ALSO\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", pageName(n), want, got)
			}
		}
	})
	serve := page(childNamed(root, "serve"))
	if !strings.Contains(serve, `.BI "\-\-http.max_conns=" "20000"`) {
		t.Errorf("spillway-serve(1) does not tell the default of http.max_conns:\n%s", serve)
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

// groff has nothing to complain of. groff-base is part of every Debian that has man pages.
func TestGroffTakesThePages(t *testing.T) {
	t.Parallel()
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("no groff here")
	}
	var all bytes.Buffer
	eachCommand(newParser(new(cli), io.Discard, io.Discard).Model.Node, func(n *kong.Node) { all.WriteString(page(n)) })
	cmd := exec.Command(groff, "-man", "-ww", "-z", "-Tutf8")
	cmd.Stdin = &all
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}
