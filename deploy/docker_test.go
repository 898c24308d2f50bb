package deploy_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// service has the keys of compose.yaml that we use; any other is refused, so that a misspelt bound does not pass for one.
type service struct {
	Image        string                               `yaml:"image"`
	Build        struct{ Context, Dockerfile string } `yaml:"build"`
	Profiles     []string                             `yaml:"profiles"`
	NetworkMode  string                               `yaml:"network_mode"`
	Restart      string                               `yaml:"restart"`
	StopGrace    string                               `yaml:"stop_grace_period"`
	User         string                               `yaml:"user"`
	Command      []string                             `yaml:"command"`
	Environment  map[string]string                    `yaml:"environment"`
	Volumes      []string                             `yaml:"volumes"`
	MemLimit     string                               `yaml:"mem_limit"`
	MemswapLimit string                               `yaml:"memswap_limit"`
	PidsLimit    int                                  `yaml:"pids_limit"`
	Ulimits      struct {
		Nofile struct{ Soft, Hard int } `yaml:"nofile"`
	} `yaml:"ulimits"`
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	SecurityOpt []string `yaml:"security_opt"`
	Logging     struct {
		Driver  string            `yaml:"driver"`
		Options map[string]string `yaml:"options"`
	} `yaml:"logging"`
}

type compose struct {
	Name       string             `yaml:"name"`
	BoundedLog map[string]any     `yaml:"x-bounded-log"`
	Services   map[string]service `yaml:"services"`
	Volumes    map[string]any     `yaml:"volumes"`
}

func readCompose(t *testing.T) compose {
	t.Helper()
	var c compose
	readYAML(t, "docker/compose.yaml", &c)
	return c
}

// bytesOf reads 1g, 512m and 920MiB alike: both are powers of 1024.
func bytesOf(t *testing.T, s string) int64 {
	t.Helper()
	var n int64
	var unit string
	if _, err := fmt.Sscanf(s, "%d%s", &n, &unit); err != nil {
		t.Fatalf("size %q: %v", s, err)
	}
	shift, ok := map[string]int{"m": 20, "MiB": 20, "g": 30, "GiB": 30}[unit]
	if !ok {
		t.Fatalf("size %q: its unit is not known here", s)
	}
	return n << shift
}

func TestComposeBoundsEverything(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	for name, s := range c.Services {
		if _, tag, ok := strings.Cut(s.Image, ":"); !ok || tag == "latest" {
			t.Errorf("%s: image %q has no tag of its own", name, s.Image)
		}
		limit := bytesOf(t, s.MemLimit)
		if s.MemswapLimit != s.MemLimit || s.PidsLimit == 0 || s.Restart != "unless-stopped" {
			t.Errorf("%s: memory may swap, or processes have no bound, or it does not come back", name)
		}
		if go_, ok := s.Environment["GOMEMLIMIT"]; ok {
			if share := float64(bytesOf(t, go_)) / float64(limit); share < 0.85 || share > 0.95 {
				t.Errorf("%s: GOMEMLIMIT is %.2f of mem_limit, want about nine tenths", name, share)
			}
		} else if name != "redis" { // which is not Go, and has maxmemory
			t.Errorf("%s: no GOMEMLIMIT", name)
		}
		if s.Ulimits.Nofile.Soft == 0 || s.Ulimits.Nofile.Soft != s.Ulimits.Nofile.Hard {
			t.Errorf("%s: nofile %+v, want both alike", name, s.Ulimits.Nofile)
		}
		if s.Logging.Driver != "local" || s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "" {
			t.Errorf("%s: its log has no bound: %+v", name, s.Logging)
		}
		if !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: it keeps capabilities, or may gain some", name)
		}
		if s.NetworkMode != "host" {
			t.Errorf("%s: network_mode %q; the others reach it on loopback", name, s.NetworkMode)
		}
		for _, v := range s.Volumes {
			from, to, ok := strings.Cut(strings.TrimSuffix(v, ":ro"), ":")
			if !ok || !filepath.IsAbs(to) {
				t.Errorf("%s: volume %q", name, v)
			}
			if strings.HasPrefix(from, ".") {
				if _, err := os.Stat(filepath.Join("docker", from)); err != nil || !strings.HasSuffix(v, ":ro") {
					t.Errorf("%s: volume %q: %v; files of this tree are mounted read-only", name, v, err)
				}
			} else if _, ok := c.Volumes[from]; !ok {
				t.Errorf("%s: volume %q is not declared", name, from)
			}
		}
	}
	if maxmemory := argument(c.Services["redis"].Command, "--maxmemory"); bytesOf(t, strings.TrimSuffix(maxmemory, "b")) > bytesOf(t, c.Services["redis"].MemLimit)*85/100 {
		t.Errorf("redis: maxmemory %s leaves it no room in %s", maxmemory, c.Services["redis"].MemLimit)
	}
	if f := c.Services["tracker"].Build; f.Context != "../.." || readFile(t, filepath.Join("..", f.Dockerfile)) == nil {
		t.Errorf("tracker: built from %+v", f)
	}
}

func argument(command []string, name string) string {
	if i := slices.Index(command, name); i >= 0 && i+1 < len(command) {
		return command[i+1]
	}
	return ""
}

