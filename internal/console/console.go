// Package console is the operator's side of a terminal: spillway ctl, which asks and steers a running spillway, and relay
// check, apply and revert, which look after the kernel's settings on the machine in front.
//
// A command passes through Ctl.client (where to ask, and with which token), client.call (one request), and says what came of
// it in one line or a table (show.go, relay.go). top draws frames (frame.go, relay.go) on a terminal until it is told to stop
// (live.run). All text passes through line.add, which leaves nothing in it that a terminal would obey.
package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"spillway/internal/config"
)

// Program is what a command gets to work with.
type Program struct {
	Version string
	Src     config.Sources
	Stdout  io.Writer
	Stderr  io.Writer
}

// ExitCode is an answer of a command that is no error, such as ctl status --exit-code gives.
type ExitCode int

func (c ExitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// colour reports whether to use colours: on a terminal, unless the operator does not want any (no-color.org).
func (p *Program) colour() bool {
	f, ok := p.Stdout.(*os.File)
	return ok && IsTerminal(f) && p.getenv("NO_COLOR") == "" && p.getenv("TERM") != "dumb"
}

func (p *Program) getenv(name string) string {
	value := ""
	for _, e := range p.Src.Environ {
		if n, v, _ := strings.Cut(e, "="); n == name {
			value = v
		}
	}
	return value
}

func writeLines(w io.Writer, lines []string) error {
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

// writeRaw writes JSON as it came, but for characters that a terminal might obey: in JSON those can stand only in texts, where
// an escape means the same.
func writeRaw(w io.Writer, raw []byte) error {
	var b bytes.Buffer
	for _, r := range string(bytes.TrimSpace(raw)) {
		if r > '~' && !unicode.IsPrint(r) && r <= 0xffff {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

func writeJSON(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("BUG: ctl: " + err.Error())
	}
	return writeRaw(w, raw)
}
