package console

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spillway/relay/profile"
)

// relayDefaults are what a small machine has before anything was applied.
const relayDefaults = `
net/ipv4/tcp_tw_reuse 2
net/ipv4/tcp_max_syn_backlog 128
net/ipv4/tcp_abort_on_overflow 0
net/ipv4/tcp_syncookies 1
net/ipv4/ip_forward 0
net/ipv4/tcp_early_demux 1
net/netfilter/nf_conntrack_max 65536
net/netfilter/nf_conntrack_tcp_timeout_syn_sent 120
net/netfilter/nf_conntrack_tcp_timeout_syn_recv 60
net/netfilter/nf_conntrack_tcp_timeout_fin_wait 120
net/netfilter/nf_conntrack_tcp_timeout_close_wait 60
net/netfilter/nf_conntrack_tcp_timeout_last_ack 30
net/netfilter/nf_conntrack_tcp_timeout_time_wait 120
net/netfilter/nf_conntrack_tcp_timeout_close 10
net/netfilter/nf_conntrack_tcp_timeout_established 432000
net/netfilter/nf_conntrack_tcp_loose 1
net/netfilter/nf_conntrack_buckets 16384
`

// fakeHost has relayDefaults for a kernel, and nothing in /etc.
func fakeHost(t *testing.T) profileHost {
	t.Helper()
	h := profileHost{sysctl: t.TempDir(), root: t.TempDir(), stateFile: filepath.Join(t.TempDir(), "profile.json")}
	for line := range strings.Lines(relayDefaults) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			writeTestFile(t, filepath.Join(h.sysctl, name), value+"\n")
		}
	}
	return h
}

func writeTestFile(t *testing.T, path, content string) {
	t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644))
	if err != nil {
		t.Fatal(err)
	}
}

// install copies what deploy has for sysctl and modules-load to h.
func install(t *testing.T, h profileHost, from, to string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("../../deploy", from))
	if err != nil {
		t.Fatal(err)
	}
	writeTestFile(t, filepath.Join(h.root, to), string(content))
}

func TestRelayCheckApplyRevert(t *testing.T) {
	t.Parallel()
	h, o := fakeHost(t), profile.Options{Role: profile.Kernel, FastFail: true, Extra: true}
	check := func(want bool) string {
		t.Helper()
		var out bytes.Buffer
		ok, err := relayCheck(&out, h, o, false)
		if err != nil || ok != want {
			t.Errorf("check: got %v, %v, want %v", ok, err, want)
		}
		for line := range strings.Lines(out.String()) {
			if columns(strings.TrimSuffix(line, "\n")) > profileColumns || strings.Contains(line, "…") {
				t.Errorf("does not fit: %q", line)
			}
		}
		return out.String()
	}
	first := check(false)
	wantText(t, first,
		"fast-fail: the ten lines (relay, kernel mode)\n",
		" OFF net.ipv4.tcp_tw_reuse                               1               2             no (1)\n",
		" OFF net.netfilter.nf_conntrack_max                      262144 or more  65536         yes\n",
		" ok  net.ipv4.tcp_syncookies                             1               1             no (3)\n",
		"     (3) acts where the users' TCP ends: on the backend, or on a relay in proxy mode\n",
		"extra: what they lack, relay.profile_extra (relay, kernel mode)\n",
		"16 of 17 keys are not as wanted; to write them: sudo spillway relay apply\n",
		"boot: not kept over a reboot unless spillway relay runs: net.ipv4.tcp_tw_reuse and 14 more are in no\n",
		"boot: nf_conntrack is in no file of /etc/modules-load.d",
	)

	var out bytes.Buffer
	if err := relayApply(&out, h, o); err != nil {
		t.Error(err)
	}
	if got := strings.Count(out.String(), "\n"); got != 16 {
		t.Errorf("apply wrote %d lines, want 16:\n%s", got, &out)
	}
	wantText(t, out.String(), "net.netfilter.nf_conntrack_tcp_timeout_syn_sent  120 -> 6\n", "net.ipv4.ip_forward  0 -> 1\n")
	wantText(t, check(true), "all 17 keys are as wanted\n")
	out.Reset()
	if err := relayApply(&out, h, o); err != nil || out.String() != "nothing to write: all 17 keys are as wanted\n" {
		t.Errorf("apply again: %v: %s", err, &out)
	}

	install(t, h, "sysctl/99-tracker.conf", "etc/sysctl.d/99-tracker.conf")
	install(t, h, "sysctl/99-tracker-extra.conf", "etc/sysctl.d/99-tracker-extra.conf")
	wantText(t, check(true), "boot: nf_conntrack is in no file of /etc/modules-load.d")
	install(t, h, "modules-load.d/spillway.conf", "etc/modules-load.d/spillway.conf")
	wantText(t, check(true), "boot: kept over a reboot by /etc/sysctl.d/99-tracker-extra.conf, /etc/sysctl.d/99-tracker.conf\n")
	writeTestFile(t, filepath.Join(h.root, "etc/sysctl.d/99-zz.conf"), "net.netfilter.nf_conntrack_tcp_loose = 1\n")
	wantText(t, check(true), "boot: not kept over a reboot unless spillway relay runs: net.netfilter.nf_conntrack_tcp_loose = 1 in\n      /etc/sysctl.d/99-zz.conf\n")

	writeTestFile(t, filepath.Join(h.sysctl, "net/ipv4/tcp_tw_reuse"), "0\n")
	wantText(t, check(false), "1 of 17 keys are not as wanted")
	out.Reset()
	if err := relayRevert(&out, h); err == nil || !strings.Contains(err.Error(), "net.ipv4.tcp_tw_reuse: is 0, was 2, and was set to 1: somebody else has changed it since; left alone") {
		t.Errorf("revert: %v", err)
	}
	wantText(t, out.String(), "net.netfilter.nf_conntrack_tcp_timeout_syn_sent  6 -> 120\n")
	out.Reset()
	if err := relayRevert(&out, h); err != nil || !strings.HasPrefix(out.String(), "nothing to put back") {
		t.Errorf("revert again: %v: %s", err, &out)
	}
}

