package shedder

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func openRules(t testing.TB, path string) *Rules {
	t.Helper()
	r, problem := OpenRules(path)
	if problem != nil {
		t.Fatalf("open rules: %v", problem)
	}
	return r
}

func addRule(t testing.TB, r *Rules, kind RuleKind, value string) {
	t.Helper()
	if _, err := r.Add(kind, value, 0, "", "test"); err != nil {
		t.Fatal(err)
	}
}

func TestValuesOfRules(t *testing.T) {
	t.Parallel()
	f := func(kind RuleKind, value, want string) {
		t.Helper()
		got, err := canonicalRule(kind, value)
		if err != nil || got != want {
			t.Errorf("%v %q: got %q, %v, want %q", kind, value, got, err, want)
		}
		if again, err := canonicalRule(kind, got); err != nil || again != got {
			t.Errorf("%v %q: is not canonical: %q, %v", kind, got, again, err)
		}
	}
	bad := func(kind RuleKind, value, wantInError string) {
		t.Helper()
		got, err := canonicalRule(kind, value)
		if err == nil || !strings.Contains(err.Error(), wantInError) || len(err.Error()) > 400 {
			t.Errorf("%v %q: got %q, %v, want an error with %q", kind, value, got, err, wantInError)
		}
	}
	infoHash := "0123456789abcdef0123456789abcdef01234567"
	f(RuleInfoHash, infoHash, infoHash)
	f(RuleInfoHash, strings.ToUpper(infoHash), infoHash)
	bad(RuleInfoHash, infoHash[1:], "40 hex digits")
	bad(RuleInfoHash, infoHash+"0", "40 hex digits")
	bad(RuleInfoHash, "x"+infoHash[1:], "40 hex digits")
	bad(RuleInfoHash, "", "40 hex digits")
	bad(RuleInfoHash, strings.Repeat("x", 100000), "40 hex digits")

	f(RulePeerID, "-XL0019", "-XL0019")
	f(RulePeerID, "random", "random")
	f(RulePeerID, "%00%02bs", "%00%02bs")
	f(RulePeerID, "%2dXL%30", "-XL0")
	f(RulePeerID, "5%", "5%25")
	f(RulePeerID, "\x00ü", "%00%C3%BC")
	f(RulePeerID, strings.Repeat("%ff", 20), strings.Repeat("%FF", 20))
	bad(RulePeerID, "", "1 to 20 bytes")
	bad(RulePeerID, strings.Repeat("x", 21), "1 to 20 bytes")
	bad(RulePeerID, strings.Repeat("%ff", 21), "1 to 20 bytes")

	f(RuleUserAgent, "Mozilla/5.0 (", "Mozilla/5.0 (")
	f(RuleUserAgent, "random", "random")
	bad(RuleUserAgent, "", "1 to 128 bytes")
	bad(RuleUserAgent, strings.Repeat("x", 129), "1 to 128 bytes")

	f(RuleSource, "192.0.2.1", "192.0.2.1")
	f(RuleSource, "192.0.2.1/32", "192.0.2.1")
	f(RuleSource, "192.0.2.77/24", "192.0.2.0/24")
	f(RuleSource, "10.9.8.7/8", "10.0.0.0/8")
	f(RuleSource, "::ffff:192.0.2.1", "192.0.2.1")
	f(RuleSource, "::ffff:192.0.2.1/120", "192.0.2.0/24")
	f(RuleSource, "2001:DB8::1", "2001:db8::1")
	f(RuleSource, "2001:db8:1:2:3::/64", "2001:db8:1:2::/64")
	f(RuleSource, "2001:db8::/16", "2001::/16")
	bad(RuleSource, "0.0.0.0/0", `"0.0.0.0/0": would block too much`)
	bad(RuleSource, "::/0", `"::/0": would block too much`)
	bad(RuleSource, "128.0.0.0/7", "/8 or a smaller network")
	bad(RuleSource, "2001::/15", "/16 or a smaller network")
	bad(RuleSource, "::ffff:0.0.0.0/96", "/8 or a smaller network")
	bad(RuleSource, "::ffff:0.0.0.0/95", "IPv4")
	bad(RuleSource, "fe80::1%eth0", "must be an address")
	bad(RuleSource, "192.0.2.1/33", "must be an address")
	bad(RuleSource, "example.org", "must be an address")
	bad(RuleSource, "", "must be an address")
	bad(ruleKindCount, "x", "kind")
}

