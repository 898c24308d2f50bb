package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFileBytes bounds a configuration file, and by that the time a hostile one
// takes to parse. Long lists have files of their own.
const maxFileBytes = 64 << 10

// decoder puts a YAML document into a Config. It walks the syntax tree itself,
// because then each complaint has line, column and key, all of them are found
// in one go, values keep the text the operator wrote (a token 0123 stays 0123),
// and there are no aliases to blow up.
type decoder struct {
	file   string
	cfg    *Config
	origin origins
	errs   []error
}

// decodeYAML sets in cfg what text says, and notes in origin where each key
// came from. file is its name in errors. It finds all errors, not the first.
func decodeYAML(text []byte, file string, cfg *Config, origin origins) error {
	doc, err := parseYAML(text, file)
	if err != nil || doc == nil {
		return err
	}
	d := decoder{file: file, cfg: cfg, origin: origin}
	d.section(doc, reflect.TypeFor[Config](), "")
	return errors.Join(d.errs...)
}

// parseYAML returns the body of the only document in text, or nil if there is
// nothing in it but comments.
func parseYAML(text []byte, file string) (body ast.Node, err error) {
	if len(text) > maxFileBytes {
		return nil, fmt.Errorf("%s: longer than %d bytes; is this a configuration file?", file, maxFileBytes)
	}
	if line := deepLine(text); line > 0 {
		return nil, fmt.Errorf("%s:%d: more than %d brackets or dashes in one another; no key needs that", file, line, maxNesting)
	}
	// The file may be half written, and the parser is large: should it trip over
	// its own feet, that is a complaint about the file and no reason to die in a
	// reload. FuzzDecodeYAML looks for such inputs.
	defer func() {
		if p := recover(); p != nil {
			body, err = nil, fmt.Errorf("%s: not YAML (%v)", file, p)
		}
	}()
	f, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, syntaxError(file, err)
	}
	for _, doc := range f.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			return nil, fmt.Errorf("%s:%d: a second YAML document; keep one", file, doc.Body.GetToken().Position.Line)
		}
		body = doc.Body
	}
	return body, nil
}

// maxNesting is far more than any key needs and far less than what exhausts
// the parser, which calls itself for each level: 128 Ki times "- " took all
// the memory of the machine.
const maxNesting = 100

// deepLine returns the first line at which more than maxNesting brackets are
// open, or which begins with more dashes; or 0. It may count brackets inside
// strings: so be it.
func deepLine(text []byte) int {
	line, brackets, dashes, indent := 1, 0, 0, true
	for _, c := range text {
		switch c {
		case '\n':
			line++
			dashes, indent = 0, true
			continue
		case '[', '{':
			brackets++
		case ']', '}':
			brackets = max(brackets-1, 0)
		case '-':
			if indent {
				dashes++
			}
		}
		indent = indent && (c == ' ' || c == '-')
		if brackets > maxNesting || dashes > maxNesting {
			return line
		}
	}
	return 0
}

func syntaxError(file string, err error) error {
	var at yaml.Error
	if errors.As(err, &at) && at.GetToken() != nil {
		p := at.GetToken().Position
		return fmt.Errorf("%s:%d:%d: %s", file, p.Line, p.Column, at.GetMessage())
	}
	return fmt.Errorf("%s: %w", file, err)
}

// section decodes a mapping into the fields of t; prefix is "" or ends in a dot.
func (d *decoder) section(n ast.Node, t reflect.Type, prefix string) {
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	case *ast.NullNode:
		return // a section whose keys are all commented out
	default:
		d.fail(n, prefix, "got %s; must be a section with keys of its own", kind(n))
		return
	}
	fields, names := make(map[string]reflect.StructField), []string(nil)
	for i := range t.NumField() {
		f := t.Field(i)
		fields[fieldName(f)], names = f, append(names, fieldName(f))
	}
	seen := make(map[string]bool)
	for _, pair := range pairs {
		name := scalarText(pair.Key)
		f, known := fields[name]
		switch {
		case !known:
			d.unknown(pair.Key, name, names, prefix)
		case seen[name]:
			d.fail(pair.Key, prefix+name, "given twice; keep one")
		case isSection(f):
			d.section(pair.Value, f.Type, prefix+name+".")
		default:
			d.value(pair.Value, prefix+name)
		}
		seen[name] = true
	}
}

func (d *decoder) unknown(n ast.Node, name string, siblings []string, prefix string) {
	in := ""
	if prefix != "" {
		in = " in " + strings.TrimSuffix(prefix, ".")
	}
	ask := ""
	if s := suggestKey(name, siblings); s != "" {
		ask = fmt.Sprintf("; did you mean %q?", s)
	}
	d.fail(n, "", "unknown key %q%s%s", shorten(name), in, ask)
}

// value decodes a scalar, or a list of scalars, into the key called name.
func (d *decoder) value(n ast.Node, name string) {
	v := keyNamed(name).field(d.cfg)
	d.origin[name] = d.position(n)
	if seq, ok := n.(*ast.SequenceNode); ok && v.Type() == reflect.TypeFor[StringList]() {
		list := StringList(nil)
		for _, e := range seq.Values {
			if !isScalar(e) {
				d.fail(e, name, "got %s in a list; must be a string", kind(e))
				return
			}
			list = append(list, scalarText(e))
		}
		v.Set(reflect.ValueOf(list))
		return
	}
	if !isScalar(n) {
		d.fail(n, name, "got %s; must be a single value", kind(n))
		return
	}
	if err := setText(v, scalarText(n)); err != nil {
		d.fail(n, name, "%w", err)
	}
}

// fail notes an error at n. name may be "", or end in a dot for a section.
func (d *decoder) fail(n ast.Node, name, format string, args ...any) {
	if name = strings.TrimSuffix(name, "."); name != "" {
		format = name + ": " + format
	}
	d.errs = append(d.errs, fmt.Errorf("%s: "+format, append([]any{d.position(n)}, args...)...))
}

func (d *decoder) position(n ast.Node) string {
	if n == nil || n.GetToken() == nil {
		return d.file
	}
	p := n.GetToken().Position
	return fmt.Sprintf("%s:%d:%d", d.file, p.Line, p.Column)
}

func isScalar(n ast.Node) bool {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return true
	}
	return false
}

// scalarText is what the operator wrote, quotes and folding undone.
func scalarText(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return strings.TrimSuffix(n.Value.Value, "\n")
	}
	if n == nil || n.GetToken() == nil {
		return ""
	}
	return n.GetToken().Value
}

// kind names the node for somebody who has never read the YAML specification.
func kind(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a section"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		return "a YAML anchor, alias or tag"
	}
	return fmt.Sprintf("%q", shorten(scalarText(n)))
}

func shorten(s string) string {
	if len(s) > maxSuggestLen {
		return s[:maxSuggestLen] + "..."
	}
	return s
}
