// Package profile is the fast-fail profile: what the kernel must be told so that a dead backend's connections neither pile up on the
// relay nor wait. It checks, applies, watches and reverts.
//
//	Keys      what is wanted on a host, by what the host does (keys.go)
//	Read      what is found, and whether that will do
//	Apply     writes what differs, after the values from before are safe on disk (apply.go, state.go)
//	Drift     what has changed since: somebody else writes these too
//	Revert    puts back what was there
//	AtBoot    whether the next boot has it as well (boot.go)
//
// The profile alone is not fast failure: packets that vanish still hang. It bounds the pile; package relay refuses.
// docs/fast-fail.md has each key with what was measured.
package profile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/VictoriaMetrics/metrics"
)

// ProcSys is the root of the kernel's settings. The net part of it is the caller's network namespace's.
const ProcSys = "/proc/sys"

// Role is what a host does with the trackers' connections.
type Role int

// The roles.
const (
	Kernel  Role = iota // a relay whose kernel forwards
	Proxy               // a relay that forwards in user space
	Backend             // spillway serve
)

func (r Role) String() string {
	return [...]string{"relay, kernel mode", "relay, proxy mode", "backend"}[r]
}

// ParseRole reads relay or backend, and for a relay its mode: kernel, proxy, or auto, which is taken for kernel.
func ParseRole(role, mode string) (Role, error) {
	switch {
	case role == "backend":
		return Backend, nil
	case role != "relay":
		return 0, fmt.Errorf("role %q: must be relay or backend", role)
	case mode == "kernel" || mode == "auto":
		return Kernel, nil
	case mode == "proxy":
		return Proxy, nil
	}
	return 0, fmt.Errorf("mode %q: must be auto, kernel or proxy", mode)
}

// Options choose keys.
type Options struct {
	Role     Role
	FastFail bool // relay.profile: fast-fail
	Extra    bool // relay.profile_extra; of no account without FastFail
	IPv6     bool // there are IPv6 backends
}

// Key is one setting of the kernel's.
type Key struct {
	Name    string // as sysctl has it: net.ipv4.tcp_tw_reuse; a dot in an interface's name is a slash
	Want    string
	AtLeast bool // more than Want will do
	Block   Block
	Effect  Effect
	Why     string // what it is for here, or why it does not act here; one sentence

	first   bool // only the first network namespace can write it
	perLink bool // of one interface, and gone with it
}

// Block is a part of the profile that is on or off as a whole.
type Block int

// The blocks, in the order they are applied in.
const (
	FastFail   Block = iota // the operator's ten lines
	Extra                   // what they lack
	Forwarding              // what a relay in kernel mode cannot do without
)

func (b Block) String() string { return [...]string{"fast-fail", "extra", "forwarding"}[b] }

// Effect says whether a key makes a difference in a role.
type Effect int

// The effects.
const (
	Never     Effect = iota
	IfTracked        // where conntrack is loaded, which the role does not need: a firewall or Docker may
	Always
)

// Label is the key as a label of metrics: one for all interfaces, so that the set is fixed.
func (k Key) Label() string {
	if k.perLink {
		return strings.Replace(acceptRA, "%s", "*", 1)
	}
	return k.Name
}

// Wanted is Want for a person.
func (k Key) Wanted() string {
	if k.AtLeast {
		return k.Want + " or more"
	}
	return k.Want
}

// met tells whether found will do.
func (k Key) met(found string) bool {
	if !k.AtLeast {
		return found == k.Want
	}
	want, err := strconv.ParseUint(k.Want, 10, 64)
	if err != nil {
		panic("BUG: profile: " + k.Name + ": " + err.Error())
	}
	have, err := strconv.ParseUint(found, 10, 64)
	return err == nil && have >= want
}

// Reading is a key and what was found.
type Reading struct {
	Key
	Found   string // blanks are single; empty: the kernel has no such key
	OK      bool   // it will do
	Acts    bool   // it makes a difference here, now
	Problem string // why it is not OK, beyond a value that differs, and what to do; one line
}

