package config

import (
	"os"
	"strings"
)

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
