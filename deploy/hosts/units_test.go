//go:build e2e

package hosts_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// unit is what a service file says: for each key all its values, in order.
type unit map[string][]string

func readUnit(t *testing.T, name string) unit {
	t.Helper()
	u := make(unit)
	for line := range strings.Lines(read(t, "systemd/"+name)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

// syscalls are those the unit's filter lets through, by the groups of the systemd that is installed.
func (u unit) syscalls(t *testing.T) map[string]bool {
	t.Helper()
	allowed := make(map[string]bool)
	var set func(name string, to bool)
	set = func(name string, to bool) {
		if !strings.HasPrefix(name, "@") {
			allowed[name] = to
			return
		}
		out, err := exec.Command("systemd-analyze", "syscall-filter", "--no-pager", name).Output()
		if err != nil {
			t.Fatalf("systemd-analyze syscall-filter %s: %v", name, err)
		}
		for line := range strings.Lines(string(out)) {
			if f := strings.TrimSpace(line); strings.HasPrefix(line, " ") && !strings.HasPrefix(f, "#") {
				set(f, to)
			}
		}
	}
	set("@default", true) // always, says systemd.exec(5)
	for _, line := range u["SystemCallFilter"] {
		names, without := strings.CutPrefix(line, "~")
		for _, name := range strings.Fields(names) {
			set(name, !without)
		}
	}
	return allowed
}

// What each unit forbids is what its program never does. No systemd runs here (deploy/systemd has one), so the program runs under strace, with the unit's
// capabilities alone, and all it asks of the kernel is held against the unit.
func TestUnitsForbidNothingNeeded(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze here: apt-get install systemd")
	}
	const as = "setpriv --no-new-privs --inh-caps=-all --bounding-set=-all"
	for _, tc := range []struct {
		name, unit, setpriv, command string
		writes                       string // where it may write
		use                          string // a script that has it do all it can
	}{
		{
			name: "tracker", unit: "spillway.service",
			setpriv: as + " --reuid=65534 --regid=65534 --clear-groups",
			command: "/run/bin/spillway serve",
			writes:  `^/run/state(/|$)|^/dev/null$`,
			use: `curl -sS 'http://127.0.0.1:6969/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-qB4500-000000000001&port=1&left=1'
				curl -sS 'http://[::1]:6969/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa'
				curl -sS http://127.0.0.1:6969/stats
				curl -s -m 2 -i -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==' http://127.0.0.1:6969/ || true
				printf '\000\000\004\027\047\020\031\200\000\000\000\000\000\000\000\001' | timeout 2 bash -c 'exec 3<>/dev/udp/127.0.0.1/6969; cat >&3; head -c 16 <&3' | od -c
				SPILLWAY_DATA_DIR=/run/state /run/bin/spillway ctl ws off --for 10m
				SPILLWAY_DATA_DIR=/run/state /run/bin/spillway ctl status
				kill -HUP $(pidof spillway)`,
		},
		{
			name: "relay", unit: "spillway-relay.service",
			setpriv: as + ",+net_admin,+net_raw,+net_bind_service",
			command: "/run/bin/spillway relay --relay.mode=kernel --relay.backends=10.66.0.2:6969",
			writes:  `^/run/state(/|$)|^/proc/sys/|^/dev/null$`,
			use:     `SPILLWAY_DATA_DIR=/run/state /run/bin/spillway ctl --relay status; curl -s -m 2 http://127.0.0.1/ || true`,
		},
		{
			name: "relay in proxy mode", unit: "spillway-relay.service",
			setpriv: as + ",+net_admin,+net_raw,+net_bind_service",
			command: "/run/bin/spillway relay --relay.mode=proxy --relay.backends=127.0.0.1:7071",
			writes:  `^/run/state(/|$)|^/proc/sys/|^/dev/null$`,
			use:     `curl -sS -m 5 http://127.0.0.1/healthz; SPILLWAY_DATA_DIR=/run/state /run/bin/spillway ctl --relay status`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			u := readUnit(t, tc.unit)
			h := newHost(t, "host")
			caps := strings.Fields(strings.ToLower(strings.Join(u["CapabilityBoundingSet"], " ")))
			if given := strings.Count(tc.setpriv, ",+"); given != len(caps) {
				t.Fatalf("the test gives %d capabilities, %s has %v", given, tc.unit, caps)
			}
			h.run(t, "mkdir -m 700 /run/state; case '"+tc.setpriv+"' in *reuid*) chown 65534:65534 /run/state;; esac; touch /run/trace; chmod 666 /run/trace")
			said := h.serve(t, "program", "export STATE_DIRECTORY=/run/state; exec "+tc.setpriv+" strace -f -qq -o /run/trace "+tc.command)
			waittest.Done(t, waittest.Patience, "start", func() error {
				return errIfNot(regexp.MustCompile(`msg=(serving|relaying)`).MatchString(said()), said())
			})

			h.run(t, tc.use)
			h.run(t, `kill -TERM $(pidof spillway); for i in $(seq 300); do pidof spillway >/dev/null || exit 0; sleep 0.1; done; exit 1`)
			u.judge(t, h.run(t, "cat /run/trace"), regexp.MustCompile(tc.writes))
		})
	}
}

