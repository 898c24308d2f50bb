package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"spillway/internal/console"
	"spillway/internal/drill"
	"spillway/internal/lab"
)

type drillCmd struct {
	Quick  bool    `help:"In a minute and a half. Else in about five."`
	Rate   float64 `placeholder:"N" help:"Announces a second of honest clients. Default: a quarter of what a small backend serves on this machine, which is measured first."`
	Attack float64 `default:"6" placeholder:"N" help:"Requests of the attack, as a multiple of --rate."`
	Only   string  `enum:",protected,unprotected" default:"" help:"Play one of the two: protected or unprotected."`
	HTML   string  `type:"path" placeholder:"FILE" default:"drill.html" help:"Write the report there as one page, with plots."`
	JSON   string  `type:"path" placeholder:"FILE" help:"Write the report there for programs."`
	Keep   bool    `help:"Keep what the programs wrote, their configurations and logs, in a directory of the temporary one."`
}

// Help is shown by drill --help.
func (drillCmd) Help() string {
	return `Plays an incident on this machine, twice, and reports: calm traffic, an attack on announces and WebSockets, the operator's "ws off", the backend's ` +
		`death, its return, calm again. First with a plain DNAT rule and a tracker that serves whoever comes, then with "spillway relay" and the shedder. ` +
		`Real programs, nginx as the CDN if it is installed, real connections, clients that try again by their own formulas.

All of it happens in network namespaces of its own: nothing of this machine's network is touched, nothing leaves it, and nothing is left, also after Ctrl-C. ` +
		`It needs two cores, and root or the right to make user namespaces (which it then does by itself).

  sudo spillway drill --quick          a minute and a half, and a page: drill.html`
}

// inUserNamespace is set in the environment of the drill that this program starts in a user namespace, where it is root. It is no
// SPILLWAY_...: those are keys of the configuration.
const inUserNamespace = "DRILL_IN_USER_NAMESPACE"

func (c *drillCmd) Run(p *program) error {
	if os.Geteuid() != 0 {
		return c.becomeRoot(p)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := c.writable(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if os.Getenv(inUserNamespace) != "" {
		fmt.Fprintln(p.stderr, "not root: in a user namespace, where the drill cannot go before other programs; sudo makes its figures steadier")
	}
	told := newDrillTeller(p)
	r, err := drill.Play(ctx, drill.Config{Program: self, Quick: c.Quick, Rate: c.Rate, Attack: c.Attack, Only: c.Only, Keep: c.Keep, Progress: told.progress, Note: told.note})
	told.end()
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(p.stderr, "stopped; nothing is left of it")
		return exitCode(130)
	case errors.Is(err, syscall.EPERM):
		return errors.Join(err, drill.ErrNotAllowed)
	case errors.Is(err, lab.ErrOneCore):
		return errors.New("drill: this machine lets it have one core; it needs two, one for the relay and one for everything else")
	case err != nil:
		return err
	}
	if err := r.Print(p.stdout); err != nil {
		return err
	}
	return c.write(p, r)
}

// writable finds out before the drill, not after it.
func (c *drillCmd) writable() error {
	for name, path := range map[string]string{"html": c.HTML, "json": c.JSON} {
		if path == "" {
			continue
		}
		if info, err := os.Stat(filepath.Dir(path)); err != nil {
			return fmt.Errorf("drill: --%s: %w", name, err)
		} else if !info.IsDir() {
			return fmt.Errorf("drill: --%s=%s: %s is not a directory", name, path, filepath.Dir(path))
		}
	}
	return nil
}

func (c *drillCmd) write(p *program, r *drill.Report) error {
	var err error
	if c.HTML != "" {
		if err = os.WriteFile(c.HTML, r.Page(), 0o644); err == nil {
			fmt.Fprintf(p.stdout, "page: %s\n", c.HTML)
		}
	}
	err = errors.Join(err, writeReport(c.JSON, r))
	if r.Kept != "" {
		fmt.Fprintf(p.stdout, "kept: %s\n", r.Kept)
	}
	return err
}

// becomeRoot runs the same command in a user namespace of its own, where it may do what a drill takes.
func (c *drillCmd) becomeRoot(p *program) error {
	if os.Getenv(inUserNamespace) != "" {
		return drill.ErrNotAllowed
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, p.stdout, p.stderr
	cmd.Env = append(os.Environ(), inUserNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGTERM,
	}
	// The terminal interrupts both; the one that plays has to clean up.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w (a user namespace of its own: %w)", drill.ErrNotAllowed, err)
	}
	over := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s)
			case <-over:
				return
			}
		}
	}()
	err := cmd.Wait()
	close(over)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exitCode(exit.ExitCode())
	}
	return err
}

// drillTeller shows how it goes: a line that is rewritten each second on a terminal, else a line for each phase.
type drillTeller struct {
	p        *program
	terminal bool
	open     bool // a line that can be rewritten
}

func newDrillTeller(p *program) *drillTeller {
	t := &drillTeller{p: p}
	f, ok := p.stderr.(*os.File)
	t.terminal = ok && console.IsTerminal(f)
	return t
}

func (t *drillTeller) note(s string) {
	t.end()
	fmt.Fprintln(t.p.stderr, s)
}

func (t *drillTeller) end() {
	if t.open {
		fmt.Fprintln(t.p.stderr)
		t.open = false
	}
}

func (t *drillTeller) progress(now drill.Progress) {
	at := fmt.Sprintf("%-11s %3.0f of %.0f s", now.Run, now.At.Seconds(), now.Of.Seconds())
	if now.Text != "" {
		t.end()
		fmt.Fprintf(t.p.stderr, "%s  %s: %s\n", at, strings.ToUpper(now.Phase), now.Text)
		return
	}
	if t.terminal {
		fmt.Fprintf(t.p.stderr, "\r\x1b[K%s  %-10s  honest/s: %5.0f offered  %5.0f served  %5.0f shed  %5.0f failed   relay %3.0f %%  ws %d", at, now.Phase, now.Offered, now.Served,
			now.Shed, now.Failed, 100*now.RelayCPU, now.Sockets)
		t.open = true
	}
}
