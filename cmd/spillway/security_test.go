package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSecurityNamesTests: each defence in docs/security.md names its proof, and the proof is there.
func TestSecurityNamesTests(t *testing.T) {
	t.Parallel()
	const page = "../../docs/security.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return nil // what others make and remove meanwhile
		}
		source, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(source, -1) {
			there[string(m[1])] = true
		}
		return err
	})
	if err != nil || len(there) < 500 {
		t.Fatalf("found %d tests: %v", len(there), err)
	}
	named := map[string]bool{}
	for _, name := range regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w*`).FindAllString(string(text), -1) {
		if !there[name] && !named[name] {
			t.Errorf("%s names %s, which is in no _test.go", page, name)
		}
		named[name] = true
	}
	if len(named) < 100 {
		t.Errorf("%s names %d tests", page, len(named))
	}
	// A row of its tables of threats without a proof is a promise.
	proofs := false
	for i, line := range strings.Split(string(text), "\n") {
		switch cells := strings.Split(strings.Trim(line, "| "), " | "); {
		case !strings.HasPrefix(line, "|"):
			proofs = false
		case cells[len(cells)-1] == "proof":
			proofs = true
		case proofs && !strings.HasPrefix(line, "|---") && !strings.Contains(cells[len(cells)-1], "`Test") && !strings.Contains(cells[len(cells)-1], "`Fuzz"):
			t.Errorf("%s:%d: no test is named", page, i+1)
		}
	}
}
