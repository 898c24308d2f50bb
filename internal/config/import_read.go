package config

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxImportBytes bounds a foreign configuration: lists of info hashes may be in it.
const maxImportBytes = 4 << 20

// importYAML returns the keys of a foreign YAML document (JSON is YAML too), in the order they stand there.
func importYAML(text []byte, file string) (leaves []imported, err error) {
	if len(text) > maxImportBytes {
		return nil, fmt.Errorf("%s: longer than %d bytes; is this a configuration file?", file, maxImportBytes)
	}
	if line := deepLine(text); line > 0 {
		return nil, fmt.Errorf("%s:%d: more than %d brackets or dashes in one another", file, line, maxNesting)
	}
	defer func() { // as in parseYAML
		if p := recover(); p != nil {
			leaves, err = nil, fmt.Errorf("%s: not YAML (%v)", file, p)
		}
	}()
	f, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, syntaxError(file, err)
	}
	for _, doc := range f.Docs {
		if doc.Body != nil {
			leaves = appendLeaves(leaves, doc.Body, "")
		}
	}
	if len(leaves) == 0 || leaves[0].key == "" {
		return nil, fmt.Errorf("%s: no keys in it; is this the configuration?", file)
	}
	return leaves, nil
}

// appendLeaves appends what is below n. Elements of a list of sections get their number: prehooks[0].name.
func appendLeaves(leaves []imported, n ast.Node, path string) []imported {
	l := imported{key: path, line: lineOf(n)}
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, pair := range n.Values {
			leaves = appendPair(leaves, pair, path)
		}
		return leaves
	case *ast.MappingValueNode:
		return appendPair(leaves, n, path)
	case *ast.SequenceNode:
		scalars := true
		for _, e := range n.Values {
			scalars = scalars && isScalar(e)
		}
		if !scalars {
			for i, e := range n.Values {
				leaves = appendLeaves(leaves, e, fmt.Sprintf("%s[%d]", path, i))
			}
			return leaves
		}
		l.list = true
		for _, e := range n.Values {
			l.items = append(l.items, importedItem{scalarText(e), lineOf(e)})
		}
	case nil, *ast.NullNode:
		l.odd = "nothing"
	default:
		if isScalar(n) {
			l.text = scalarText(n)
		} else {
			l.odd = kind(n)
		}
	}
	return append(leaves, l)
}

func appendPair(leaves []imported, pair *ast.MappingValueNode, path string) []imported {
	name := printable(shorten(scalarText(pair.Key)))
	if path != "" {
		name = path + "." + name
	}
	before := len(leaves)
	leaves = appendLeaves(leaves, pair.Value, name)
	if len(leaves) == before+1 && leaves[before].key == name {
		leaves[before].line = lineOf(pair.Key) // of the key: where people look
	}
	return leaves
}

func lineOf(n ast.Node) int {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 0
	}
	return n.GetToken().Position.Line
}

// importLines returns the "key value" lines of a foreign configuration; # comments a line.
func importLines(text []byte, file string) (leaves []imported, err error) {
	if len(text) > maxImportBytes {
		return nil, fmt.Errorf("%s: longer than %d bytes; is this a configuration file?", file, maxImportBytes)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxImportBytes+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		key, value := line, ""
		if i := strings.IndexAny(line, " \t"); i >= 0 {
			key, value = line[:i], strings.TrimSpace(line[i:])
		}
		leaves = append(leaves, imported{key: printable(shorten(key)), line: n, text: value})
	}
	return leaves, lines.Err()
}

// cutHostPort takes host:port apart; host may be empty, or an IPv6 address in brackets.
func cutHostPort(addr string) (host, port string, ok bool) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", "", false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 && port != "0" {
		return "", "", false
	}
	return host, port, true
}

// parseOpentrackerAddr reads 192.0.2.7, 192.0.2.7:80, ::1 or [::1]:80. The port is 6969 when there is none.
func parseOpentrackerAddr(text string) (netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap, nil
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("got %q; must be an address, or address:port", shorten(text))
	}
	return netip.AddrPortFrom(addr, 6969), nil
}

// parseGoDuration reads a time as Go programs write it, which may be a bare number of nanoseconds.
func parseGoDuration(text string) (time.Duration, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Duration(n), nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("got %q; must be a time, as 30m", shorten(text))
	}
	return d, nil
}

// importTable says what is done with each key of a source.
type importTable map[string]func(imported)

// each goes through the keys of the source. What the table does not know, or is not of the form it knows, is noted.
func (im *Imported) each(leaves []imported, table importTable) {
	names := make([]string, 0, len(table))
	for name := range table {
		names = append(names, name)
	}
	slices.Sort(names) // or two as near as one another would take turns in being suggested
	for _, l := range leaves {
		do := table[l.key]
		switch {
		case do == nil && l.odd == "nothing" && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, l.key+".") }):
			// A section whose keys are all commented out.
		case do == nil:
			ask := ""
			if s := suggest(l.key, names); s != "" {
				ask = fmt.Sprintf("; did you mean %s?", s)
			}
			im.note(NoteUnknown, l, "not a key of %s's that is known here%s", im.From, ask)
		case l.odd == "nothing":
			im.drop(l, "nothing is said")
		case l.odd != "" || l.list != strings.HasSuffix(l.key, "_routes"):
			im.look(l, "got %s; it is left out", cmp.Or(l.odd, map[bool]string{true: "a list", false: "one value"}[l.list]))
		default:
			do(l)
		}
	}
}

// byKey finds keys by their name; of two the last counts.
func byKey(leaves []imported) map[string]imported {
	m := make(map[string]imported, len(leaves))
	for _, l := range leaves {
		m[l.key] = l
	}
	return m
}