func TestRulesMatch(t *testing.T) {
	t.Parallel()
	r := openRules(t, "")
	id := func(s string) *[20]byte {
		id := [20]byte([]byte("--------------------"))
		copy(id[:], s)
		return &id
	}
	random := &[20]byte{0x9c, 0x01, 0xf3, 0x80, 0x41, 0xc2, 0x1b, 0x77, 0xe0, 0x0a, 0x94, 0xd1, 0x20, 0xfe, 0x05, 0xb3, 0x8d, 0x66, 0xaa, 0x13}
	if !r.Empty() || r.MatchSource(netip.MustParseAddr("192.0.2.1")) || r.MatchUserAgent([]byte("x")) || r.MatchPeerID(random) || r.MatchInfoHash(random) {
		t.Error("no rules match something")
	}
	for _, value := range []string{"192.0.2.0/24", "192.0.2.7", "2001:db8::/32"} {
		addRule(t, r, RuleSource, value)
	}
	if k := r.Kinds(); r.Empty() || !k.Has(RuleSource) || k.Has(RuleUserAgent) || k.Has(RulePeerID) || k.Has(RuleInfoHash) {
		t.Errorf("kinds: got %b", k)
	}
	for _, value := range []string{"-XL", "-XL0019", "random", "%00%02BS"} {
		addRule(t, r, RulePeerID, value)
	}
	for _, value := range []string{"Go-http", "Go-http-client/1.1", "curl"} {
		addRule(t, r, RuleUserAgent, value)
	}
	addRule(t, r, RuleInfoHash, hex.EncodeToString(random[:]))

	source := func(addr string) bool { return r.MatchSource(netip.MustParseAddr(addr)) }
	agent := func(s string) bool { return r.MatchUserAgent([]byte(s)) }
	for _, c := range []struct {
		what      string
		got, want bool
	}{
		{"in the network", source("192.0.2.1"), true},
		{"the address in it", source("192.0.2.7"), true},
		{"beside it", source("192.0.3.1"), false},
		{"mapped", source("::ffff:192.0.2.1"), true},
		{"IPv6", source("2001:db8:ffff::1"), true},
		{"IPv6 beside it", source("2001:db9::1"), false},
		{"no address", r.MatchSource(netip.Addr{}), false},
		{"a client's id", r.MatchPeerID(id("-XL0012-")), true},
		{"another's", r.MatchPeerID(id("-qB4500-")), false},
		{"random", r.MatchPeerID(random), true},
		{"bytes", r.MatchPeerID(id("\x00\x02BS")), true},
		{"the prefix itself", agent("curl"), true},
		{"and more", agent("curl/8.0"), true},
		{"less", agent("cur"), false},
		{"within another", agent("Go-http-client/1.1"), true},
		{"case counts", agent("Curl"), false},
		{"before all", agent("A"), false},
		{"none", agent(""), false},
		{"info hash", r.MatchInfoHash(random), true},
		{"another's", r.MatchInfoHash(id("")), false},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %v, want %v", c.what, c.got, c.want)
		}
	}
	hits := ""
	for _, rule := range r.List() {
		hits += fmt.Sprintf("%v %s %d\n", rule.Kind, rule.Value, rule.Hits)
	}
	const want = `info-hash 9c01f38041c21b77e00a94d120fe05b38d66aa13 1
peer-id %00%02BS 1
peer-id -XL 1
peer-id -XL0019 0
peer-id random 1
user-agent Go-http 1
user-agent Go-http-client/1.1 0
user-agent curl 2
source 192.0.2.0/24 2
source 192.0.2.7 1
source 2001:db8::/32 1
`
	if hits != want {
		t.Errorf("hits: got\n%swant\n%s", hits, want)
	}
	if gone, err := r.Remove(RuleSource, "192.0.2.99/24"); !gone || err != nil || source("192.0.2.1") || !source("192.0.2.7") {
		t.Errorf("removed the network: got %v, %v", gone, err)
	}
	if gone, err := r.Remove(RuleSource, "192.0.2.0/24"); gone || err != nil {
		t.Errorf("removed again: got %v, %v", gone, err)
	}
	if _, err := r.Remove(RuleSource, "x"); err == nil {
		t.Error("removed nonsense")
	}
	if rule, err := r.Add(RuleUserAgent, "curl", time.Hour, "again", "test"); err != nil || rule.Hits != 2 || rule.Until.IsZero() {
		t.Errorf("replaced: got %+v, %v, want its hits kept", rule, err)
	}
}

