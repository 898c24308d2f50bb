package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is far beyond what anything here takes on a busy machine.
const patience = 30 * time.Second

// serving is the key of the map of running processes by name.
type serving struct{}

func process(ts *testscript.TestScript, name string) *exec.Cmd {
	cmd := ts.Value(serving{}).(map[string]*exec.Cmd)[name]
	if cmd == nil {
		ts.Fatalf("nothing called %s was started", name)
	}
	return cmd
}

func logFile(ts *testscript.TestScript, name string) string { return ts.MkAbs(name + ".log") }

func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || neg {
		ts.Fatalf("usage: serve NAME [args]")
	}
	name := args[0]
	args = append([]string{"serve", "--http.listen=127.0.0.1:0", "--admin.listen=127.0.0.1:0", "--udp.listen=", "--data_dir=data"}, args[1:]...)
	path, err := lookPath(ts, "spillway")
	ts.Check(err)
	log, err := os.Create(logFile(ts, name)) // a new life, a new log
	ts.Check(err)
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stderr = ts.Getenv("WORK"), log
	for _, name := range []string{"PATH", "HOME", "SPILLWAY_CONFIG", "SPILLWAY_LOG_LEVEL", "STATE_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC"} {
		if v := ts.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ts.Check(cmd.Start())
	ts.Value(serving{}).(map[string]*exec.Cmd)[name] = cmd
	ts.Defer(func() {
		_ = cmd.Process.Kill() // most have ended long before
		_ = cmd.Wait()
	})
	line := waitLogged(ts, name, regexp.MustCompile(`(?m)^.*msg=serving .*$`))
	set := func(env, pattern string) {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(line); m != nil {
			ts.Setenv(env, m[1])
		}
	}
	set("ANNOUNCE", `announce=(\S+)`)
	set("UDP", `udp=(\S+)`)
	set("ADMIN", `admin=\[(\S+)\]`)
}

// lookPath finds a program where the script would.
func lookPath(ts *testscript.TestScript, name string) (string, error) {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if path := filepath.Join(dir, name); isFile(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not in $PATH", name)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL}
	if len(args) != 2 || neg || signals[args[1]] == 0 {
		ts.Fatalf("usage: signal NAME HUP|TERM|INT|KILL")
	}
	ts.Check(process(ts, args[0]).Process.Signal(signals[args[1]]))
}

func cmdLogged(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] logged NAME REGEXP")
	}
	re := regexp.MustCompile("(?m)" + args[1])
	if !neg {
		waitLogged(ts, args[0], re)
		return
	}
	if line := re.FindString(ts.ReadFile(logFile(ts, args[0]))); line != "" {
		ts.Fatalf("%s logged %q", args[0], line)
	}
}

// waitLogged polls the log of the process called name for what re matches.
func waitLogged(ts *testscript.TestScript, name string, re *regexp.Regexp) string {
	deadline := time.Now().Add(patience)
	for {
		over := ended(process(ts, name)) // asked first: its last line is there then
		log := ts.ReadFile(logFile(ts, name))
		if line := re.FindString(log); line != "" {
			return line
		}
		if time.Now().After(deadline) || over {
			ts.Fatalf("%s did not log %q:\n%s", name, re, log)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// ended tells a zombie from a process, without waiting for it.
func ended(cmd *exec.Cmd) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	_, after, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(after, "Z")
}

func cmdStopped(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || neg {
		ts.Fatalf("usage: stopped NAME [CODE|killed]")
	}
	cmd := process(ts, args[0])
	kill := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) }) // with stacks
	defer kill.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%s: %v", args[0], err)
	}
	got, want := fmt.Sprint(cmd.ProcessState.ExitCode()), "0"
	if got == "-1" {
		got = "killed"
	}
	if len(args) > 1 {
		want = args[1]
	}
	if got != want {
		ts.Fatalf("%s ended: got %s, want %s\n%s", args[0], got, want, ts.ReadFile(logFile(ts, args[0])))
	}
}

// cmdGet asks over TCP, or over a unix socket for http+unix:PATH:/path.
func cmdGet(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: get URL")
	}
	target, transport := args[0], &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the certificate is its own issuer
	}
	if rest, ok := strings.CutPrefix(target, "http+unix:"); ok {
		socket, path, _ := strings.Cut(rest, ":")
		target = "http://unix" + path
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", ts.MkAbs(socket))
		}
	}
	req, err := http.NewRequest(http.MethodGet, target, nil)
	ts.Check(err)
	if token := ts.Getenv("TOKEN"); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if client := ts.Getenv("FORWARDED_FOR"); client != "" {
		req.Header.Set("X-Forwarded-For", client)
	}
	resp, err := (&http.Client{Transport: transport, Timeout: patience}).Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s\n%s\n", resp.Status, body)
}

// cmdHold keeps a connection on which the request is never complete.
func cmdDocumented(ts *testscript.TestScript, neg bool, args []string) {
	docs := ts.ReadFile(ts.Getenv("METRICS_MD"))
	names := regexp.MustCompile(`(?m)^# TYPE (spillway_\w+) `).FindAllStringSubmatch(ts.ReadFile("stdout"), -1)
	if len(names) < 20 || neg || len(args) != 0 {
		ts.Fatalf("documented: %d metrics in stdout; it comes after a get of /metrics, without arguments", len(names))
	}
	for _, m := range names {
		if !regexp.MustCompile("`" + m[1] + "[`{]").MatchString(docs) {
			ts.Fatalf("docs/metrics.md has no line for %s", m[1])
		}
	}
}

func cmdHold(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: hold URL")
	}
	u, err := url.Parse(args[0])
	ts.Check(err)
	c, err := net.Dial("tcp", u.Host)
	ts.Check(err)
	ts.Defer(func() { _ = c.Close() })
	_, err = io.WriteString(c, "GET /announce?")
	ts.Check(err)
	// Connections are accepted in order: when another has been served, this one is in.
	resp, err := http.Get(u.Scheme + "://" + u.Host + "/healthz")
	ts.Check(err)
	_ = resp.Body.Close()
}

func cmdCertificate(ts *testscript.TestScript, neg bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	ts.Check(err)
	keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{"cert.pem", "CERTIFICATE", cert}, {"key.pem", "PRIVATE KEY", keyBytes}} {
		ts.Check(os.WriteFile(ts.MkAbs(f.name), pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600))
	}
}

// notifySocket is the key of the socket on which spillway tells systemd its state.
type notifySocket struct{}

func cmdSystemd(ts *testscript.TestScript, neg bool, args []string) {
	path := ts.MkAbs("notify.sock")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	ts.Check(err)
	ts.Defer(func() { _ = c.Close() })
	*ts.Value(notifySocket{}).(**net.UnixConn) = c
	ts.Setenv("NOTIFY_SOCKET", path)
}

func cmdNotified(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: notified TEXT")
	}
	c := *ts.Value(notifySocket{}).(**net.UnixConn)
	ts.Check(c.SetReadDeadline(time.Now().Add(patience)))
	for buf := make([]byte, 4096); ; {
		n, err := c.Read(buf)
		ts.Check(err)
		ts.Logf("systemd heard %q", buf[:n])
		if strings.Contains(string(buf[:n]), args[0]) {
			return
		}
	}
}
