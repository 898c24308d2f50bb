package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Trial is one contender, one fault, one crowd. The zero value of a field means its default.
type Trial struct {
	Contender Contender
	Program   string   // the spillway that is the backend
	Flags     []string // more of them for it
	Fault     Fault    // empty: none
	V6        bool
	Lab       Config

	Usual, Busy float64       // new connections a second before and after the rush begins; 2,500 and 5,000
	Kept        int           // established connections, which ask every two seconds; 500
	UsualFor    time.Duration // 2 s
	BusyFor     time.Duration // until the fault; 2 s
	FaultFor    time.Duration // 4 s
	AfterFor    time.Duration // 3 s
	Hold        time.Duration // of the load
	Syn         float64       // SYNs a second, of nobody, in the fault
	Tries       int           // of the load
	MaxOpen     int           // of the load
	AtOnce      int           // of the load
	Alone       bool          // nobody asks the relay's own port: to answer that is no part of relaying

	// Front starts what stands between the crowd and the relay, and says where the crowd connects to. May be nil.
	Front func(l *Lab, dir string) (netip.AddrPort, error)

	// Mending is called when the fault has lasted, before it is mended. May be nil.
	Mending func(*Running) error
}

// Report is what a trial found out.
type Report struct {
	Timeline *Timeline `json:"timeline"`
	Tally    *Tally    `json:"-"`

	Name      string        `json:"name"`
	Fault     Fault         `json:"fault"`
	Began     time.Duration `json:"began"`    // of the fault
	Mended    time.Duration `json:"mended"`   // 0: none
	Length    time.Duration `json:"length"`   //
	Failed    int           `json:"failed"`   // attempts that began in the fault
	FailP50   time.Duration `json:"fail_p50"` // of those
	FailP99   time.Duration `json:"fail_p99"`
	FailWorst time.Duration `json:"fail_worst"`

	PeakConntrack int `json:"peak_conntrack"` // from the fault's beginning to its end
	PeakHalfOpen  int `json:"peak_half_open"`
	InsertFailed  int `json:"insert_failed"`

	// The relay's core.
	CPUIdle    Use `json:"cpu_idle"`    // before there was a load
	CPUHealthy Use `json:"cpu_healthy"` // in the rush
	CPUFault   Use `json:"cpu_fault"`   // in the fault, from half a second after it came
	CPURefuse  Use `json:"cpu_refuse"`  // in its second half

	FirstOK  time.Duration `json:"first_ok"`  // after it was mended; 0: none
	Goodput  float64       `json:"goodput"`   // successes from a second after that on, for each new client
	Healthy  float64       `json:"healthy"`   // the same before the fault
	Behind   int           `json:"behind"`    // attempts the crowd was late with
	Stolen   float64       `json:"stolen"`    // share of the time in which the host ran something else on a core of the lab; of the worst core
	Kept     int           `json:"kept"`      // established connections that lived when the fault came
	KeptLeft int           `json:"kept_left"` // that lived at the fault's end
	KeptLast time.Duration `json:"kept_last"` // when the last of the others ended, after the fault came

	Probes []Probes `json:"probes"`
}

const (
	quietFor   = time.Second            // the core is looked at before a load; a relay opens its budget in steps meanwhile
	settleFor  = 500 * time.Millisecond // after a fault came, until the cost of refusing is what it is
	goodWithin = time.Second
)

func (t *Trial) complete() {
	def := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	def(&t.UsualFor, 2*time.Second)
	def(&t.BusyFor, 2*time.Second)
	def(&t.FaultFor, 4*time.Second)
	def(&t.AfterFor, 3*time.Second)
	if t.Usual == 0 {
		t.Usual = 2500
	}
	if t.Busy == 0 {
		t.Busy = 2 * t.Usual
	}
	if t.Kept == 0 {
		t.Kept = 500
	}
}

// Run makes a lab, has the trial in it, and takes it down.
func (t Trial) Run() (r *Report, err error) {
	t.complete()
	l, err := New(t.Lab)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	dir, err := tempDir()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	tracker, err := l.NewTracker(t.Program, dir, t.Flags...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tracker.Stop()) }()
	relay, err := l.Start(t.Contender, dir)
	if err != nil {
		return nil, err
	}
	defer relay.Stop()
	target := Public(t.V6)
	if t.Front != nil {
		if target, err = t.Front(l, dir); err != nil {
			return nil, err
		}
	}
	r, err = t.run(l, tracker, relay, target)
	if err != nil && relay.Process != nil {
		err = fmt.Errorf("%w\n%s said: %s", err, t.Contender.Name, relay.Process.Log())
	}
	return r, err
}

