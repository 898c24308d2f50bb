//go:build e2e

package systemd_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// packages builds the program, and two Debian packages of it, the second newer than the first.
func packages(t *testing.T) (first, second string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "spillway")
	build := exec.Command("go", "build", "-trimpath", "-o", program, "spillway/cmd/spillway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build spillway: %v\n%s", err, out)
	}
	arch, err := exec.Command("dpkg", "--print-architecture").Output()
	if err != nil {
		t.Skipf("no Debian here: %v", err)
	}
	var debs []string
	for _, version := range []string{"0~test1", "1.0~test2"} {
		cmd := exec.Command("../debian/build", version, strings.TrimSpace(string(arch)), program, dir)
		cmd.Env = append(os.Environ(), "COMPRESS=-Znone")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("deploy/debian/build %s: %v\n%s", version, err, out)
		}
		debs = append(debs, strings.TrimSpace(string(out)))
	}
	return debs[0], debs[1]
}

// The package is installed, used, upgraded and removed on a Debian of its own, where a real systemd runs the units.
func TestPackageUnderSystemd(t *testing.T) {
	t.Parallel()
	first, second := packages(t)
	m := boot(t)
	m.put(t, first, "/root/first.deb")
	m.put(t, second, "/root/second.deb")
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.try(t, "systemctl --no-pager list-units --all 'spillway*'; journalctl --no-pager | tail -n 100")
			t.Log(out)
		}
	})
	for _, step := range []struct {
		name string
		do   func(*testing.T, *machine)
	}{
		{"installed, nothing is started", installed},
		{"the tracker serves from its sandbox", serves},
		{"it is reloaded", reloaded},
		{"it is killed, and comes back with its swarms", killed},
		{"it hangs, and the watchdog notices", hangs},
		{"systemd holds its port", activated},
		{"the relay has its rules in the kernel", relays},
		{"upgraded, all of it goes on", upgraded},
		{"removed, nothing of it runs", removed},
		{"purged, nothing of it is left", purged},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.do(t, m) }) {
			break // what follows builds on it
		}
	}
}

func installed(t *testing.T, m *machine) {
	m.run(t, "dpkg -i /root/first.deb < /dev/null")
	for _, unit := range []string{"spillway.service", "spillway-relay.service", "spillway.socket"} {
		if load, active, enabled := m.is(t, unit, "LoadState"), m.is(t, unit, "ActiveState"), m.is(t, unit, "UnitFileState"); load != "loaded" ||
			active != "inactive" || enabled != "disabled" {
			t.Errorf("%s: got %s, %s, %s, want loaded, inactive, disabled", unit, load, active, enabled)
		}
	}
	for unit, threshold := range map[string]string{"spillway.service": "20", "spillway-relay.service": "30"} {
		out := m.run(t, "systemd-analyze --no-pager security --threshold="+threshold+" "+unit)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		t.Log(lines[len(lines)-1])
	}
}

