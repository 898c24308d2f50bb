//go:build linux

package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// spread is what some rounds found.
type spread struct {
	Least  float64 `json:"least"`
	Median float64 `json:"median"` // of an even number, between the middle two
	Most   float64 `json:"most"`
}

func spreadOf(all []float64) (s spread) {
	if len(all) == 0 {
		return s
	}
	all = slices.Sorted(slices.Values(all))
	n := len(all)
	return spread{all[0], (all[(n-1)/2] + all[n/2]) / 2, all[n-1]}
}

// render is the median, and the least and most where there are any.
func (s spread) render(format func(float64) string) string {
	if s.Least == s.Most {
		return format(s.Median)
	}
	return fmt.Sprintf("%s (%s to %s)", format(s.Median), format(s.Least), format(s.Most))
}

// peerSpeed is announces a core second.
type peerSpeed struct {
	Protocol      protocol `json:"protocol"`
	Peer          string   `json:"peer"`
	Rounds        int      `json:"rounds"`
	PerCoreSecond spread   `json:"announces_a_core_second"`
	Ratio         spread   `json:"cpu_over_spillway"`   // of an announce, of each round
	Sleeps        float64  `json:"sleeps_per_announce"` // near zero: it was saturated
}

// peerMemory is resident memory.
type peerMemory struct {
	Protocol  protocol `json:"protocol"`
	Peer      string   `json:"peer"`
	What      string   `json:"what"` // peer or socket
	Count     int      `json:"count"`
	Resident  int64    `json:"resident_bytes"`
	BytesEach float64  `json:"bytes_each"` // less the empty process
}

// peerFlood is what is served when more is asked for.
type peerFlood struct {
	Protocol  protocol `json:"protocol"`
	Peer      string   `json:"peer"`
	Rounds    int      `json:"rounds"`
	Peak      spread   `json:"peak"` // a second, with a core for itself; over HTTP the generator's as much as the tracker's
	HalfP99   spread   `json:"p99_ms_at_half"`
	SmallPeak spread   `json:"peak_of_a_tenth"`
	Twice     spread   `json:"in_time_at_2x"` // over the peak of a tenth
	Ten       spread   `json:"in_time_at_10x"`
	Behind    float64  `json:"generator_behind_at_10x"` // share of requests that left late
}

// peersTable collects what a run finds out; each part is on disk as soon as it is known.
var peersTable peerResults

type peerResults struct {
	mu       sync.Mutex        // guards the rest
	Machine  string            `json:"machine"`
	Started  time.Time         `json:"started"`
	Versions map[string]string `json:"versions"`
	Speed    []peerSpeed       `json:"speed"`
	Memory   []peerMemory      `json:"memory"`
	Floods   []peerFlood       `json:"floods"`
}

// say is progress: minutes of silence look like a hang.
func (t *peerResults) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Started.IsZero() {
		t.Started = time.Now().UTC().Truncate(time.Second)
	}
	fmt.Printf("%4.0f s  %s\n", time.Since(t.Started).Seconds(), fmt.Sprintf(format, args...))
}

func (t *peerResults) version(name, version string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Versions == nil {
		t.Versions = map[string]string{}
	}
	t.Versions[name] = version
}

// The rows of an earlier iteration give way.
func (t *peerResults) addSpeed(r peerSpeed) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Speed = append(slices.DeleteFunc(t.Speed, func(o peerSpeed) bool { return o.Protocol == r.Protocol && o.Peer == r.Peer }), r)
}

func (t *peerResults) addMemory(r peerMemory) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Memory = append(slices.DeleteFunc(t.Memory, func(o peerMemory) bool {
		return o.Protocol == r.Protocol && o.Peer == r.Peer && o.Count == r.Count
	}), r)
}

func (t *peerResults) addFlood(r peerFlood) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Floods = append(slices.DeleteFunc(t.Floods, func(o peerFlood) bool { return o.Protocol == r.Protocol && o.Peer == r.Peer }), r)
}

