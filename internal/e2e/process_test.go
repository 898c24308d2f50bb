package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a program that ends with the test at the latest. What it prints is kept in a file and shown if the test fails.
type process struct {
	name    string
	cmd     *exec.Cmd
	logPath string
	exited  chan struct{} // closed when the program has been waited for
}

// start runs argv in a process group of its own.
func start(t *testing.T, name string, argv ...string) *process {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	p := &process{name: name, cmd: exec.Command(argv[0], argv[1:]...), logPath: out.Name(), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// Pdeathsig: a test binary killed by its timeout leaves nothing behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = p.cmd.Start()
	out.Close()
	if err != nil {
		t.Fatalf("start %s: %v; .ci/install installs it", name, err)
	}
	go func() { p.cmd.Wait(); close(p.exited) }()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, tail(p.log(), 60))
		}
	})
	return p
}

// log is all the program has printed so far.
func (p *process) log() string {
	b, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// kill ends the whole group at once, as a crash or the kernel's OOM killer would.
func (p *process) kill() {
	select {
	case <-p.exited: // its number may be another's by now
	default:
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.exited
	}
}

// quit sends s and gives the program some time to leave in order; how it ended is the caller's to judge.
func (p *process) quit(t *testing.T, s syscall.Signal, within time.Duration) {
	t.Helper()
	p.cmd.Process.Signal(s)
	select {
	case <-p.exited:
	case <-time.After(within):
		t.Errorf("%s: still running %v after %v", p.name, within, s)
		p.kill()
	}
}

func (p *process) exitCode() int {
	<-p.exited
	return p.cmd.ProcessState.ExitCode()
}

// tail returns the last n lines of s.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// writeFile puts a program's configuration where it looks for it.
func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
