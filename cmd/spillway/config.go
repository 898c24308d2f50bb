package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"spillway/internal/config"
	"spillway/internal/listen"
	"spillway/tracker"
	"spillway/tracker/swarm"
)

type configCmd struct {
	Print configPrintCmd `cmd:"" help:"Print every key, its default and what it is for: a file to start from."`
	Check configCheckCmd `cmd:"" help:"Say whether serve would take a file."`

	Import configImportCmd `cmd:"" help:"Make a configuration of that of Trunker, opentracker or chihaya."`
}

type configPrintCmd struct{}

func (configPrintCmd) Run(p *program) error {
	_, err := io.WriteString(p.stdout, config.Example())
	return err
}

type configCheckCmd struct {
	File string `arg:"" optional:"" help:"The file; or give --config."`
}

// Help is shown by config check --help.
func (configCheckCmd) Help() string {
	return "The environment (SPILLWAY_HTTP_LISTEN, ...) counts as it does for serve. " +
		"Exit code 1 and one line for each mistake, with its place, if there is any. " +
		"The lists and certificates a configuration names are read as well."
}

func (c *configCheckCmd) Run(p *program) error {
	src := p.src
	if c.File != "" {
		src.File = c.File
	}
	if src.File == "" {
		return errors.New("config check: no file; name one, as in: spillway config check spillway.yaml")
	}
	cfg, err := config.Load(src)
	if err != nil {
		return err
	}
	if err := checkFiles(cfg); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "%s: ok\n", src.File)
	return err
}

// checkFiles reads the files that cfg names, as serve would, and keeps nothing.
func checkFiles(cfg config.Config) error {
	silent := silent()
	_, err := tracker.New(trackerConfig(cfg, cfg.HTTP.MaxConns), swarm.New(swarm.Config{}), silent)
	if cfg.HTTP.TLS.Cert != "" {
		if _, tlsErr := listen.NewCerts(cfg.HTTP.TLS.Cert, cfg.HTTP.TLS.Key, silent); tlsErr != nil {
			err = errors.Join(err, fmt.Errorf("http.tls: %w", tlsErr))
		}
	}
	return err
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }
