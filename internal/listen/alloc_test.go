//go:build !race

package listen

import (
	"testing"
	"time"
)

func TestConnAllocatesNothing(t *testing.T) {
	for name, cfg := range map[string]Config{"plain": {}, "gated": {Gate: quietGate{newTestGate()}}, "proxy": {ProxyProtocol: true, Trusted: trustAll}} {
		t.Run(name, func(t *testing.T) {
			d, _ := open(t, cfg)
			client := dial(t, d.Addrs()[0])
			c, err := d.Listeners[0].Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			buf := make([]byte, 64)
			if cfg.ProxyProtocol {
				_, _ = client.Write([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"))
				c.RemoteAddr()
			}
			allocs := testing.AllocsPerRun(100, func() {
				_, _ = client.Write(buf)
				now := time.Now()
				_ = c.SetReadDeadline(now.Add(time.Minute))
				_, _ = c.Read(buf)
				_ = c.SetWriteDeadline(now.Add(time.Minute))
				_, _ = c.Write(buf)
				_ = c.RemoteAddr()
				_, _ = client.Read(buf)
			})
			if allocs != 0 {
				t.Errorf("allocations a request: got %v, want 0", allocs)
			}
		})
	}
}

// quietGate keeps nothing.
type quietGate struct{ *testGate }

func (quietGate) Observe(time.Duration, bool) {}