func (t *peerResults) write(tb testing.TB) {
	tb.Helper()
	text := t.markdown()
	t.mu.Lock()
	t.Machine = machine()
	data, err := json.MarshalIndent(t, "", "\t")
	t.mu.Unlock()
	if err == nil {
		err = os.MkdirAll(*peersOut, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(*peersOut, "peers.json"), append(data, '\n'), 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(*peersOut, "peers.md"), []byte(text), 0o644)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// markdown is the three tables, for docs/benchmarks.md.
func (t *peerResults) markdown() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	var versions []string
	for name, v := range t.Versions {
		versions = append(versions, name+" "+v)
	}
	slices.Sort(versions)
	fmt.Fprintf(&b, "%s; %s. %s.\n", t.Started.Format("2006-01-02 15:04 UTC"), machine(), strings.Join(versions, "; "))
	if len(t.Speed) > 0 {
		b.WriteString("\n| announces | tracker | a core second | CPU of an announce over spillway's |\n|---|---|---|---|\n")
		for _, r := range t.Speed {
			note := ""
			if r.Sleeps > 0.3 {
				note = fmt.Sprintf("; it slept %.1f times an announce", r.Sleeps)
			}
			fmt.Fprintf(&b, "| %s | %s | %s%s | %s |\n", r.Protocol, r.Peer, r.PerCoreSecond.render(thousands), note, r.Ratio.render(decimals(2)))
		}
	}
	if len(t.Memory) > 0 {
		b.WriteString("\n| memory | tracker | resident | bytes each, less the empty process |\n|---|---|---|---|\n")
		rows := slices.Clone(t.Memory)
		slices.SortStableFunc(rows, func(x, y peerMemory) int {
			return cmp.Or(cmp.Compare(x.What, y.What), cmp.Compare(x.Count, y.Count), cmp.Compare(x.BytesEach, y.BytesEach))
		})
		for _, r := range rows {
			fmt.Fprintf(&b, "| %s %ss | %s | %.1f MiB | %s |\n", thousands(float64(r.Count)), r.What, r.Peer, float64(r.Resident)/(1<<20), thousands(r.BytesEach))
		}
	}
	if len(t.Floods) > 0 {
		b.WriteString("\n| flood | tracker | peak a second | p99 at half of it, ms | peak of a tenth of a core | in time at 2x, of that | in time at 10x | generator behind at 10x |\n|---|---|---|---|---|---|---|---|\n")
		for _, r := range t.Floods {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %.0f %% |\n", r.Protocol, r.Peer, thousands(r.Peak.Median), r.HalfP99.render(decimals(1)),
				thousands(r.SmallPeak.Median), r.Twice.render(decimals(2)), r.Ten.render(decimals(2)), 100*r.Behind)
		}
	}
	return b.String()
}

func decimals(n int) func(float64) string {
	return func(x float64) string { return fmt.Sprintf("%.*f", n, x) }
}

// thousands writes 1234567 as 1,234,567.
func thousands(x float64) string {
	s := fmt.Sprintf("%.0f", x)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func TestSpread(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   []float64
		want spread
		text string
	}{
		{nil, spread{}, "0.0"},
		{[]float64{3}, spread{3, 3, 3}, "3.0"},
		{[]float64{5, 1}, spread{1, 3, 5}, "3.0 (1.0 to 5.0)"},
		{[]float64{9, 1, 2}, spread{1, 2, 9}, "2.0 (1.0 to 9.0)"},
	} {
		if got := spreadOf(c.in); got != c.want || got.render(decimals(1)) != c.text {
			t.Errorf("%v: got %v, %q", c.in, got, got.render(decimals(1)))
		}
	}
	for x, want := range map[float64]string{0: "0", 12: "12", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := thousands(x); got != want {
			t.Errorf("thousands(%g): got %q, want %q", x, got, want)
		}
	}
}

func TestPeersTable(t *testing.T) {
	t.Parallel()
	var r peerResults
	r.version("other", "1.2")
	r.addSpeed(peerSpeed{Protocol: overUDP, Peer: "other", PerCoreSecond: spread{1000, 2000, 3000}, Ratio: spread{1, 2, 3}, Sleeps: 0.5})
	r.addSpeed(peerSpeed{Protocol: overUDP, Peer: "other", PerCoreSecond: spread{1, 4000, 5}, Ratio: spread{2, 2, 2}})
	r.addMemory(peerMemory{Protocol: overUDP, Peer: "other", What: "peer", Count: 100_000, Resident: 3 << 20, BytesEach: 31.4})
	r.addFlood(peerFlood{Protocol: overUDP, Peer: "other", Peak: spread{Median: 50_000}, Twice: spread{0.5, 0.5, 0.5}, Behind: 0.25})
	got := r.markdown()
	for _, want := range []string{
		"other 1.2.\n", "| UDP | other | 4,000 (1 to 5) | 2.00 |\n", "| 100,000 peers | other | 3.0 MiB | 31 |\n",
		"| UDP | other | 50,000 | 0.0 | 0 | 0.50 | 0.00 | 25 % |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table should have %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "2,000") {
		t.Errorf("an earlier row should give way:\n%s", got)
	}
}

func TestAquaticConfig(t *testing.T) {
	t.Parallel()
	defaults := "# address = none\n[network]\nuse_ipv6 = true\naddress_ipv4 = \"0.0.0.0:3000\"\naddress_ipv6 = \"[::]:3000\"\nkeep_alive = true\n"
	want := "# address = none\n[network]\nuse_ipv6 = false\naddress_ipv4 = \"127.0.0.1:7\"\naddress_ipv6 = \"[::]:3000\"\nkeep_alive = false\n"
	if got := string(aquaticConfig([]byte(defaults), netip.MustParseAddrPort("127.0.0.1:7"), false)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	notes := "[v1]\n\"aquatic_udp 0.9.0 (registry+x)\" = [\"aquatic_udp\"]\n"
	if got := crateVersion(notes, "aquatic_udp"); got != "0.9.0" {
		t.Errorf("version: got %q", got)
	}
	if got := crateVersion(notes, "aquatic_ws"); got != "of unknown version" {
		t.Errorf("version of what is not noted: got %q", got)
	}
}
