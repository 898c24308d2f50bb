package profile

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func FuzzParseConf(f *testing.F) {
	for _, file := range []string{"99-tracker.conf", "99-tracker-extra.conf"} {
		content, err := os.ReadFile(filepath.Join("../../deploy/sysctl", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Add([]byte("-a/b.c = 1\n-x\n;\n=\n\x00=\x00"))
	f.Fuzz(func(t *testing.T, content []byte) {
		settings, err := ParseConf(content)
		lines := 1 + strings.Count(string(content), "\n")
		last := 0
		for _, s := range settings {
			if s.Name == "" || s.Line <= last || s.Line > lines || s.Value != blanks(s.Value) {
				t.Errorf("setting %+v after line %d of %d", s, last, lines)
			}
			last = s.Line
		}
		if err == nil && len(settings) == 0 && strings.TrimSpace(string(content)) != "" && !strings.ContainsAny(string(content), "#;-") {
			t.Errorf("%q: neither a setting nor an error", content)
		}
		// What was read reads the same when written as people write it.
		for _, s := range settings {
			if strings.ContainsAny(s.Name[:1], "#;-") || strings.Contains(s.Name, "\r") {
				continue
			}
			again, err := ParseConf([]byte(s.Name + " = " + s.Value))
			first := strings.IndexAny(s.Name, "./")
			if first >= 0 && s.Name[first] == '/' {
				continue // without dots before: it is the other notation's
			}
			if err != nil || len(again) != 1 || again[0].Name != s.Name || again[0].Value != s.Value {
				t.Errorf("%+v: read again: %+v, %v", s, again, err)
			}
		}
	})
}

// Whatever a state file says, nothing is written but keys of the profile, and those below the root.
func FuzzRevert(f *testing.F) {
	root, stateFile, keys := fake(f)
	Apply(root, stateFile, keys)
	good, err := os.ReadFile(stateFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"boot":"one","keys":[{"name":"kernel.core_pattern","was":"1","set":"2"}]}`))
	f.Add([]byte(`{"version":1,"boot":"one","keys":[{"name":"net.ipv6.conf.//.accept_ra","was":"1","set":"2"}]}`))
	f.Add([]byte(`{"version":1,"boot":"one","keys":[{"name":"net.ipv4.ip_forward","was":"0","set":"1","also":{"net.ipv4.conf./.forwarding":"1"}}]}`))
	f.Add([]byte(`{"version":1,"boot":"one","keys":[{"name":"net.ipv4.ip_forward","was":"|sh","set":"1"}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		s, err := parseState(content)
		if err != nil {
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if s2, err := parseState(again); err != nil || fmt.Sprint(s2) != fmt.Sprint(s) { // nil or empty is the same
			t.Errorf("read again: %+v, %v; was %+v", s2, err, s)
		}
		check := func(name, value string) {
			path, err := keyPath("/proc/sys", name)
			if err != nil || !strings.HasPrefix(path, "/proc/sys/net/") || strings.Contains(path, "..") && !strings.Contains(name, "//") {
				t.Errorf("%q is written as %q (%v)", name, path, err)
			}
			if strings.Trim(value, "0123456789 ") != "" {
				t.Errorf("%s: %q is written", name, value)
			}
		}
		for _, k := range s.Keys {
			check(k.Name, k.Was)
			for name, was := range k.Also {
				check(name, was)
			}
		}
	})
}