// Sorted and cut down, the prefixes match what a loop over all of them matches; and a rule of a kind blocks no more.
func TestRulesAgainstLoop(t *testing.T) {
	t.Parallel()
	word := func(n int) *rapid.Generator[string] { return rapid.StringOfN(rapid.RuneFrom([]rune("ab-")), 1, n, -1) }
	rapid.Check(t, func(t *rapid.T) {
		r, _ := OpenRules("")
		agents := rapid.SliceOfN(word(5), 0, 12).Draw(t, "agents")
		nets := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
			b := [4]byte{10, byte(rapid.IntRange(0, 1).Draw(t, "b")), byte(rapid.IntRange(0, 3).Draw(t, "c")), byte(rapid.IntRange(0, 3).Draw(t, "d"))}
			return netip.PrefixFrom(netip.AddrFrom4(b), rapid.IntRange(8, 32).Draw(t, "bits")).Masked()
		}), 0, 12).Draw(t, "networks")
		for _, a := range agents {
			if _, err := r.Add(RuleUserAgent, a, 0, "", ""); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range nets {
			if _, err := r.Add(RuleSource, n.String(), 0, "", ""); err != nil {
				t.Fatal(err)
			}
		}
		hits := uint64(0)
		for range 20 {
			agent, want := rapid.StringOfN(rapid.RuneFrom([]rune("ab-")), 0, 6, -1).Draw(t, "agent"), false
			for _, a := range agents {
				want = want || strings.HasPrefix(agent, a)
			}
			if got := r.MatchUserAgent([]byte(agent)); got != want {
				t.Fatalf("%q: got %v, want %v", agent, got, want)
			} else if got {
				hits++
			}
			addr := netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 2).Draw(t, "b")), byte(rapid.IntRange(0, 4).Draw(t, "c")), byte(rapid.IntRange(0, 4).Draw(t, "d"))})
			want = false
			for _, n := range nets {
				want = want || n.Contains(addr)
			}
			if got := r.MatchSource(addr); got != want {
				t.Fatalf("%v: got %v, want %v", addr, got, want)
			} else if got {
				hits++
			}
		}
		for _, rule := range r.List() {
			hits -= rule.Hits
		}
		if hits != 0 {
			t.Fatalf("hits: %d more matched than counted", int64(hits))
		}
	})
}

func TestRulesOutliveRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "rules.json")
		r := openRules(t, path)
		var told []string
		r.OnChange(func(rule Rule, added bool) { told = append(told, fmt.Sprint(rule.Value, " ", added)) })
		if _, err := r.Add(RuleSource, "192.0.2.1", time.Minute, "flood", "api"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Add(RuleSource, "192.0.2.2", time.Hour, "flood", "api"); err != nil {
			t.Fatal(err)
		}
		addRule(t, r, RulePeerID, "%00x")
		addRule(t, r, RuleUserAgent, "curl")
		want := r.List()
		sameRules(t, openRules(t, path).List(), want)
		if gone, err := r.Remove(RuleUserAgent, "curl"); !gone || err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Nanosecond)
		if gone := r.Expire(time.Now()); gone != nil {
			t.Errorf("too early: %+v", gone)
		}
		time.Sleep(time.Nanosecond)
		sameRules(t, openRules(t, path).List(), []Rule{want[0], want[3]}) // over, though not yet expired
		if gone := r.Expire(time.Now()); len(gone) != 1 || gone[0].Value != "192.0.2.1" || r.MatchSource(netip.MustParseAddr("192.0.2.1")) {
			t.Errorf("after a minute: got %+v", gone)
		}
		sameRules(t, r.List(), []Rule{want[0], want[3]})
		sameRules(t, openRules(t, path).List(), r.List())
		if r.Has(RuleUserAgent, "curl") || !r.Has(RuleSource, "192.0.2.2") {
			t.Error("has: got what was removed, or not what is there")
		}
		if want := "[192.0.2.1 true 192.0.2.2 true %00x true curl true curl false 192.0.2.1 false]"; fmt.Sprint(told) != want {
			t.Errorf("told: got %v, want %v", told, want)
		}
	})
}

func sameRules(t *testing.T, got, want []Rule) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d rules, want %d: %+v", len(got), len(want), got)
	}
	for i, g := range got {
		w := want[i]
		if g.Kind != w.Kind || g.Value != w.Value || g.Reason != w.Reason || g.By != w.By || !g.Until.Equal(w.Until) || !g.Since.Equal(w.Since) {
			t.Errorf("rule %d: got %+v, want %+v", i, g, w)
		}
	}
}

func TestDamagedRules(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "rules.json")
	r := openRules(t, path)
	addRule(t, r, RuleSource, "192.0.2.0/24")
	addRule(t, r, RulePeerID, "-XL0019")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for n := range len(whole) - 1 {
		write(path, string(whole[:n]))
		got, problem := OpenRules(path)
		if problem == nil || !strings.Contains(problem.Error(), "was taken instead") {
			t.Errorf("cut to %d bytes: problem: got %v", n, problem)
		}
		sameRules(t, got.List(), r.List())
	}
	write(path+".last", "{")
	got, problem := OpenRules(path)
	if problem == nil || !strings.Contains(problem.Error(), "no rules are in force") || !got.Empty() {
		t.Errorf("both damaged: got %+v, %v", got.List(), problem)
	}
	write(path, `{"version":7,"rules":[{"kind":"source","value":"0.0.0.0/0"},{"kind":"asn","value":"1"},{"kind":"source","value":"192.0.2.9/24"}]}`)
	got, problem = OpenRules(path)
	if problem == nil || !strings.Contains(problem.Error(), `2 rules of the file were ignored, the first: value "0.0.0.0/0"`) {
		t.Errorf("two of three make no sense: problem: got %v", problem)
	}
	if list := got.List(); len(list) != 1 || list[0].Value != "192.0.2.0/24" {
		t.Errorf("two of three make no sense: got %+v", list)
	}
}

func TestRulesAreBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "rules.json")
	var content strings.Builder
	content.WriteString(`{"version":1,"rules":[`)
	for i := range MaxRules + 5 {
		if i > 0 {
			content.WriteByte(',')
		}
		fmt.Fprintf(&content, `{"kind":"source","value":"10.0.%d.%d"}`, i>>8, i&255)
	}
	content.WriteString("]}")
	if err := os.WriteFile(path, []byte(content.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r, problem := OpenRules(path)
	if problem == nil || !strings.Contains(problem.Error(), "5 rules of the file were ignored") || len(r.List()) != MaxRules {
		t.Errorf("file: got %d rules, problem %v", len(r.List()), problem)
	}
	if _, err := r.Add(RuleSource, "192.0.2.1", 0, "", ""); err == nil || !strings.Contains(err.Error(), "there are 10000 rules") {
		t.Errorf("one more: got %v", err)
	}
	if _, err := r.Add(RuleSource, "10.0.0.0", time.Hour, strings.Repeat("x", MaxReasonBytes), "api"); err != nil {
		t.Errorf("in place of one: got %v", err)
	}
	if again := openRules(t, path); len(again.List()) != MaxRules { // so the bound on the file lets all through
		t.Errorf("after a restart: got %d rules", len(again.List()))
	}
}

func TestBlockWithoutDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gone", "rules.json")
	r := openRules(t, path)
	rule, err := r.Add(RuleSource, "192.0.2.1", 0, "", "")
	if !errors.Is(err, ErrNotDurable) || rule.Value != "192.0.2.1" || !r.MatchSource(netip.MustParseAddr("192.0.2.1")) {
		t.Errorf("got %+v, %v, want it in force and ErrNotDurable", rule, err)
	}
	if gone, err := r.Remove(RuleSource, "192.0.2.1"); !gone || !errors.Is(err, ErrNotDurable) || !r.Empty() {
		t.Errorf("removed: got %v, %v", gone, err)
	}
}

func TestRulesChangedByMany(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "rules.json")
	r := openRules(t, path)
	r.OnChange(func(Rule, bool) {})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 20 {
				addr := netip.AddrFrom4([4]byte{10, 0, byte(w), byte(i)})
				if _, err := r.Add(RuleSource, addr.String(), time.Hour, "", ""); err != nil || !r.MatchSource(addr) {
					t.Errorf("%v: %v", addr, err)
				}
				if i%2 == 0 {
					if gone, err := r.Remove(RuleSource, addr.String()); !gone || err != nil || r.MatchSource(addr) {
						t.Errorf("%v: %v, %v", addr, gone, err)
					}
				}
				r.Expire(time.Now())
			}
		})
	}
	wg.Wait()
	if n := len(r.List()); n != 40 {
		t.Errorf("got %d rules, want 40", n)
	}
	sameRules(t, openRules(t, path).List(), r.List())
}

