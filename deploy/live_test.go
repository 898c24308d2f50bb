//go:build e2e

package deploy_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const patience = 3 * time.Minute // a wait this long is a fault

// machine is a network namespace, where the ports of the configurations are free and nft tables are nobody else's.
type machine struct{ enter []string }

func newMachine(t *testing.T) machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	holder := exec.Command("sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	m := machine{[]string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", holder.Process.Pid)}}
	m.run(t, "ip", "link", "set", "lo", "up")
	m.run(t, "ip", "addr", "add", "10.66.0.1/32", "dev", "lo") // the relay's address in the tunnel
	return m
}

func (m machine) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append(m.enter[:len(m.enter):len(m.enter)], args...)
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

func (m machine) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.command(t.Context(), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start runs a server until the test ends, or stop is called, which returns how it ended.
func (m machine) start(t *testing.T, args ...string) (stop func() error) {
	t.Helper()
	var log bytes.Buffer
	cmd := m.command(context.Background(), args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		return cmd.Wait()
	}
	t.Cleanup(func() {
		_ = stop()
		if t.Failed() {
			t.Logf("%s:\n%s", strings.Join(args, " "), log.String())
		}
	})
	return stop
}

// get asks until there is an answer of 2xx that is good.
func (m machine) get(t *testing.T, address string, good func([]byte) bool, header ...string) []byte {
	t.Helper()
	args := []string{"curl", "-sS", "--fail", "--max-time", "10"}
	for _, h := range header {
		args = append(args, "-H", h)
	}
	deadline := time.Now().Add(patience)
	for {
		var stderr bytes.Buffer
		cmd := m.command(t.Context(), append(args, address)...)
		cmd.Stderr = &stderr
		body, err := cmd.Output()
		if err == nil && (good == nil || good(body)) {
			return body
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v %s\n%s", address, err, stderr.String(), body)
		}
		time.Sleep(100 * time.Millisecond) // between two questions, not for luck
	}
}

func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "spillway")
	cmd := exec.Command("go", "build", "-trimpath", "-o", program, "./cmd/spillway")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// certificate is a pair for http.tls, without which there are no metrics of certificates.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// needs ends the test where a program is missing.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("no %s here: .ci/install has it", p)
		}
	}
}

