package profile

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrRight is in the errors of Apply and Revert about keys that this process has not the right to write.
var ErrRight = errors.New("not permitted; needs root or CAP_NET_ADMIN")

// Change is a key that was written.
type Change struct{ Name, Old, New string }

// kernel is what Apply writes to.
type kernel struct {
	root  string
	write func(path, value string) error
	load  func() error // makes the keys of conntrack appear
}

func open(root string) kernel {
	k := kernel{root: root, write: writeValue, load: func() error { return nil }}
	if root == ProcSys {
		k.load = loadConntrack
	}
	return k
}

// writeValue hands the whole value over at once, as the kernel wants it.
func writeValue(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	return errors.Join(err, f.Close())
}

// Apply writes the keys that are not as wanted. Before the first of them it saves in stateFile what they were, for Revert; what the
// file has is never replaced by a value of ours. A file that cannot be read or written is a problem, and the keys are written all
// the same: without them the relay is at risk, and a reboot brings the old values back. Safe when killed at any point.
//
// Where conntrack's keys are wanted and missing, it is loaded first.
func Apply(root, stateFile string, keys []Key) (changed []Change, problems []error) {
	return open(root).apply(stateFile, keys)
}

func (k kernel) apply(stateFile string, keys []Key) (changed []Change, problems []error) {
	var p problemList
	readings := Read(k.root, keys)
	if slices.ContainsFunc(readings, lacksConntrack) {
		if err := k.load(); err != nil {
			p.add("load conntrack", err)
		}
		readings = Read(k.root, keys)
	}

	// What cannot be written is not saved either.
	var todo []Reading
	for _, r := range readings {
		switch {
		case r.OK:
		case r.Problem != "":
			p.add(r.Name, errors.New(r.Problem))
		default:
			if err := k.mayWrite(r.Name); err != nil {
				p.add(r.Name, err)
				continue
			}
			todo = append(todo, r)
		}
	}
	if len(todo) == 0 {
		return nil, p.errors()
	}

	save, err := k.save(stateFile, todo)
	if err != nil {
		p.add("the values from before cannot be saved, and revert will not know them", err)
	}
	defer save.close()
	for _, r := range todo {
		change, err := k.set(r.Name, r.Found, r.Want)
		if err != nil {
			p.add(r.Name, err)
			continue
		}
		changed = append(changed, change)
		save.set(r.Name, change.New)
		if !r.met(change.New) {
			p.add(r.Name, fmt.Errorf("the kernel took %s and made it %s", r.Want, change.New))
		}
	}
	if err := save.update(); err != nil {
		p.add("save what the kernel made of the values", err)
	}
	return changed, p.errors()
}

// problemList has one error for all keys with the same problem: a right that lacks, lacks for all of them.
type problemList struct {
	errs  []error
	names [][]string
}

func (p *problemList) add(name string, err error) {
	i := slices.IndexFunc(p.errs, func(e error) bool { return e.Error() == err.Error() })
	if i < 0 {
		i = len(p.errs)
		p.errs, p.names = append(p.errs, err), append(p.names, nil)
	}
	p.names[i] = append(p.names[i], name)
}

func (p *problemList) errors() []error {
	var errs []error
	for i, err := range p.errs {
		name := p.names[i][0]
		if more := len(p.names[i]) - 1; more > 0 {
			name = fmt.Sprintf("%s and %d more", name, more)
		}
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	return errs
}

func lacksConntrack(r Reading) bool {
	return r.Found == "" && !r.OK && r.Effect == Always && tracked(r.Name)
}

// mayWrite asks for the right without using it.
func (k kernel) mayWrite(name string) error {
	path, err := keyPath(k.root, name)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return explain(err)
	}
	return f.Close()
}

// explain says which right is lacking. The path is left out: the key's name says as much.
func explain(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return ErrRight
	case errors.Is(err, unix.EROFS):
		return errors.New("/proc/sys is read-only here: in a container apply on its host, in a unit set ProtectKernelTunables=no")
	}
	return err
}

// set writes one key and looks what became of it.
func (k kernel) set(name, old, value string) (Change, error) {
	path, err := keyPath(k.root, name)
	if err != nil {
		return Change{}, err
	}
	if err := k.write(path, value); err != nil {
		return Change{}, explain(err)
	}
	now, err := readKey(k.root, name)
	if err != nil {
		return Change{}, err
	}
	return Change{Name: name, Old: old, New: now}, nil
}

