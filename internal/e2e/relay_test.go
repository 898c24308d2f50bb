//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"

	"spillway/internal/waittest"
)

// nobody runs a program without any right of root's.
var nobody = []string{"setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"}

// relayProgram is `spillway relay`.
type relayProgram struct {
	*process
	dataDir, admin string
}

// relay starts a relay in ns, by the program in prefix if there is one, and waits until its backend is up.
func (ns namespace) relay(t *testing.T, prefix []string, flags ...string) *relayProgram {
	t.Helper()
	r := &relayProgram{dataDir: filepath.Join(t.TempDir(), "data"), admin: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	if err := os.Mkdir(r.dataDir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.dataDir, 0o777); err != nil { // whatever the umask: nobody's token goes there
		t.Fatal(err)
	}
	argv := append(append([]string{}, prefix...), publicProgram(t), "relay", "--data_dir="+r.dataDir, "--relay.admin.listen="+r.admin)
	r.process = ns.start(t, "relay", append(argv, flags...)...)
	waittest.Done(t, 20*time.Second, "relay up", func() error {
		select {
		case <-r.exited:
			t.Fatalf("spillway relay ended at once:\n%s", r.log())
		default:
		}
		if !strings.Contains(r.log(), "msg=\"backend up\"") {
			return errors.New("no backend up yet")
		}
		return nil
	})

	return r
}

// publicProgram is a copy of the program that anybody may run: the tests' own lies in a directory of root's.
func publicProgram(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "spillway-e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(spillwayPath)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "spillway")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// openAncestors lets nobody into the test's temporary directories, which are root's alone.
func openAncestors(t *testing.T) {
	t.Helper()
	for dir := t.TempDir(); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRelayWithoutRights: who may not tell the kernel to forward is told so, and is forwarded for all the same.
func TestRelayWithoutRights(t *testing.T) {
	t.Parallel()
	openAncestors(t)
	// Not on loopback, where the kernel would not forward to for anybody.
	ns := newNamespace(t)
	tr := serve(t, "--http.listen="+ns.outside+":0", "--http.trusted_proxies="+ns.outside, "--http.proxy_protocol=true")
	backend, err := url.Parse(tr.announce)
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	listen, backends := fmt.Sprintf("--relay.listen=:%d", port), "--relay.backends="+backend.Host
	r := namespace{}.relay(t, nobody, listen, backends, "--relay.proxy.send_proxy=true")
	for _, want := range []string{"level=WARN msg=\"the kernel cannot forward for us", "give the program CAP_NET_ADMIN", "mode=proxy"} {
		if !strings.Contains(r.log(), want) {
			t.Errorf("log has no %q:\n%s", want, r.log())
		}
	}

	direct := tr.announce
	tr.announce = fmt.Sprintf("http://127.0.0.1:%d/announce", port)
	hash := metainfo.HashBytes([]byte(t.Name()))
	announce{from: "127.0.0.9", hash: hash, port: 1009, left: 1}.mustTo(t, tr.announce)
	announce{from: "127.0.0.12", hash: hash, port: 1012}.mustTo(t, tr.announce).wantPeers(t, "127.0.0.9:1009")

	// Its metrics are as well-formed as the tracker's.
	body := adminGet(t, r.admin, r.dataDir, "/metrics")
	promtool(t, body)
	for _, line := range []string{`spillway_relay_mode{mode="proxy"} 1`, fmt.Sprintf(`spillway_relay_backend_up{backend=%q} 1`, backend.Host)} {
		if !strings.Contains(string(body), line+"\n") {
			t.Errorf("/metrics has no line %s", line)
		}
	}

	// With the word kernel there is no second best.
	if out, err := output(append(nobody, publicProgram(t), "relay", "--data_dir="+r.dataDir, "--relay.admin.listen=", "--relay.mode=kernel", listen, backends)...); err == nil ||
		!strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("kernel mode without the right: got %q, %v, want an error that names CAP_NET_ADMIN", out, err)
	}
	r.quit(t, syscall.SIGTERM, 10*time.Second)
	if r.exitCode() != 0 {
		t.Errorf("exit code after SIGTERM: got %d, want 0", r.exitCode())
	}
	tr.announce = direct
	tr.stop(t)
}

// TestRelayLeavesNoTrace: forwarding outlives the program; revert ends it and puts the kernel's settings back.
func TestRelayLeavesNoTrace(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	in := func(argv ...string) (string, error) {
		return output(append([]string{"ip", "netns", "exec", ns.name}, argv...)...)
	}
	sysctls := []string{"net.ipv4.tcp_tw_reuse", "net.ipv4.ip_forward", "net.netfilter.nf_conntrack_tcp_timeout_syn_sent", "net.netfilter.nf_conntrack_tcp_loose"}
	before, err := in(append([]string{"sysctl"}, sysctls...)...)
	if err != nil {
		t.Fatal(err)
	}

	// The backend is on the other side of the namespace: here.
	tr := serve(t, "--http.listen="+ns.outside+":0")
	backend, err := url.Parse(tr.announce)
	if err != nil {
		t.Fatal(err)
	}
	flags := []string{"--relay.listen=:80", "--relay.backends=" + backend.Host, "--relay.mode=kernel", "--relay.masquerade=on"}
	r := ns.relay(t, nil, flags...)
	if out, err := in(spillwayPath, "relay", "revert", "--data_dir="+r.dataDir); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("revert while it runs: got %q, %v", out, err)
	}
	if out, err := in(append([]string{spillwayPath, "relay", "--data_dir=" + t.TempDir(), "--relay.admin.listen="}, flags...)...); err == nil ||
		!strings.Contains(err.Error(), "another relay") {
		t.Errorf("a second relay: got %q, %v", out, err)
	}
	out, err := in(spillwayPath, "relay", "check", "--data_dir="+r.dataDir)
	if strings.Contains(out, "OFF net.ipv4") || !strings.Contains(out, "ok  net.ipv4.tcp_tw_reuse") {
		t.Errorf("check while it runs: %v\n%s", err, out) // nf_conntrack_max may be the first namespace's to set
	}

	get := func() error {
		_, err := output("curl", "-s", "-m", "5", "--fail", "http://"+ns.inside[0]+"/healthz")
		return err
	}
	if err := get(); err != nil {
		t.Errorf("through the relay: %v", err)
	}
	r.quit(t, syscall.SIGTERM, 10*time.Second)
	if err := get(); err != nil {
		t.Errorf("after the relay has stopped: %v", err)
	}
	if out, err := in(spillwayPath, "relay", "revert", "--data_dir="+r.dataDir); err != nil || !strings.Contains(out, "nothing is forwarded any more") {
		t.Errorf("revert: got %q, %v", out, err)
	}
	if err := get(); err == nil {
		t.Error("after revert something is still forwarded")
	}
	after, err := in(append([]string{"sysctl"}, sysctls...)...)
	if err != nil || after != before {
		t.Errorf("settings after revert: got %s, %v, want %s", after, err, before)
	}
	if out, err := in(spillwayPath, "relay", "revert", "--data_dir="+r.dataDir); err != nil || !strings.Contains(out, "nothing to put back") {
		t.Errorf("revert once more: got %q, %v", out, err)
	}
	tr.stop(t)
}
