package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The house has one direction: cmd -> tracker -> tracker/swarm, and the rooms
// in internal are leaves. docs/architecture.md says why.
func TestImports(t *testing.T) {
	t.Parallel()
	allowed := map[string][]string{
		"spillway/tracker/swarm":             {},
		"spillway/tracker/swarm/swarmtest":   {"spillway/tracker/swarm"},
		"spillway/tracker/swarm/shared":      {"spillway/tracker/swarm", "spillway/tracker/swarm/shared/link"},
		"spillway/tracker/swarm/shared/link": {},
		"spillway/shedder":                   {},
		"spillway/tracker":                   {"spillway/tracker/swarm", "spillway/shedder", "spillway/internal/logx", "spillway/internal/yield"},
		"spillway/wsserver":                  {"spillway/tracker/swarm", "spillway/shedder", "spillway/internal/logx", "spillway/internal/yield"},
		"spillway/relay":                     {"spillway/internal/logx"},
		"spillway/relay/kernel":              {"spillway/relay", "spillway/internal/logx"},
		"spillway/relay/proxy":               {"spillway/relay", "spillway/internal/logx"},
		"spillway/relay/profile":             {},
		"spillway/internal/config":           {},
		"spillway/internal/logx":             {},
		"spillway/internal/yield":            {},
		"spillway/internal/datadir":          {},
		"spillway/internal/listen":           {"spillway/internal/logx"},
		"spillway/internal/admin":            {"spillway/shedder", "spillway/relay", "spillway/internal/logx", "spillway/internal/datadir"},
		"spillway/internal/console": {"spillway/internal/config", "spillway/internal/admin", "spillway/relay", "spillway/relay/kernel",
			"spillway/relay/profile"},
		"spillway/internal/cmdline":         {"spillway/internal/config", "spillway/internal/console"},
		"spillway/internal/firewall":        {},
		"spillway/internal/cluster":         {"spillway/internal/logx", "spillway/internal/datadir", "spillway/tracker/swarm/shared/link"},
		"spillway/internal/sys":             {},
		"spillway/internal/plot":            {},
		"spillway/internal/flood":           {"spillway/internal/sys", "spillway/internal/plot"},
		"spillway/internal/lab":             {"spillway/internal/flood", "spillway/internal/sys"},
		"spillway/internal/drill":           {"spillway/internal/lab", "spillway/internal/flood", "spillway/internal/plot", "spillway/internal/sys"},
		"spillway/internal/netnstest":       {},                          // for tests
		"spillway/internal/logx/logxtest":   {},                          // for tests
		"spillway/internal/waittest":        {},                          // for tests
		"spillway/internal/admin/admintest": {"spillway/internal/admin"}, // for tests
		// Tests may look into every room; nobody imports them.
		"spillway/internal/bench": nil,
		"spillway/internal/e2e":   nil,
		"spillway/deploy":         nil,
		"spillway/deploy/systemd": nil,
		"spillway/deploy/hosts":   nil,
		"spillway/cmd/spillway":   nil,
	}
	cmd := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		may, known := allowed[pkg]
		if !known {
			t.Errorf("%s is not in the plan of the house; add it to this test and to docs/architecture.md", pkg)
			continue
		}
		for _, imp := range strings.Fields(imports) {
			if !strings.HasPrefix(imp, "spillway/") {
				continue
			}
			if allowed[imp] == nil {
				t.Errorf("%s imports %s, which is for nobody", pkg, imp)
			} else if may != nil && !slices.Contains(may, imp) {
				t.Errorf("%s imports %s", pkg, imp)
			}
		}
	}
}
