// Package datadir looks after the directory a spillway keeps its files in: one tracker at a time has it, each file is as it was
// or as it is to be, whole, whenever the machine stops, and none is written through a link.
//
// shedder, tracker/swarm and relay/profile, which import nothing of ours, write their own files in the same way.
package datadir

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockFile is in the directory while a process uses it, and after.
const lockFile = "lock"

// Lock makes dir if need be and takes it for this process, as long as the file returned is open: two trackers would overwrite
// each other's snapshots. The kernel drops the lock when the process ends, however it ends.
func Lock(dir string) (*os.File, error) {
	if err := Make(dir); err != nil {
		return nil, err
	}
	// It is emptied below: not the file that a link there leads to.
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
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

// Make makes dir if need be. Snapshots hold addresses of people, and the token is a key: it is not for others.
func Make(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w; make it, writable for this user, or name another", err)
	}
	return nil
}

// WarnOfWriters is for a directory that was there before: switches, snapshot and token are in it.
func WarnOfWriters(dir string, log *slog.Logger) {
	if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o022 != 0 {
		log.Warn("others on this machine can write to data_dir, and so turn switches and read peers at the next start: chmod go-w it", "data_dir", dir)
	}
}

// Replace leaves the old content of file or the new, for its owner only. It returns when that is on disk.
func Replace(file string, content []byte) error {
	tmp := file + ".tmp"
	_ = os.Remove(tmp) // of a process that was killed; a link there is not followed
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Read is for a file of ours of at most maxBytes: a FIFO must not hang the start, nor a link show another's file.
func Read(file string, maxBytes int64) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxBytes {
		return nil, fmt.Errorf("%s: no file of ours", file)
	}
	return io.ReadAll(io.LimitReader(f, maxBytes))
}