// Of all it does nothing is forbidden: HTTP, UDP, WebSockets, the operator's word on disk, the snapshot.
func serves(t *testing.T, m *machine) {
	m.run(t, "echo 'store: {snapshot: {every: 1s}}' >> /etc/spillway/spillway.yaml")
	m.run(t, "systemctl enable --now spillway") // returns when it has said that it is ready
	if got := m.is(t, "spillway", "ActiveState"); got != "active" {
		t.Fatalf("enabled and started: got %s, want active", got)
	}
	if out, err := m.announce(t, 1001, "0"); err != nil || !strings.Contains(out, "8:intervali") {
		t.Fatalf("announce: got %q, %v", out, err)
	}
	if out, err := m.ask(t, "bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/6969
		printf 'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n' >&3
		timeout 20 head -n 1 <&3`); err != nil || !strings.HasPrefix(out, "HTTP/1.1 101 ") {
		t.Errorf("WebSocket: got %q, %v", out, err)
	}
	if out, err := m.ask(t, "bash", "-c", `exec 3<>/dev/udp/127.0.0.1/6969; printf '\000\000\004\027\047\020\031\200\000\000\000\000\000\000\000\001' >&3
		timeout 20 head -c 16 <&3 | od -An -tx1`); err != nil || !strings.HasPrefix(strings.TrimSpace(out), "00 00 00 00 00 00 00 01") {
		t.Errorf("UDP: got %q, %v", out, err)
	}
	m.run(t, "spillway ctl ws off; spillway ctl status; spillway ctl ws on")
	waittest.Done(t, time.Minute, "a snapshot", func() error {
		_, err := m.try(t, "test -s /var/lib/spillway/swarms.snapshot")
		return err
	})

	status := m.run(t, "cat /proc/"+m.is(t, "spillway", "MainPID")+"/status")
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("/proc/PID/status: %q is not in it:\n%s", want, status)
		}
	}
	if strings.Contains(status, "Uid:\t0\t") {
		t.Errorf("it runs as root:\n%s", status)
	}
	if got := m.is(t, "spillway", "NRestarts"); got != "0" {
		t.Errorf("restarts: got %s, want none", got)
	}
}

func reloaded(t *testing.T, m *machine) {
	pid := m.is(t, "spillway", "MainPID")
	m.run(t, "echo 'tracker: {interval: 40m}' >> /etc/spillway/spillway.yaml; systemctl reload spillway")
	waittest.Done(t, time.Minute, "a reload", func() error {
		if out := m.run(t, "journalctl --no-pager -o cat -u spillway"); !strings.Contains(out, "msg=reloaded changed=[tracker.interval]") {
			return errors.New(out)
		}
		return nil
	})

	if now := m.is(t, "spillway", "MainPID"); now != pid {
		t.Errorf("process: got %s, want %s as before", now, pid)
	}
}

// comesBack waits until a unit runs in another process than pid, and says how often systemd has started it by itself.
func comesBack(t *testing.T, m *machine, unit, pid string) {
	t.Helper()
	waittest.Done(t, time.Minute, unit+" comes back", func() error {
		if active, now := m.is(t, unit, "ActiveState"), m.is(t, unit, "MainPID"); active != "active" || now == pid || now == "0" {
			return fmt.Errorf("%s, process %s", active, now)
		}
		return nil
	})

}

// hasSwarm announces a leecher, once and for all: it is to be told of the seeder that has announced first. On a busy machine it may be
// told to come back later, which is an answer too.
func hasSwarm(t *testing.T, m *machine) {
	t.Helper()
	waittest.Done(t, time.Minute, "an announce that is not refused", func() error {
		out, err := m.announce(t, 1002, "1")
		if err != nil || !strings.Contains(out, "14:failure reason") && (!strings.Contains(out, "8:completei1e") || !strings.Contains(out, "\x7f\x00\x00\x01\x03\xe9")) {
			t.Fatalf("the seeder of before: got %q, %v", out, err)
		}
		if strings.Contains(out, "14:failure reason") {
			return fmt.Errorf("got %q", out)
		}
		return nil
	})

}

func killed(t *testing.T, m *machine) {
	pid := m.is(t, "spillway", "MainPID")
	// One of the next snapshots has the seeder.
	waittest.Done(t, time.Minute, "a snapshot with the seeder", func() error {
		_, err := m.try(t, "grep -q aaaaaaaaaaaaaaaaaaaa /var/lib/spillway/swarms.snapshot")
		return err
	})

	m.run(t, "kill -9 "+pid)
	comesBack(t, m, "spillway", pid)
	hasSwarm(t, m)
}

func hangs(t *testing.T, m *machine) {
	m.run(t, "systemctl stop spillway; mkdir -p /run/systemd/system/spillway.service.d; printf '[Service]\\nWatchdogSec=10s\\n' > /run/systemd/system/spillway.service.d/test.conf; systemctl daemon-reload; systemctl start spillway")
	pid, before := m.is(t, "spillway", "MainPID"), m.is(t, "spillway", "WatchdogTimestampMonotonic")
	for range 2 {
		waittest.Done(t, time.Minute, "a sign of life", func() error {
			now := m.is(t, "spillway", "WatchdogTimestampMonotonic")
			if now == before {
				return errors.New("the last was at " + before)
			}
			before = now
			return nil
		})

	}
	if now := m.is(t, "spillway", "MainPID"); now != pid {
		t.Fatalf("it lives, and was started again: process %s, then %s", pid, now)
	}
	m.run(t, "kill -STOP "+pid)
	comesBack(t, m, "spillway", pid)
	hasSwarm(t, m)
	waittest.Done(t, time.Minute, "why, in the journal", func() error {
		out := m.run(t, "journalctl --no-pager -o cat -u spillway")
		for _, want := range []string{"Watchdog timeout", "SIGABRT: abort", "goroutine "} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("%q is not in it:\n%s", want, out)
			}
		}
		return nil
	})

	m.run(t, "rm -r /run/systemd/system/spillway.service.d; systemctl daemon-reload; systemctl restart spillway")
	hasSwarm(t, m)
}

// As spillway.socket says.
func activated(t *testing.T, m *machine) {
	m.run(t, "echo SPILLWAY_HTTP_LISTEN=systemd:http >> /etc/default/spillway")
	m.run(t, "systemctl stop spillway && systemctl enable --now spillway.socket && systemctl start spillway")
	hasSwarm(t, m)
	// Whoever comes while the tracker is started again waits, and is answered.
	m.run(t, "systemctl restart --no-block spillway")
	hasSwarm(t, m)
	m.run(t, "systemctl restart spillway")
	pid := m.is(t, "spillway", "MainPID")
	m.run(t, "kill -9 "+pid)
	hasSwarm(t, m)
	comesBack(t, m, "spillway", pid)
	hasSwarm(t, m)
}

func relays(t *testing.T, m *machine) {
	m.run(t, `printf 'relay: {backends: ["10.66.0.2:6969"], mode: kernel}\n' >> /etc/spillway/spillway.yaml`)
	m.run(t, "systemctl enable --now spillway-relay")
	forwards := func() {
		t.Helper()
		if out, err := m.ask(t, "nft", "list", "table", "inet", "spillway_relay"); err != nil || !strings.Contains(out, "10.66.0.2") {
			t.Errorf("the kernel's table: got %v, %s", err, out)
		}
		if out := m.run(t, "cat /proc/sys/net/ipv4/ip_forward"); out != "1\n" {
			t.Errorf("net.ipv4.ip_forward: got %q, want 1", out)
		}
	}
	forwards()
	pid := m.is(t, "spillway-relay", "MainPID")
	status := m.run(t, "cat /proc/"+pid+"/status; spillway ctl --relay status")
	for _, want := range []string{"CapBnd:\t0000000000003400", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("/proc/PID/status: %q is not in it:\n%s", want, status)
		}
	}
	m.run(t, "kill -9 "+pid)
	forwards()
	comesBack(t, m, "spillway-relay", pid)
	forwards()
	m.run(t, "systemctl stop spillway-relay")
	forwards()
	m.run(t, "systemctl start spillway-relay")
	forwards()
}

func upgraded(t *testing.T, m *machine) {
	tracker, relay, token := m.is(t, "spillway", "MainPID"), m.is(t, "spillway-relay", "MainPID"), m.run(t, "cat /var/lib/spillway/admin.token")
	m.run(t, "dpkg -i /root/second.deb < /dev/null")
	for unit, was := range map[string]string{"spillway": tracker, "spillway-relay": relay} {
		if active, now := m.is(t, unit, "ActiveState"), m.is(t, unit, "MainPID"); active != "active" || now == was {
			t.Errorf("%s: got %s, process %s, want active, another than %s", unit, active, now, was)
		}
		if got := m.is(t, unit, "UnitFileState"); got != "enabled" {
			t.Errorf("%s: got %s, want enabled as before", unit, got)
		}
	}
	if now := m.run(t, "cat /var/lib/spillway/admin.token"); now != token {
		t.Error("the token is another")
	}
	if out := m.run(t, "tail -n 1 /etc/default/spillway"); out != "SPILLWAY_HTTP_LISTEN=systemd:http\n" {
		t.Errorf("/etc/default/spillway: got %q", out)
	}
	hasSwarm(t, m)
	// What did not run stays so.
	m.run(t, "systemctl stop spillway.socket spillway; dpkg -i /root/second.deb < /dev/null")
	if got := m.is(t, "spillway", "ActiveState"); got != "inactive" {
		t.Errorf("stopped before the upgrade: got %s", got)
	}
	m.run(t, "systemctl start spillway.socket spillway")
	hasSwarm(t, m)
}

func removed(t *testing.T, m *machine) {
	m.run(t, "dpkg -r spillway")
	if out, err := m.try(t, "for p in /proc/[0-9]*/exe; do readlink $p; done | grep spillway"); err == nil {
		t.Errorf("removed, and it runs: %s", out)
	}
	if out := m.run(t, "find /etc/systemd /run/systemd/system -name '*spillway*'"); out != "" {
		t.Errorf("removed, and there are links to its units:\n%s", out)
	}
	if out := m.run(t, "systemctl list-units --no-legend --all 'spillway*'"); out != "" {
		t.Errorf("removed, and systemd knows it:\n%s", out)
	}
	if out, err := m.announce(t, 1003, "1"); err == nil {
		t.Errorf("removed, and it answers: %q", out)
	}
	if out, err := m.ask(t, "nft", "list", "table", "inet", "spillway_relay"); err == nil {
		t.Errorf("removed, and the kernel forwards: %s", out)
	}
	if out := m.run(t, "cat /proc/sys/net/ipv4/ip_forward; ls /var/lib/spillway/admin.token /var/lib/spillway-relay/admin.token /etc/spillway/spillway.yaml"); !strings.HasPrefix(out, "0\n") {
		t.Errorf("net.ipv4.ip_forward: got %s", out)
	}
}

func purged(t *testing.T, m *machine) {
	m.run(t, "dpkg -P spillway; rm /root/first.deb /root/second.deb")
	if out := m.run(t, "find / -xdev -name '*spillway*' ! -path '/proc/*' ! -name .spillway-test-root; find /run /tmp -name '*spillway*'"); out != "" {
		t.Errorf("purged, and there is left:\n%s", out)
	}
	if out := m.run(t, "systemctl --failed --no-legend"); out != "" {
		t.Errorf("failed units:\n%s", out)
	}
}
