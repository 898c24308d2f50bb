package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A file with a secret in it that everybody can read is told of; one that only its group can is not.
func TestSecretsInAFileThatAllCanRead(t *testing.T) {
	t.Parallel()
	const text = "admin: {token: 0123456789abcdef}\nrelay: {admin: {token: \"\"}}\nstore: {redis: {password: secret}}\n"
	f := func(text string, mode os.FileMode, want ...string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "spillway.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
		if got := Exposed(Sources{File: file}); !slices.Equal(got, want) {
			t.Errorf("%04o %q: got %v, want %v", mode, text, got, want)
		}
	}
	f(text, 0o644, "admin.token", "store.redis.password")
	f(text, 0o604, "admin.token", "store.redis.password")
	f(text, 0o640)
	f(text, 0o600)
	f("log: {level: info}\n", 0o644)
	f(Example(), 0o644)
	f("admin: {token", 0o644)
	if got := Exposed(Sources{}); got != nil {
		t.Errorf("no file: got %v", got)
	}
	if got := Exposed(Sources{Environ: []string{"SPILLWAY_ADMIN_TOKEN=0123456789abcdef"}}); got != nil {
		t.Errorf("the environment: got %v", got)
	}
}

// Whatever is wrong with a secret, its error does not have it: errors are logged, pasted, and asked about in public.
func TestErrorsKeepSecrets(t *testing.T) {
	t.Parallel()
	secrets := 0
	for _, k := range keys() {
		if !k.secret() {
			continue
		}
		secrets++
		for _, value := range []string{"h4ck", "h4ck me if you can", "h4ck\u00e9h4ckh4ckh4ckh4ck", "h4ck\x01h4ckh4ckh4ckh4ck"} {
			_, err := load(t, "log: {level: nonsense}\n", k.env()+"="+value)
			if err == nil || strings.Contains(err.Error(), "h4ck") {
				t.Errorf("%s=%q: got %v", k.env(), value, err)
			}
			section, last := k.name[:strings.LastIndexByte(k.name, '.')], k.name[strings.LastIndexByte(k.name, '.')+1:]
			text := ""
			for i, name := range strings.Split(section, ".") {
				text += strings.Repeat(" ", i) + name + ":\n"
			}
			indent := strings.Repeat(" ", strings.Count(k.name, "."))
			for _, form := range []string{"%s%s: %q\n%[1]sx: 1\n", "%s%s: [%q]\n", "%s%s: {%q: 1}\n", "%s%s: &a %q\n", "%s%s: %q \"\n"} {
				_, err := load(t, text+fmt.Sprintf(form, indent, last, value))
				if err == nil || strings.Contains(err.Error(), "h4ck") {
					t.Errorf("%s: %q: got %v", k.name, form, err)
				}
			}
		}
	}
	if secrets < 4 {
		t.Errorf("secrets: got %d, want the tokens of both admin listeners and the passwords of Redis and its sentinels", secrets)
	}
}

// FuzzParseRelayListen: what is taken names a port.
func FuzzParseRelayListen(f *testing.F) {
	for _, s := range []string{":80", "80", "[::]:443", "192.0.2.1:80-90", "", ":", ":0", ":65536", "unix:/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseRelayListen(s)
		if err == nil && got.Port() == 0 {
			t.Errorf("%q: got %v", s, got)
		}
	})
}
