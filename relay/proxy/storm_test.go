package proxy

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// Clients and backends of all manners, while backends go down and come back: an answer that arrives whole is the right one, and in the end
// nothing is kept, which open sees to.
func TestStorm(t *testing.T) {
	t.Parallel()
	rude := serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_, _ = io.CopyN(c, c, rand.Int64N(200_000))
		_ = c.SetLinger(rand.IntN(2) - 1)
	})
	cfg := config(serve(t, "127.0.0.1:0", echo), rude, closedPort(t), blackHole(t), serve(t, "[::1]:0", echo))
	cfg.Listen = []string{"127.0.0.1:0", "[::1]:0"}
	cfg.MaxConns, cfg.Budget, cfg.loops, cfg.SendProxy = 40, 10, 3, false
	cfg.ConnectTimeout, cfg.IdleTimeout = 30*time.Millisecond, 300*time.Millisecond
	p := open(t, cfg)

	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<14) // 256 KiB
	var clients sync.WaitGroup
	for range 48 {
		clients.Go(func() {
			for range 30 {
				c, err := net.DialTimeout("tcp", p.Addrs()[rand.IntN(2)].String(), time.Second)
				if err != nil {
					continue
				}
				tcp := c.(*net.TCPConn)
				_ = c.SetDeadline(time.Now().Add(time.Duration(rand.IntN(400)) * time.Millisecond))
				size := rand.IntN(len(text))
				var writing sync.WaitGroup
				writing.Go(func() {
					_, _ = c.Write(text[:size])
					if rand.IntN(2) == 0 {
						_ = tcp.CloseWrite()
					}
				})
				got, err := io.ReadAll(io.LimitReader(c, int64(rand.IntN(len(text)))))
				if !bytes.HasPrefix(text[:size], got) {
					t.Errorf("got %d bytes that are not those sent, %v", len(got), err)
				}
				writing.Wait()
				_ = tcp.SetLinger(rand.IntN(2) - 1)
				_ = c.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	for {
		select {
		case <-done:
			must(t, p.Apply(planFor(p)))
			waittest.Until(t, waittest.Patience, "it is still here", func() bool { // one that takes 30 ms to connect is given up, as on a busy machine
				c := dial(t, p, 1)
				defer c.Close()
				_, err := io.WriteString(c, "x")
				_, read := io.ReadFull(c, make([]byte, 1))
				return err == nil && read == nil
			})
			return
		case <-time.After(5 * time.Millisecond):
		}
		var down []int
		for i := range cfg.Backends {
			if rand.IntN(3) == 0 {
				down = append(down, i)
			}
		}
		must(t, p.Apply(planFor(p, down...)))
		for _, i := range down {
			_, err := p.Cut(i, nil)
			must(t, err)
		}
		if n := counts(t, p).Conns; n > cfg.MaxConns {
			t.Errorf("connections: %d, want %d at most", n, cfg.MaxConns)
		}
	}
}
