package profile

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tenLines are the operator's, word for word.
const tenLines = `net.ipv4.tcp_tw_reuse = 1
net.netfilter.nf_conntrack_max = 262144
net.netfilter.nf_conntrack_tcp_timeout_syn_sent = 6
net.netfilter.nf_conntrack_tcp_timeout_syn_recv = 6
net.netfilter.nf_conntrack_tcp_timeout_fin_wait = 10
net.netfilter.nf_conntrack_tcp_timeout_close_wait = 10
net.netfilter.nf_conntrack_tcp_timeout_last_ack = 10
net.ipv4.tcp_max_syn_backlog = 10000
net.ipv4.tcp_abort_on_overflow = 1
net.ipv4.tcp_syncookies = 1
`

func TestTenLinesAreShippedWordForWord(t *testing.T) {
	t.Parallel()
	var shipped strings.Builder
	for line := range strings.Lines(readShipped(t, "sysctl/99-tracker.conf")) {
		if strings.TrimSpace(line) != "" && line[0] != '#' {
			shipped.WriteString(line)
		}
	}
	if shipped.String() != tenLines {
		t.Errorf("deploy/sysctl/99-tracker.conf has:\n%swant:\n%s", &shipped, tenLines)
	}
}

// What the program writes and what the files have must not drift apart.
func TestSysctlFilesAreTheProfile(t *testing.T) {
	t.Parallel()
	f := func(file string, want []setting) {
		t.Helper()
		settings, err := ParseConf([]byte(readShipped(t, file)))
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		var got, wanted []string
		for _, s := range settings {
			got = append(got, s.Name+" = "+s.Value)
		}
		for _, s := range want {
			wanted = append(wanted, s.name+" = "+s.want)
		}
		if !slices.Equal(got, wanted) {
			t.Errorf("%s: got\n%s\nwant\n%s", file, strings.Join(got, "\n"), strings.Join(wanted, "\n"))
		}
	}
	f("sysctl/99-tracker.conf", fastFail[:])
	f("sysctl/99-tracker-extra.conf", extra[:])
}

func TestModulesLoadFileNamesConntrack(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	writeFile(t, filepath.Join(root, "etc/modules-load.d/spillway.conf"), readShipped(t, "modules-load.d/spillway.conf"))
	if !moduleAtBoot(root) {
		t.Error("deploy/modules-load.d/spillway.conf does not load nf_conntrack")
	}
}

