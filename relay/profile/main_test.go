//go:build !e2e

package profile

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(dying) != "" {
		die()
	}
	goleak.VerifyTestMain(m)
}
