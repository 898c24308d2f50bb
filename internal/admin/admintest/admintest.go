// Package admintest has the real admin side on a loopback port. It is for tests only.
package admintest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"spillway/internal/admin"
)

// Serve serves cfg, without a log, until the test ends, and returns host and port.
func Serve(t testing.TB, cfg admin.Config) (addr string) {
	t.Helper()
	server, err := admin.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(server.Shutdown(ctx), <-served); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}