// saving is a state on disk while keys are written.
type saving struct {
	path   string
	state  state
	unlock func()
	dirty  bool
}

// save has the values of todo on disk before it returns, unless they are there already. After an error saving does nothing.
func (k kernel) save(path string, todo []Reading) (*saving, error) {
	unlock, err := lockDir(path)
	if err != nil {
		return &saving{}, err
	}
	s := &saving{path: path, unlock: unlock, state: here(k.root)}
	fail := func(err error) (*saving, error) {
		s.close()
		return &saving{}, err
	}
	old, err := readState(path)
	switch {
	case err == nil && old.of(s.state):
		s.state = old
	case err != nil && !missing(err):
		return fail(fmt.Errorf("%w; move the file away", err))
	}
	for _, r := range todo {
		i := s.state.find(r.Name)
		if i < 0 {
			i = len(s.state.Keys)
			s.state.Keys = append(s.state.Keys, saved{Name: r.Name, Was: r.Found, Also: followers(k.root, r.Name, r.Found)})
		}
		s.state.Keys[i].Set = r.Want
	}
	if err := s.state.write(path); err != nil {
		return fail(err)
	}
	return s, nil
}

// set notes what the kernel made of a value.
func (s *saving) set(name, value string) {
	if i := s.state.find(name); i >= 0 && s.state.Keys[i].Set != value {
		s.state.Keys[i].Set, s.dirty = value, true
	}
}

func (s *saving) update() error {
	if !s.dirty {
		return nil
	}
	return s.state.write(s.path)
}

func (s *saving) close() {
	if s.unlock != nil {
		s.unlock()
	}
}

// Revert puts back what Apply found, the last key first, and removes stateFile. A key that somebody else has changed since is left
// alone, and a problem. What could not be written stays in the file, for another try. Without a file there is nothing to do; after
// a reboot neither.
func Revert(root, stateFile string) (restored []Change, problems []error) {
	return open(root).revert(stateFile)
}

func (k kernel) revert(stateFile string) (restored []Change, problems []error) {
	unlock, err := lockDir(stateFile)
	var s state
	if err == nil {
		defer unlock()
		s, err = readState(stateFile)
	}
	switch {
	case missing(err):
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, []error{fmt.Errorf("what was there before: %w; as root: sudo spillway relay revert", err)}
	case errors.Is(err, errBusy):
		return nil, []error{err}
	case err != nil:
		return nil, []error{fmt.Errorf("what was there before is not known: %w; a reboot brings it back", err)}
	}
	now := here(k.root)
	if s.Boot == now.Boot && s.Namespace != now.Namespace {
		return nil, []error{fmt.Errorf("%s was written in another network namespace (%s, this is %s); revert there", stateFile, s.Namespace, now.Namespace)}
	}
	var p problemList
	left := s
	left.Keys = nil
	if s.of(now) {
		for _, key := range slices.Backward(s.Keys) {
			change, err := k.restore(key)
			if change != (Change{}) {
				restored = append(restored, change)
			}
			if err != nil {
				p.add(key.Name, err)
				if !errors.Is(err, errForeign) {
					left.Keys = append(left.Keys, key)
				}
			}
		}
		slices.Reverse(left.Keys)
	}
	switch {
	case len(left.Keys) == 0:
		err = errors.Join(os.Remove(stateFile), syncDir(filepath.Dir(stateFile)))
	case len(left.Keys) < len(s.Keys):
		err = left.write(stateFile)
	}
	if err != nil {
		p.add(stateFile, err)
	}
	return restored, p.errors()
}

// errForeign is in the error about a key that somebody else has changed.
var errForeign = errors.New("somebody else has changed it since; left alone")

// restore is no change where there is nothing to do: the key is as it was, or gone with its module or interface.
func (k kernel) restore(key saved) (Change, error) {
	found, err := readKey(k.root, key.Name)
	switch {
	case missing(err):
		return Change{}, nil
	case err != nil:
		return Change{}, err
	}
	change := Change{}
	if found != key.Was {
		if found != key.Set {
			return Change{}, fmt.Errorf("is %s, was %s, and was set to %s: %w", found, key.Was, key.Set, errForeign)
		}
		if change, err = k.set(key.Name, found, key.Was); err != nil {
			return Change{}, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(key.Also)) {
		if value, err := readKey(k.root, name); err != nil || value == key.Also[name] {
			continue // gone, or as it was
		}
		if _, err := k.set(name, "", key.Also[name]); err != nil {
			return change, err
		}
	}
	return change, nil
}
