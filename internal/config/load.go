package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

const (
	envPrefix = "SPILLWAY_"
	// EnvFile names the configuration file, as --config does.
	EnvFile = envPrefix + "CONFIG"
)

// Sources are where a configuration comes from, the weaker first. Loading the
// same Sources again is a reload.
type Sources struct {
	File    string   // YAML; "" for none
	Environ []string // NAME=value, as os.Environ has it
	Flags   Config   // of which only the keys in Given count
	Given   []string // as "http.listen"
}

// origins says where a key was set: "spillway.yaml:3:11", "SPILLWAY_HTTP_LISTEN"
// or "--http.listen". Keys left at their default are not in it.
type origins map[string]string

// Load merges the sources over Default and checks the result. The error joins
// all that was found wrong, each with its place and its key.
func Load(src Sources) (Config, error) {
	cfg, origin := Default(), make(origins)
	environ := environMap(src.Environ)
	// systemd sets it, with StateDirectory=, to a directory that is there and
	// writable; several are joined with colons.
	if dir, _, _ := strings.Cut(environ["STATE_DIRECTORY"], ":"); dir != "" {
		cfg.DataDir = dir
	}
	err := errors.Join(
		readFile(src.File, &cfg, origin),
		readEnv(environ, &cfg, origin),
		readFlags(src, &cfg, origin),
	)
	if err != nil {
		return Config{}, err // Check would complain about the consequences
	}
	var errs []error
	for _, e := range Check(cfg) {
		if place := origin[e.Key]; place != "" {
			errs = append(errs, fmt.Errorf("%s: %w", place, e))
			continue
		}
		errs = append(errs, e)
	}
	if len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}
	return cfg, nil
}

func readFile(path string, cfg *Config, origin origins) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	return decodeYAML(text, path, cfg, origin)
}

func environMap(environ []string) map[string]string {
	m := make(map[string]string, len(environ))
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		m[name] = value
	}
	return m
}

// readEnv sets the keys whose variables are there. An unknown variable of ours
// is an error: a misspelt one would be a setting silently not made.
func readEnv(environ map[string]string, cfg *Config, origin origins) error {
	byEnv, names := make(map[string]key), []string{EnvFile}
	for _, k := range keys() {
		byEnv[k.env()], names = k, append(names, k.env())
	}
	var errs []error
	for name, value := range environ {
		if !strings.HasPrefix(name, envPrefix) || name == EnvFile || isServiceLink(name) {
			continue
		}
		k, known := byEnv[name]
		if !known {
			ask := ""
			if s := suggest(name, names); s != "" {
				ask = "; did you mean " + s + "?"
			}
			errs = append(errs, fmt.Errorf("environment: unknown variable %s%s", shorten(name), ask))
			continue
		}
		origin[k.name] = name
		if err := setText(k.field(cfg), value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	sort.Slice(errs, func(i, j int) bool { return errs[i].Error() < errs[j].Error() })
	return errors.Join(errs...)
}

// isServiceLink knows the variables Kubernetes sets in each pod for a service
// called "spillway": SPILLWAY_SERVICE_HOST, SPILLWAY_PORT_6969_TCP_ADDR and
// so on ("Discovering services" in its documentation). They are not ours.
func isServiceLink(name string) bool {
	rest := strings.TrimPrefix(name, envPrefix)
	return rest == "PORT" || strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "SERVICE_")
}

func readFlags(src Sources, cfg *Config, origin origins) error {
	for _, name := range src.Given {
		k := keyNamed(name)
		k.field(cfg).Set(k.field(&src.Flags))
		origin[name] = "--" + name
	}
	return nil
}

func keyNamed(name string) key {
	for _, k := range keys() {
		if k.name == name {
			return k
		}
	}
	panic("BUG: no key " + name)
}

// secret tells a key whose value is for nobody but the program.
func (k key) secret() bool {
	return strings.HasSuffix(k.name, "token") || strings.HasSuffix(k.name, "password")
}

// Exposed names the secrets that stand in src's file while everybody on this machine can read it. Its group may: that is how
// packages let a service read what is root's.
func Exposed(src Sources) (names []string) {
	info, err := os.Stat(src.File)
	if err != nil || info.Mode().Perm()&0o004 == 0 {
		return nil
	}
	cfg, origin := Default(), make(origins)
	if readFile(src.File, &cfg, origin) != nil {
		return nil // Load says what is wrong
	}
	for _, k := range keys() {
		if k.secret() && origin[k.name] != "" && k.field(&cfg).String() != "" {
			names = append(names, k.name)
		}
	}
	return names
}
