// Package drill plays the incident this program was written for, on one machine, twice: with a bare DNAT rule and a tracker that
// serves whoever comes, and with the relay and the shedder. The same clients, the same attack, the same operator. In order:
//
//	Play           both runs, one after the other, and the report (drill.go)
//	measure        what this machine's backend can serve, which sets the rates (stage.go)
//	play           one run: calm, attack, ws off, gone, back, calm (story.go)
//	clientele      who comes: their requests, and when they try again (clients.go)
//	judge          what became of it, phase by phase and over time (judge.go)
//	Report         as a table, JSON or a page (report.go, page.go)
//
// All of it happens in network namespaces of internal/lab, which go with this process however that ends.
package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"spillway/internal/lab"
	"spillway/internal/sys"
)

// Config is a drill. The zero value of a field means its default.
type Config struct {
	Program string  // the spillway that is drilled
	Quick   bool    // in a minute and a half; else in about five
	Rate    float64 // announces a second of honest clients, as usual; a quarter of what the backend serves
	Attack  float64 // of that rate; 6
	Only    string  // Unprotected or Protected; both
	Keep    bool    // what the programs wrote stays in a directory, which the report names

	Progress func(Progress) // called each second while clients come, and when a phase begins; may be nil
	Note     func(string)   // of what is done meanwhile; may be nil
}

// The runs.
const (
	Unprotected = "unprotected"
	Protected   = "protected"
)

// Progress is the last second.
type Progress struct {
	Run   string
	Phase string // what is going on
	Text  string // of the phase; not empty when it begins
	At    time.Duration
	Of    time.Duration

	Offered, Served, Shed, Failed float64 // honest announces a second; served however late
	RelayCPU                      float64 // share of the relay's core
	Sockets                       int     // WebSockets that honest peers have open
}

// What the backend is: a small machine.
const (
	backendShare  = 0.12      // of a core
	backendMemory = 256 << 20 // bytes
)

const (
	shareOfPeak   = 0.25
	usualMultiple = 6
	leastRate     = 50
	mostRate      = 500
	mostAttack    = 20_000 // requests a second
	inTime        = 200 * time.Millisecond
)

// check fills in what is not said.
func (c *Config) check() error {
	if c.Attack == 0 {
		c.Attack = usualMultiple
	}
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	if c.Note == nil {
		c.Note = func(string) {}
	}
	switch {
	case c.Rate != 0 && (c.Rate < leastRate || c.Rate > 10*mostRate):
		return fmt.Errorf("drill: --rate=%g: must be from %d to %d announces a second", c.Rate, leastRate, 10*mostRate)
	case c.Attack < 1 || c.Attack > 100:
		return fmt.Errorf("drill: --attack=%g: must be from 1 to 100 times the rate of honest clients", c.Attack)
	case c.Only != "" && c.Only != Unprotected && c.Only != Protected:
		return fmt.Errorf("drill: --only=%s: must be %s or %s", c.Only, Unprotected, Protected)
	}
	return nil
}

// Play plays the incident, and reports. When ctx ends it leaves nothing behind and returns the cause.
func Play(ctx context.Context, c Config) (*Report, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	// Threads of the lab hold their processors for milliseconds; there must be one for each.
	before := runtime.GOMAXPROCS(max(runtime.NumCPU(), 12))
	defer runtime.GOMAXPROCS(before)
	lab.Hasten()
	dir, err := os.MkdirTemp("", "spillway-drill-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if !c.Keep {
		defer os.RemoveAll(dir)
	}
	d := &drill{Config: c, dir: dir, plan: fullPlan, squeeze: fullSqueeze}
	if c.Quick {
		d.plan, d.squeeze = quickPlan, quickSqueeze
	}
	r := &Report{Started: time.Now().UTC(), Machine: sys.Machine(), Cores: runtime.NumCPU(), Quick: c.Quick, Squeeze: d.squeeze, Attack: c.Attack,
		BackendShare: backendShare, BackendMemory: backendMemory, CDN: lab.MissingFront() == nil}
	if !r.CDN {
		r.Warnings = append(r.Warnings, "nginx is not installed, so there is no CDN in front: clients connect to the relay themselves (apt-get install nginx-light)")
	}
	if c.Keep {
		r.Kept = dir
	}
	if d.rate = c.Rate; d.rate == 0 {
		c.Note("measuring what this machine's backend serves, 4 s")
		if r.Peak, err = d.measure(ctx); err != nil {
			return nil, fmt.Errorf("drill: measure: %w", err)
		}
		d.rate = min(max(shareOfPeak*r.Peak, leastRate), mostRate)
	}
	d.attack = min(d.rate*c.Attack, mostAttack)
	r.Rate, r.AttackRate = d.rate, d.attack
	for _, name := range []string{Unprotected, Protected} {
		if c.Only != "" && c.Only != name {
			continue
		}
		run, err := d.play(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("drill: %s: %w", name, err)
		}
		r.Runs = append(r.Runs, run)
	}
	r.Unsteered = d.unsteered
	r.Seconds = time.Since(r.Started).Seconds()
	r.conclude()
	return r, nil
}

// drill is one under way.
type drill struct {
	Config
	dir     string
	plan    []phase
	squeeze float64 // of clients' times
	rate    float64
	attack  float64

	unsteered bool // Report.Unsteered
}

// wait sleeps, unless ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// ErrNotAllowed tells that the kernel does not let this process make network namespaces.
var ErrNotAllowed = errors.New("drill: network namespaces need root, or user namespaces for everybody; run it as: sudo spillway drill")
