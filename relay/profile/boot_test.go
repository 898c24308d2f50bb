package profile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseConf(t *testing.T) {
	t.Parallel()
	settings, err := ParseConf([]byte("# a comment = 1\n; another\n\n net.ipv4.tcp_tw_reuse=1 \r\n-net.ipv4.x = 2\n-net.ipv4.y\n" +
		"net/ipv6/conf/eth0.100/accept_ra = 2\nnet.ipv6.conf.eth0/100.accept_ra = 3\nnet.ipv4.ip_local_port_range = 10240 \t 65535\n" +
		"nonsense\n= 5\nkernel.domainname = a=b"))
	var got []string
	for _, s := range settings {
		got = append(got, fmt.Sprintf("%d %s=%s", s.Line, s.Name, s.Value))
	}
	want := []string{
		"4 net.ipv4.tcp_tw_reuse=1", "5 net.ipv4.x=2", "7 net.ipv6.conf.eth0/100.accept_ra=2", "8 net.ipv6.conf.eth0/100.accept_ra=3",
		"9 net.ipv4.ip_local_port_range=10240 65535", "12 kernel.domainname=a=b",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err == nil || !strings.Contains(err.Error(), `line 10: "nonsense"`) || !strings.Contains(err.Error(), "line 11") {
		t.Errorf("errors: %v", err)
	}
}

func TestAtBoot(t *testing.T) {
	t.Parallel()
	ten, more := readShipped(t, "sysctl/99-tracker.conf"), readShipped(t, "sysctl/99-tracker-extra.conf")
	module := readShipped(t, "modules-load.d/spillway.conf")
	keys := Keys(t.TempDir(), all)
	f := func(keys []Key, kept bool, want string, files ...string) {
		t.Helper()
		root := t.TempDir()
		writeFile(t, filepath.Join(root, "run/systemd/system/x"), "") // systemd is there
		for i := 0; i < len(files); i += 2 {
			if files[i+1] == "null" {
				if err := os.Symlink("/dev/null", filepath.Join(root, files[i])); err != nil {
					t.Fatal(err)
				}
				continue
			}
			writeFile(t, filepath.Join(root, files[i]), files[i+1])
		}
		b := AtBoot(root, keys)
		if got := fmt.Sprint(b.Files, len(b.Lost), b.Other, b.Module); got != want || b.Kept() != kept {
			t.Errorf("got %s kept=%v, want %s %v", got, b.Kept(), want, kept)
		}
	}
	f(keys, false, "[] 15 [] false")
	f(keys, false, "[/etc/sysctl.d/99-tracker.conf] 5 [] false", "etc/sysctl.d/99-tracker.conf", ten)
	const both = "[/etc/sysctl.d/99-tracker-extra.conf /etc/sysctl.d/99-tracker.conf] 0 []"
	f(keys, false, both+" false", "etc/sysctl.d/99-tracker.conf", ten, "etc/sysctl.d/99-tracker-extra.conf", more)
	f(keys, true, both+" true", "etc/sysctl.d/99-tracker.conf", ten, "etc/sysctl.d/99-tracker-extra.conf", more, "etc/modules-load.d/x.conf", module)
	f(keys, true, both+" true", "etc/sysctl.d/99-tracker.conf", ten, "etc/sysctl.d/99-tracker-extra.conf", more, "etc/modules", "loop\nnf-conntrack hashsize=1\n")
	f(keys, true, both+" true", "etc/sysctl.d/99-tracker.conf", ten, "etc/sysctl.d/99-tracker-extra.conf", more, "sys/module/nf_conntrack/version", "")
	f(keys, false, both+" false", "etc/sysctl.d/99-tracker.conf", ten, "etc/sysctl.d/99-tracker-extra.conf", more, "sys/module/nf_conntrack/initstate", "live")

	// The last file by name has the last word, wherever it is; one in /etc hides one of its name in /usr.
	base := Keys(t.TempDir(), Options{Role: Backend, FastFail: true}) // four keys that act or might
	f(base, false, "[/usr/lib/sysctl.d/99-tracker.conf] 0 [net.ipv4.tcp_abort_on_overflow = 0 in /etc/sysctl.d/99-z.conf] false",
		"usr/lib/sysctl.d/99-tracker.conf", ten, "etc/sysctl.d/99-z.conf", "net/ipv4/tcp_abort_on_overflow=0", "etc/sysctl.d/10-a.conf", "net.ipv4.tcp_syncookies=0")
	f(base, true, "[/usr/lib/sysctl.d/99-tracker.conf] 0 [] false", "usr/lib/sysctl.d/99-tracker.conf", ten)
	f(base, false, "[] 4 [] false", "usr/lib/sysctl.d/99-tracker.conf", ten, "etc/sysctl.d/.keep", "", "etc/sysctl.d/99-tracker.conf", "null")
	f(base, false, "[] 1 [net.ipv4.tcp_tw_reuse = 7 in /etc/sysctl.d/p.conf net.ipv4.tcp_abort_on_overflow = 7 in /etc/sysctl.d/p.conf "+
		"net.ipv4.tcp_syncookies = 7 in /etc/sysctl.d/p.conf] false", "etc/sysctl.d/p.conf", "net.ipv4.tcp_[tas]*[esw] = 7\n")
	f(base, false, "[] 4 [] false", "etc/sysctl.conf", ten) // systemd does not read it
}
