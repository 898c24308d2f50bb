package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

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

// accessFile is what a list of info hashes is called in --out-dir.
const accessFile = "access.txt"

type configImportCmd struct {
	From   string `required:"" enum:"trunker,opentracker,chihaya,list" placeholder:"TRACKER" help:"Whose it is: ${enum}. A list has info hashes, one a line; what comes out is one for tracker.access.file."`
	File   string `arg:"" help:"The other tracker's configuration, or - for what is piped in."`
	OutDir string `placeholder:"DIR" type:"existingdir" help:"Write the list of info hashes there that the configuration has or names, as access.txt, in the form tracker.access.file wants."`
}

// Help is shown by config import --help.
func (configImportCmd) Help() string {
	return `What comes out goes to standard output and passes "spillway config check". Each key says which key it comes from; comments at the top name ` +
		`what a person has to look at, comments at the end what has no counterpart. What to look at is on standard error too. Nothing of the other ` +
		`tracker is changed. docs/migration.md says how to move without losing swarms.`
}

func (cmd *configImportCmd) Run(p *program) error {
	text, err := cmd.read(p)
	if err != nil {
		return fmt.Errorf("config import: %w", err)
	}
	if cmd.From == "list" {
		return cmd.list(p, text)
	}
	im, err := config.Import(cmd.From, text, cmd.name())
	if err != nil {
		return fmt.Errorf("config import: %w", err)
	}
	if err := cmd.placeLists(p, im); err != nil {
		return fmt.Errorf("config import: %w", err)
	}
	if err := im.WriteYAML(p.stdout); err != nil {
		return err
	}
	dropped := 0
	for _, n := range im.Notes {
		if n.Kind == config.NoteDropped {
			dropped++
			continue
		}
		warn(p, "%s: %s", cmd.name(), n)
	}
	warn(p, "%d keys set; of the source's, %d need no counterpart: the comments at the end say why", len(im.Taken()), dropped)
	return nil
}

func (cmd *configImportCmd) name() string {
	if cmd.File == "-" {
		return "standard input"
	}
	return cmd.File
}

// maxImportBytes bounds what is read: as much as a list of info hashes may have when the tracker reads it.
const maxImportBytes = 256 << 20

func (cmd *configImportCmd) read(p *program) ([]byte, error) {
	var from io.Reader = os.Stdin
	if cmd.File != "-" {
		f, err := os.Open(cmd.File)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	text, err := io.ReadAll(io.LimitReader(from, maxImportBytes+1))
	if err == nil && len(text) > maxImportBytes {
		err = fmt.Errorf("%s: longer than %d bytes", cmd.name(), maxImportBytes)
	}
	return text, err
}

// list makes tracker.access.file of another tracker's list.
func (cmd *configImportCmd) list(p *program, text []byte) error {
	var hashes config.Hashes
	if err := hashes.Read(bytes.NewReader(text), cmd.name()); err != nil {
		return fmt.Errorf("config import: %w", err)
	}
	warnSkipped(p, &hashes)
	if hashes.Len() == 0 {
		return fmt.Errorf("config import: %s: no info hash in it; one is 40 hex digits at the beginning of a line", cmd.name())
	}
	if cmd.OutDir == "" {
		return hashes.Write(p.stdout)
	}
	path, err := cmd.write(&hashes)
	if err == nil {
		warn(p, "%s: %d info hashes; name it in tracker.access.file", path, hashes.Len())
	}
	return err
}

// placeLists gives each list its file: one that is as Spillway wants it is named where it is, another is written to --out-dir.
func (cmd *configImportCmd) placeLists(p *program, im *config.Imported) error {
	for _, list := range im.Lists {
		var hashes config.Hashes
		if list.Path == "" {
			hashes.Add(list)
		} else if err := readList(list.Path, &hashes); err != nil {
			warn(p, "%s: line %d: %s: %v; tracker.access.file names it all the same, and serve will not start without it", cmd.name(), list.Line, list.Key, err)
			continue
		}
		if cmd.OutDir == "" && list.Path != "" && usable(list.Path) {
			continue
		}
		if cmd.OutDir == "" {
			return fmt.Errorf("%s: line %d: %s: its %d info hashes need a file of their own; say where by --out-dir=DIR", cmd.name(), list.Line, list.Key, hashes.Len())
		}
		warnSkipped(p, &hashes)
		path, err := cmd.write(&hashes)
		if err != nil {
			return err
		}
		if err := im.PlaceList(path); err != nil {
			return err
		}
		warn(p, "%s: %d info hashes of %s", path, hashes.Len(), list.Key)
	}
	return nil
}

func readList(path string, hashes *config.Hashes) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return hashes.Read(f, path)
}

// usable asks the tracker itself.
func usable(path string) bool {
	cfg := config.Default()
	cfg.Tracker.Access = config.Access{Mode: tracker.AccessDeny, File: path}
	_, err := tracker.New(trackerConfig(cfg, cfg.HTTP.MaxConns), swarm.New(swarm.Config{}), silent())
	return err == nil
}

// write makes the list's file, and returns its absolute name: serve may be started anywhere.
func (cmd *configImportCmd) write(hashes *config.Hashes) (string, error) {
	path, err := filepath.Abs(filepath.Join(cmd.OutDir, accessFile))
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	if err := hashes.Write(&text); err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		if there, readErr := os.ReadFile(path); readErr == nil && bytes.Equal(there, text.Bytes()) {
			return path, nil // of the last time
		}
		return "", fmt.Errorf("%s is there, and is another list; move it away, or name another --out-dir", path)
	}
	if err != nil {
		return "", err
	}
	_, err = f.Write(text.Bytes())
	return path, errors.Join(err, f.Close())
}

func warnSkipped(p *program, hashes *config.Hashes) {
	for _, n := range hashes.Skipped {
		warn(p, "%s", n)
	}
	if more := hashes.Missed - len(hashes.Skipped); more > 0 {
		warn(p, "%d more lines were skipped", more)
	}
}

func warn(p *program, format string, args ...any) {
	fmt.Fprintf(p.stderr, "spillway: "+format+"\n", args...)
}
