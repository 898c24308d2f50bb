// Command spillway is a BitTorrent tracker.
//
// This package wires the rooms together and holds nothing that decides about
// an announce. To follow a start: main, serveCmd.Run, start (serve.go), then
// server.run until a signal, and server.stop.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"spillway/internal/config"
)

// cli is the command line. kong fills it in.
type cli struct {
	File string `name:"config" placeholder:"FILE" env:"SPILLWAY_CONFIG" help:"Configuration file, YAML. None: the defaults."`

	Serve   serveCmd   `cmd:"" help:"Run the tracker."`
	Config  configCmd  `cmd:"" help:"Print or check a configuration."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

// program is what a command gets to work with.
type program struct {
	src    config.Sources
	stdout io.Writer
	stderr io.Writer
}

const description = `Spillway is a BitTorrent tracker.

"spillway serve" starts one, with no configuration needed; it logs the announce URL to paste into torrents.`

func main() { os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)) }

// run returns the exit code: 0, 1 for an error, 2 for a command line that
// makes no sense.
func run(args, environ []string, stdout, stderr io.Writer) int {
	var c cli
	parser, err := kong.New(&c,
		kong.Name("spillway"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{NoExpandSubcommands: true, WrapUpperBound: 120}),
		kong.PostBuild(showDefaults),
	)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		complain(stderr, err)
		fmt.Fprintln(stderr, `spillway: "spillway --help" lists the commands, "spillway serve --help" the settings`)
		return 2
	}
	src := config.Sources{File: c.File, Environ: environ, Flags: c.Serve.Config, Given: givenKeys(ctx)}
	if err := ctx.Run(&program{src: src, stdout: stdout, stderr: stderr}); err != nil {
		complain(stderr, err)
		return 1
	}
	return 0
}

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