// configDefault is a key's default in the file that "spillway config print" prints.
func configDefault(t *testing.T, section, key string) string {
	t.Helper()
	example := readFile(t, "../internal/config/spillway.example.yaml")
	m := regexp.MustCompile(`(?ms)^` + section + `:$.*?^  ` + key + `: (\S+)$`).FindSubmatch(example)
	if m == nil {
		t.Fatalf("no %s.%s in the example", section, key)
	}
	return strings.Trim(string(m[1]), `"`)
}

func TestContainersAgreeWithTheProgram(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	public, udp, admin := configDefault(t, "http", "listen"), configDefault(t, "udp", "listen"), configDefault(t, "admin", "listen")
	for _, f := range []string{"docker/Dockerfile", "docker/Dockerfile.local"} {
		if want := "EXPOSE " + strings.TrimPrefix(public, ":") + "/tcp " + strings.TrimPrefix(udp, ":") + "/udp\n"; !bytes.Contains(readFile(t, f), []byte(want)) {
			t.Errorf("%s: want %s", f, want)
		}
	}
	for _, f := range []string{"docker/prometheus.yml", "prometheus/prometheus.yml"} {
		if !bytes.Contains(readFile(t, f), []byte(`["`+admin+`"]`)) {
			t.Errorf("%s does not ask %s, admin.listen", f, admin)
		}
	}
	var need int
	for _, section := range []string{"http", "ws"} {
		var n int
		if _, err := fmt.Sscan(configDefault(t, section, "max_conns"), &n); err != nil {
			t.Fatal(err)
		}
		need += n
	}
	if nofile := c.Services["tracker"].Ulimits.Nofile.Hard; nofile < need+512 {
		t.Errorf("tracker: nofile %d, and http.max_conns, ws.max_conns and 512 are %d", nofile, need+512)
	}
}

// instructions are those of a Dockerfile, continued lines joined.
func instructions(t *testing.T, name string) (list [][2]string) {
	t.Helper()
	text := strings.ReplaceAll(string(readFile(t, name)), "\\\n", " ")
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			verb, rest, _ := strings.Cut(line, " ")
			list = append(list, [2]string{verb, strings.TrimSpace(rest)})
		}
	}
	return list
}

// TestDockerfiles has the rules of hadolint that matter here, and that both files end in the same image.
func TestDockerfiles(t *testing.T) {
	t.Parallel()
	var last [2][][2]string
	for i, name := range []string{"docker/Dockerfile", "docker/Dockerfile.local"} {
		stages := map[string]bool{}
		for _, in := range instructions(t, name) {
			verb, rest := in[0], in[1]
			words := strings.Fields(rest)
			switch verb {
			case "FROM":
				if image := words[0]; image != "scratch" && (!strings.Contains(image, ":") || strings.HasSuffix(image, ":latest")) {
					t.Errorf("%s: FROM %s has no tag", name, image)
				}
				if len(words) == 3 && words[1] == "AS" {
					stages[words[2]] = true
				}
				last[i] = nil
			case "COPY":
				from, paths := "", words
				for strings.HasPrefix(paths[0], "--") {
					from, paths = cutFrom(paths[0], from), paths[1:]
				}
				for _, source := range paths[:len(paths)-1] {
					if from != "" {
						if !stages[from] {
							t.Errorf("%s: COPY from %q, which is no stage before it", name, from)
						}
					} else if _, err := os.Stat(filepath.Join("..", source)); err != nil && source != "spillway" { // make build makes that
						t.Errorf("%s: COPY: %v", name, err)
					}
				}
				if strings.Contains(rest, "spillway /spillway") {
					continue // the one line that may differ
				}
			case "RUN":
				if strings.Contains(rest, "apt") || strings.Contains(rest, "curl") || strings.Contains(rest, "sudo") {
					t.Errorf("%s: RUN %s", name, rest)
				}
			case "ADD", "MAINTAINER":
				t.Errorf("%s: %s is not for here", name, verb)
			case "ENTRYPOINT", "CMD":
				if !strings.HasPrefix(rest, "[") {
					t.Errorf("%s: %s needs a shell, and there is none", name, verb)
				}
			case "HEALTHCHECK":
				if !strings.Contains(rest, `CMD ["`) {
					t.Errorf("%s: HEALTHCHECK needs a shell, and there is none", name)
				}
			}
			if !strings.Contains(rest, "ca-certificates.crt") {
				last[i] = append(last[i], in)
			}
		}
		var user string
		for _, in := range last[i] {
			if in[0] == "USER" {
				user = in[1]
			}
		}
		if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(user) {
			t.Errorf("%s: USER %q, want numbers, and not root: there is no passwd to look names up in", name, user)
		}
	}
	if !slices.Equal(last[0], last[1]) {
		t.Errorf("the images differ:\n%q\n%q", last[0], last[1])
	}
	// A new release of Go in go.mod needs one in the image.
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(readFile(t, "../go.mod"))[1]
	if !bytes.Contains(readFile(t, "docker/Dockerfile"), []byte("FROM golang:"+string(version)+"-")) {
		t.Errorf("docker/Dockerfile is not of Go %s, as go.mod is", version)
	}
}

func cutFrom(flag, otherwise string) string {
	if from, ok := strings.CutPrefix(flag, "--from="); ok {
		return from
	}
	return otherwise
}