// TestLive runs tracker, relay, Redis and Prometheus with the files of this folder, and asks Prometheus what alerts and dashboard ask.
func TestLive(t *testing.T) {
	t.Parallel()
	needs(t, "redis-server", "prometheus", "curl", "nsenter", "ip")
	program, m, dir := build(t), newMachine(t), t.TempDir()
	socket := filepath.Join(dir, "redis.sock")
	m.start(t, "redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir)
	cert, key := certificate(t, dir)
	m.start(t, program, "serve", "--data_dir="+filepath.Join(dir, "tracker"), "--http.tls.cert="+cert, "--http.tls.key="+key, "--shedder.firewall",
		"--store.kind=redis", "--store.redis.addrs=unix:"+socket)
	m.start(t, program, "relay", "--data_dir="+filepath.Join(dir, "relay"), "--relay.backends=10.66.0.2:6969", "--relay.mode=kernel", "--relay.admin.listen=10.66.0.1:7071")

	// The metrics of both, by themselves: every selector finds something.
	m.get(t, "http://127.0.0.1:7070/healthz", nil)
	m.get(t, "http://10.66.0.1:7071/healthz", nil)
	config := configDir(t, "prometheus/prometheus.yml")
	samples := []byte("up{job=\"spillway\"} 1\nup{job=\"spillway-relay\"} 1\n")
	for _, side := range []struct{ name, token, job, address string }{
		{"tracker", "spillway.token", "spillway", "http://127.0.0.1:7070"},
		{"relay", "spillway-relay.token", "spillway-relay", "http://10.66.0.1:7071"},
	} {
		token := readFile(t, filepath.Join(dir, side.name, "admin.token"))
		if err := os.WriteFile(filepath.Join(config, side.token), token, 0o600); err != nil {
			t.Fatal(err)
		}
		body := m.get(t, side.address+"/metrics", nil, "Authorization: Bearer "+strings.TrimSpace(string(token)))
		// As Prometheus does, the job becomes a label.
		body = regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? `).ReplaceAll(body, []byte(`$1{job="`+side.job+`",$2} `))
		samples = append(samples, body...)
	}
	for from, list := range exprs(t) {
		for _, expr := range list {
			for _, s := range selector.FindAllStringSubmatch(expr, -1) {
				if !selects(samples, s[1], s[2]) {
					t.Errorf("%s: the program gives nothing for %s", from, s[0])
				}
			}
		}
	}

	// And with Prometheus between. Once a second, so as not to wait.
	file := filepath.Join(config, "prometheus.yml")
	if err := os.WriteFile(file, bytes.ReplaceAll(readFile(t, file), []byte("15s"), []byte("1s")), 0o600); err != nil {
		t.Fatal(err)
	}
	m.start(t, "prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "tsdb"), "--web.listen-address=127.0.0.1:9090")
	type answer struct {
		Data struct {
			Result []json.RawMessage
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	parse := func(body []byte) (a answer) {
		if err := json.Unmarshal(body, &a); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		return a
	}
	query := func(expr string) string { return "http://127.0.0.1:9090/api/v1/query?query=" + url.QueryEscape(expr) }
	// Five scrapes of both, for rates.
	m.get(t, query(`min_over_time(up[1m]) == 1 and count_over_time(up[1m]) > 4`), func(body []byte) bool { return len(parse(body).Data.Result) == 2 })
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			if len(parse(m.get(t, query(plain(target.Expr)), nil)).Data.Result) == 0 && p.Title != "Age of the last snapshot" { // there is none yet
				t.Errorf("%q shows nothing: %s", p.Title, target.Expr)
			}
		}
	}
	evaluated := func(body []byte) bool { return !bytes.Contains(body, []byte(`"health":"unknown"`)) }
	for _, g := range parse(m.get(t, "http://127.0.0.1:9090/api/v1/rules", evaluated)).Data.Groups {
		for _, r := range g.Rules {
			if r.Health != "ok" || r.LastError != "" {
				t.Errorf("%s: %s %s", r.Name, r.Health, r.LastError)
			}
		}
	}
}

// selects reports whether one of the samples has this name and labels.
func selects(samples []byte, name, labels string) bool {
	for line := range bytes.Lines(samples) {
		rest, ok := bytes.CutPrefix(line, []byte(name+"{"))
		if !ok {
			continue
		}
		has := map[string]string{}
		for _, l := range label.FindAllSubmatch(rest, -1) {
			has[string(l[1])] = string(l[3])
		}
		good := true
		for _, l := range label.FindAllStringSubmatch(labels, -1) {
			value := has[l[1]]
			switch l[2] {
			case "=":
				good = good && value == l[3]
			case "!=":
				good = good && value != l[3]
			case "=~":
				good = good && regexp.MustCompile("^(?:"+l[3]+")$").MatchString(value)
			case "!~":
				good = good && !regexp.MustCompile("^(?:"+l[3]+")$").MatchString(value)
			}
		}
		if good {
			return true
		}
	}
	return false
}

// TestImageServes builds the image that fetches nothing, and has it serve an announce as its user, with compose.yaml's environment.
func TestImageServes(t *testing.T) {
	t.Parallel()
	needs(t, "buildah", "curl", "nsenter", "ip")
	m, dir := newMachine(t), t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.CopyFS(filepath.Join(src, "deploy", "docker"), os.DirFS("docker")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(build(t), filepath.Join(src, "spillway")); err != nil {
		t.Fatal(err)
	}
	store := []string{"--storage-driver=vfs", "--root=" + filepath.Join(dir, "root"), "--runroot=" + filepath.Join(dir, "run")}
	buildah := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "buildah", append(store[:len(store):len(store)], args...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("buildah %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
		}
		return strings.TrimSpace(string(out))
	}
	buildah("bud", "--isolation=chroot", "--format=docker", "--pull-never", "-f", filepath.Join(src, "deploy/docker/Dockerfile.local"), "-t", "spillway:test", src)
	container := buildah("from", "--pull-never", "spillway:test")
	t.Cleanup(func() {
		_ = exec.Command("buildah", append(store[:len(store):len(store)], "umount", container)...).Run()
	})
	root := buildah("mount", container)
	var image struct {
		Docker struct {
			Config struct {
				User                 string
				Env, Cmd, Entrypoint []string
				Healthcheck          struct{ Test []string }
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(buildah("inspect", "--type=image", "spillway:test")), &image); err != nil {
		t.Fatal(err)
	}
	c := image.Docker.Config
	inside := append([]string{"env", "-i"}, c.Env...)
	for k, v := range readCompose(t).Services["tracker"].Environment {
		// As compose does: what is not set has its default.
		inside = append(inside, k+"="+regexp.MustCompile(`\$\{\w+:-([^}]*)\}`).ReplaceAllString(v, "$1"))
	}
	inside = append(inside, "chroot", "--userspec="+c.User, root)
	stop := m.start(t, append(append(inside[:len(inside):len(inside)], c.Entrypoint...), c.Cmd...)...)

	m.get(t, "http://127.0.0.1:6969/healthz", nil)
	for _, port := range []string{"1001", "1002"} {
		m.get(t, "http://127.0.0.1:6969/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-XX0001-00000000"+port+"&port="+port+"&left=1&compact=1&uploaded=0&downloaded=0", func(body []byte) bool {
			return port == "1001" || bytes.Contains(body, []byte("5:peers6:\x7f\x00\x00\x01\x03\xe9"))
		})
	}
	if c.Healthcheck.Test[0] != "CMD" {
		t.Fatalf("health check: %q", c.Healthcheck.Test)
	}
	m.run(t, append(inside[:len(inside):len(inside)], c.Healthcheck.Test[1:]...)...)
	m.get(t, "http://127.0.0.1:7070/metrics", nil) // without a token, as docker/prometheus.yml asks
	if err := stop(); err != nil {
		t.Errorf("stopped: %v", err)
	}
	if info, err := os.Stat(filepath.Join(root, "var/lib/spillway/swarms.snapshot")); err != nil || info.Size() == 0 {
		t.Errorf("no snapshot in the volume: %v", err)
	}
}
