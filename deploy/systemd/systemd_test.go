// Package systemd_test checks the units with systemd's own parser, and the package and its units on a Debian that a systemd has booted.
package systemd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestUnitsAreGood(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here: apt-get install systemd")
	}
	dir := t.TempDir()
	var units []string
	for _, name := range []string{"spillway.service", "spillway-relay.service", "spillway.socket"} {
		unit, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		// verify wants the program to be there.
		unit = bytes.ReplaceAll(unit, []byte("/usr/local/bin/spillway"), []byte("/bin/true"))
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, unit, 0o600); err != nil {
			t.Fatal(err)
		}
		units = append(units, file)
	}
	out, err := exec.CommandContext(t.Context(), analyze, append([]string{"verify"}, units...)...).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte(dir)) { // a warning names the file, and is no error
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}

	// Scores are tenths: 1.4 is "OK", and anything from 5.0 is "MEDIUM". The relay is root, which alone costs most of what it has.
	for i, threshold := range []string{"20", "30"} {
		out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold="+threshold, units[i]).CombinedOutput()
		if err != nil {
			t.Errorf("systemd-analyze security %s: %v\n%s", units[i], err, out)
		}
	}
}
