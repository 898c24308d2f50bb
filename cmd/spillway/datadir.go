package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockFile is in the data directory while a process uses it, and after.
const lockFile = "lock"

// lockDataDir makes dir if need be and takes it for this process, as long as
// the file returned is open: two trackers would overwrite each other's
// snapshots. The kernel drops the lock when the process ends, however it ends.
func lockDataDir(dir string) (*os.File, error) {
	// Snapshots hold addresses of people, and the token is a key: not for others.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w; make it, writable for this user, or name another", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data_dir: %w; make %s writable for this user, or name another", err, dir)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		owner, _ := io.ReadAll(io.LimitReader(f, 20)) // only for the message
		_ = f.Close()
		return nil, fmt.Errorf("data_dir: %s is in use by another spillway (pid %s); stop it, or give this one a data_dir of its own",
			dir, strings.TrimSpace(string(owner)))
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("data_dir: lock %s: %w", dir, err)
	}
	return f, nil
}
