package console

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// readKeys sends what is typed until ctx ends or the terminal is gone; then it closes keys.
func readKeys(ctx context.Context, in *os.File, keys chan<- []byte) {
	defer close(keys)
	fds := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}}
	buf := make([]byte, 64)
	for ctx.Err() == nil {
		n, err := unix.Poll(fds, 100) // ms: so long may the end take
		if n == 0 || err == unix.EINTR || ctx.Err() != nil {
			continue
		}
		if err == nil {
			n, err = unix.Read(int(in.Fd()), buf)
		}
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		select {
		case <-ctx.Done():
		case keys <- append([]byte(nil), buf[:n]...):
		}
	}
}

// rawMode makes keys come one by one, unseen. Ctrl-C still ends; Ctrl-Z, Ctrl-\ and Ctrl-S, which would leave the terminal
// half dressed, are keys like others.
func rawMode(tty *os.File) (restore func(), err error) {
	fd := int(tty.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	raw := *was
	raw.Lflag &^= unix.ICANON | unix.ECHO
	raw.Iflag &^= unix.IXON
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	raw.Cc[unix.VSUSP], raw.Cc[unix.VQUIT] = 0, 0 // _POSIX_VDISABLE
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, err
	}
	// TCSETSF forgets what was typed and not read, which was meant for us and not for the shell.
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETSF, was) }, nil
}

func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// TerminalSize is 80x24 where the terminal does not know.
func TerminalSize(f *os.File) (width, height int) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 || size.Row == 0 {
		return 80, 24
	}
	return int(size.Col), int(size.Row)
}

// topEvery is how often a picture is drawn anew, and how often its spillway is asked.
const topEvery = time.Second

// live is a picture on a terminal. All its functions but look are called by the goroutine in run.
type live struct {
	frame func(now time.Time, width, height int) []string
	// look asks, and returns what puts the answer into the picture.
	look  func(context.Context) (take func())
	press func(ctx context.Context, keys []byte) (quit bool)
	news  chan func() // what else changes the picture; nil: nothing does
}

// show draws on the operator's terminal until q. Where there is none one frame of that size is printed, without its line of keys.
func (v *live) show(ctx context.Context, p *Program, width, height int) error {
	out, ok := p.Stdout.(*os.File)
	if ok && IsTerminal(out) {
		return v.run(ctx, os.Stdin, out)
	}
	lines := v.frame(time.Now(), width, height)
	lines = lines[:len(lines)-1]
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return writeLines(p.Stdout, lines)
}

// run draws until q, a signal or an error, and leaves the terminal as it was.
func (v *live) run(ctx context.Context, in, out *os.File) error {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	keys, looks := make(chan []byte), make(chan func())
	if IsTerminal(in) {
		restore, err := rawMode(in)
		if err != nil {
			return fmt.Errorf("top: terminal: %w", err)
		}
		tasks.Go(func() { readKeys(ctx, in, keys) })
		defer func() {
			cancel()
			for range keys { // until it reads no more: what is typed next is for the shell
			}
			restore()
		}()
	}
	tasks.Go(func() { lookOften(ctx, v.look, looks) })
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)

	// The alternate screen, no cursor, no wrapping at the edge: xterm's private modes 1049, 25 and 7.
	const enter, leave = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
	if _, err := io.WriteString(out, enter); err != nil {
		return err
	}
	defer func() { _, _ = io.WriteString(out, leave) }()
	clock := time.NewTicker(topEvery)
	defer clock.Stop()
	for drawn := (unix.Winsize{}); ; {
		if err := v.draw(out, &drawn); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case take := <-looks:
			take()
		case <-clock.C:
		case <-resized:
		case change := <-v.news:
			change()
		case pressed, ok := <-keys:
			if !ok || v.press(ctx, pressed) {
				return nil
			}
		}
	}
}

// draw erases each line before it is written: after one that fills the width the cursor is still on its last character, and
// erasing to the right would take that. Mode 2026 lets terminals that know it show the frame at once.
func (v *live) draw(out *os.File, drawn *unix.Winsize) error {
	width, height := TerminalSize(out)
	var b strings.Builder
	b.WriteString("\x1b[?2026h\x1b[H")
	if size := (unix.Winsize{Col: uint16(width), Row: uint16(height)}); size != *drawn {
		*drawn = size
		b.WriteString("\x1b[2J")
	}
	b.WriteString("\x1b[K" + strings.Join(v.frame(time.Now(), width, height), "\r\n\x1b[K") + "\x1b[?2026l")
	_, err := io.WriteString(out, b.String())
	return err
}

// lookOften looks each second, or as often as answers come.
func lookOften(ctx context.Context, look func(context.Context) func(), looks chan<- func()) {
	ticker := time.NewTicker(topEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		take := look(ctx)
		select {
		case <-ctx.Done():
			return
		case looks <- take:
		}
	}
}