// Ids of real clients, as their sources, BEP 20 and captures have them.
func TestPeerIDForms(t *testing.T) {
	t.Parallel()
	f := func(id string, want PeerForm, client string) {
		t.Helper()
		for _, tail := range []string{"k9XbQ2mPz7LwT4vRj8Hs", "\x9c\x01\xf3\x80\x41\xc2\x1b\x77\xe0\x0a\x94\xd1\x20\xfe\x05\xb3\x8d\x66\xaa\x13"} {
			full := []byte((id + tail)[:20])
			form, n := peerClient(full)
			if form != want || string(full[:n]) != client || PeerIDForm(full) != want {
				t.Errorf("%q: got %v %q, want %v %q", full, form, full[:n], want, client)
			}
		}
	}
	for _, id := range []string{
		"-qB4500-", "-TR2940-", "-TR400Z-", "-TR40X0-", "-LT2000-", "-lt0D80-", "-DE13B0-", "-DE211s-", "-UT355W-", "-UT3530-", "-UM1870-",
		"-UE172B-", "-UW110Q-", "-BT7a5S-", "-BW1200-", "-AZ5750-", "-BI3400-", "-KT33B1-", "-BC0189-", "-TX0200-", "-WW0113-", "-WD0007-",
		"-GT0003-", "-XL0012-", "-XL0019-", "-SD0100-", "-XF9990-", "-QD0003-", "-FL5200-", "-FW6812-", "-HL2100-", "-PI0091-", "-AG2083-",
		"-TT0110-", "-BP2500-", "-SZ2210-", "-SY0010-", "-rQ0001-", "-TS0008-", "-BOWA0C-", "-G3g3rmz", "-MG2.10-", "-LW1090-", "-NX0101-",
	} {
		want := id[:8]
		if id[7] != '-' {
			want = id[:3]
		}
		f(id, FormAzureus, want)
	}
	f("-UT2210\xd5b\xc0", FormAzureus, "-UT")
	f("-FD51\xff\x01\x02", FormAzureus, "-FD")
	f("-ML2.7.2-", FormAzureus, "-ML2.7.2-")
	f("-RN2.10.1-", FormAzureus, "-RN2.10.1-")
	f("-aria2-", FormAzureus, "-aria2-")
	f("M7-9-2--", FormMainline, "M7-9-2--")
	f("M4-20-8-", FormMainline, "M4-20-8-")
	f("Q1-23-4-", FormMainline, "Q1-23-4-")
	f("A2-1-36-0-", FormMainline, "A2-1-36-0-")
	f("A2-1-8-0-", FormMainline, "A2-1-8-0-")
	f("S587-----", FormShadow, "S587--")
	f("S58B-----", FormShadow, "S58B--")
	f("T03I-----", FormShadow, "T03I--")
	f("A310--001", FormShadow, "A310--")
	f("R26---", FormShadow, "R26--")
	f("O12------", FormShadow, "O12--")
	f("a00---0", FormShadow, "a00--")
	f("10-------", FormShadow, "10--")
	f("exbc\x00\x38", FormNamed, "exbc")
	f("exbc\x01\x01LORD", FormNamed, "exbc")
	f("FUTB\x00\x3a", FormNamed, "FUTB")
	f("XBT054d-", FormNamed, "XBT")
	f("OP7685", FormNamed, "OP")
	f("TIX0286-", FormNamed, "TIX")
	f("AZ2500BT", FormNamed, "AZ2500BT")
	f("Mbrst1-1-5", FormNamed, "Mbrst")
	f("Plus", FormNamed, "Plus")
	f("Deadman Walking-", FormNamed, "Deadman Walking-")
	f("346-", FormNamed, "346")
	f("\x00\x03BS", FormNamed, "\x00\x03BS")
	f("LIME", FormNamed, "LIME")
	f("cbt-2020-03-03-", FormNamed, "cbt-")
	f("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", FormOther, "") // the first BitTorrent
	f("MyOwnClient_1", FormOther, "")
	f("\x01\x02tracker-test", FormOther, "")
	f("00000000000000000000", FormOther, "")
	f("x.y.z", FormOther, "")
	f("0af3b1c2d3e4f5061728", FormRandom, "")
}

// Shareaza's ids are random, but for the four bytes that tell its own.
func TestShareazaIsNotRandom(t *testing.T) {
	t.Parallel()
	id := []byte("\x9c\x01\xf3\x80\x41\xc2\x1b\x77\xe0\x0a\x94\xd1\x20\xfe\x05\xb3....")
	for i := 16; i < 20; i++ {
		id[i] = id[i-16] ^ id[31-i]
	}
	if form := PeerIDForm(id); form != FormOther {
		t.Errorf("got %v, want other", form)
	}
	id[19] ^= 1
	if form := PeerIDForm(id); form != FormRandom {
		t.Errorf("with a bit turned: got %v, want random", form)
	}
	if form := PeerIDForm(id[:19]); form != FormOther {
		t.Errorf("19 bytes: got %v, want other", form)
	}
}

// How much of what chance makes is known as such: the number behind the doc of PeerIDForm.
func TestRandomPeerIDsAreRandom(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(20, 26))
	missed := func(alphabet string) float64 {
		const n = 200_000
		missed := 0
		var id [20]byte
		for range n {
			for i := range id {
				if id[i] = byte(rng.Uint32()); alphabet != "" {
					id[i] = alphabet[rng.IntN(len(alphabet))]
				}
			}
			if PeerIDForm(id[:]) != FormRandom {
				missed++
			}
		}
		return float64(missed) / n
	}
	if got := missed(""); got > 0.015 {
		t.Errorf("random bytes: %.2f %% are not known as random, want at most 1.5", 100*got)
	} else {
		t.Logf("random bytes: %.2f %% pass", 100*got)
	}
	if got := missed("0123456789abcdef"); got > 0.01 {
		t.Errorf("random hex digits: %.2f %% are not known as random, want at most 1", 100*got)
	} else {
		t.Logf("random hex digits: %.2f %% pass", 100*got)
	}
	const alnum = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if got := missed(alnum); got < 0.99 {
		t.Errorf("random letters and digits: %.2f %% pass; a client nobody knows may look so", 100*got)
	}
}