// The numbers argue with each other; whoever changes one must change the others.
func TestExtraAddsUp(t *testing.T) {
	t.Parallel()
	value := func(name string) int {
		t.Helper()
		for _, s := range slices.Concat(fastFail[:], extra[:]) {
			if s.name == name {
				n, err := strconv.Atoi(s.want)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		t.Fatalf("no %s", name)
		return 0
	}
	const perSecond, natPorts = 7000, 65535 - 1024 + 1
	for _, state := range []string{"time_wait", "close"} {
		if held := perSecond * value("net.netfilter.nf_conntrack_tcp_timeout_"+state); held*100 > natPorts*60 {
			t.Errorf("%s: %d connections/s hold %d of %d ports; 60 %% leave room for open ones", state, perSecond, held, natPorts)
		}
	}
	if got, want := value("net.netfilter.nf_conntrack_buckets"), value("net.netfilter.nf_conntrack_max")/4; got != want {
		t.Errorf("buckets: got %d, want %d, a quarter of nf_conntrack_max", got, want)
	}
	if established := value("net.netfilter.nf_conntrack_tcp_timeout_established"); established <= 7200 {
		t.Errorf("established: %d s; a keepalive of the kernel's default of 2 h comes too late", established)
	}
}

func TestKeysOfRoles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	put(t, root, "net.ipv6.conf.default.accept_ra", "1", "net.ipv6.conf.default.forwarding", "0",
		"net.ipv6.conf.all.accept_ra", "1", "net.ipv6.conf.all.forwarding", "0", "net.ipv6.conf.lo.accept_ra", "1", "net.ipv6.conf.lo.forwarding", "0",
		"net.ipv6.conf.eth0/100.accept_ra", "1", "net.ipv6.conf.eth0/100.forwarding", "0", // listens
		"net.ipv6.conf.eth1.accept_ra", "0", "net.ipv6.conf.eth1.forwarding", "0", // has networkd listen
		"net.ipv6.conf.eth2.accept_ra", "2", "net.ipv6.conf.eth2.forwarding", "1", // stays as it is
		"net.ipv6.conf.eth3.accept_ra", "1", "net.ipv6.conf.eth3.forwarding", "1") // has long been without
	f := func(o Options, want string) {
		t.Helper()
		effects := map[Effect]string{Never: "-", IfTracked: "?", Always: "+"}
		var got []string
		for _, k := range Keys(root, o) {
			if k.Why == "" {
				t.Errorf("%v: %s: no reason", o, k.Name)
			}
			short := strings.TrimPrefix(strings.TrimPrefix(k.Name, "net."), "netfilter.nf_conntrack_")
			got = append(got, effects[k.Effect]+short)
		}
		if joined := strings.Join(got, " "); joined != want {
			t.Errorf("%+v:\ngot  %s\nwant %s", o, joined, want)
		}
	}
	const tracked = "?max ?tcp_timeout_syn_sent ?tcp_timeout_syn_recv ?tcp_timeout_fin_wait ?tcp_timeout_close_wait ?tcp_timeout_last_ack "
	const trackedMore = "?tcp_timeout_time_wait ?tcp_timeout_close ?tcp_timeout_established"
	always := strings.NewReplacer("?", "+").Replace
	ended := " -ipv4.tcp_max_syn_backlog +ipv4.tcp_abort_on_overflow +ipv4.tcp_syncookies"
	f(Options{Role: Backend, FastFail: true}, "-ipv4.tcp_tw_reuse "+strings.TrimSpace(tracked)+ended)
	f(Options{Role: Backend, FastFail: true, Extra: true, IPv6: true},
		"-ipv4.tcp_tw_reuse "+strings.TrimSpace(tracked)+ended+" "+trackedMore+" ?buckets")
	f(Options{Role: Proxy, FastFail: true, Extra: true},
		"+ipv4.tcp_tw_reuse "+strings.TrimSpace(tracked)+ended+" "+trackedMore+" ?buckets +ipv4.ip_local_port_range")
	f(Options{Role: Kernel, FastFail: true, Extra: true},
		"-ipv4.tcp_tw_reuse "+always(tracked)+"-ipv4.tcp_max_syn_backlog -ipv4.tcp_abort_on_overflow -ipv4.tcp_syncookies "+
			always(trackedMore)+" +tcp_loose +buckets +ipv4.tcp_early_demux +ipv4.ip_forward")
	f(Options{Role: Kernel, Extra: true, IPv6: true}, "+ipv4.ip_forward +ipv6.conf.default.accept_ra +ipv6.conf.eth0/100.accept_ra "+
		"+ipv6.conf.eth2.accept_ra +ipv6.conf.all.forwarding")
	f(Options{Role: Proxy, Extra: true, IPv6: true}, "")
}

func TestParseRole(t *testing.T) {
	t.Parallel()
	f := func(role, mode, want string) {
		t.Helper()
		got, err := ParseRole(role, mode)
		if err != nil {
			if want != "" {
				t.Errorf("%s %s: %v", role, mode, err)
			}
			return
		}
		if got.String() != want {
			t.Errorf("%s %s: got %s, want %q", role, mode, got, want)
		}
	}
	f("relay", "auto", "relay, kernel mode")
	f("relay", "kernel", "relay, kernel mode")
	f("relay", "proxy", "relay, proxy mode")
	f("backend", "auto", "backend")
	f("relay", "both", "")
	f("tracker", "kernel", "")
}

func readShipped(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("../../deploy", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// put writes name, value pairs below root.
func put(t testing.TB, root string, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		path, err := keyPath(root, pairs[i])
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, pairs[i+1]+"\n")
	}
}
