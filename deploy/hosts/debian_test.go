//go:build e2e

package hosts_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"spillway/internal/waittest"
)

// build makes the package, and returns the name that hosts know it by.
func build(t *testing.T, version string) string {
	t.Helper()
	if arch, err := exec.Command("dpkg", "--print-architecture").Output(); err != nil || strings.TrimSpace(string(arch)) != "amd64" {
		t.Skipf("the package of the test is for amd64, this is %s", arch)
	}
	cmd := exec.Command("../debian/build", version, "amd64", spillway, filepath.Dir(spillway))
	cmd.Env = append(os.Environ(), "COMPRESS=-Znone")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("deploy/debian/build %s: %v\n%s", version, err, out)
	}
	return "/run/bin/" + filepath.Base(strings.TrimSpace(string(out)))
}

// Debian's own reviewer finds nothing that deploy/debian/lintian-overrides does not give a reason for.
func TestLintian(t *testing.T) {
	t.Parallel()
	lintian, err := exec.LookPath("lintian")
	if err != nil {
		t.Skip("no lintian here: apt-get install lintian")
	}
	deb := filepath.Join(filepath.Dir(spillway), filepath.Base(build(t, "0~lintian")))
	// The test is in haste: make deb strips the program, and compresses.
	const haste = "--suppress-tags=unstripped-binary-or-object,uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball"
	out, err := exec.CommandContext(t.Context(), lintian, "--no-cfg", "--allow-root", "--display-info", "--fail-on=error,warning", haste, deb).CombinedOutput()
	if err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	} else if len(out) > 0 {
		t.Logf("lintian:\n%s", out)
	}
}

// The package is installed, upgraded and purged on a host of its own, where no systemd runs. deploy/systemd does it where one does.
func TestDebianPackage(t *testing.T) {
	t.Parallel()
	first, second := build(t, "0~test1"), build(t, "1.0~test2")
	h := newHost(t, "host")
	h.run(t, "! dpkg -s spillway 2>/dev/null")
	// What was written on the host since it began, besides dpkg's own books.
	files := "cd /run/over; find */upper ! -type d | grep -v '^var/upper/\\(lib/dpkg\\|log\\|cache\\|tmp\\)/\\|^etc/upper/ld.so.cache' | sort; find */upper -type d -name '*spillway*'"
	before := h.run(t, files)

	out := h.run(t, "dpkg-deb --info "+first+"; dpkg-deb --contents "+first)
	for _, want := range []string{
		"Package: spillway", "Version: 0~test1", "./usr/bin/spillway", "./usr/lib/systemd/system/spillway.service",
		"./usr/lib/systemd/system/spillway-relay.service", "./usr/lib/systemd/system/spillway.socket", "./etc/spillway/spillway.yaml",
		"./usr/share/spillway/sysctl/99-tracker.conf", "./usr/share/spillway/modules-load.d/spillway.conf", "./usr/share/spillway/wireguard/relay.conf",
		"./usr/share/spillway/firewall/backend.nft", "./usr/share/doc/spillway/copyright",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("package: %s is not in it:\n%s", want, out)
		}
	}
	if m := regexp.MustCompile(`(?m)^.* \./(?:etc/(?:sysctl|modules)|usr/local|var|root|tmp).*$`).FindString(out); m != "" {
		t.Errorf("package: forces something on the machine, or is out of place: %s", m)
	}

	// Installed, it runs, with its configuration; nothing is started, and no kernel setting is made.
	h.run(t, "dpkg -i "+first)
	h.run(t, "/usr/bin/spillway version; /usr/bin/spillway config check /etc/spillway/spillway.yaml; ! pidof spillway")
	h.run(t, "systemd-analyze verify /usr/lib/systemd/system/spillway.service /usr/lib/systemd/system/spillway-relay.service")
	if out := h.run(t, "cat /usr/lib/systemd/system/spillway*.service"); strings.Count(out, "ExecStart=/usr/bin/spillway") != 2 ||
		strings.Count(out, "\nEnvironment=SPILLWAY_CONFIG=/etc/spillway/spillway.yaml\nEnvironmentFile=") != 2 || strings.Contains(out, "/usr/local") {
		t.Errorf("units: not as the package has its files:\n%s", out)
	}
	state := "/var/lib/private/spillway"
	said := h.serve(t, "installed", "mkdir -p "+state+" && ln -s private/spillway /var/lib/spillway && SPILLWAY_CONFIG=/etc/spillway/spillway.yaml STATE_DIRECTORY=/var/lib/spillway exec /usr/bin/spillway serve")
	waittest.Done(t, waittest.Patience, "the installed program", func() error { return errIfNot(strings.Contains(said(), "msg=serving"), said()) })
	h.run(t, "curl -sSf http://127.0.0.1:6969/healthz; SPILLWAY_DATA_DIR=/var/lib/spillway spillway ctl ws off")
	h.run(t, "kill -TERM $(pidof spillway); for i in $(seq 300); do pidof spillway >/dev/null || exit 0; sleep 0.1; done; exit 1")

	// An upgrade asks nothing, and keeps what was edited and the state.
	h.run(t, "echo 'tracker: {interval: 40m}' >> /etc/spillway/spillway.yaml; echo SPILLWAY_LOG_LEVEL=warn >> /etc/default/spillway")
	h.run(t, "dpkg -i "+second+" < /dev/null")
	if out := h.run(t, "dpkg-query -W -f '${Version}' spillway; tail -n 1 /etc/spillway/spillway.yaml /etc/default/spillway; ls "+state); !strings.Contains(out, "1.0~test2") ||
		!strings.Contains(out, "interval: 40m") || !strings.Contains(out, "LOG_LEVEL=warn") || !strings.Contains(out, "admin.token") {
		t.Errorf("after an upgrade: got %s", out)
	}

	// A relay that is removed ends the forwarding: nobody could afterwards.
	relay := h.serve(t, "relay", "mkdir -p /var/lib/spillway-relay; exec /usr/bin/spillway relay --data_dir=/var/lib/spillway-relay --relay.mode=kernel --relay.backends=10.66.0.2:6969")
	waittest.Done(t, waittest.Patience, "relay up", func() error { return errIfNot(strings.Contains(relay(), "msg=relaying"), relay()) })
	h.run(t, "kill -TERM $(pidof spillway); for i in $(seq 300); do pidof spillway >/dev/null || exit 0; sleep 0.1; done; exit 1")
	h.run(t, "nft list table inet spillway_relay > /dev/null; sysctl -n net.ipv4.ip_forward | grep -qx 1")
	h.run(t, "dpkg -r spillway")
	if out, err := h.try(t, "nft list table inet spillway_relay"); err == nil {
		t.Errorf("removed, and the kernel still forwards: %s", out)
	}
	if out := h.run(t, "sysctl -n net.ipv4.ip_forward; ls /etc/spillway/spillway.yaml "+state+"/admin.token; test ! -e /usr/bin/spillway"); !strings.HasPrefix(out, "0\n") {
		t.Errorf("after a removal: net.ipv4.ip_forward: got %s, want 0 as before", out)
	}
	h.run(t, "dpkg -P spillway")
	if after := h.run(t, files); after != before {
		t.Errorf("purged, and something is left: got\n%s\nbefore the installation\n%s", after, before)
	}
}
