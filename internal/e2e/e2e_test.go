// Package e2e runs the real binary against the real world: clients people use, the proxies operators put in front, and
// another tracker as an oracle. Nothing in here is a stand-in for either side.
//
// A test builds a random payload and a torrent that knows our announce URL and nothing else (private, so DHT, PEX and
// LSD stay off in every client), starts `spillway serve` on port 0 with a data_dir of its own, lets one client seed and
// another download, compares SHA-256 and asks the tracker what it counted.
//
// Files without a build tag need Go alone. Those tagged e2e need the programs that .ci/install installs, and root for
// the network namespaces: go test -tags e2e ./internal/e2e
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// spillwayPath is the binary under test, built once by TestMain.
var spillwayPath string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "spillway-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	spillwayPath = filepath.Join(dir, "spillway")
	// Plain, as users build it; the race detector watches the same code in the rooms' own tests.
	build := exec.Command("go", "build", "-o", spillwayPath, "spillway/cmd/spillway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: go build ./cmd/spillway:", err)
		return 1
	}
	return m.Run()
}
