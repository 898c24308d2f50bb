// Package deploy_test checks what runs and watches Spillway: containers, alerts and dashboard, against the program and the docs.
package deploy_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// alert is a rule of alerts.yml.
type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// readYAML refuses keys that v does not have.
func readYAML(t *testing.T, name string, v any) {
	t.Helper()
	if err := yaml.UnmarshalWithOptions(readFile(t, name), v, yaml.Strict()); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func readAlerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string  `yaml:"name"`
			Rules []alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	readYAML(t, "prometheus/alerts.yml", &file)
	var all []alert
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("no alerts")
	}
	return all
}

// promtool runs Prometheus's own tool in dir.
func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool here: apt-get install prometheus")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// configDir has a configuration of Prometheus as it would be in /etc/prometheus, with the files it names.
func configDir(t *testing.T, config string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"prometheus.yml":       readFile(t, config),
		"alerts.yml":           readFile(t, "prometheus/alerts.yml"),
		"spillway.token":       []byte("token"),
		"spillway-relay.token": []byte("token"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPrometheusReadsItsConfiguration(t *testing.T) {
	t.Parallel()
	for _, config := range []string{"prometheus/prometheus.yml", "docker/prometheus.yml"} {
		promtool(t, configDir(t, config), "check", "config", "prometheus.yml")
	}
}

// TestAlertsFire has promtool play each group of alerts_test.yml, and wants one about each alert: where it alone fires, and nothing does.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	var file struct {
		RuleFiles          []string `yaml:"rule_files"`
		EvaluationInterval string   `yaml:"evaluation_interval"`
		Tests              []struct {
			Name        string              `yaml:"name"`
			Interval    string              `yaml:"interval"`
			InputSeries []map[string]string `yaml:"input_series"`
			Exprs       []struct {
				Expr    string `yaml:"expr"`
				At      string `yaml:"eval_time"`
				Samples []struct {
					Labels string  `yaml:"labels"`
					Value  float64 `yaml:"value"`
				} `yaml:"exp_samples"`
			} `yaml:"promql_expr_test"`
		} `yaml:"tests"`
	}
	readYAML(t, "prometheus/alerts_test.yml", &file)
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, group := range file.Tests {
		for _, e := range group.Exprs {
			if len(e.Samples) == 0 {
				quiet[group.Name] = true
			} else if e.Samples[0].Labels == `{alertname="`+group.Name+`"}` {
				fires[group.Name] = true
			}
		}
	}
	for _, a := range readAlerts(t) {
		if !fires[a.Alert] || !quiet[a.Alert] {
			t.Errorf("%s: alerts_test.yml has it fire: %v, has it not: %v", a.Alert, fires[a.Alert], quiet[a.Alert])
		}
	}
	promtool(t, "prometheus", "test", "rules", "alerts_test.yml")
}

func TestAlertsSayWhatToDo(t *testing.T) {
	t.Parallel()
	var named []string
	for _, a := range readAlerts(t) {
		if slices.Contains(named, a.Alert) {
			t.Errorf("%s: there are two", a.Alert)
		}
		named = append(named, a.Alert)
		if s := a.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q, want critical or warning", a.Alert, s)
		}
		if !strings.Contains(a.Annotations["summary"], "{{ $labels.") {
			t.Errorf("%s: its summary does not say where: %q", a.Alert, a.Annotations["summary"])
		}
		if len(a.Annotations["description"]) < 40 {
			t.Errorf("%s: its description does not say what to do: %q", a.Alert, a.Annotations["description"])
		}
		// GitHub's anchors are headings in lower case.
		if got, want := a.Annotations["runbook_url"], "docs/runbook.md#"+strings.ToLower(a.Alert); got != want {
			t.Errorf("%s: runbook_url %q, want %q", a.Alert, got, want)
		}
	}

	var headings []string
	for _, m := range regexp.MustCompile(`(?m)^### (Spillway\w+)$`).FindAllSubmatch(readFile(t, "../docs/runbook.md"), -1) {
		headings = append(headings, string(m[1]))
	}
	if !slices.Equal(slices.Sorted(slices.Values(headings)), slices.Sorted(slices.Values(named))) {
		t.Errorf("headings of docs/runbook.md and alerts differ:\n%q\n%q", headings, named)
	}
	table := readFile(t, "../docs/monitoring.md")
	for _, a := range readAlerts(t) {
		if !bytes.Contains(table, []byte("["+a.Alert+"](runbook.md#"+strings.ToLower(a.Alert)+") | "+a.Labels["severity"]+" |")) {
			t.Errorf("docs/monitoring.md has no line of its table for %s, %s", a.Alert, a.Labels["severity"])
		}
	}
}

// exprs are the expressions of alerts and dashboard, with what they are from.
func exprs(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, a := range readAlerts(t) {
		all[a.Alert] = []string{a.Expr}
	}
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			all[p.Title] = append(all[p.Title], plain(target.Expr))
		}
	}
	return all
}

var (
	selector = regexp.MustCompile(`\b(up|(?:spillway|process|go)_\w+)\b(?:\{([^}]*)\})?`)
	label    = regexp.MustCompile(`(\w+)(=~|!~|!=|=)"([^"]*)"`)
)

// TestMetricsAreDocumented: what alerts and dashboard ask for is in docs/metrics.md. TestLive has the program itself asked.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	docs := readFile(t, "../docs/metrics.md")
	for from, list := range exprs(t) {
		for _, expr := range list {
			for _, m := range selector.FindAllStringSubmatch(expr, -1) {
				name := strings.TrimSuffix(m[1], "_bucket")
				if strings.HasPrefix(name, "spillway_") && !regexp.MustCompile("`"+name+"[`{]").Match(docs) {
					t.Errorf("%s: docs/metrics.md does not have %s", from, name)
				}
			}
		}
	}
}

// TestExpressionsParse has promtool parse the dashboard's expressions, as recording rules, for it takes no expression alone.
func TestExpressionsParse(t *testing.T) {
	t.Parallel()
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for _, list := range exprs(t) {
		for _, expr := range list {
			rules = append(rules, rule{"spillway:expr" + strings.Repeat("x", len(rules)), expr})
		}
	}
	data, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}}) // JSON is YAML
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rules.yml"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, dir, "check", "rules", "rules.yml")
}