func FuzzRuleValue(f *testing.F) {
	for k, value := range []string{"0123456789abcdef0123456789abcdef01234567", "%00-XL", "50%", "::ffff:192.0.2.1/120"} {
		f.Add(uint8(k), value)
	}
	f.Fuzz(func(t *testing.T, kind uint8, value string) {
		k := RuleKind(kind)
		canonical, err := canonicalRule(k, value)
		if err != nil {
			return
		}
		if again, err := canonicalRule(k, canonical); err != nil || again != canonical {
			t.Fatalf("%q is not canonical: %q, %v", canonical, again, err)
		}
		if err := checkText("value", canonical, 3*maxUserAgentBytes); err != nil {
			t.Fatal(err)
		}
		addRule(t, openRules(t, ""), k, value) // compiles
	})
}

func FuzzParseRules(f *testing.F) {
	f.Add([]byte(`{"version":1,"rules":[{"kind":"source","value":"192.0.2.0/24","until":"2026-01-02T15:04:05Z","reason":"flood","by":"api","since":null}]}`))
	f.Add([]byte(`{"rules":[{"kind":"peer-id","value":"%"},{}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		rules, _, err := parseRules(content, now)
		if err != nil {
			return
		}
		r := openRules(t, "")
		r.rules = rules
		r.compile()
		r.file.path = filepath.Join(t.TempDir(), "rules.json")
		if err := r.file.save(1, r.render); err != nil {
			t.Fatal(err)
		}
		written, err := os.ReadFile(r.file.path)
		if err != nil {
			t.Fatal(err)
		}
		again, notes, err := parseRules(written, now)
		if err != nil || notes != nil || len(again) != len(rules) {
			t.Fatalf("what was written does not read back: %v, %v", err, notes)
		}
	})
}

func FuzzPeerIDForm(f *testing.F) {
	f.Add([]byte("-qB4500-abcdefghijkl"))
	f.Add([]byte("A2-1-36-0-abcdefghij"))
	f.Fuzz(func(t *testing.T, id []byte) {
		form, n := peerClient(id)
		if form >= peerFormCount || n > len(id) || form == FormRandom && n != 0 {
			t.Errorf("%q: got %v, %d", id, form, n)
		}
	})
}

func fullRules(b *testing.B) *Rules {
	r := openRules(b, "")
	rng := rand.New(rand.NewPCG(1, 2))
	r.mu.Lock()
	for len(r.rules) < MaxRules {
		addr := netip.AddrFrom4([4]byte{byte(1 + rng.IntN(220)), byte(rng.IntN(256)), byte(rng.IntN(256)), byte(rng.IntN(256))})
		value, err := canonicalRule(RuleSource, netip.PrefixFrom(addr, 20+rng.IntN(13)).String())
		if err != nil {
			b.Fatal(err)
		}
		r.rules[ruleKey{RuleSource, value}] = &heldRule{Rule: Rule{Kind: RuleSource, Value: value}, hits: new(atomic.Uint64)}
	}
	r.compile()
	r.mu.Unlock()
	return r
}

func BenchmarkRulesMatchSource(b *testing.B) {
	for _, rules := range []int{0, MaxRules} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			r := openRules(b, "")
			if rules > 0 {
				r = fullRules(b)
			}
			var addrs [1024]netip.Addr
			for i := range addrs {
				addrs[i] = netip.AddrFrom4([4]byte{byte(1 + i%220), byte(7 * i), byte(13 * i), byte(i)})
			}
			i := 0
			for b.Loop() {
				r.MatchSource(addrs[i&1023])
				i++
			}
		})
	}
}

// A change compiles all rules anew.
func BenchmarkRulesCompile(b *testing.B) {
	r := fullRules(b)
	for b.Loop() {
		r.compile()
	}
}
