package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Setting is a line of a sysctl.d file.
type Setting struct {
	Name  string // with dots
	Value string // blanks are single
	Line  int    // from 1
}

// ParseConf reads sysctl.d(5): name = value, # and ; begin comments, a - before the name lets errors pass, and a name may have
// slashes for dots. It returns what it could read even with an error, which names the lines it could not.
func ParseConf(content []byte) ([]Setting, error) {
	var settings []Setting
	var errs []error
	number := 0
	for raw := range bytes.Lines(content) {
		number++
		line := strings.TrimSpace(string(raw))
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		bare, lenient := strings.CutPrefix(line, "-")
		name, value, ok := strings.Cut(bare, "=")
		if !ok && lenient {
			continue // an exception to a pattern before it: sets nothing
		}
		name = strings.TrimSpace(name)
		if !ok || name == "" {
			errs = append(errs, fmt.Errorf("line %d: %.80q: must be name = value", number, line))
			continue
		}
		// The first of the two separators decides how the name is written.
		if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
			name = dotsAndSlashes.Replace(name)
		}
		settings = append(settings, Setting{Name: name, Value: blanks(value), Line: number})
	}
	return settings, errors.Join(errs...)
}

// Boot is what the next boot brings.
type Boot struct {
	Files []string // that name a key of the profile and have the last word on it; sorted
	Lost  []string // names of keys that no file sets
	Other []string // "name = value in file", where that is not what the profile wants
	// Module tells whether the keys of conntrack are there when the files are read: without it those are lost, and silently.
	Module bool
	// NeedsModule tells whether there are keys of conntrack among the kept ones.
	NeedsModule bool
}

// Kept tells whether the profile survives a reboot without a relay that applies it.
func (b Boot) Kept() bool { return len(b.Lost)+len(b.Other) == 0 && (b.Module || !b.NeedsModule) }

// sysctlDirs in order of precedence: a file hides those of its name in the directories below (sysctl.d(5)).
var sysctlDirs = [...]string{"etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d"}

// AtBoot reads the files that a boot sets keys by, under root, which is / but for tests. Keys of forwarding are not looked at: only
// the relay needs them, and it applies them.
func AtBoot(root string, keys []Key) Boot {
	type origin struct{ value, file string }
	set := map[string]origin{}
	for _, file := range confFiles(root) {
		settings, _ := ParseConf(readConf(filepath.Join(root, file))) // what cannot be read is for systemd to complain about
		for _, s := range settings {
			for _, k := range keys {
				if matches(s.Name, k.Name) {
					set[k.Name] = origin{s.Value, file}
				}
			}
		}
	}
	b := Boot{Module: moduleAtBoot(root)}
	files := map[string]bool{}
	for _, k := range keys {
		if k.Block == Forwarding || k.Effect == IfTracked {
			continue
		}
		o, ok := set[k.Name]
		switch {
		case !ok:
			b.Lost = append(b.Lost, k.Name)
		case !k.met(o.value):
			b.Other = append(b.Other, fmt.Sprintf("%s = %s in /%s", k.Name, o.value, o.file))
		default:
			files["/"+o.file] = true
			b.NeedsModule = b.NeedsModule || tracked(k.Name)
		}
	}
	b.Files = slices.Sorted(maps.Keys(files))
	return b
}

// matches tells whether a name in a file, which may be a pattern, is of the key.
func matches(pattern, name string) bool {
	if pattern == name {
		return true
	}
	if !strings.ContainsAny(pattern, "*?[") {
		return false
	}
	ok, err := path.Match(dotsAndSlashes.Replace(pattern), dotsAndSlashes.Replace(name))
	return ok && err == nil
}

// confFiles are the files of sysctlDirs in the order they are read in: by name, whatever the directory. Without systemd
// /etc/sysctl.conf comes last; with it, it does not count but as a link in sysctl.d.
func confFiles(root string) []string {
	files := listConf(root, sysctlDirs[:])
	if _, err := os.Stat(filepath.Join(root, "run/systemd/system")); err != nil {
		files = append(files, "etc/sysctl.conf")
	}
	return files
}

func listConf(root string, dirs []string) []string {
	at := map[string]string{} // name: path
	for _, dir := range dirs {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			continue // not there
		}
		for _, e := range entries {
			name := e.Name()
			if _, hidden := at[name]; !hidden && strings.HasSuffix(name, ".conf") {
				at[name] = filepath.Join(dir, name)
			}
		}
	}
	files := make([]string, 0, len(at))
	for _, name := range slices.Sorted(maps.Keys(at)) {
		files = append(files, at[name])
	}
	return files
}

// readConf is nothing for what is not a file, such as the link to /dev/null that hides another.
func readConf(file string) []byte {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	content, _ := io.ReadAll(io.LimitReader(f, 1<<20)) // no such file is longer
	return content
}

// moduleAtBoot tells whether conntrack is part of the kernel or named in modules-load.d(5) or /etc/modules.
func moduleAtBoot(root string) bool {
	// A module that was loaded has a state; one that is part of the kernel has none.
	if _, err := os.Stat(filepath.Join(root, "sys/module/nf_conntrack")); err == nil {
		if _, err := os.Stat(filepath.Join(root, "sys/module/nf_conntrack/initstate")); err != nil {
			return true
		}
	}
	dirs := []string{"etc/modules-load.d", "run/modules-load.d", "usr/local/lib/modules-load.d", "usr/lib/modules-load.d", "lib/modules-load.d"}
	for _, file := range append(listConf(root, dirs), "etc/modules") {
		for line := range bytes.Lines(readConf(filepath.Join(root, file))) {
			words := strings.Fields(string(line)) // in /etc/modules parameters may follow
			if len(words) > 0 && strings.ReplaceAll(words[0], "-", "_") == "nf_conntrack" {
				return true
			}
		}
	}
	return false
}
