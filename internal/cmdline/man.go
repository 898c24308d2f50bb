package cmdline

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"spillway/internal/console"

	"github.com/alecthomas/kong"
)

// Man writes manual pages from the same words as --help, so that they cannot say something else.
type Man struct {
	Command []string `arg:"" optional:"" help:"The command the page is about, as ctl ws. None: spillway itself."`
	Dir     string   `placeholder:"DIR" type:"existingdir" help:"Write all pages there: spillway.1, spillway-serve.1, spillway-ctl-ws.1 and so on."`
}

// Help is shown by man --help.
func (Man) Help() string {
	return `To read one:

  spillway man ctl ws | man -l -

To have them all, as root: mkdir -p /usr/local/share/man/man1, then spillway man --dir /usr/local/share/man/man1`
}

func (c *Man) Run(p *console.Program, parsed *kong.Context) error {
	root := parsed.Model.Node
	if c.Dir != "" {
		if len(c.Command) > 0 {
			return fmt.Errorf("man: --dir writes all pages; leave out %s", strings.Join(c.Command, " "))
		}
		return writePages(p, root, c.Dir)
	}
	node := root
	for _, name := range c.Command {
		child := childNamed(node, name)
		if child == nil {
			return fmt.Errorf("man: no command %q in %s; there are %s", name, node.FullPath(), console.OrList(commandNames(node)))
		}
		node = child
	}
	_, err := io.WriteString(p.Stdout, Page(node, p.Version))
	return err
}

func childNamed(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name && !child.Hidden {
			return child
		}
	}
	return nil
}

func commandNames(node *kong.Node) (names []string) {
	for _, child := range node.Children {
		if !child.Hidden {
			names = append(names, child.Name)
		}
	}
	if names == nil {
		names = []string{"none"}
	}
	return names
}

func writePages(p *console.Program, root *kong.Node, dir string) error {
	var pages int
	var write func(*kong.Node) error
	write = func(n *kong.Node) error {
		if n.Hidden {
			return nil
		}
		if err := os.WriteFile(filepath.Join(dir, pageName(n)+".1"), []byte(Page(n, p.Version)), 0o644); err != nil {
			return err
		}
		pages++
		for _, child := range n.Children {
			if err := write(child); err != nil {
				return err
			}
		}
		return nil
	}
	if err := write(root); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.Stdout, "%s: %d pages\n", dir, pages)
	return err
}

// pageName is that of git's pages: spillway-ctl-ws.
func pageName(n *kong.Node) string { return strings.ReplaceAll(n.FullPath(), " ", "-") }

// Page is the manual page of a command of a program of that version, for man(7)'s macros.
func Page(n *kong.Node, version string) string {
	r := &roff{}
	name := pageName(n)
	short, detail := n.Help, n.Detail
	if n.Type == kong.ApplicationNode {
		short, detail, _ = strings.Cut(n.Help, "\n\n")
	}
	r.line(".TH %s 1 \"\" %s Spillway", quoted(strings.ToUpper(name)), quoted("spillway "+version))
	r.line(".ad l") // blocks of text would be stretched around long flags
	r.section("NAME")
	r.line(`%s \- %s`, escape(name), escape(lowerFirst(strings.TrimPrefix(strings.TrimSuffix(short, "."), "Spillway is "))))
	r.section("SYNOPSIS")
	r.synopsis(n)
	r.section("DESCRIPTION")
	r.text(short)
	r.text(detail)
	r.commands(n)
	if len(n.Positional) > 0 {
		r.section("ARGUMENTS")
		for _, arg := range n.Positional {
			r.line(".TP\n.I %s", quoted(escape(arg.Name)))
			r.paragraph(arg.Help)
		}
	}
	r.options(n)
	if n.Type == kong.ApplicationNode {
		r.surroundings()
	}
	if list := ExamplesOf(n.Path()); len(list) > 0 {
		r.section("EXAMPLES")
		for _, e := range list {
			r.line(".TP\n.B %s", quoted(escape(e.Line)))
			r.paragraph(e.Does)
		}
	}
	r.seeAlso(n)
	return r.String()
}

// roff is a page under way.
type roff struct{ strings.Builder }

func (r *roff) line(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

func (r *roff) section(name string) { r.line(".SH %s", name) }

// synopsis has what kong's first line of --help has.
func (r *roff) synopsis(n *kong.Node) {
	r.line(".B %s", quoted(escape(n.FullPath())))
	var args []string
	for _, group := range n.AllFlags(true) {
		for _, flag := range group {
			if flag.Required {
				args = append(args, flag.Summary())
			}
		}
	}
	for _, arg := range n.Positional {
		args = append(args, arg.Summary())
	}
	if len(n.Children) > 0 {
		args = append(args, "COMMAND")
	}
	r.line("%s", escape(strings.Join(append(args, "[FLAGS]"), " ")))
}

// text writes the paragraphs of a help text. Lines that are indented are left as they are, as go/doc has it.
func (r *roff) text(text string) {
	for _, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if p == "" {
			continue
		}
		r.line(".PP")
		if strings.HasPrefix(p, "  ") {
			r.line(".nf")
			for line := range strings.Lines(p) {
				r.line("%s", escape(strings.TrimSuffix(line, "\n")))
			}
			r.line(".fi")
			continue
		}
		r.paragraph(p)
	}
}

