package profile

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	put(t, root, "net.ipv4.tcp_tw_reuse", "2", "net.ipv4.tcp_max_syn_backlog", "65536", "net.ipv4.tcp_syncookies", "1",
		"net.ipv4.ip_local_port_range", "10240\t65535", "net.netfilter.nf_conntrack_max", "65536")
	if err := os.Chmod(filepath.Join(root, "net/netfilter/nf_conntrack_max"), 0o444); err != nil {
		t.Fatal(err)
	}
	key := func(role Role, name string) Key {
		t.Helper()
		keys := Keys(root, Options{Role: role, FastFail: true, Extra: true, IPv6: true})
		i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
		if i < 0 {
			t.Fatalf("%s has no %s", role, name)
		}
		return keys[i]
	}
	f := func(role Role, name, found string, ok, acts bool, problem string) {
		t.Helper()
		r := Read(root, []Key{key(role, name)})[0]
		if r.Found != found || r.OK != ok || r.Acts != acts {
			t.Errorf("%s: %s: got %q ok=%v acts=%v, want %q %v %v", role, name, r.Found, r.OK, r.Acts, found, ok, acts)
		}
		if (r.Problem == "") != (problem == "") || !strings.Contains(r.Problem, problem) {
			t.Errorf("%s: %s: problem: got %q, want %q", role, name, r.Problem, problem)
		}
	}
	f(Kernel, "net.ipv4.tcp_tw_reuse", "2", false, false, "") // loopback only, the kernel's default, will not do
	f(Proxy, "net.ipv4.tcp_tw_reuse", "2", false, true, "")
	f(Backend, "net.ipv4.tcp_max_syn_backlog", "65536", true, false, "") // more will do
	f(Backend, "net.ipv4.tcp_syncookies", "1", true, true, "")
	f(Proxy, "net.ipv4.ip_local_port_range", "10240 65535", true, true, "") // with a tab
	f(Kernel, "net.netfilter.nf_conntrack_max", "65536", false, true, "only the first network namespace")
	f(Backend, "net.netfilter.nf_conntrack_max", "65536", false, true, "only the first network namespace")
	f(Kernel, "net.netfilter.nf_conntrack_tcp_loose", "", false, true, "modprobe nf_conntrack")
	f(Backend, "net.netfilter.nf_conntrack_tcp_timeout_syn_sent", "", true, false, "") // nothing to bound
	f(Kernel, "net.ipv6.conf.all.forwarding", "", false, true, "this kernel does not have it")
	gone := Key{Name: "net.ipv6.conf.eth9.accept_ra", Want: "2", Effect: Always, perLink: true}
	if r := Read(root, []Key{gone})[0]; !r.OK || r.Acts {
		t.Errorf("an interface that is gone: %+v", r)
	}
}

func TestKeyPath(t *testing.T) {
	t.Parallel()
	f := func(name, want string) {
		t.Helper()
		got, err := keyPath("/proc/sys", name)
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q: got %q (%v), want %q", name, got, err, want)
		}
	}
	f("net.ipv4.tcp_tw_reuse", "/proc/sys/net/ipv4/tcp_tw_reuse")
	f("net.ipv6.conf.eth0/100.accept_ra", "/proc/sys/net/ipv6/conf/eth0.100/accept_ra")
	f("net.//.//.kernel", "")
	f("//.//.etc.passwd", "")
	f(".etc.passwd", "")
	f("net..x", "")
	f("", "")
}

func TestDriftTellsEachChangeOnce(t *testing.T) {
	t.Parallel()
	reading := func(name, found string, ok bool) Reading {
		return Reading{Key: Key{Name: name, Want: "1"}, Found: found, OK: ok}
	}
	names := func(drifted []Drifted) string {
		var s []string
		for _, d := range drifted {
			s = append(s, d.Name+" "+d.Before+">"+d.Found)
		}
		return strings.Join(s, ", ")
	}
	f := func(before, now []Reading, want string) {
		t.Helper()
		if got := names(Drift(before, now)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	good := []Reading{reading("a", "1", true), reading("b", "1", true)}
	bad := []Reading{reading("a", "0", false), reading("b", "1", true)}
	worse := []Reading{reading("a", "2", false), reading("b", "1", true)}
	f(nil, good, "")
	f(nil, bad, "a >0")
	f(good, bad, "a 1>0")
	f(bad, bad, "")
	f(bad, worse, "") // off it was, and off it is
	f(worse, good, "a 2>1")
	f(good, good[:1], "")
	if got := Off(bad); !slices.Equal(got, []string{"a"}) {
		t.Errorf("off: got %q", got)
	}
}

func TestMetricsHaveAFixedSetOfKeys(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	link := func(name string, ok bool) Reading {
		return Reading{Key: Key{Name: "net.ipv6.conf." + name + ".accept_ra", perLink: true}, OK: ok}
	}
	WriteMetrics(&out, []Reading{{Key: Key{Name: "net.ipv4.tcp_tw_reuse"}, OK: true}, link("eth0", true), link("eth1", false), link("eth2", true)})
	var samples []string
	for line := range strings.Lines(out.String()) {
		if line[0] != '#' {
			samples = append(samples, line)
		}
	}
	want := []string{`spillway_relay_profile_ok{key="net.ipv4.tcp_tw_reuse"} 1` + "\n", `spillway_relay_profile_ok{key="net.ipv6.conf.*.accept_ra"} 0` + "\n"}
	if !slices.Equal(samples, want) {
		t.Errorf("got %q, want %q", samples, want)
	}
	if out.Reset(); true {
		WriteMetrics(&out, nil)
	}
	if out.Len() > 0 {
		t.Errorf("without keys: got %q", &out)
	}
}
