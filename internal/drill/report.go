package drill

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Report is a drill's. It is also the form of the JSON file.
type Report struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Machine string    `json:"machine"`
	Cores   int       `json:"cores"`
	Quick   bool      `json:"quick"`
	Squeeze float64   `json:"squeeze"` // clients' own times are divided by it
	CDN     bool      `json:"cdn"`

	// In a user namespace the kernel does not let the relay have a core for itself, so its cost is not known.
	Unsteered bool `json:"unsteered,omitempty"`

	Peak          float64 `json:"peak"` // announces a second the backend serves; 0: not measured
	Rate          float64 `json:"rate"` // of honest clients
	AttackRate    float64 `json:"attack_rate"`
	Attack        float64 `json:"attack"` // times Rate
	BackendShare  float64 `json:"backend_share"`
	BackendMemory int64   `json:"backend_memory_bytes"`

	Result   []string `json:"result"` // sentences; the first is the one to remember
	Warnings []string `json:"warnings,omitempty"`
	Runs     []*Run   `json:"runs"`
	Kept     string   `json:"kept,omitempty"` // directory of what the programs wrote
}

// JSON is the report for programs.
func (r *Report) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "\t")
	return append(b, '\n'), err
}

// find is a run, nil if there was none.
func (r *Report) find(name string) *Run {
	for _, run := range r.Runs {
		if run.Name == name {
			return run
		}
	}
	return nil
}

// attacked adds up the phases in which the backend lived and was attacked.
func (r *Run) attacked() Phase {
	var sum Phase
	for _, name := range []string{attack, wsOff} {
		if p := r.find(name); p != nil {
			sum.Offered, sum.InTime, sum.Shed, sum.Late, sum.Failed = sum.Offered+p.Offered, sum.InTime+p.InTime, sum.Shed+p.Shed, sum.Late+p.Late, sum.Failed+p.Failed
		}
	}
	return sum
}

// conclude finds the words, and what the reader has to be warned of.
func (r *Report) conclude() {
	with, without := r.find(Protected), r.find(Unprotected)
	switch {
	case with != nil && without != nil:
		a, b := with.attacked(), without.attacked()
		r.Result = append(r.Result, fmt.Sprintf("Under an attack of %.0f times the usual traffic, %s of 100 announces were answered in time with Spillway, and %s without.",
			r.Attack, ofHundred(&a), ofHundred(&b)))
		if g, h := with.find(gone), without.find(gone); g != nil && h != nil && g.Failed > 0 && h.Failed > 0 {
			r.Result = append(r.Result, fmt.Sprintf("With the backend gone, clients were told in %s with Spillway; without, half of them waited %s or more.", duration(g.FailP50), duration(h.FailP50)))
		}
		r.Result = append(r.Result, fmt.Sprintf("After its return, service was as usual %s with Spillway, and %s without it.", with.recoveryText(), without.recoveryText()))
	case with != nil || without != nil:
		run := r.Runs[0]
		a := run.attacked()
		how := map[string]string{Protected: "With Spillway", Unprotected: "Without Spillway"}[run.Name]
		r.Result = append(r.Result, fmt.Sprintf("%s, %s of 100 announces were answered in time under an attack of %.0f times the usual traffic.", how, ofHundred(&a), r.Attack))
		if g := run.find(gone); g != nil && g.Failed > 0 {
			r.Result = append(r.Result, fmt.Sprintf("With the backend gone, half of the clients were told within %s.", duration(g.FailP50)))
		}
		r.Result = append(r.Result, fmt.Sprintf("After its return, service was as usual %s.", run.recoveryText()))
	}
	if r.Unsteered {
		r.Warnings = append(r.Warnings, "not root: the relay has no core for itself, so what it costs is not measured; sudo spillway drill")
	}
	for _, run := range r.Runs {
		if run.Behind > 0.02 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: the load generator was over 20 ms late with %.0f %% of its requests: this machine had not enough time for it, so less was offered in time than is said; a lower --rate or --attack may help",
				run.Name, 100*run.Behind))
		}
		if run.Foreign > 0.1 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: other programs had %.0f %% of the relay's core: run the drill on a quiet machine", run.Name, 100*run.Foreign))
		}
		if run.Local > 0 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: %d honest clients found no socket on this machine and are not counted: raise the limit of open files (ulimit -n), or lower --rate",
				run.Name, run.Local))
		}
		if run.Deaths > 0 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: the tracker died %d times beside the time that is played, of more than %d MiB of memory or by itself", run.Name, run.Deaths, r.BackendMemory>>20))
		}
	}
	if r.Cores < 4 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("this machine has %d cores: clients, attack, CDN and backend share what the relay leaves, so figures swing from run to run", r.Cores))
	}
}

func ofHundred(p *Phase) string {
	share := 100 * p.share(p.InTime)
	switch {
	case share > 0 && share < 1:
		return "less than 1"
	case share > 99 && share < 100:
		return "more than 99"
	}
	return fmt.Sprintf("%.0f", share)
}

func (r *Run) recoveryText() string {
	if r.Recovery < 0 {
		return "not before the drill ended"
	}
	if r.Recovery < 0.3 {
		return "at once"
	}
	return fmt.Sprintf("after %.1f s", r.Recovery)
}

// duration writes milliseconds for people.
func duration(ms float64) string {
	switch {
	case ms <= 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}

// machine says what the figures are of.
func machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	model := "unknown CPU"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		lines := bufio.NewScanner(bytes.NewReader(b))
		for lines.Scan() {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	memory := ""
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		memory = fmt.Sprintf(", %.0f GiB", float64(info.Totalram)*float64(info.Unit)/(1<<30))
	}
	return fmt.Sprintf("%d cores, %s%s, Linux %s", runtime.NumCPU(), model, memory, unix.ByteSliceToString(u.Release[:]))
}