// run is the trial itself: usual, rush, fault, after.
func (t *Trial) run(l *Lab, tracker *Tracker, relay *Running, target netip.AddrPort) (*Report, error) {
	r := &Report{Name: t.Contender.Name, Fault: t.Fault}
	before, err := readCore(l.Cores.Relay)
	if err != nil {
		return nil, err
	}
	time.Sleep(quietFor)
	after, err := readCore(l.Cores.Relay)
	if err != nil {
		return nil, err
	}
	r.CPUIdle = after.useSince(before, 0)
	failedBefore, err := l.InsertFailed()
	if err != nil {
		return nil, err
	}

	load := &Load{Target: target, Rate: t.Usual, Kept: max(t.Kept, 0), KeptAsk: 2 * time.Second, Hold: t.Hold, Tries: t.Tries, MaxOpen: t.MaxOpen, AtOnce: t.AtOnce}
	if err := l.Load(load); err != nil {
		return nil, err
	}
	stolen, err := readCores(l.Cores)
	if err != nil {
		return nil, err
	}
	watch := l.Watch(relay, t.Alone)
	time.Sleep(t.UsualFor)
	load.SetRate(t.Busy)
	time.Sleep(t.BusyFor)
	if t.Fault != "" {
		r.Began = load.Since()
		if err = tracker.Break(t.Fault); err == nil {
			err = t.suffer(l, relay)
		}
		err = errors.Join(err, tracker.Mend())
		r.Mended = load.Since()
	}
	time.Sleep(t.AfterFor)
	r.Length = load.Since()
	samples, probes, watchErr := watch.Stop()
	now, coresErr := readCores(l.Cores)
	tally, loadErr := load.Stop(time.Second)
	if err = errors.Join(err, watchErr, coresErr, loadErr); err != nil {
		return nil, err
	}
	r.Stolen = now.stolenSince(stolen)
	failedAfter, err := l.InsertFailed()
	if err != nil {
		return nil, err
	}
	r.Tally, r.Probes, r.InsertFailed = tally, probes, failedAfter-failedBefore
	r.judge(t, samples)
	return r, nil
}

// suffer is the time of the fault.
func (t *Trial) suffer(l *Lab, relay *Running) error {
	var flood *SynFlood
	if t.Syn > 0 {
		flood = &SynFlood{Target: Public(false), Rate: t.Syn, Spoofed: true}
		if err := l.SynFlood(flood); err != nil {
			return err
		}
	}
	time.Sleep(t.FaultFor)
	var err error
	if flood != nil {
		_, err = flood.Stop()
	}
	if t.Mending != nil {
		err = errors.Join(err, t.Mending(relay))
	}
	return err
}

// judge works out the figures.
func (r *Report) judge(t *Trial, samples Samples) {
	a, start := r.Tally.Attempts, r.Tally.Start
	at := func(d time.Duration) time.Time { return start.Add(d) }
	r.Timeline = newTimeline(r.Tally, samples, r.Length)
	r.Timeline.Name, r.Timeline.Fault, r.Timeline.Mended = r.Name, r.Began, r.Mended
	r.Behind, r.Kept = r.Tally.Behind, r.Tally.Kept

	end := r.Began
	if t.Fault == "" {
		end = r.Length
	}
	r.Healthy = a.Goodput(0, end)
	r.CPUHealthy = samples.Use(at(t.UsualFor), at(end))
	if t.Fault == "" {
		r.PeakConntrack, r.PeakHalfOpen = samples.Peak(start, at(end))
		return
	}
	failed := a.Between(r.Began, r.Mended).Failed()
	r.Failed, r.FailP50, r.FailP99, r.FailWorst = len(failed), failed.Quantile(0.5), failed.Quantile(0.99), failed.Quantile(1)
	r.PeakConntrack, r.PeakHalfOpen = samples.Peak(at(r.Began), at(r.Mended))
	r.CPUFault = samples.Use(at(r.Began+settleFor), at(r.Mended))
	r.CPURefuse = samples.Use(at((r.Began+r.Mended)/2), at(r.Mended))
	r.FirstOK, _ = a.Between(r.Mended, r.Length).FirstOK(r.Mended)
	r.Goodput = a.Goodput(r.Mended+goodWithin, r.Length)
	r.KeptLeft = r.Kept
	for _, e := range r.Tally.Ends {
		switch {
		case e.At < r.Began: // ended for another reason, and is nothing to the fault
			r.Kept--
			r.KeptLeft--
		case e.At < r.Mended:
			r.KeptLeft--
			r.KeptLast = max(r.KeptLast, e.At-r.Began)
		}
	}
}

