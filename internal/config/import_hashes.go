package config

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// Hashes are what tracker.access.file is made of. The zero value is empty.
type Hashes struct {
	Skipped []ImportNote // lines that are no info hash, the first of them
	Missed  int          // how many such lines there are

	list  [][20]byte
	place map[[20]byte]int // in list, plus one; 0 once it was taken out
}

// maxSkipped is how many lines are named that were skipped.
const maxSkipped = 20

// Read adds a list as opentracker reads it: a line counts that begins with an info hash, 40 hex digits and no more. +HASH is the
// same as HASH, and -HASH takes out what came before: so journals of additions and removals are lists too. name is the list's
// in Skipped.
func (h *Hashes) Read(r io.Reader, name string) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		h.line(lines.Text(), name, n)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Add is Read of hashes that are in a configuration.
func (h *Hashes) Add(list ImportList) {
	for _, text := range list.Hashes {
		h.line(text, list.Key, list.Line)
	}
}

func (h *Hashes) line(text, name string, n int) {
	text, _, _ = strings.Cut(text, "#")
	if text = strings.TrimSpace(text); text == "" {
		return
	}
	digits, out := strings.CutPrefix(text, "-")
	digits = strings.TrimSpace(strings.TrimPrefix(digits, "+"))
	var hash [20]byte
	bad := len(digits) < 40 || len(digits) > 40 && isHex(digits[40])
	if !bad {
		_, err := hex.Decode(hash[:], []byte(digits[:40]))
		bad = err != nil
	}
	if bad {
		if h.Missed++; len(h.Skipped) < maxSkipped {
			h.Skipped = append(h.Skipped, ImportNote{NoteLook, n, name, fmt.Sprintf("%q is no info hash of 40 hex digits; skipped", printable(shorten(text)))})
		}
		return
	}
	if h.place == nil {
		h.place = make(map[[20]byte]int)
	}
	switch at := h.place[hash]; {
	case out:
		delete(h.place, hash)
	case at == 0:
		h.list = append(h.list, hash)
		h.place[hash] = len(h.list)
	}
}

func isHex(c byte) bool { return strings.IndexByte("0123456789abcdefABCDEF", c) >= 0 }

// Len is how many there are.
func (h *Hashes) Len() int { return len(h.place) }

// Write writes them as tracker.access.file has them, in the order they came in.
func (h *Hashes) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	for i, hash := range h.list {
		if h.place[hash] == i+1 { // not taken out, or put in again later
			fmt.Fprintf(b, "%x\n", hash)
		}
	}
	return b.Flush()
}
