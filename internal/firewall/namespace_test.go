//go:build e2e

package firewall

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"spillway/internal/netnstest"
)

// TestMain runs the tests in a network namespace of their own.
func TestMain(m *testing.M) {
	netnstest.Main(func() error {
		if os.Getenv(holder) != "" {
			hold()
		}
		return nil
	}, func() { goleak.VerifyTestMain(m) })
}
