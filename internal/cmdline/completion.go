package cmdline

import (
	_ "embed"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"spillway/internal/config"
	"spillway/internal/console"
)

// Completion prints a script that has the shell ask this program, by complete-words, what could come next. So a script need
// not be made anew when the program gets another flag.
type Completion struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"${enum}."`
}

// Help is shown by completion --help.
func (Completion) Help() string {
	return `For all who log in, as root:

  spillway completion bash > /usr/share/bash-completion/completions/spillway
  spillway completion zsh > /usr/share/zsh/vendor-completions/_spillway
  spillway completion fish > /usr/share/fish/vendor_completions.d/spillway.fish

For this shell alone: source <(spillway completion bash)`
}

// The scripts that complete-words is asked by.
var (
	//go:embed completion.bash
	bashScript string
	//go:embed completion.zsh
	zshScript string
	//go:embed completion.fish
	fishScript string
)

func (c *Completion) Run(p *console.Program) error {
	_, err := io.WriteString(p.Stdout, map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell])
	return err
}

// CompleteWords is what the scripts call. Its first line says what the shell is to offer: words, those below, each behind a
// tab what it is for; files; or dirs.
type CompleteWords struct {
	Line string `arg:"" optional:"" help:"The command line up to the cursor."`
}

func (c *CompleteWords) Run(p *console.Program, parsed *kong.Context) error {
	words, current := SplitLine(c.Line)
	kind, found := Complete(parsed.Model.Node, words, current)
	fmt.Fprintln(p.Stdout, kind)
	for _, f := range found {
		if _, err := fmt.Fprintf(p.Stdout, "%s\t%s\n", f.Word, f.Help); err != nil {
			return err
		}
	}
	return nil
}

// Candidate is a word that could come next.
type Candidate struct{ Word, Help string }

// What a shell is to offer.
const (
	offerWords = "words"
	offerFiles = "files"
	offerDirs  = "dirs"
)

// SplitLine takes a command line apart as shells do, without the program's name. current is the word the cursor is at.
func SplitLine(line string) (words []string, current string) {
	var word strings.Builder
	var quote rune
	in, escaped := false, false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			in, escaped = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			in, quote = true, r
		case r == ' ' || r == '\t' || r == '\n':
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		default:
			in = true
			word.WriteRune(r)
		}
	}
	return words[min(1, len(words)):], word.String()
}

// Complete says what could stand where current does, behind words.
func Complete(root *kong.Node, words []string, current string) (kind string, found []Candidate) {
	at := cursor{node: root}
	for _, w := range words {
		at.pass(w)
	}
	switch name, _, hasValue := strings.Cut(current, "="); {
	case at.pending != nil:
		kind, found = valuesOf(at.pending.Value)
	case !at.noFlags && strings.HasPrefix(current, "-") && hasValue:
		if flag := at.flag(name); flag != nil {
			kind, found = valuesOf(flag.Value)
			if kind == offerWords {
				for i := range found {
					found[i].Word = name + "=" + found[i].Word
				}
			}
		}
	case !at.noFlags && strings.HasPrefix(current, "-"):
		kind, found = offerWords, at.flags()
	default:
		kind, found = at.next()
	}
	if kind != offerFiles && kind != offerDirs {
		kind = offerWords
	}
	found = slices.DeleteFunc(found, func(c Candidate) bool { return !strings.HasPrefix(c.Word, current) })
	return kind, found
}

// cursor is where in the grammar a command line has come to.
type cursor struct {
	node    *kong.Node
	args    int        // positional arguments of node that were given
	pending *kong.Flag // whose value comes next
	given   []string   // names of flags
	noFlags bool       // behind --
}

func (at *cursor) pass(word string) {
	if at.pending != nil {
		at.pending = nil
		return
	}
	if !at.noFlags && strings.HasPrefix(word, "-") {
		name, _, hasValue := strings.Cut(word, "=")
		at.noFlags = word == "--"
		if flag := at.flag(name); flag != nil {
			at.given = append(at.given, flag.Name)
			if !hasValue && !flag.IsBool() && !flag.IsCounter() {
				at.pending = flag
			}
		}
		return
	}
	for _, child := range at.node.Children {
		if child.Name == word {
			at.node, at.args = child, 0
			return
		}
	}
	at.args++
}

// Dashed returns args with a value that begins with a dash behind --, at the end, where no flag is looked for: prefixes of peer
// ids nearly always do. Only arguments with the tag dash may, and only with one; -h stays a flag.
func Dashed(root *kong.Node, args []string) []string {
	at := cursor{node: root}
	for i, word := range args {
		if at.dashed(word) {
			return slices.Concat(args[:i], args[i+1:], []string{"--", word})
		}
		at.pass(word)
	}
	return args
}

func (at *cursor) dashed(word string) bool {
	if at.noFlags || at.pending != nil || len(word) < 2 || word[0] != '-' || word[1] == '-' || at.flag(word) != nil {
		return false
	}
	return at.args < len(at.node.Positional) && at.node.Positional[at.args].Tag.Has("dash")
}

// grammar is the node, and the command that is meant when none is named.
func (at *cursor) grammar() []*kong.Node {
	if at.node.DefaultCmd != nil {
		return []*kong.Node{at.node, at.node.DefaultCmd}
	}
	return []*kong.Node{at.node}
}

func (at *cursor) eachFlag(f func(*kong.Flag)) {
	for i, n := range at.grammar() {
		for _, group := range n.AllFlags(true) {
			for _, flag := range group {
				if i == 0 || slices.Contains(n.Flags, flag) { // those of the parents have been
					f(flag)
				}
			}
		}
	}
}

func (at *cursor) flag(word string) (found *kong.Flag) {
	at.eachFlag(func(f *kong.Flag) {
		if word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short) {
			found = f
		}
	})
	return found
}

func (at *cursor) flags() (found []Candidate) {
	at.eachFlag(func(f *kong.Flag) {
		if !slices.Contains(at.given, f.Name) || f.IsSlice() {
			word := "--" + f.Name
			if !f.IsBool() {
				word += "="
			}
			found = append(found, Candidate{word, firstSentence(f.Help)})
		}
	})
	return found
}

func (at *cursor) next() (kind string, found []Candidate) {
	if at.args == 0 {
		for _, child := range at.node.Children {
			if !child.Hidden {
				found = append(found, Candidate{child.Name, firstSentence(child.Help)})
			}
		}
	}
	for _, n := range at.grammar() {
		arg := at.args
		if last := len(n.Positional) - 1; last >= 0 && arg > last && n.Positional[last].IsCumulative() {
			arg = last
		}
		if arg < len(n.Positional) {
			var values []Candidate
			kind, values = valuesOf(n.Positional[arg])
			found = append(found, values...)
		}
	}
	return kind, found
}

// valuesOf says what v can be, as far as that can be listed.
func valuesOf(v *kong.Value) (kind string, found []Candidate) {
	var words []string
	switch holder := strings.ToUpper(v.Name); {
	case v.Enum != "":
		words = v.EnumSlice()
	case v.IsBool():
		words = []string{"true", "false"}
	case v.Flag == nil && v.Name == "mode", v.Flag != nil && slices.Contains([]string{"announce", "scrape", "ws", "udp"}, v.Name):
		words = console.SwitchModes
	case v.Flag == nil && v.Name == "kind":
		words = console.BlockKinds
	case v.Tag.Type == "existingdir", v.Name == "data_dir", v.Flag != nil && v.Flag.PlaceHolder == "DIR":
		return offerDirs, nil
	case v.Tag.Type == "path", v.Tag.Type == "existingfile", v.Flag != nil && v.Flag.PlaceHolder == "FILE",
		v.Flag == nil && (holder == "FILE" || holder == "FILES"):
		return offerFiles, nil
	case v.Flag != nil:
		words = wordsOf(v.Name)
	}
	for _, word := range words {
		if word != "" {
			found = append(found, Candidate{Word: word})
		}
	}
	return offerWords, found
}

// refusal is what Check says of a key that has to be one of some words.
var refusal = regexp.MustCompile(`must be ([a-z-]+(?: or [a-z-]+)+)(?:\n|$)`)

// wordsOf asks the configuration what a key may be: it names the words when it refuses another.
func wordsOf(key string) []string {
	if _, isKey := config.Texts(config.Default())[key]; !isKey {
		return nil
	}
	env := "SPILLWAY_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
	_, err := config.Load(config.Sources{Environ: []string{env + "=?"}})
	if err == nil {
		return nil
	}
	m := refusal.FindStringSubmatch(err.Error())
	if m == nil {
		return nil
	}
	return strings.Split(m[1], " or ")
}

// firstSentence is as much of a help text as stands beside a candidate.
func firstSentence(help string) string {
	help, _, _ = strings.Cut(help, "\n")
	if i := strings.Index(help, ". "); i >= 0 {
		help = help[:i]
	}
	return strings.TrimSuffix(strings.ReplaceAll(help, "\t", " "), ".")
}
