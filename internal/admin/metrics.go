package admin

import (
	"bytes"
	"io"
	"slices"
	"strings"

	"github.com/VictoriaMetrics/metrics"
	"github.com/valyala/fasthttp"
)

// ownHelp describes the package's own metrics.
const ownHelp = `# HELP spillway_admin_requests_total Requests to the admin listener.
# HELP spillway_admin_auth_errors_total Requests to the admin listener refused for a missing or wrong token.
# HELP spillway_admin_host_errors_total Requests to the admin listener refused for their Host header.
# HELP spillway_admin_changes_total Changes made through the admin listener: switches, blocks, limits.
# HELP spillway_admin_changes_refused_total Changes with a good token refused for their content type, their origin or their number.
# HELP spillway_ready 1 while /readyz answers 200.
`

// leftOut are names metrics.WriteProcessMetrics gives and promtool check metrics refuses. None says much here: there is no cgo,
// nobody forces a collection, and go_gomaxprocs tells the processors in use.
var leftOut = map[string]bool{"go_cgo_calls_count": true, "go_cpu_count": true, "go_gc_forced_count": true}

// WriteMetrics writes the admin listener's own metrics. Server includes them in /metrics.
func (s *Server) WriteMetrics(w io.Writer) {
	_, _ = io.WriteString(w, ownHelp)
	s.set.WritePrometheus(w)
}

func (s *Server) handleMetrics(ctx *fasthttp.RequestCtx) {
	var raw bytes.Buffer
	for _, write := range s.cfg.Metrics {
		write(&raw)
	}
	s.WriteMetrics(&raw)
	metrics.WriteProcessMetrics(&raw)
	ctx.SetContentType("text/plain; version=0.0.4; charset=utf-8")
	ctx.SetBody(appendExposition(nil, raw.String(), s.cfg.Help))
}

// family is a metric's name with its TYPE, its HELP and its samples.
type family struct {
	name, kind, help string
	samples          []string
}

// appendExposition appends the metrics in raw as one exposition. Prometheus' text format wants the samples of a name together, under
// one HELP and one TYPE line; raw is several writers' output in a row, who may use the same name with other labels.
func appendExposition(dst []byte, raw string, help map[string]string) []byte {
	families := map[string]*family{}
	get := func(name string) *family {
		f := families[name]
		if f == nil {
			f = &family{name: name, kind: "untyped"}
			families[name] = f
		}
		return f
	}
	var parent *family // of the last TYPE line: a histogram's samples have other names than itself
	for line := range strings.Lines(raw) {
		line = strings.TrimSuffix(line, "\n")
		if typed, ok := strings.CutPrefix(line, "# TYPE "); ok {
			if name, kind, ok := strings.Cut(typed, " "); ok {
				parent = get(name)
				parent.kind = kind
			}
			continue
		}
		if helped, ok := strings.CutPrefix(line, "# HELP "); ok {
			if name, text, ok := strings.Cut(helped, " "); ok {
				get(name).help = text
			}
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		name := line[:strings.IndexAny(line+" ", "{ ")]
		if parent != nil && parent.owns(name) {
			parent.samples = append(parent.samples, line)
		} else {
			f := get(name)
			f.samples = append(f.samples, line)
		}
	}

	all := make([]*family, 0, len(families))
	for _, f := range families {
		if len(f.samples) > 0 && !leftOut[f.name] {
			if f.kind == "gauge" && strings.HasSuffix(f.name, "_total") {
				f.kind = "counter" // as process_io_read_bytes_total is, whatever its TYPE line says
			}
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b *family) int { return strings.Compare(a.name, b.name) })
	for _, f := range all {
		dst = append(dst, "# HELP "+f.name+" "+f.helpText(help)+"\n# TYPE "+f.name+" "+f.kind+"\n"...)
		for _, line := range f.samples {
			dst = append(append(dst, line...), '\n')
		}
	}
	return dst
}

// helpText is f's HELP, or where to find one: promtool check metrics wants a text for each name.
func (f *family) helpText(help map[string]string) string {
	switch {
	case f.help != "":
		return f.help
	case help[f.name] != "":
		return help[f.name]
	case strings.HasPrefix(f.name, "go_"), strings.HasPrefix(f.name, "process_"):
		return "Of the Go runtime or the kernel, as github.com/VictoriaMetrics/metrics exports it."
	}
	return "See docs/metrics.md."
}

// owns reports whether a sample of this name belongs to f.
func (f *family) owns(sample string) bool {
	suffix, ok := strings.CutPrefix(sample, f.name)
	if !ok {
		return false
	}
	switch f.kind {
	case "histogram":
		return suffix == "" || suffix == "_bucket" || suffix == "_sum" || suffix == "_count"
	case "summary":
		return suffix == "" || suffix == "_sum" || suffix == "_count"
	}
	return suffix == ""
}
