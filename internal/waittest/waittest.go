// Package waittest is how tests wait: for what they want, for as long as a busy machine may take, and never for a time. It is for
// tests only.
package waittest

import (
	"errors"
	"testing"
	"time"
)

// Patience is for what takes milliseconds, where the time it takes is not what is tested.
const Patience = 30 * time.Second

// between two looks; a hundredth of what is waited for if that is less.
const between = 5 * time.Millisecond

var errNot = errors.New("it is not so")

// Until polls ok until it holds, and fails the test if that is not within the time.
func Until(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	Done(t, within, what, func() error {
		if ok() {
			return nil
		}
		return errNot
	})
}

// Done polls f until it has no error, and fails the test with the last if that is not within the time.
func Done(t testing.TB, within time.Duration, what string, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(min(between, within/100)) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
	}
}
