package console

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"spillway/internal/config"
	"spillway/relay/kernel"
	"spillway/relay/profile"
)

// ProfileState is in the data directory: what the kernel's settings were before the profile was applied.
const ProfileState = "relay-sysctl.json"

// ProfileOptions choose the kernel's settings a relay needs.
func ProfileOptions(cfg config.Relay, role profile.Role) profile.Options {
	return profile.Options{
		Role: role, FastFail: cfg.Profile == "fast-fail", Extra: cfg.ProfileExtra,
		IPv6: slices.ContainsFunc(cfg.Backends, func(b string) bool { return strings.HasPrefix(b, "[") }),
	}
}

// roleFlag says whose half of the profile is meant.
type roleFlag struct {
	Role string `default:"relay" enum:"relay,backend" help:"relay: this machine forwards. backend: connections end here."`
}

// host is where to look, and options what for.
func (f roleFlag) host(p *Program) (profileHost, profile.Options, error) {
	cfg, err := config.Load(p.Src)
	if err != nil {
		return profileHost{}, profile.Options{}, err
	}
	role, err := profile.ParseRole(f.Role, cfg.Relay.Mode)
	return thisHost(defaultFile(cfg.DataDir, systemdRelayDataDir, ProfileState)), ProfileOptions(cfg.Relay, role), err
}

type RelayCheck struct {
	roleFlag `embed:""`
}

// Help is shown by relay check --help.
func (RelayCheck) Help() string {
	return `Changes nothing and needs no right. On the machine of the tracker: spillway relay check --role backend.`
}

func (cmd *RelayCheck) Run(p *Program) error {
	host, options, err := cmd.host(p)
	if err != nil {
		return err
	}
	ok, err := relayCheck(p.Stdout, host, options, p.colour())
	if err == nil && !ok {
		return ExitCode(1)
	}
	return err
}

type RelayApply struct {
	roleFlag `embed:""`
}

func (cmd *RelayApply) Run(p *Program) error {
	host, options, err := cmd.host(p)
	if err != nil {
		return err
	}
	return relayApply(p.Stdout, host, options)
}

type RelayRevert struct{}

// Help is shown by relay revert --help.
func (RelayRevert) Help() string {
	return `Connections that are forwarded end with the table. It refuses while a relay runs: stop that first.`
}

func (RelayRevert) Run(p *Program) error {
	cfg, err := config.Load(p.Src)
	if err != nil {
		return err
	}
	err = kernel.Revert()
	if errors.Is(err, kernel.ErrRunning) {
		return fmt.Errorf("%w: stop it first, as by: systemctl stop spillway-relay", err)
	}
	if err == nil {
		_, err = fmt.Fprintln(p.Stdout, "nothing is forwarded any more: there is no table inet "+kernel.TableName)
	}
	return errors.Join(err, relayRevert(p.Stdout, thisHost(defaultFile(cfg.DataDir, systemdRelayDataDir, ProfileState))))
}

// profileHost is where relay check, apply and revert look and write.
type profileHost struct {
	sysctl    string // the kernel's settings
	root      string // files that the next boot reads
	stateFile string // values from before
}

// thisHost keeps the values from before in stateFile.
func thisHost(stateFile string) profileHost {
	return profileHost{sysctl: profile.ProcSys, root: "/", stateFile: stateFile}
}

// profileColumns is what the table of relay check is made to fit into.
const profileColumns = 100

// relayCheck prints the profile beside what the kernel has, and tells whether they agree.
func relayCheck(w io.Writer, h profileHost, o profile.Options, colour bool) (ok bool, err error) {
	keys := profile.Keys(h.sysctl, o)
	readings := profile.Read(h.sysctl, keys)
	s := &screen{width: profileColumns, colour: colour}
	for start := 0; start < len(readings); {
		end := start
		for end < len(readings) && readings[end].Block == readings[start].Block {
			end++
		}
		s.profileBlock(readings[start:end], o.Role)
		start = end
	}
	off := len(profile.Off(readings))
	s.line(func(l *line) {
		switch {
		case len(keys) == 0:
			l.add(plain, "nothing is wanted: relay.profile is none, and this host forwards nothing")
		case off > 0:
			l.addf(alarm, "%d of %d keys are not as wanted", off, len(keys))
			l.add(plain, "; to write them: sudo spillway relay apply")
		default:
			l.addf(green, "all %d keys are as wanted", len(keys))
		}
	})
	if o.FastFail {
		s.atBoot(profile.AtBoot(h.root, keys), o)
	}
	return off == 0, writeLines(w, s.lines)
}

