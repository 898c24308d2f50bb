package config

import (
	"slices"
	"testing"
)

func TestCheckUDP(t *testing.T) {
	t.Parallel()
	f := func(key string, change func(*UDP)) {
		t.Helper()
		c := Default()
		change(&c.UDP)
		errs := Check(c)
		if ok := key == ""; ok != (len(errs) == 0) || !ok && !slices.ContainsFunc(errs, func(e *KeyError) bool { return e.Key == key }) {
			t.Errorf("%s: got %v", key, errs)
		}
	}
	f("", func(c *UDP) { c.Listen = nil })
	f("", func(c *UDP) { c.Listen = StringList{":6969", "[::1]:0", "tracker.example:80"} })
	for _, a := range []string{"", "6969", ":x", ":65536", "::1:80", "unix:/x", "systemd", "systemd:udp"} {
		f("udp.listen", func(c *UDP) { c.Listen = StringList{a} })
	}
	f("udp.listen", func(c *UDP) { c.Listen = StringList{":1", ":1"} })
	f("udp.receive_buffer", func(c *UDP) { c.ReceiveBuffer = 1 << 10 })
	f("udp.receive_buffer", func(c *UDP) { c.ReceiveBuffer = 1 << 30 })
}

// "" is off, wherever it is said, as the contract has it.
func TestUDPOff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file    string
		environ []string
	}{{"udp: {listen: ''}\n", nil}, {"udp: {listen: []}\n", nil}, {"", []string{"SPILLWAY_UDP_LISTEN="}}} {
		if got, err := load(t, c.file, c.environ...); err != nil || len(got.UDP.Listen) != 0 {
			t.Errorf("%q %q: got %v, %v", c.file, c.environ, got.UDP.Listen, err)
		}
	}
	if got, err := load(t, "udp: {listen: [':1', ':2']}\n"); err != nil || got.UDP.Listen.String() != ":1,:2" {
		t.Errorf("two: got %v, %v", got.UDP.Listen, err)
	}
}
