package profile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// state is what the file of Apply holds: the values from before. It is for one boot of one network namespace: what another has is
// not what we wrote.
type state struct {
	Version   int     `json:"version"`
	Boot      string  `json:"boot"`
	Namespace string  `json:"network_namespace"`
	Keys      []saved `json:"keys"` // in the order they were written in
}

// saved is a key that Apply has written.
type saved struct {
	Name string `json:"name"`
	Was  string `json:"was"` // before the first Apply
	Set  string `json:"set"` // by the last one

	// Also are other keys that the kernel changes with this one, and what they were: those that it would not put back with it.
	Also map[string]string `json:"also,omitempty"`
}

const (
	stateVersion  = 1
	maxStateBytes = 1 << 20
	maxStateKeys  = 4096
)

// here is a state without keys, of this boot and this network namespace.
func here(root string) state {
	boot, _ := os.ReadFile(filepath.Join(root, "kernel/random/boot_id"))
	s := state{Version: stateVersion, Boot: blanks(string(boot))}
	if root == ProcSys {
		s.Namespace, _ = os.Readlink("/proc/thread-self/ns/net")
	}
	return s
}

// of tells whether s was made in this boot and this network namespace.
func (s state) of(here state) bool { return s.Boot == here.Boot && s.Namespace == here.Namespace }

func (s state) find(name string) int {
	for i, k := range s.Keys {
		if k.Name == name {
			return i
		}
	}
	return -1
}

var numbers = regexp.MustCompile(`^[0-9]{1,20}( [0-9]{1,20})?$`)

// parseState takes nothing that Apply would not have written: Revert is root, and the file may have been in other hands.
func parseState(content []byte) (state, error) {
	var s state
	d := json.NewDecoder(bytes.NewReader(content))
	if err := d.Decode(&s); err != nil {
		return state{}, err
	}
	if _, err := d.Token(); err != io.EOF {
		return state{}, errors.New("something follows the end")
	}
	if s.Version != stateVersion {
		return state{}, fmt.Errorf("version: got %d; this program knows %d", s.Version, stateVersion)
	}
	if len(s.Keys) > maxStateKeys {
		return state{}, fmt.Errorf("%d keys; there can be %d", len(s.Keys), maxStateKeys)
	}
	seen := map[string]bool{}
	for _, k := range s.Keys {
		if !ours(k.Name) || seen[k.Name] {
			return state{}, fmt.Errorf("key %.80q: not of this profile, or there twice", k.Name)
		}
		seen[k.Name] = true
		if !numbers.MatchString(k.Was) || !numbers.MatchString(k.Set) {
			return state{}, fmt.Errorf("%s: %.80q and %.80q: not numbers", k.Name, k.Was, k.Set)
		}
		for name, was := range k.Also {
			if !follows(name, k.Name) || was != "0" && was != "1" {
				return state{}, fmt.Errorf("%s: %.80q: %.80q is not what goes with it", k.Name, name, was)
			}
		}
	}
	return s, nil
}

// readState is fs.ErrNotExist when there is none.
func readState(path string) (state, error) {
	// O_NONBLOCK: a FIFO must not hang the start. O_NOFOLLOW: nor may the file be somebody else's.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return state{}, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxStateBytes+1))
	if err == nil && len(content) > maxStateBytes {
		err = fmt.Errorf("longer than %d bytes", maxStateBytes)
	}
	if err != nil {
		return state{}, fmt.Errorf("read %s: %w", path, err)
	}
	s, err := parseState(content)
	if err != nil {
		return state{}, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

// write leaves the old content or the new, whole, whenever the machine stops, and the new one once it has returned. The caller has
// the lock of the directory.
func (s state) write(path string) error {
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic("BUG: profile: " + err.Error()) // texts and numbers always marshal
	}
	tmp := path + ".tmp"
	_ = os.Remove(tmp) // of a process that was killed
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(content, '\n'))
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
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename or removal in dir last through a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

var errBusy = errors.New("another spillway is applying or reverting the profile; try again")

// lockDir keeps another process from applying or reverting at the same time, until unlock. A process that was just forked has the
// directory open as well, so that closing it would not be enough.
func lockDir(path string) (unlock func(), err error) {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = d.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errBusy
		}
		return nil, err
	}
	return func() {
		_ = unix.Flock(int(d.Fd()), unix.LOCK_UN)
		_ = d.Close()
	}, nil
}

// follows tells the keys that the kernel changes with forwarding, an interface's each.
func follows(name, of string) bool {
	switch of {
	case forward4:
		return ofLink(name, "net.ipv4.conf.", ".forwarding")
	case forward6:
		return ofLink(name, "net.ipv6.conf.", ".forwarding")
	}
	return false
}

// followers are the keys that follow name and that differ from it.
func followers(root, name, was string) map[string]string {
	before := map[string]string{forward4: "net.ipv4.conf.", forward6: "net.ipv6.conf."}[name]
	if before == "" {
		return nil
	}
	links, err := os.ReadDir(filepath.Join(root, dotsAndSlashes.Replace(before)))
	if err != nil {
		return nil
	}
	var also map[string]string
	for _, l := range links {
		if l.Name() == "all" {
			continue // it is name itself
		}
		follower := before + strings.ReplaceAll(l.Name(), ".", "/") + ".forwarding"
		value, err := readKey(root, follower)
		if err == nil && value != was && len(also) < maxStateKeys {
			if also == nil {
				also = map[string]string{}
			}
			also[follower] = value
		}
	}
	return also
}

// missing tells an error of a file that is not there.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
