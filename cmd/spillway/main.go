// Command spillway is a BitTorrent tracker, and the relay in front of it.
//
// This package wires the rooms together and holds nothing that decides about
// an announce. To follow a start: main, serveCmd.Run, start (serve.go), then
// server.run until a signal, and server.stop; of a relay: relayRunCmd.Run,
// startRelay (relay.go), relayServer.run and stop.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"

	"spillway/internal/cmdline"
	"spillway/internal/config"
	"spillway/internal/console"
)

// cli is the command line. kong fills it in.
type cli struct {
	File string `name:"config" placeholder:"FILE" env:"SPILLWAY_CONFIG" help:"Configuration file, YAML. None: the defaults."`

	Serve   serveCmd    `cmd:"" help:"Run the tracker."`
	Relay   relayCmd    `cmd:"" help:"Run the relay in front of it; check, apply and revert the kernel's settings."`
	Ctl     console.Ctl `cmd:"" help:"Ask and steer a running one: status, switches, blocks, limits; top shows it live."`
	Bench   benchCmd    `cmd:"" help:"Ask or flood a tracker on this machine, compare two, and report what became of it."`
	Drill   drillCmd    `cmd:"" help:"Play an incident on this machine, with and without protection, and report."`
	Config  configCmd   `cmd:"" help:"Print or check a configuration, or make one of another tracker's."`
	Version versionCmd  `cmd:"" help:"Print the version."`

	Man        cmdline.Man           `cmd:"" help:"Print a manual page, or write all of them."`
	Completion cmdline.Completion    `cmd:"" help:"Print a script that completes command lines in bash, zsh or fish."`
	Complete   cmdline.CompleteWords `cmd:"" name:"complete-words" hidden:"" help:"What that script asks."`
}

// program is what a command gets to work with.
type program struct {
	src    config.Sources
	stdout io.Writer
	stderr io.Writer
}

const description = `Spillway is a BitTorrent tracker, and the relay in front of it.

"spillway serve" starts one, with no configuration needed. "spillway ctl" asks and steers a running one. "spillway relay" goes on the machine in front. ` +
	`"spillway COMMAND --help" has the rest, and examples.`

func main() { os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)) }

// run returns the exit code: 0, 1 for an error, 2 for a command line that
// makes no sense, or what a command says.
func run(args, environ []string, stdout, stderr io.Writer) int {
	var c cli
	parser := newParser(&c, stdout, stderr)
	ctx, err := parser.Parse(cmdline.Dashed(parser.Model.Node, args))
	if err != nil {
		complain(stderr, err)
		fmt.Fprintln(stderr, `spillway: "spillway --help" lists the commands, "spillway serve --help" the settings`)
		return 2
	}
	flags := c.Serve.Config
	if strings.HasPrefix(ctx.Command(), "relay") {
		flags = c.Relay.config()
	}
	src := config.Sources{File: c.File, Environ: environ, Flags: flags, Given: givenKeys(ctx)}
	err = ctx.Run(&program{src: src, stdout: stdout, stderr: stderr}, &console.Program{Version: version(), Src: src, Stdout: stdout, Stderr: stderr})
	if code := exitCode(0); errors.As(err, &code) {
		return int(code)
	}
	if err != nil {
		complain(stderr, err)
		return 1
	}
	return 0
}

// newParser reads command lines into c.
func newParser(c *cli, stdout, stderr io.Writer) *kong.Kong {
	parser, err := kong.New(c,
		kong.Name("spillway"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{NoExpandSubcommands: true, WrapUpperBound: 120}),
		kong.Help(cmdline.Help),
		kong.PostBuild(showDefaults),
	)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return parser
}

// exitCode is an answer of a command that is no error.
type exitCode = console.ExitCode

// complain writes each line of err behind the program's name.
func complain(w io.Writer, err error) {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(w, "spillway: %s\n", strings.TrimSuffix(line, "\n"))
	}
}

// showDefaults makes the help say --http.max_conns=20000: a default teaches
// more than the name of a type.
func showDefaults(k *kong.Kong) error {
	defaults := config.Texts(config.Default())
	for _, command := range k.Model.Children {
		for _, flag := range command.Flags {
			if flag.PlaceHolder == "" {
				flag.PlaceHolder = defaults[flag.Name]
			}
		}
	}
	return nil
}

// givenKeys lists the flags on the command line that are keys of the configuration.
func givenKeys(ctx *kong.Context) []string {
	keys := config.Texts(config.Default())
	var given []string
	for _, p := range ctx.Path {
		if p.Flag == nil {
			continue
		}
		if _, isKey := keys[p.Flag.Name]; isKey {
			given = append(given, p.Flag.Name)
		}
	}
	return given
}

type versionCmd struct{}

func (versionCmd) Run(p *program) error {
	_, err := fmt.Fprintf(p.stdout, "spillway %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// version is the module's version, or the commit it was built from. A build
// with -trimpath of a released module has the first, one in a clone the second.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, modified := "devel", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "-modified"
		}
	}
	return revision + modified
}
