package shedder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// ErrNotDurable is wrapped in an error of a change that is in force but could not be written: it ends with the process.
// What is turned off while the disk is full must be off all the same. The file is tried again every 10 seconds by Expire.
var ErrNotDurable = errors.New("in force, but not saved: it will not survive a restart until the disk takes it")

// retrySave is how long after a failed save Expire tries again.
const retrySave = 10 * time.Second

// Bounds on what an operator gives with a switch or a rule.
const (
	MaxReasonBytes = 200
	MinFor         = time.Second
	MaxFor         = 366 * 24 * time.Hour
	maxByBytes     = 100
)

// stateFile keeps a small state on disk: in path, which always is a whole file, the old one or the new, and after that once
// more in path + ".last", in other blocks, for the day when path cannot be read.
type stateFile struct {
	path     string // "": nothing is kept
	maxBytes int64

	saving sync.Mutex // guards saved, and writing; taken before the mutex of the state that is kept
	saved  uint64     // the version on disk

	retryUnixNs atomic.Int64 // 0: nothing waits to be saved
}

// load gives parse the file, and if that cannot be read or parsed, or is gone, its copy. parse must change nothing when it
// fails. lost is true when both are of no use and there was something once; problem says what was wrong and what was done,
// but for the caller's own answer to lost.
func (f *stateFile) load(parse func([]byte) error) (lost bool, problem error) {
	if f.path == "" {
		return false, nil
	}
	read := func(path string) error {
		content, err := readSmallFile(path, f.maxBytes)
		if err != nil {
			return err
		}
		if err := parse(content); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	last := f.path + ".last"
	err := read(f.path)
	if err == nil {
		return false, nil
	}
	lastErr := read(last)
	switch {
	case lastErr == nil:
		return false, fmt.Errorf("%w; the copy %s was taken instead (remove both to start afresh)", err, last)
	case errors.Is(err, fs.ErrNotExist) && errors.Is(lastErr, fs.ErrNotExist):
		return false, nil // a new installation
	}
	return true, fmt.Errorf("%w; and its copy: %w", err, lastErr)
}

// save writes what render returns, a version and its content, unless the version asked for is on disk already: whoever
// waited while another saved finds its change taken along.
func (f *stateFile) save(version uint64, render func() (uint64, any)) error {
	if f.path == "" {
		return nil
	}
	f.saving.Lock()
	defer f.saving.Unlock()
	if f.saved >= version {
		return nil
	}
	version, state := render()
	content, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		panic("BUG: " + err.Error()) // names, times and strings always marshal
	}
	content = append(content, '\n')
	if err := replaceFile(f.path, content); err != nil {
		f.retryUnixNs.Store(time.Now().Add(retrySave).UnixNano())
		return fmt.Errorf("%w: %w", ErrNotDurable, err)
	}
	f.saved = version
	f.retryUnixNs.Store(0)
	if replaceFile(f.path+".last", content) != nil {
		// The state is safe. But a copy of an older one must not be taken for it one day: better none.
		_ = os.Remove(f.path + ".last")
	}
	return nil
}

// retryDue tells that the last save failed and that it is time for another try.
func (f *stateFile) retryDue(now time.Time) bool {
	at := f.retryUnixNs.Load()
	return at != 0 && now.UnixNano() >= at
}

// replaceFile leaves the old content or the new, whole, whenever the machine stops, and the new one once it has returned.
func replaceFile(path string, content []byte) error {
	tmp := path + ".tmp"
	// Made anew, so that no link to somebody's file is written through. A directory stays, and is an error.
	_ = syscall.Unlink(tmp)
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close()) // or the rename may not last through a power cut
}

func readSmallFile(path string, maxBytes int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // O_NONBLOCK: a FIFO must not hang the start
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err == nil && int64(len(content)) > maxBytes {
		err = fmt.Errorf("%s has more than %d bytes", path, maxBytes)
	}
	return content, err
}

// changes tells those who asked of what happened, in the order in which it happened and with no lock held: who is told may
// ask for more changes.
type changes[T any] struct {
	told []func(T) // complete before the first push

	mu      sync.Mutex // guards waiting, telling; taken last
	waiting []T
	telling bool
}

// push is called with the lock held under which the change was made, so that the order is that of the changes.
func (c *changes[T]) push(change T) {
	if len(c.told) == 0 {
		return
	}
	c.mu.Lock()
	c.waiting = append(c.waiting, change)
	c.mu.Unlock()
}

// tell is called with no lock held. While another goroutine is telling, it leaves the rest to that one.
func (c *changes[T]) tell() {
	if len(c.told) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.telling {
		return
	}
	c.telling = true
	defer func() { c.telling = false }() // also when who is told panics
	for len(c.waiting) > 0 {
		change := c.waiting[0]
		c.waiting = c.waiting[1:]
		c.tellOne(change)
	}
	c.waiting = nil
}

func (c *changes[T]) tellOne(change T) {
	c.mu.Unlock()
	defer c.mu.Lock()
	for _, f := range c.told {
		f(change)
	}
}

// checkOrder checks what comes with every order to switch or to block. Errors begin with the field's name in the API.
func checkOrder(d time.Duration, reason, by string) error {
	if d != 0 && (d < MinFor || d > MaxFor) {
		return fmt.Errorf("for %v: must be between %v and 366 days, or left out for good", d, MinFor)
	}
	if err := checkText("reason", reason, MaxReasonBytes); err != nil {
		return err
	}
	return checkText("by", by, maxByBytes)
}

func checkText(field, s string, maxBytes int) error {
	if len(s) > maxBytes {
		return fmt.Errorf("%s: has %d bytes; must have %d at most", field, len(s), maxBytes)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %q: must be UTF-8", field, s)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%s %q: must be printable, on one line", field, s)
		}
	}
	return nil
}

// cleanText makes what a file or the program itself says fit the same bounds.
func cleanText(s string, maxBytes int) string {
	clean := make([]byte, 0, min(len(s), maxBytes))
	for _, r := range s { // what is not UTF-8 comes as U+FFFD
		if !unicode.IsPrint(r) {
			r = '?'
		}
		if len(clean)+utf8.RuneLen(r) > maxBytes {
			break
		}
		clean = utf8.AppendRune(clean, r)
	}
	return string(clean)
}

// endOf is when an order given now ends; zero: never.
func endOf(now time.Time, d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return now.Add(d)
}

// isDue tells that an end has come. The zero time never comes.
func isDue(until, now time.Time) bool { return !until.IsZero() && !now.Before(until) }

// timeOrNil is a time as it stands in a file: null rather than the year 1.
func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func timeOrZero(t *time.Time) time.Time {
	if t == nil || t.UTC().Year() < 1 || t.UTC().Year() > 9999 { // in its zone it had a year that can be written, in UTC not
		return time.Time{}
	}
	return t.UTC()
}
