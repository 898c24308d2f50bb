package config

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

// importWidth is where the comments of an imported configuration are wrapped.
const importWidth = 110

// WriteYAML writes a configuration file: what was taken over, each key with where it comes from, and as comments what a person
// should look at, first, and what has no counterpart, last. Loading it gives Config.
func (im *Imported) WriteYAML(w io.Writer) error {
	var b strings.Builder
	comment(&b, "", "# ", fmt.Sprintf("Spillway's configuration, made from %s's %s. A key that is not here keeps its default; "+
		"`spillway config print` has them all, with what they do. Try it: spillway config check FILE", im.From, printable(im.File)))
	im.writeNotes(&b, "Look at these", NoteLook)
	im.writeNotes(&b, "Nobody here knows these, so nothing was made of them", NoteUnknown)
	im.writeKeys(&b)
	im.writeNotes(&b, "These have no counterpart, and need none", NoteDropped)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeNotes writes the notes of a kind; keys of which the same is to be said are named together.
func (im *Imported) writeNotes(b *strings.Builder, title string, kind NoteKind) {
	var texts []string
	keys := make(map[string]string)
	for _, n := range im.Notes {
		if n.Kind != kind {
			continue
		}
		key := printable(n.Key)
		if n.Line > 0 {
			key = fmt.Sprintf("%s (line %d)", key, n.Line)
		}
		if keys[n.Text] == "" {
			texts, keys[n.Text] = append(texts, n.Text), key
		} else {
			keys[n.Text] += ", " + key
		}
	}
	if len(texts) > 0 {
		b.WriteString("\n# " + title + ":\n")
	}
	for _, text := range texts {
		comment(b, "#   ", "#     ", keys[text]+": "+text)
	}
}

func (im *Imported) writeKeys(b *strings.Builder) {
	var open []string // the sections we are in
	b.WriteString("\n")
	for _, k := range keys() {
		source, taken := im.taken[k.name]
		if !taken {
			continue
		}
		path := strings.Split(k.name, ".")
		sections, last := path[:len(path)-1], path[len(path)-1]
		shared := 0
		for shared < len(open) && shared < len(sections) && open[shared] == sections[shared] {
			shared++
		}
		for depth := shared; depth < len(sections); depth++ {
			fmt.Fprintf(b, "%s%s:\n", strings.Repeat("  ", depth), sections[depth])
		}
		open = sections
		indent := strings.Repeat("  ", len(sections))
		if source != "" {
			comment(b, indent+"# ", indent+"# ", source)
		}
		fmt.Fprintf(b, "%s%s: %s\n", indent, last, yamlValue(k.field(&im.Config).Interface()))
	}
	if len(im.taken) == 0 {
		b.WriteString("# Nothing was there that differs from the defaults.\n")
	}
}

func yamlValue(v any) string {
	list, ok := v.(StringList)
	switch {
	case ok && len(list) == 1:
		return yamlScalar(list[0])
	case ok:
		words := make([]string, len(list))
		for i, word := range list {
			words[i] = yamlScalar(word)
		}
		return "[" + strings.Join(words, ", ") + "]"
	}
	return yamlScalar(fmt.Sprint(v))
}

// plain is what needs no quotes: numbers, times, sizes, words, paths, addresses of IPv4 with a port.
var plain = regexp.MustCompile(`^[A-Za-z0-9/.][A-Za-z0-9/._-]*(:[0-9]+)?$`)

// yamlScalar quotes s so that it stays what it is. It holds one line of characters that can be printed; see isOneLine.
func yamlScalar(s string) string {
	if plain.MatchString(s) && !strings.EqualFold(s, "null") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// comment writes text behind first, and what is wrapped of it behind next.
func comment(b *strings.Builder, first, next, text string) {
	prefix := first
	if prefix == "" {
		prefix = next
	}
	width := 0
	for i, word := range strings.Fields(printable(text)) {
		switch {
		case i == 0:
			b.WriteString(prefix)
			width = len(prefix)
		case width+1+len(word) > importWidth:
			b.WriteString("\n" + next)
			width = len(next)
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	b.WriteByte('\n')
}

// printable keeps what a stranger wrote from ending a comment.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if isOneLine(string(r)) {
			return r
		}
		return '?'
	}, s)
}
