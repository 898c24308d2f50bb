package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// load writes text to a file and loads it with the environment given.
func load(t *testing.T, text string, environ ...string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "spillway.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(Sources{File: file, Environ: environ})
}

func TestDefaultPassesCheck(t *testing.T) {
	t.Parallel()
	for _, e := range Check(Default()) {
		t.Errorf("default: %v", e)
	}
}

func TestExampleIsTheDefault(t *testing.T) {
	t.Parallel()
	cfg, origin := Config{}, make(origins)
	if err := decodeYAML([]byte(Example()), "spillway.example.yaml", &cfg, origin); err != nil {
		t.Fatal(err)
	}
	if want := Default(); !reflect.DeepEqual(cfg, want) {
		t.Errorf("example: got %+v, want %+v", cfg, want)
	}
	for _, k := range keys() {
		if origin[k.name] == "" {
			t.Errorf("%s is not in spillway.example.yaml", k.name)
		}
	}
}

// The example promises to tell which keys need a restart.
func TestExampleMarksRestart(t *testing.T) {
	t.Parallel()
	want := 0
	for _, k := range keys() {
		if k.restart {
			want++
		}
	}
	if want == 0 || want == len(keys()) {
		t.Fatalf("%d of %d keys need a restart: the tag is not read", want, len(keys()))
	}
	lines := strings.Split(Example(), "\n")
	for _, k := range keys() {
		path := strings.Split(k.name, ".")
		// The nearest comment block above the key or above its section.
		if marked := commentAbove(lines, path); marked != k.restart {
			t.Errorf("%s: example says restart=%v, the reload tag says %v", k.name, marked, k.restart)
		}
	}
}

// commentAbove reports whether the comment above the key, or, for keys of one
// section described together, above the first of them or the section, says
// (restart.
func commentAbove(lines []string, path []string) bool {
	at := -1
	for depth, name := range path {
		for at++; at < len(lines); at++ {
			if strings.HasPrefix(lines[at], strings.Repeat("  ", depth)+name+":") {
				break
			}
		}
	}
	for at--; at >= 0; at-- {
		line := strings.TrimSpace(lines[at])
		if strings.HasPrefix(line, "#") {
			break
		}
		if line == "" {
			return false
		}
	}
	for ; at >= 0 && strings.HasPrefix(strings.TrimSpace(lines[at]), "#"); at-- {
		if strings.Contains(lines[at], "(restart") {
			return true
		}
	}
	return false
}

func TestNames(t *testing.T) {
	t.Parallel()
	seen := make(map[string]string)
	for _, k := range keys() {
		if k.name == "" || strings.HasSuffix(k.name, ".") {
			t.Errorf("field %v has no name tag", k.index)
		}
		for _, name := range []string{k.name, k.env()} {
			if seen[name] != "" {
				t.Errorf("%s is the name of %s and of %s", name, seen[name], k.name)
			}
			seen[name] = k.name
		}
		if isServiceLink(k.env()) {
			t.Errorf("%s would be taken for one of Kubernetes' variables", k.env())
		}
	}
}

func TestLoadOrder(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "spillway.yaml")
	if err := os.WriteFile(file, []byte("http: {max_conns: 1, idle_timeout: 1s, listen: ':1'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	src := Sources{File: file, Environ: []string{"SPILLWAY_HTTP_MAX_CONNS=2", "SPILLWAY_HTTP_LISTEN=:2, unix:/s", "PATH=/bin"}}
	src.Flags.HTTP.MaxConns = 3
	src.Flags.HTTP.IdleTimeout = Duration(3 * time.Second) // not given, so it does not count
	src.Given = []string{"http.max_conns"}

	cfg, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.HTTP.MaxConns = 3
	want.HTTP.IdleTimeout = Duration(time.Second)
	want.HTTP.Listen = StringList{":2", "unix:/s"}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got %+v, want %+v", cfg, want)
	}
}

func TestStateDirectory(t *testing.T) {
	t.Parallel()
	f := func(text, env, want string) {
		t.Helper()
		cfg, err := load(t, text, env, "STATE_DIRECTORY=/var/lib/spillway:/var/lib/other")
		if err != nil || cfg.DataDir != want {
			t.Errorf("data_dir: got %q, %v, want %q", cfg.DataDir, err, want)
		}
	}
	f("", "", "/var/lib/spillway")
	f("data_dir: /srv", "", "/srv")
	f("", "SPILLWAY_DATA_DIR=/env", "/env")
}