// Each program tells systemd what the unit's Type= and WatchdogSec= wait for: that it is ready, that it lives, and that it stops.
func TestUnitsAreNotified(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"serve", "relay --relay.mode=kernel --relay.backends=10.66.0.2:6969", "relay --relay.mode=proxy --relay.backends=127.0.0.1:9"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, "host")
			f, err := os.CreateTemp(filepath.Dir(spillway), "notify")
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			os.Remove(f.Name())
			systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: f.Name(), Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer systemd.Close()
			h.serve(t, "program", "NOTIFY_SOCKET=/run/bin/"+filepath.Base(f.Name())+" WATCHDOG_USEC=200000 STATE_DIRECTORY=/run/state exec /run/bin/spillway "+command)
			lives := 0
			for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"} {
				if want == "STOPPING=1" {
					h.run(t, "kill -TERM $(pidof spillway)")
				}
				for got := ""; got != want; {
					b := make([]byte, 1000)
					if err := systemd.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
						t.Fatal(err)
					}
					n, err := systemd.Read(b)
					if err != nil {
						t.Fatalf("waiting for %s, after %d signs of life: %v", want, lives, err)
					}
					if got = string(b[:n]); got == "WATCHDOG=1" {
						lives++
					}
				}
			}
		})
	}
}

// A call as strace writes it: also one that another thread's interrupts.
var (
	straceCall  = regexp.MustCompile(`^\d+ +(\w+)\((.*)`)
	straceWrite = regexp.MustCompile(`^AT_FDCWD, "([^"]*)", [A-Z_|]*O_(?:WRONLY|RDWR|CREAT)`)
	tracePath   = regexp.MustCompile(`"([^"]*)"`)
)

// judge holds what a program has asked of the kernel against what its unit lets it.
func (u unit) judge(t *testing.T, trace string, writes *regexp.Regexp) {
	t.Helper()
	allowed, families := u.syscalls(t), strings.Fields(u["RestrictAddressFamilies"][0])
	seen := make(map[string]int)
	lines := bufio.NewScanner(strings.NewReader(trace))
	lines.Buffer(nil, 1<<20)
	execs := 0
	for lines.Scan() {
		m := straceCall.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		name, args := m[1], m[2]
		if seen[name]++; name == "execve" {
			execs++
		}
		if !allowed[name] && seen[name] == 1 {
			t.Errorf("SystemCallFilter: does not let %s through: %s", name, lines.Text())
		}
		var broken string
		switch name {
		case "socket":
			if family, _, _ := strings.Cut(args, ","); !slices.Contains(families, family) {
				broken = "RestrictAddressFamilies"
			}
		case "mmap", "mprotect", "pkey_mprotect":
			if strings.Contains(args, "PROT_EXEC") && (name != "mmap" || strings.Contains(args, "PROT_WRITE")) {
				broken = "MemoryDenyWriteExecute"
			}
		case "clone", "clone3", "unshare", "setns":
			if strings.Contains(args, "CLONE_NEW") {
				broken = "RestrictNamespaces"
			}
		case "personality":
			broken = "LockPersonality"
		case "openat":
			if w := straceWrite.FindStringSubmatch(args); w != nil && !writes.MatchString(w[1]) {
				broken = "ProtectSystem"
			}
		case "mkdirat", "renameat", "renameat2", "unlinkat", "linkat", "symlinkat", "fchmodat", "fchownat", "truncate":
			if w := tracePath.FindStringSubmatch(args); w != nil && !writes.MatchString(w[1]) {
				broken = "ProtectSystem"
			}
		}
		if broken != "" {
			t.Errorf("%s: forbids %s", broken, lines.Text())
		}
	}
	if len(seen) < 30 || seen["socket"] == 0 {
		t.Fatalf("strace has seen %d kinds of calls only: %v", len(seen), seen)
	}
	t.Logf("%d kinds of system calls, all of them let through", len(seen))
	if execs > 1 {
		t.Errorf("it starts %d other programs", execs-1)
	}
}