func (r *roff) paragraph(text string) {
	for line := range strings.Lines(text) {
		r.line("%s", escape(strings.TrimSpace(line)))
	}
}

func (r *roff) commands(n *kong.Node) {
	if len(n.Children) == 0 {
		return
	}
	r.section("COMMANDS")
	for _, child := range n.Children {
		if !child.Hidden {
			r.line(".TP\n.BR %s (1)", escape(pageName(child)))
			r.paragraph(child.Help)
		}
	}
}

// options lists the flags of n, by groups as --help does; those of the commands above come last.
func (r *roff) options(n *kong.Node) {
	r.section("OPTIONS")
	group := ""
	for at := n; at != nil; at = at.Parent {
		if at != n && at.Parent != nil && len(at.Flags) > 0 {
			r.line(".SS %s", quoted("As for all of "+escape(at.FullPath())))
		}
		for _, flag := range at.Flags {
			if flag.Hidden {
				continue
			}
			if flag.Group != nil && flag.Group.Title != group {
				group = flag.Group.Title
				r.line(".SS %s", quoted(escape(group)))
			}
			r.option(flag)
		}
		if at.Parent != nil && at.Parent.Parent == nil && len(at.Parent.Flags) > 0 {
			r.line(".SS %s", quoted("As for all commands"))
		}
	}
}

func (r *roff) option(flag *kong.Flag) {
	name := "--" + flag.Name
	if flag.Short != 0 {
		name = "-" + string(flag.Short) + ", " + name
	}
	if flag.IsBool() {
		r.line(".TP\n.B %s", quoted(escape(name)))
	} else {
		r.line(".TP\n.BI %s %s", quoted(escape(name+"=")), quoted(escape(flag.FormatPlaceHolder())))
	}
	help := flag.Help
	if len(flag.Envs) > 0 && !strings.Contains(help, flag.Envs[0]) {
		help += " $" + strings.Join(flag.Envs, ", $") + " is the same."
	}
	r.paragraph(help)
}

// surroundings are of the program as a whole.
func (r *roff) surroundings() {
	r.section("CONFIGURATION")
	r.text("The file is YAML. Each key is also a flag (--http.listen) and a variable of the environment (SPILLWAY_HTTP_LISTEN); " +
		"flags win over the environment, the environment over the file. \"spillway config print\" has all keys, with their defaults and what they do.")
	r.section("FILES")
	for _, f := range [][2]string{
		{"/etc/spillway/spillway.yaml", "The configuration, where $SPILLWAY_CONFIG or --config says so. There is no default place."},
		{"data_dir/admin.token", "The token of the operator's side, made at the first start; ./data, or /var/lib/spillway under systemd."},
		{"data_dir/swarms.snapshot", "Swarms, written every store.snapshot.every and at exit, so that a restart is warm."},
	} {
		r.line(".TP\n.I %s", quoted(escape(f[0])))
		r.paragraph(f[1])
	}
	r.section("SIGNALS")
	r.text("SIGHUP reloads the configuration, whole or not at all. SIGTERM and SIGINT stop: requests under way end, swarms are saved.")
	r.section("EXIT STATUS")
	r.text("0 when all went well; 1 for an error, named on standard error; 2 for a command line that makes no sense.")
}

func (r *roff) seeAlso(n *kong.Node) {
	var pages []string
	if n.Parent != nil {
		for _, sibling := range append([]*kong.Node{n.Parent}, n.Parent.Children...) {
			if sibling != n && !sibling.Hidden {
				pages = append(pages, pageName(sibling))
			}
		}
	} else {
		pages = []string{"systemd.service", "nft", "wg"}
	}
	sections := map[string]string{"systemd.service": "5", "nft": "8", "wg": "8"}
	r.section("SEE ALSO")
	for i, p := range pages {
		section, comma := sections[p], ","
		if section == "" {
			section = "1"
		}
		if i == len(pages)-1 {
			comma = ""
		}
		r.line(".BR %s (%s)%s", escape(p), section, comma)
	}
}

func lowerFirst(s string) string {
	if len(s) > 1 && s[1] >= 'a' && s[1] <= 'z' {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s
}

// quoted is an argument of a macro.
func quoted(s string) string { return `"` + strings.ReplaceAll(s, `"`, `\(dq`) + `"` }

var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "'", `\(aq`)

// escape has s come out as it is, each dash one that can be copied into a shell.
func escape(s string) string {
	s = roffEscapes.Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s // or the line would be a macro
	}
	return s
}
