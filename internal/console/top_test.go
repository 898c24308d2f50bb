package console

import (
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a real one, pty(7), with a program on it.
type terminal struct {
	t    *testing.T
	cmd  *exec.Cmd
	ours *os.File // what a terminal emulator holds
	tty  *os.File // what the program has

	mu     sync.Mutex // guards screen
	screen []byte     // all that was written
	ended  chan struct{}
}

func startOnTerminal(t *testing.T, width, height uint16, args ...string) *terminal {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	fd := int(ours.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &terminal{t: t, ours: ours, tty: tty, ended: make(chan struct{})}
	p.resize(width, height)
	p.cmd = exec.Command("spillway", args...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = tty, tty, tty
	p.cmd.Env = append(os.Environ(), "SPILLWAY_ADMIN_TOKEN="+fakeToken, "TERM=xterm", "NO_COLOR=")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		buf := make([]byte, 4096)
		for {
			n, err := ours.Read(buf)
			p.mu.Lock()
			p.screen = append(p.screen, buf[:n]...)
			p.mu.Unlock()
			if err != nil {
				return // EIO: nobody has the other side any more
			}
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		_ = tty.Close()
		<-p.ended
		_ = ours.Close()
	})
	return p
}

func (p *terminal) resize(width, height uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.ours.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *terminal) press(keys string) {
	p.t.Helper()
	if _, err := io.WriteString(p.ours, keys); err != nil {
		p.t.Fatal(err)
	}
}

func (p *terminal) written() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.screen)
}

// wait waits until a frame drawn from now on matches, and returns it.
func (p *terminal) wait(pattern string) string {
	p.t.Helper()
	re, began := regexp.MustCompile(pattern), len(p.written())
	deadline := time.Now().Add(patience)
	for {
		frames := strings.Split(p.written()[began:], "\x1b[H")
		for _, f := range frames[1:] {
			if strings.Contains(f, "\x1b[?2026l") && re.MatchString(f) {
				return f
			}
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("no frame with %q; the last is\n%s", pattern, strings.ReplaceAll(frames[len(frames)-1], "\x1b", "␛"))
		}
		<-time.After(5 * time.Millisecond)
	}
}

// quits waits for the end and looks at what is left: the terminal as it was.
func (p *terminal) quits(was *unix.Termios, wantCode int) {
	p.t.Helper()
	kill := time.AfterFunc(patience, func() { _ = p.cmd.Process.Signal(syscall.SIGQUIT) })
	defer kill.Stop()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != wantCode {
		p.t.Errorf("exit code: got %d, want %d", got, wantCode)
	}
	if now := p.termios(); *now != *was {
		p.t.Errorf("terminal: got %+v, want %+v", *now, *was)
	}
	const leave = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	deadline := time.Now().Add(patience)
	for !strings.HasSuffix(p.written(), leave) {
		if time.Now().After(deadline) {
			p.t.Fatalf("screen not left: ends with %q", p.written()[max(0, len(p.written())-80):])
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (p *terminal) termios() *unix.Termios {
	p.t.Helper()
	termios, err := unix.IoctlGetTermios(int(p.tty.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return termios
}

func TestCtlTopLive(t *testing.T) {
	t.Parallel()
	f := newFakeAdmin()
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	p := startOnTerminal(t, 80, 24, "ctl", "top", "--admin="+srv.URL)
	was := p.termios()
	if got := strings.Count(p.wait("OVERLOAD"), "\r\n"); got != 23 {
		t.Errorf("lines: got %d, want 24", got+1)
	}
	if !strings.HasPrefix(p.written(), "\x1b[?1049h\x1b[?25l\x1b[?7l") {
		t.Errorf("screen not entered: %.40q", p.written())
	}
	// The picture is in colour, follows the terminal's size, and keys.
	p.resize(100, 40)
	if got := strings.Count(p.wait("\x1b\\[1;31mOVERLOAD"), "\r\n"); got != 39 {
		t.Errorf("lines: got %d, want 40", got+1)
	}
	p.press("3")
	p.wait(`\[3 user agents\](.|\n)*83 %.*Evil/1.0·`)
	p.press("\t")
	p.wait(`\[4 peer ids\](.|\n)*nobody yet`)
	p.press("\x1b[A9\x1bOQw y")
	p.wait(`\[y/n\]`) // the y came in one piece with the w, as pasted text does
	p.press("\x1b")
	p.wait("nothing switched")

	// w asks first; no is no, and only y is yes.
	p.press("w")
	p.wait(`switch WebSockets off, until somebody switches them on\? 12,001 are open \[y/n\]`)
	p.press("n")
	p.wait("nothing switched")
	if got := f.lastChange(); got != "" {
		t.Errorf("n switched: %s", got)
	}
	p.press("w")
	p.wait(`\[y/n\]`)
	p.press("y")
	p.wait("ws off until it is switched on again")
	if got, want := f.lastChange(), `PUT /api/v1/switches/ws {"mode":"off","reason":"ctl top"}`; got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
	p.wait(`ws .*off.*, ctl top`)
	p.press("w")
	p.wait(`switch WebSockets on\? They are off \[y/n\]`)
	p.press("y")
	p.wait(`ws on`)
	if got, want := f.lastChange(), `PUT /api/v1/switches/ws {"mode":"on"}`; got != want {
		t.Errorf("sent %s, want %s", got, want)
	}

	// A tracker that fails does not end the picture, and one that is back is seen.
	f.mu.Lock()
	f.mute = true
	f.mu.Unlock()
	p.wait(`NOTHING HEARD for .*out of order·`)
	f.mu.Lock()
	f.mute = false
	f.mu.Unlock()
	p.wait(`up 3d 4h.*\r\r\n.*OVERLOAD`)
	p.press("q")
	p.quits(was, 0)
}

// However it ends, the shell gets its terminal back.
func TestCtlTopSignals(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(newFakeAdmin())
	t.Cleanup(srv.Close)
	for _, end := range []struct {
		name string
		f    func(*terminal)
	}{
		{"SIGTERM", func(p *terminal) { _ = p.cmd.Process.Signal(syscall.SIGTERM) }},
		{"ctrl-c", func(p *terminal) { p.press("\x03") }},
	} {
		t.Run(end.name, func(t *testing.T) {
			t.Parallel()
			p := startOnTerminal(t, 80, 24, "ctl", "top", "--admin="+srv.URL)
			was := p.termios()
			p.wait("OVERLOAD")
			end.f(p)
			p.quits(was, 0)
		})
	}
}

// What is wrong from the start is said on the operator's own screen, which is not touched.
func TestCtlTopNotRunning(t *testing.T) {
	t.Parallel()
	p := startOnTerminal(t, 80, 24, "ctl", "top", "--admin=unix:"+filepath.Join(t.TempDir(), "none"))
	err := p.cmd.Wait()
	if p.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("got %v, want exit code 1", err)
	}
	deadline := time.Now().Add(patience)
	for !strings.Contains(p.written(), "nothing answers at unix:") {
		if time.Now().After(deadline) {
			t.Fatalf("got %q", p.written())
		}
		<-time.After(5 * time.Millisecond)
	}
	if strings.Contains(p.written(), "\x1b") {
		t.Errorf("got %q, want no escape sequences", p.written())
	}
}
