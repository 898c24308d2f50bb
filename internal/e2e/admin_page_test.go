//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An operator opens the page, turns the WebSocket server off and on again, and sees who asks most, whatever that one is called.
// go test -artifacts keeps the pictures.
func TestOperatorsPageInChromium(t *testing.T) {
	t.Parallel()
	needsNode(t)
	tr := serve(t)
	match := adminAddr.FindStringSubmatch(tr.log())
	if match == nil {
		t.Fatal("no admin address in the log")
	}
	token, err := os.ReadFile(filepath.Join(tr.dataDir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	saysOK(t, start(t, "admin_page.mjs", "node", "testdata/admin_page.mjs",
		"http://"+match[1], strings.TrimSpace(string(token)), tr.announce, t.ArtifactDir()), 2*time.Minute)
	for _, change := range []string{
		`what="switch ws" from=on to=off reason="flood of sockets"`,
		`what="switch ws" from=off to=on`,
		`what="limit http.max_conns"`,
	} {
		if !strings.Contains(tr.log(), change) {
			t.Errorf("log has no line with %s", change)
		}
	}
	tr.stop(t)
}