// profileBlock adds a headline, a row for each key, and once each what there is to say about some of them.
func (s *screen) profileBlock(readings []profile.Reading, role profile.Role) {
	const mark, name, wanted, found = 5, 52, 16, 14
	headlines := map[profile.Block]string{
		profile.FastFail: "the ten lines", profile.Extra: "what they lack, relay.profile_extra", profile.Forwarding: "what forwarding takes",
	}
	block := readings[0].Block
	s.line(func(l *line) { l.addf(bold, "%s: %s (%s)", block, headlines[block], role) })
	s.line(func(l *line) {
		l.add(dim, left("", mark)+left("key", name)+left("wanted", wanted)+left("found", found)+"acts here")
	})
	var notes []string
	note := func(text string) int {
		for i, n := range notes {
			if n == text {
				return i + 1
			}
		}
		notes = append(notes, text)
		return len(notes)
	}
	for _, r := range readings {
		s.line(func(l *line) {
			if r.OK {
				l.add(green, left(" ok", mark))
			} else {
				l.add(alarm, left(" OFF", mark))
			}
			value := r.Found
			if value == "" {
				value = "-"
			}
			l.add(plain, left(r.Name, name)+left(r.Wanted(), wanted)+left(value, found))
			acts := "no"
			switch {
			case r.Acts && r.Effect == profile.IfTracked:
				acts = "maybe"
			case r.Acts:
				acts = "yes"
			}
			text := ""
			switch {
			case !r.OK && r.Problem != "":
				text = r.Problem
			case r.Effect != profile.Always:
				text = r.Why
			}
			if text != "" {
				acts += fmt.Sprintf(" (%d)", note(text))
			}
			l.add(plain, acts)
		})
	}
	for i, n := range notes {
		s.wrap(dim, left("", mark)+fmt.Sprintf("(%d) ", i+1), n)
	}
	s.lines = append(s.lines, "")
}

// wrap adds text in as many lines as it takes, the first behind before and the others below its text.
func (s *screen) wrap(st style, before, text string) {
	rest := strings.Fields(text)
	for first := true; first || len(rest) > 0; first = false {
		l := before
		for i := 0; len(rest) > 0 && (i == 0 || len(l)+1+len(rest[0]) <= s.width); i++ {
			if i > 0 {
				l += " "
			}
			l += rest[0]
			rest = rest[1:]
		}
		s.line(func(out *line) { out.add(st, l) })
		before = strings.Repeat(" ", len(before))
	}
}

// atBoot adds whether a reboot keeps the profile. That it does not is no difference: a relay applies it when it starts.
func (s *screen) atBoot(b profile.Boot, o profile.Options) {
	add := func(st style, text string) { s.wrap(st, "boot: ", text) }
	if b.Kept() && (b.Module || o.Role != profile.Kernel) {
		add(plain, "kept over a reboot by "+strings.Join(b.Files, ", "))
		return
	}
	unless := " unless spillway relay runs"
	if o.Role == profile.Backend {
		unless = ""
	}
	if n := len(b.Lost); n > 0 {
		what := b.Lost[0]
		if n > 1 {
			what = fmt.Sprintf("%s and %d more are", what, n-1)
		} else {
			what += " is"
		}
		files := "deploy/sysctl/99-tracker.conf"
		if o.Extra {
			files += " and 99-tracker-extra.conf"
		}
		add(yellow, fmt.Sprintf("not kept over a reboot%s: %s in no file of /etc/sysctl.d; install %s", unless, what, files))
	}
	for i, other := range b.Other {
		if i == 3 {
			add(yellow, fmt.Sprintf("and %d more", len(b.Other)-i))
			break
		}
		add(yellow, "not kept over a reboot"+unless+": "+other)
	}
	if !b.Module && (o.Role == profile.Kernel || b.NeedsModule) {
		add(yellow, "nf_conntrack is in no file of /etc/modules-load.d: at boot its keys are not there to be set, and nothing says so; "+
			"install deploy/modules-load.d/spillway.conf")
	}
}

// relayApply writes what differs, and prints a line for each key it has written.
func relayApply(w io.Writer, h profileHost, o profile.Options) error {
	keys := profile.Keys(h.sysctl, o)
	changed, problems := profile.Apply(h.sysctl, h.stateFile, keys)
	if len(changed)+len(problems) == 0 {
		_, err := fmt.Fprintf(w, "nothing to write: all %d keys are as wanted\n", len(keys))
		return err
	}
	return errors.Join(printChanges(w, changed), joinProblems(problems, "sudo spillway relay apply"))
}

// relayRevert puts back what relayApply found, and prints a line for each key.
func relayRevert(w io.Writer, h profileHost) error {
	restored, problems := profile.Revert(h.sysctl, h.stateFile)
	if len(restored)+len(problems) == 0 {
		_, err := fmt.Fprintln(w, "nothing to put back: no key is as spillway wrote it since the last boot")
		return err
	}
	return errors.Join(printChanges(w, restored), joinProblems(problems, "sudo spillway relay revert"))
}

func printChanges(w io.Writer, changes []profile.Change) error {
	for _, c := range changes {
		if _, err := fmt.Fprintf(w, "%s  %s -> %s\n", c.Name, c.Old, c.New); err != nil {
			return err
		}
	}
	return nil
}

// joinProblems says how to get the right to what was not permitted.
func joinProblems(problems []error, command string) error {
	var errs []error
	for _, err := range problems {
		if errors.Is(err, profile.ErrRight) {
			err = fmt.Errorf("%w: %s", err, command)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
