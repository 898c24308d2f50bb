package deploy_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type panel struct {
	ID          int                           `json:"id"`
	Type        string                        `json:"type"`
	Title       string                        `json:"title"`
	Description string                        `json:"description"`
	GridPos     struct{ H, W, X, Y int }      `json:"gridPos"`
	Datasource  struct{ Type, UID string }    `json:"datasource"`
	FieldConfig struct{ Defaults unitHolder } `json:"fieldConfig"`
	Targets     []struct {
		RefID        string `json:"refId"`
		Expr         string `json:"expr"`
		LegendFormat string `json:"legendFormat"`
	} `json:"targets"`
}

type unitHolder struct {
	Unit string `json:"unit"`
}

type dashboard struct {
	UID        string  `json:"uid"`
	Title      string  `json:"title"`
	Panels     []panel `json:"panels"`
	Templating struct {
		List []struct {
			Name string `json:"name"`
		} `json:"list"`
	} `json:"templating"`
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal(readFile(t, "grafana/dashboards/spillway.json"), &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Panels) == 0 {
		t.Fatal("the dashboard has no panels")
	}
	return d
}

// plain puts in what Grafana would for its variables.
func plain(expr string) string {
	return strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*", "$relay", ".*").Replace(expr)
}

func TestDashboardIsWhole(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	var vars []string
	for _, v := range d.Templating.List {
		vars = append(vars, v.Name)
	}
	if want := []string{"datasource", "instance", "relay"}; !slices.Equal(vars, want) {
		t.Errorf("variables: got %q, want %q", vars, want)
	}
	ids, titles := map[int]bool{}, map[string]bool{}
	for i, p := range d.Panels {
		if ids[p.ID] || titles[p.Title] || p.Title == "" {
			t.Errorf("panel %d, %q: its id or its title is another's", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.Y < 0 || g.X+g.W > 24 {
			t.Errorf("%q: it is not on the grid of 24 columns: %+v", p.Title, g)
		}
		for _, q := range d.Panels[:i] {
			if o := q.GridPos; g.X < o.X+o.W && o.X < g.X+g.W && g.Y < o.Y+o.H && o.Y < g.Y+g.H {
				t.Errorf("%q lies upon %q", p.Title, q.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != "${datasource}" {
			t.Errorf("%q: data source %q, want the variable", p.Title, p.Datasource.UID)
		}
		// Which way is bad: in words, since half of those who look do not know what is usual.
		if !strings.Contains(p.Description, "bad") && !strings.Contains(p.Description, "should be") {
			t.Errorf("%q: its description does not say which way is bad: %q", p.Title, p.Description)
		}
		if p.FieldConfig.Defaults.Unit == "" && p.Type != "heatmap" {
			t.Errorf("%q has no unit", p.Title)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Expr == "" || target.LegendFormat == "" || refs[target.RefID] {
				t.Errorf("%q: a query without expression or legend, or two called %q", p.Title, target.RefID)
			}
			refs[target.RefID] = true
			if strings.Contains(plain(target.Expr), "$") {
				t.Errorf("%q: unknown variable in %s", p.Title, target.Expr)
			}
			if strings.Contains(target.Expr, "rate(") && !strings.Contains(target.Expr, "[$__rate_interval]") {
				t.Errorf("%q: a rate over a fixed time is empty or coarse at other zooms: %s", p.Title, target.Expr)
			}
		}
		if len(p.Targets) == 0 {
			t.Errorf("%q shows nothing", p.Title)
		}
	}
}

func TestGrafanaFindsTheDashboard(t *testing.T) {
	t.Parallel()
	var sources struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name      string            `yaml:"name"`
			UID       string            `yaml:"uid"`
			Type      string            `yaml:"type"`
			Access    string            `yaml:"access"`
			URL       string            `yaml:"url"`
			IsDefault bool              `yaml:"isDefault"`
			JSONData  map[string]string `yaml:"jsonData"`
		} `yaml:"datasources"`
	}
	readYAML(t, "grafana/provisioning/datasources/prometheus.yml", &sources)
	prometheus := readCompose(t).Services["prometheus"]
	if got := sources.Datasources[0].URL; !slices.Contains(prometheus.Command, "--web.listen-address="+strings.TrimPrefix(got, "http://")) {
		t.Errorf("the data source is at %s, and Prometheus is started with %q", got, prometheus.Command)
	}
	var providers struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name           string            `yaml:"name"`
			Type           string            `yaml:"type"`
			AllowUIUpdates bool              `yaml:"allowUiUpdates"`
			Options        map[string]string `yaml:"options"`
		} `yaml:"providers"`
	}
	readYAML(t, "grafana/provisioning/dashboards/spillway.yml", &providers)
	var mounted []string
	for _, v := range readCompose(t).Services["grafana"].Volumes {
		from, to, _ := strings.Cut(strings.TrimSuffix(v, ":ro"), ":")
		if to == providers.Providers[0].Options["path"] {
			mounted, _ = filepath.Glob(filepath.Join("docker", from, "*.json"))
		}
	}
	if len(mounted) != 1 {
		t.Errorf("dashboards mounted at %s: %q, want one", providers.Providers[0].Options["path"], mounted)
	}
}
