package lab

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// atEnd is called when all tests have run.
var atEnd []func()

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, f := range atEnd {
			f()
		}
		os.Exit(code)
	}))
}