// Read looks at each key under root. It changes nothing and needs no right.
func Read(root string, keys []Key) []Reading {
	readings := make([]Reading, len(keys))
	for i, k := range keys {
		r := Reading{Key: k, Acts: k.Effect == Always}
		found, err := readKey(root, k.Name)
		switch {
		case err == nil:
			r.Found, r.OK = found, k.met(found)
			r.Acts = r.Acts || k.Effect == IfTracked
			if !r.OK && k.first && readOnlyHere(root, k.Name) {
				r.Problem = "only the first network namespace, the machine's own, can change it: apply it there"
			}
		case !errors.Is(err, fs.ErrNotExist):
			r.Problem = err.Error()
		case k.perLink:
			r.OK, r.Acts = true, false // and its router's advertisements went with it
		case tracked(k.Name) && k.Effect == Always:
			r.Problem = "not there before conntrack is loaded: modprobe nf_conntrack; deploy/modules-load.d/spillway.conf does it at boot"
		case tracked(k.Name):
			r.OK = true // nothing is tracked, so there is nothing to bound
		default:
			r.Problem = "this kernel does not have it"
		}
		readings[i] = r
	}
	return readings
}

// tracked tells the keys that come with the module nf_conntrack.
func tracked(name string) bool { return strings.HasPrefix(name, "net.netfilter.nf_conntrack_") }

// readOnlyHere tells a key that nobody can write in this namespace from one that we have no right to.
func readOnlyHere(root, name string) bool {
	path, err := keyPath(root, name)
	if err != nil {
		return false
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode()&0o200 == 0
}

// maxValueBytes is far beyond what any of our keys holds.
const maxValueBytes = 256

func readKey(root, name string) (string, error) {
	path, err := keyPath(root, name)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxValueBytes))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return blanks(string(content)), nil
}

// blanks makes blanks single: ip_local_port_range has a tab where people write a space.
func blanks(value string) string { return strings.Join(strings.Fields(value), " ") }

// dotsAndSlashes turns sysctl's notation into the file system's and back.
var dotsAndSlashes = strings.NewReplacer(".", "/", "/", ".")

func keyPath(root, name string) (string, error) {
	path := dotsAndSlashes.Replace(name)
	if !filepath.IsLocal(path) || filepath.Clean(path) != path {
		return "", fmt.Errorf("%q is not the name of a kernel setting", name)
	}
	return filepath.Join(root, path), nil
}

// Drifted is a key that was as wanted and is not any more, or the other way round.
type Drifted struct {
	Reading
	Before string // what was found before; empty: nothing, or nobody had looked
}

// Drift compares two readings of the same keys; before is nil at first, when all that is off counts as drifted.
func Drift(before, now []Reading) []Drifted {
	was := make(map[string]Reading, len(before))
	for _, r := range before {
		was[r.Name] = r
	}
	var drifted []Drifted
	for _, r := range now {
		b, known := was[r.Name]
		if !known {
			b.OK = true
		}
		if b.OK != r.OK {
			drifted = append(drifted, Drifted{Reading: r, Before: b.Found})
		}
	}
	return drifted
}

// Off are the names of the keys that are not as wanted.
func Off(readings []Reading) []string {
	var names []string
	for _, r := range readings {
		if !r.OK {
			names = append(names, r.Name)
		}
	}
	return names
}

// WriteMetrics writes spillway_relay_profile_ok for each key; all interfaces' accept_ra are one.
func WriteMetrics(w io.Writer, readings []Reading) {
	var labels []string
	bad := map[string]bool{}
	for _, r := range readings {
		label := r.Label()
		if _, seen := bad[label]; !seen {
			labels = append(labels, label)
		}
		bad[label] = bad[label] || !r.OK
	}
	if len(labels) > 0 {
		_, _ = io.WriteString(w, "# HELP spillway_relay_profile_ok 1 for a kernel setting that is as the relay's profile wants it.\n")
	}
	for _, label := range labels {
		ok := uint64(1)
		if bad[label] {
			ok = 0
		}
		metrics.WriteGaugeUint64(w, fmt.Sprintf("spillway_relay_profile_ok{key=%q}", label), ok)
	}
}
