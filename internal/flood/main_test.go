package flood

import (
	"net"
	"net/netip"
	"testing"

	"github.com/valyala/fasthttp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// fasthttp's clock, which it never stops, and what cleans up after a server: it sleeps ten seconds before it looks.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// listen is a port of this process until the test ends.
func listen(t *testing.T) (net.Listener, netip.AddrPort) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln, netip.MustParseAddrPort(ln.Addr().String())
}

// serveHTTP answers with handler until the test ends.
func serveHTTP(t *testing.T, handler fasthttp.RequestHandler) netip.AddrPort {
	t.Helper()
	ln, addr := listen(t)
	s := fasthttp.Server{Handler: handler, Logger: quiet{}}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		if err := s.Shutdown(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return addr
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

// serveConns has serve deal with each connection, one after the other when it is slow.
func serveConns(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, addr := listen(t)
	done := make(chan struct{})
	conns := make(chan struct{}, 10_000)
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- struct{}{}
			go func() {
				serve(c)
				_ = c.Close()
				<-conns
			}()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
		for range cap(conns) { // all have ended
			conns <- struct{}{}
		}
	})
	return addr
}
