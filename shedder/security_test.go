package shedder

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
)

// A link where the temporary file goes must not have the switches written over what it points to.
func TestStateIsNotWrittenThroughALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "switches.json"), filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := openSwitches(t, path)
	for i, link := range []func() error{
		func() error { return os.Symlink(victim, path+".tmp") },
		func() error { return os.Symlink(victim, path+".last.tmp") },
		func() error { return os.Link(victim, path+".tmp") },
		func() error { return syscall.Mkfifo(path+".tmp", 0o666) }, // would hang
		func() error { return errors.Join(os.Remove(path), os.Symlink(victim, path)) },
	} {
		if err := link(); err != nil {
			t.Fatal(err)
		}
		mode := []Mode{Off, On}[i%2]
		if _, err := s.Set(WS, mode, 0, "", "api"); err != nil {
			t.Errorf("set: %v", err)
		}
		if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
			t.Fatalf("the file behind the link: got %q, %v", got, err)
		}
		for _, file := range []string{path, path + ".last"} {
			if info, err := os.Lstat(file); err != nil || info.Mode() != 0o600 {
				t.Errorf("%s: got mode %v, %v; want a file of 0600", file, info.Mode(), err)
			}
		}
		if got := openSwitches(t, path); got.Mode(WS) != mode {
			t.Errorf("kept: got %v, want %v", got.Mode(WS), mode)
		}
	}
}

// What is no file is damage: the copy is taken, and the start does not hang.
func TestStateThatIsNoFile(t *testing.T) {
	t.Parallel()
	for what, make := range map[string]func(path string) error{
		"fifo":   func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"device": func(path string) error { return os.Symlink("/dev/zero", path) },
	} {
		path := filepath.Join(t.TempDir(), "switches.json")
		s := openSwitches(t, path)
		if _, err := s.Set(UDP, Off, 0, "", "api"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(path), make(path)); err != nil {
			t.Fatal(err)
		}
		opened := goOpen(path)
		select {
		case got := <-opened:
			if got.Mode(UDP) != Off || got.Mode(WS) != On {
				t.Errorf("%s: got %+v, want what the copy says", what, got.All())
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: opening hangs", what)
		}
	}
}

func goOpen(path string) <-chan *Switches {
	opened := make(chan *Switches, 1)
	go func() { s, _ := OpenSwitches(path); opened <- s }()
	return opened
}

// What a file says is shown to people, in a log, on a page, on a terminal: it cannot break a line or colour one.
func TestTextOfAFileIsPrintable(t *testing.T) {
	t.Parallel()
	hostile := `"a\u001b[31mred\nlevel=ERROR msg=forged\u202e\u009bK` + strings.Repeat("x", 3*MaxReasonBytes) + `"`
	path := filepath.Join(t.TempDir(), "switches.json")
	if err := os.WriteFile(path, []byte(`{"switches":{"ws":{"mode":"off","reason":`+hostile+`,"by":`+hostile+`}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	state := openSwitches(t, path).State(WS)
	rules := filepath.Join(t.TempDir(), "rules.json")
	if err := os.WriteFile(rules, []byte(`{"rules":[{"kind":"user-agent","value":"evil","reason":`+hostile+`,"by":`+hostile+`}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, problem := OpenRules(rules)
	if problem != nil || len(r.List()) != 1 {
		t.Fatalf("rules: got %+v, %v", r.List(), problem)
	}
	rule := r.List()[0]
	for _, text := range []string{state.Reason, rule.Reason, state.By, rule.By} {
		if text == "" || len(text) > MaxReasonBytes || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("got %q, want it short and printable", text)
		}
	}
}

// A source is known by a keyed hash: nobody can choose addresses that share a victim's budget.
func TestSourcesThatShareABudgetElsewhereDoNotHere(t *testing.T) {
	t.Parallel()
	var here, elsewhere sources
	here.init(Budget{Rate: 1, Burst: 1}, Budget{})
	elsewhere.init(Budget{Rate: 1, Burst: 1}, Budget{})
	victim := addrOf(0)
	shared := 0
	crafted := 0
	for i := 1; i < 4_000_000 && crafted < 8; i++ {
		if a := addrOf(i); elsewhere.key(a).host%sourceCells == elsewhere.key(victim).host%sourceCells {
			crafted++
			if here.key(a).host%sourceCells == here.key(victim).host%sourceCells {
				shared++
			}
		}
	}
	if crafted == 0 || shared == crafted {
		t.Errorf("of %d addresses that share the victim's budget elsewhere %d do here", crafted, shared)
	}
}

// addrOf is the i-th of 16 million addresses.
func addrOf(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}