// Print writes the report for people.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	name := r.Name
	if r.Fault != "" {
		name += ", " + string(r.Fault) + ": " + r.Fault.Text()
	}
	fmt.Fprintf(&b, "%s\n  before the fault: %.1f %% ok, core %s (%s with no load), crowd late with %d, and %.0f %% of a core; %.1f %% of a core stolen\n", name,
		100*r.Healthy, r.CPUHealthy, r.CPUIdle, r.Behind, 100*r.Tally.CPU.Seconds()/r.Length.Seconds(), 100*r.Stolen)
	if r.Fault != "" {
		fmt.Fprintf(&b, "  fault: %d failed, p50 %.2f ms, p99 %.1f ms, worst %.0f ms; core %s, in its second half %s\n", r.Failed, ms(r.FailP50), ms(r.FailP99),
			ms(r.FailWorst), r.CPUFault, r.CPURefuse)
		fmt.Fprintf(&b, "  in fault: %s\n", r.Tally.Attempts.Between(r.Began, r.Mended))
		fmt.Fprintf(&b, "  established: %d, left %d, last ended after %.0f ms\n", r.Kept, r.KeptLeft, ms(r.KeptLast))
		fmt.Fprintf(&b, "  mended: first ok after %.1f ms, goodput after 1 s %.1f %%\n", ms(r.FirstOK), 100*r.Goodput)
	}
	fmt.Fprintf(&b, "  peak conntrack %d, half-open %d; insert_failed %d\n", r.PeakConntrack, r.PeakHalfOpen, r.InsertFailed)
	for _, p := range r.Probes {
		fmt.Fprintf(&b, "  probes from %s: %d of %d failed, worst %.1f ms", p.From, p.Failed, p.N, ms(p.Worst))
		if p.Err != nil {
			fmt.Fprintf(&b, " (%v)", p.Err)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// InsertFailed counts the connections that the relay's kernel could not track, for want of a port for instance.
func (l *Lab) InsertFailed() (n int, err error) {
	err = l.Relay.Do(func() error {
		c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return fmt.Errorf("open ctnetlink: %w", err)
		}
		defer c.Close()
		answers, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: ctGetStats, Flags: netlink.Request | netlink.Dump}, Data: []byte{unix.AF_UNSPEC, 0, 0, 0},
		})
		if err != nil {
			return fmt.Errorf("read conntrack's counters: %w", err)
		}
		for _, m := range answers { // one for each core
			if len(m.Data) < 4 {
				continue
			}
			if v := attribute(m.Data[4:], ctaStatsInsertFailed); len(v) == 4 {
				n += int(binary.BigEndian.Uint32(v))
			}
		}
		return nil
	})
	return n, err
}

func (u Use) String() string {
	if u.Foreign < 0.01 {
		return fmt.Sprintf("%.0f %%", 100*u.Relay)
	}
	return fmt.Sprintf("%.0f %% beside %.0f %% of others", 100*u.Relay, 100*u.Foreign)
}

// coreClocks is of all cores that the lab uses.
type coreClocks []coreClock

func readCores(c Cores) (all coreClocks, err error) {
	for _, core := range []int{c.Relay, c.Edge, c.Backend} {
		clock, err := readCore(core)
		if err != nil {
			return nil, err
		}
		all = append(all, clock)
	}
	return all, nil
}

// stolenSince is the largest share of the time since that the host took of a core.
func (all coreClocks) stolenSince(before coreClocks) (most float64) {
	for i, c := range all {
		most = max(most, (c.lost-before[i].lost).Seconds()/max(c.at.Sub(before[i].at).Seconds(), 0.001))
	}
	return most
}

// tempDir is for programs' files.
func tempDir() (string, error) {
	dir, err := os.MkdirTemp("", "spillway-lab-*-trial")
	if err == nil {
		err = os.Chmod(dir, 0o755) // some drop to another user
	}
	return dir, err
}