func TestRelayCheckOfABackend(t *testing.T) {
	t.Parallel()
	h := fakeHost(t)
	if err := os.RemoveAll(filepath.Join(h.sysctl, "net/netfilter")); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"tcp_tw_reuse": "1", "tcp_max_syn_backlog": "16384", "tcp_abort_on_overflow": "1"} {
		writeTestFile(t, filepath.Join(h.sysctl, "net/ipv4", name), value)
	}
	var out bytes.Buffer
	ok, err := relayCheck(&out, h, profile.Options{Role: profile.Backend, FastFail: true, Extra: true}, true)
	if err != nil || !ok {
		t.Errorf("check: %v, %v", ok, err)
	}
	wantText(t, out.String(), "net.netfilter.nf_conntrack_max                      262144 or more  -             no (2)",
		"(2) acts where conntrack is loaded", "\x1b[32mall 14 keys are as wanted\x1b[0m", "not kept over a reboot: ")

	out.Reset()
	if ok, err := relayCheck(&out, h, profile.Options{Role: profile.Proxy}, false); err != nil || !ok {
		t.Errorf("no profile: %v, %v", ok, err)
	}
	wantText(t, out.String(), "nothing is wanted")
}

// Looking changes nothing and needs no right, whatever machine this is.
func TestRelayCheckOfThisMachine(t *testing.T) {
	t.Parallel()
	for _, role := range []profile.Role{profile.Kernel, profile.Proxy, profile.Backend} {
		var out bytes.Buffer
		h := thisHost(filepath.Join(t.TempDir(), "profile.json"))
		ok, err := relayCheck(&out, h, profile.Options{Role: role, FastFail: true, Extra: true, IPv6: true}, false)
		if err != nil || ok == strings.Contains(out.String(), " OFF ") {
			t.Errorf("%s: %v, %v:\n%s", role, ok, err, &out)
		}
		wantText(t, out.String(), "net.ipv4.tcp_syncookies ", "boot: ")
		if _, err := os.Stat(h.stateFile); err == nil {
			t.Errorf("%s: check made a state file", role)
		}
	}
}

func TestRelayProblemsSayWhatToDo(t *testing.T) {
	t.Parallel()
	h, o := fakeHost(t), profile.Options{Role: profile.Kernel, FastFail: true}
	writeTestFile(t, h.stateFile, "nonsense")
	var out bytes.Buffer
	err := relayApply(&out, h, o)
	if err == nil || !strings.Contains(err.Error(), "revert will not know") || !strings.Contains(err.Error(), "move the file away") {
		t.Errorf("apply: %v", err)
	}
	wantText(t, out.String(), "net.ipv4.ip_forward  0 -> 1\n") // all the same
	if err := relayRevert(&out, h); err == nil || !strings.Contains(err.Error(), "a reboot brings it back") {
		t.Errorf("revert: %v", err)
	}
	err = joinProblems([]error{fmt.Errorf("net.ipv4.x: %w", profile.ErrRight), errors.New("other")}, "sudo spillway relay apply")
	if err.Error() != "net.ipv4.x: not permitted; needs root or CAP_NET_ADMIN: sudo spillway relay apply\nother" {
		t.Errorf("got %v", err)
	}
}

func wantText(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}
