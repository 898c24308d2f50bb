package datadir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLock(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "here")
	held, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode: got %v, %v, want 0700", info.Mode(), err)
	}
	if _, err := Lock(dir); err == nil || !strings.Contains(err.Error(), "is in use by another spillway (pid ") {
		t.Errorf("a second time: got %v", err)
	}
	_ = held.Close()
	again, err := Lock(dir)
	if err != nil {
		t.Fatalf("once it is free: %v", err)
	}
	_ = again.Close()

	// What a link of that name leads to is somebody else's, and would be emptied.
	theirs := filepath.Join(t.TempDir(), "theirs")
	write(t, theirs, "theirs")
	if err := errors.Join(os.Remove(filepath.Join(dir, lockFile)), os.Symlink(theirs, filepath.Join(dir, lockFile))); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link: got %v", err)
	}
	wantContent(t, theirs, "theirs")
}

func TestReplace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, theirs := filepath.Join(dir, "file"), filepath.Join(t.TempDir(), "theirs")
	write(t, theirs, "theirs")
	// Both names may be links by the time we come.
	if err := errors.Join(os.Symlink(theirs, file), os.Symlink(theirs, file+".tmp")); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"first", "second", ""} {
		if err := Replace(file, []byte(content)); err != nil {
			t.Errorf("%q: %v", content, err)
		}
		wantContent(t, file, content)
	}
	wantContent(t, theirs, "theirs")
	if info, err := os.Lstat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode: got %v, %v, want a file, 0600", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
	if err := Replace(filepath.Join(dir, "none", "file"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: got %v", err)
	}
	// What is in the way stays, and nothing is left beside it.
	write(t, filepath.Join(dir, "full", "x"), "")
	if err := Replace(filepath.Join(dir, "full"), []byte("x")); err == nil {
		t.Error("a directory was replaced")
	}
	if _, err := os.Lstat(filepath.Join(dir, "full.tmp")); err == nil {
		t.Error("full.tmp is left behind")
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, link, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	write(t, file, "12345")
	if err := errors.Join(os.Symlink(file, link), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(file, 5); err != nil || string(got) != "12345" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Read(filepath.Join(dir, "none"), 5); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none: got %v", err)
	}
	if _, err := Read(link, 5); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link: got %v", err)
	}
	for _, bad := range []string{fifo, dir} {
		if _, err := Read(bad, 5); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
	if _, err := Read(file, 4); err == nil {
		t.Error("more than the most was read")
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, file, want string) {
	t.Helper()
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("%s: got %q, %v, want %q", file, got, err, want)
	}
}
