//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// With shedder.firewall a source that is blocked is dropped by the kernel, and no other; and let in again with the rule's end.
func TestShedFirewall(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	other := strings.TrimSuffix(ns.outside, "254") + "253"
	device, err := output("ip", "-o", "addr", "show", "to", ns.outside)
	if err != nil || len(strings.Fields(device)) < 2 {
		t.Fatalf("device of %s: %q, %v", ns.outside, device, err)
	}
	ip(t, "addr", "add", other+"/24", "dev", strings.Fields(device)[1])
	dir := t.TempDir()
	admin := "unix:" + filepath.Join(dir, "admin.sock")
	p := ns.start(t, "spillway", spillwayPath, "serve", "--data_dir="+filepath.Join(dir, "data"), "--http.listen="+ns.inside[0]+":6969",
		"--admin.listen="+admin, "--shedder.firewall")
	const patience = 20 * time.Second
	connect := func(from string, wait time.Duration) error {
		d := net.Dialer{Timeout: wait, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
		c, err := d.Dial("tcp", ns.inside[0]+":6969")
		if err == nil {
			c.Close()
		}
		return err
	}
	ctl := func(args ...string) {
		t.Helper()
		args = append([]string{spillwayPath, "ctl", "--admin=" + admin, "--token-file=" + filepath.Join(dir, "data", "admin.token")}, args...)
		if out, err := output(args...); err != nil {
			t.Fatalf("%v\n%s\n%s", err, out, p.log())
		}
	}
	waittest.Done(t, 20*time.Second, "the tracker listens", func() error { return connect(ns.outside, patience) })
	ctl("block", "add", "source", ns.outside, "--for", "1h", "--reason", "test")
	waittest.Done(t, patience, "its SYN is dropped", func() error {
		if err := connect(ns.outside, 500*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("got %v, want no answer", err)
		}
		return nil
	})

	if err := connect(other, patience); err != nil {
		t.Errorf("another source: %v", err)
	}
	ctl("block", "rm", "source", ns.outside)
	waittest.Done(t, patience, "it is let in again", func() error { return connect(ns.outside, patience) })
}