func TestLoadAccepts(t *testing.T) {
	t.Parallel()
	f := func(text, key, want string) {
		t.Helper()
		cfg, err := load(t, text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			return
		}
		if got := Texts(cfg)[key]; got != want {
			t.Errorf("%q: %s: got %q, want %q", text, key, got, want)
		}
	}
	f("", "log.level", "info")
	f("# nothing\n", "log.level", "info")
	f("---\nlog: {level: debug}\n", "log.level", "debug")
	f("http:\n  # all commented out\n", "http.listen", ":6969")
	f("http: {listen: [':1', '[::1]:2']}", "http.listen", ":1,[::1]:2")
	f("http:\n  listen:\n  - unix:/run/s\n  - systemd\n", "http.listen", "unix:/run/s,systemd")
	f("http: {trusted_proxies: cloudflare}", "http.trusted_proxies", "cloudflare")
	f("http: {trusted_proxies: []}", "http.trusted_proxies", "")
	f("admin: {token: 0123456789012345}", "admin.token", "0123456789012345") // a string key keeps its text
	f("tracker: {passkeys: 1e3}", "tracker.passkeys", "1e3")
	f("admin: {listen: ''}", "admin.listen", "")
	f("tracker: {interval: 45m, peer_ttl: 1d}", "tracker.peer_ttl", "24h")
	f("tracker: {block_peer_ids: [-XL0019, -XL0012]}", "tracker.block_peer_ids", "-XL0019,-XL0012")
	f("store: {memory: {max: 1073741824}}", "store.memory.max", "1GiB")
	f("store:\r\n  snapshot:\r\n    every: 1s\r\n", "store.snapshot.every", "1s")
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	f := func(text, want string, environ ...string) {
		t.Helper()
		_, err := load(t, text, environ...)
		if err == nil {
			t.Errorf("%.80q %q: no error, want %q", text, environ, want)
			return
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q %q: got %q, want %q in it", text, environ, err, want)
		}
	}
	// Unknown keys, with the nearest known one.
	f("http:\n  listn: ':1'\n", `spillway.yaml:2:3: unknown key "listn" in http; did you mean "listen"?`)
	f("http:\n  max_con: 1\n", `did you mean "max_conns"?`)
	f("htpt: {}\n", `spillway.yaml:1:1: unknown key "htpt"; did you mean "http"?`)
	f("max_conns: 1\n", `unknown key "max_conns"; did you mean "http.max_conns"?`)
	f("http: {interval: 30m}\n", `unknown key "interval" in http; did you mean "tracker.interval"?`)
	f("http: {qwertyuiop: 1}\n", "unknown key \"qwertyuiop\" in http")
	f("tracker: {numwant: {maximum: 1}}", `unknown key "maximum" in tracker.numwant`)
	f("a: 1\nb: 2\n", "2:1: unknown key")
	f(strings.Repeat("k", 10000)+": 1\n", "unknown key")
	f("<<: {log: {level: debug}}\n", `unknown key "<<"`)
	// Wrong types.
	f("http:\n  max_conns: many\n", `spillway.yaml:2:14: http.max_conns: got "many"; must be a whole number`)
	f("http: {max_conns: 1.5}", `got "1.5"; must be a whole number`)
	f("http: {max_conns: [1]}", "1:19: http.max_conns: got a list; must be a single value")
	f("http: {max_conns: {}}", "http.max_conns: got a section")
	f("http: {proxy_protocol: yes}", `http.proxy_protocol: got "yes"; must be true or false`)
	f("http: 5\n", `spillway.yaml:1:7: http: got "5"; must be a section`)
	f("http: []\n", "http: got a list; must be a section")
	f("- a\n", "got a list; must be a section")
	f("hello\n", `got "hello"; must be a section`)
	f("http: {listen: [[':1']]}\n", "http.listen: got a list in a list")
	f("http:\n  listen:\n  max_conns: 1\n", "http.listen: got nothing")
	f("admin: {token: &a x}\n", "admin.token: got a YAML anchor")
	f("log: {level: debug, level: info}\n", "level")
	f("tracker: {interval: 30}\n", `tracker.interval: got "30"; must be a time, as 20s`)
	f("store: {memory: {max: 512M}}\n", "store.memory.max: got \"512M\"; the unit must be KiB")
	f("log: {level: debug}\n---\nlog: {level: info}\n", "spillway.yaml:3: a second YAML document")
	f("http: {\n", "spillway.yaml:")
	f("\x00", "")
	f(strings.Repeat("#", maxFileBytes+1), "is this a configuration file?")
	f("a: \n"+strings.Repeat("[", 1000), "spillway.yaml:2: more than 100 brackets")
	f(strings.Repeat("- ", maxFileBytes/2), "spillway.yaml:1: more than 100 brackets or dashes")
	// Wrong values say where they come from.
	f("http:\n  max_conns: 0\n", "spillway.yaml:2:14: http.max_conns: got 0; must be 1 or more")
	f("", "SPILLWAY_HTTP_MAX_CONNS: http.max_conns: got 0; must be 1 or more", "SPILLWAY_HTTP_MAX_CONNS=0")
	f("", `SPILLWAY_HTTP_LISTEN: got ":1,,:2"; one part of the list is empty`, "SPILLWAY_HTTP_LISTEN=:1,,:2")
	f("", `unknown variable SPILLWAY_HTTP_LISTN; did you mean SPILLWAY_HTTP_LISTEN?`, "SPILLWAY_HTTP_LISTN=:1")
	f("", `unknown variable SPILLWAY_CONFG; did you mean SPILLWAY_CONFIG?`, "SPILLWAY_CONFG=x")
}

