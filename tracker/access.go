package tracker

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"spillway/tracker/swarm"
)

// The access modes of tracker.access.mode.
const (
	AccessOpen  = "open"  // every torrent
	AccessAllow = "allow" // those in the file
	AccessDeny  = "deny"  // those not in the file
)

// access says which torrents are served. The zero value serves all.
type access struct {
	mode   string
	hashes map[swarm.InfoHash]struct{} // no pointers in it: nothing for the garbage collector
}

func (a *access) allows(h *swarm.InfoHash) bool {
	if a.mode == AccessOpen {
		return true
	}
	_, listed := a.hashes[*h]
	return listed == (a.mode == AccessAllow)
}

func readAccess(mode, path string) (access, error) {
	a := access{mode: mode}
	switch mode {
	case AccessOpen:
		return a, nil
	case AccessAllow, AccessDeny:
	default:
		return a, fmt.Errorf("tracker.access.mode: %q is none of open, allow, deny", mode)
	}
	if path == "" {
		return a, fmt.Errorf("tracker.access.file: empty; mode %s needs a file of info hashes", mode)
	}
	a.hashes = map[swarm.InfoHash]struct{}{}
	err := eachLine(path, func(line string) error {
		var h swarm.InfoHash
		if len(line) != 2*len(h) {
			return fmt.Errorf("%q has %d characters, an info hash has 40 hex digits", line, len(line))
		}
		if _, err := hex.Decode(h[:], []byte(line)); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		a.hashes[h] = struct{}{}
		return nil
	})
	if err != nil {
		return access{}, fmt.Errorf("tracker.access.file: %w", err)
	}
	return a, nil
}

// readPasskeys returns the passkeys of a file, one a line, or nil when there is no file: then none is asked for.
func readPasskeys(path string) (map[string]struct{}, error) {
	if path == "" {
		return nil, nil
	}
	keys := map[string]struct{}{}
	err := eachLine(path, func(line string) error {
		if strings.ContainsAny(line, "/?&# \t") {
			return fmt.Errorf("%q has a character that cannot stand in a path", line)
		}
		keys[line] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("tracker.passkeys: %w", err)
	}
	return keys, nil
}

// eachLine calls f with each line of the file that says something: without comments (#) and blanks.
func eachLine(path string, f func(line string) error) error {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // O_NONBLOCK: a FIFO must not hang a reload
	if err != nil {
		return err
	}
	defer file.Close()
	switch st, err := file.Stat(); {
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a file", path)
	case st.Size() > maxListBytes:
		return fmt.Errorf("%s has %d bytes; at most %d are read", path, st.Size(), maxListBytes)
	}
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := f(line); err != nil {
			return fmt.Errorf("%s: line %d: %w", path, n, err)
		}
	}
	return lines.Err()
}

// maxListBytes bounds a list file: six million info hashes.
const maxListBytes = 256 << 20

// fileStamp is enough of a file's state to see that it has changed.
type fileStamp struct {
	modified time.Time
	size     int64
}

// fileStamps are those of the files that settings are read from: access list, passkeys, Cloudflare's ranges.
type fileStamps [3]fileStamp

func stampOf(path string) fileStamp {
	if path == "" {
		return fileStamp{}
	}
	st, err := os.Stat(path)
	if err != nil {
		return fileStamp{}
	}
	return fileStamp{st.ModTime(), st.Size()}
}
