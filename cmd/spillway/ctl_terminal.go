package main

import (
	"context"
	"os"

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

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// terminalSize is 80x24 where the terminal does not know.
func terminalSize(f *os.File) (width, height int) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 || size.Row == 0 {
		return 80, 24
	}
	return int(size.Col), int(size.Row)
}