// A service called spillway makes Kubernetes set these in every pod.
func TestKubernetesVariablesAreNotOurs(t *testing.T) {
	t.Parallel()
	_, err := load(t, "", "SPILLWAY_PORT=tcp://10.0.0.1:6969", "SPILLWAY_SERVICE_HOST=10.0.0.1",
		"SPILLWAY_SERVICE_PORT_HTTP=6969", "SPILLWAY_PORT_6969_TCP_ADDR=10.0.0.1", "SPILLWAY_CONFIG=x")
	if err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

func TestLoadFindsAllErrors(t *testing.T) {
	t.Parallel()
	_, err := load(t, "a: 1\nhttp: {max_conns: x}\nlog: 5\n", "SPILLWAY_X=1")
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("got %v, want four lines", err)
	}
}

func TestMissingFile(t *testing.T) {
	t.Parallel()
	_, err := Load(Sources{File: filepath.Join(t.TempDir(), "none.yaml")})
	if err == nil || !strings.Contains(err.Error(), "--config: open ") {
		t.Errorf("missing file: got %v", err)
	}
	if _, err = Load(Sources{File: t.TempDir()}); err == nil {
		t.Error("a directory as --config: got no error")
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	f := func(key string, change func(*Config)) {
		t.Helper()
		c := Default()
		change(&c)
		errs := Check(c)
		if !slices.ContainsFunc(errs, func(e *KeyError) bool { return e.Key == key }) {
			t.Errorf("%s: got %v, want an error of that key", key, errs)
		}
	}
	f("data_dir", func(c *Config) { c.DataDir = "" })
	f("log.level", func(c *Config) { c.Log.Level = "loud" })
	f("log.format", func(c *Config) { c.Log.Format = "xml" })
	f("http.listen", func(c *Config) { c.HTTP.Listen = nil })
	for _, a := range []string{"", "6969", ":x", ":65536", "::1:80", "unix:", "unix:/" + strings.Repeat("x", 107)} {
		f("http.listen", func(c *Config) { c.HTTP.Listen = StringList{a} })
	}
	f("http.listen", func(c *Config) { c.HTTP.Listen = StringList{":1", ":1"} })
	f("http.trusted_proxies", func(c *Config) { c.HTTP.TrustedProxies = StringList{"akamai"} })
	f("http.real_ip_header", func(c *Config) { c.HTTP.RealIPHeader = "X-Forwarded-For:" })
	f("http.proxy_protocol", func(c *Config) { c.HTTP.ProxyProtocol = true })
	f("http.tls.key", func(c *Config) { c.HTTP.TLS.Cert = "x.pem" })
	f("http.tls.cert", func(c *Config) { c.HTTP.TLS.Key = "x.pem" })
	f("http.max_conns", func(c *Config) { c.HTTP.MaxConns = 0 })
	f("http.idle_timeout", func(c *Config) { c.HTTP.IdleTimeout = 0 })
	f("http.shutdown_timeout", func(c *Config) { c.HTTP.ShutdownTimeout = Duration(24 * time.Hour) })
	f("admin.listen", func(c *Config) { c.Admin.Listen = "systemd" })
	f("admin.token", func(c *Config) { c.Admin.Token = "sixteen chars and a blank" })
	f("admin.token", func(c *Config) { c.Admin.Token = "short" })
	f("tracker.interval", func(c *Config) { c.Tracker.Interval = Duration(time.Minute) })
	f("tracker.max_interval", func(c *Config) { c.Tracker.MaxInterval = Duration(10 * time.Minute) })
	f("tracker.peer_ttl", func(c *Config) { c.Tracker.PeerTTL = c.Tracker.Interval })
	f("tracker.numwant.default", func(c *Config) { c.Tracker.NumWant.Default = 201 })
	f("tracker.numwant.max", func(c *Config) { c.Tracker.NumWant.Max = 0 })
	f("tracker.ip_param", func(c *Config) { c.Tracker.IPParam = "always" })
	f("tracker.access.mode", func(c *Config) { c.Tracker.Access.Mode = "closed" })
	f("tracker.access.file", func(c *Config) { c.Tracker.Access.Mode = "allow" })
	f("tracker.block_peer_ids", func(c *Config) { c.Tracker.BlockPeerIDs = StringList{""} })
	f("store.kind", func(c *Config) { c.Store.Kind = "postgres" })
	f("store.redis.addrs", func(c *Config) { c.Store.Kind = "redis" })
	f("store.redis.addrs", func(c *Config) { c.Store.Redis.Addrs = StringList{"127.0.0.1"} })
	f("store.redis.addrs", func(c *Config) { c.Store.Redis.Addrs = StringList{"a:1", "a:1"} })
	f("store.redis.addrs", func(c *Config) {
		c.Store.Redis.Addrs, c.Store.Redis.Cluster = StringList{"a:1", "b:1"}, "off"
	})
	f("store.redis.username", func(c *Config) { c.Store.Redis.Username = "spillway" })
	f("store.redis.db", func(c *Config) { c.Store.Redis.DB, c.Store.Redis.Cluster = 1, "on" })
	f("store.redis.cluster", func(c *Config) { c.Store.Redis.Cluster = "yes" })
	f("store.redis.tls_ca", func(c *Config) { c.Store.Redis.TLSCA = "ca.pem" })
	f("store.redis.tls_name", func(c *Config) { c.Store.Redis.TLSName = "redis.example" })
	f("store.redis.tls_cert", func(c *Config) { c.Store.Redis.TLS, c.Store.Redis.TLSCert = true, "cert.pem" })
	f("store.redis.tls_cert", func(c *Config) { c.Store.Redis.TLS, c.Store.Redis.TLSKey = true, "key.pem" })
	f("store.redis.sentinel", func(c *Config) { c.Store.Redis.Sentinel = "my master" })
	f("store.redis.sentinel", func(c *Config) { c.Store.Redis.Sentinel, c.Store.Redis.Cluster = "mymaster", "on" })
	f("store.redis.sentinel", func(c *Config) {
		c.Store.Redis.Sentinel, c.Store.Redis.Addrs = "mymaster", StringList{"a:26379", "unix:/run/sentinel"}
	})
	f("store.redis.sentinel_password", func(c *Config) { c.Store.Redis.SentinelPassword = "secret" })
	f("store.redis.sentinel_username", func(c *Config) { c.Store.Redis.Sentinel, c.Store.Redis.SentinelUsername = "mymaster", "spillway" })
	f("store.redis.wait", func(c *Config) { c.Store.Redis.Wait = 0 })
	f("store.redis.node", func(c *Config) { c.Store.Redis.Node = "a b" })
	f("store.memory.max", func(c *Config) { c.Store.Memory.Max = 1 })
	f("store.memory.max_swarms", func(c *Config) { c.Store.Memory.MaxSwarms = 0 })
	f("store.memory.max_peers_per_swarm", func(c *Config) { c.Store.Memory.MaxPeersPerSwarm = 0 })
	f("store.snapshot.every", func(c *Config) { c.Store.Snapshot.Every = 1 })
}

func TestReload(t *testing.T) {
	t.Parallel()
	running, next := Default(), Default()
	if now, live, restart := Reload(running, next); live != nil || restart != nil || !reflect.DeepEqual(now, running) {
		t.Errorf("no change: got %v and %v", live, restart)
	}
	next.Log.Level = "debug"
	next.HTTP.TrustedProxies = StringList{"cloudflare"}
	next.HTTP.Listen = StringList{":1"}
	next.Store.Memory.Max = 1 << 30
	next.Store.Snapshot.Every = 0
	now, live, restart := Reload(running, next)
	if want := []string{"log.level", "http.trusted_proxies", "store.snapshot.every"}; !slices.Equal(live, want) {
		t.Errorf("live: got %v, want %v", live, want)
	}
	if want := []string{"http.listen", "store.memory.max"}; !slices.Equal(restart, want) {
		t.Errorf("restart: got %v, want %v", restart, want)
	}
	if now.Log.Level != "debug" || now.HTTP.Listen[0] != ":6969" {
		t.Errorf("now: got level %s and listen %s, want debug and :6969", now.Log.Level, now.HTTP.Listen)
	}
	// The second reload of the same file still says what waits for a restart.
	if _, live, restart = Reload(now, next); live != nil || len(restart) != 2 {
		t.Errorf("again: got %v and %v, want none and two", live, restart)
	}
}

func FuzzDecodeYAML(f *testing.F) {
	f.Add(Example())
	for _, s := range []string{
		"", "a: &x [*x]", "? a\n: b", "!!binary x", "http: !t {listen: a}", "- - - -", "%YAML 1.2\n---\n", "a: |\n x\n", "{{{{",
		"http:\n\tlisten: x", "\xff\xfe", "log: {level: \"\\ud800\"}", "a: b: c", "'", "- ? : -", "*a : b", "&a : b", "<<: *a", "tracker: {numwant: !!int}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cfg := Default()
		if err := decodeYAML([]byte(text), "f", &cfg, make(origins)); err == nil {
			Check(cfg)
		}
	})
}

func TestCheckUDP(t *testing.T) {
	t.Parallel()
	f := func(key string, change func(*UDP)) {
		t.Helper()
		c := Default()
		change(&c.UDP)
		errs := Check(c)
		if ok := key == ""; ok != (len(errs) == 0) || !ok && !slices.ContainsFunc(errs, func(e *KeyError) bool { return e.Key == key }) {
			t.Errorf("%s: got %v", key, errs)
		}
	}
	f("", func(c *UDP) { c.Listen = nil })
	f("", func(c *UDP) { c.Listen = StringList{":6969", "[::1]:0", "tracker.example:80"} })
	for _, a := range []string{"", "6969", ":x", ":65536", "::1:80", "unix:/x", "systemd", "systemd:udp"} {
		f("udp.listen", func(c *UDP) { c.Listen = StringList{a} })
	}
	f("udp.listen", func(c *UDP) { c.Listen = StringList{":1", ":1"} })
	f("udp.receive_buffer", func(c *UDP) { c.ReceiveBuffer = 1 << 10 })
	f("udp.receive_buffer", func(c *UDP) { c.ReceiveBuffer = 1 << 30 })
}

// "" is off, wherever it is said, as the contract has it.
func TestUDPOff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file    string
		environ []string
	}{{"udp: {listen: ''}\n", nil}, {"udp: {listen: []}\n", nil}, {"", []string{"SPILLWAY_UDP_LISTEN="}}} {
		if got, err := load(t, c.file, c.environ...); err != nil || len(got.UDP.Listen) != 0 {
			t.Errorf("%q %q: got %v, %v", c.file, c.environ, got.UDP.Listen, err)
		}
	}
	if got, err := load(t, "udp: {listen: [':1', ':2']}\n"); err != nil || got.UDP.Listen.String() != ":1,:2" {
		t.Errorf("two: got %v, %v", got.UDP.Listen, err)
	}
}
