//go:build !race

package shedder

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// What is asked for each request, or each sampled one, allocates nothing, whatever the answer is.
func TestLookupsAllocateNothing(t *testing.T) {
	switches, rules, talkers := openSwitches(t, ""), openRules(t, ""), NewTalkers()
	addRule(t, rules, RuleSource, "192.0.2.0/24")
	addRule(t, rules, RuleSource, "2001:db8::/32")
	addRule(t, rules, RuleInfoHash, strings.Repeat("ab", 20))
	addRule(t, rules, RulePeerID, "random")
	addRule(t, rules, RulePeerID, "-XL0019-")
	addRule(t, rules, RuleUserAgent, "curl/")
	rng := rand.New(rand.NewPCG(7, 8))
	var requests [512]asked
	var agents [512][]byte
	for i := range requests {
		requests[i] = publicMix(rng)
		switch i % 4 {
		case 0:
			requests[i].src, requests[i].userAgent = netip.MustParseAddr("192.0.2.1"), "curl/8"+strings.Repeat("x", 200)
			fillRandom(rng, requests[i].peerID[:])
		case 1:
			requests[i].src = netip.MustParseAddr("2001:db8::1")
			copy(requests[i].peerID[:], "-XL0019-")
		}
		agents[i] = []byte(requests[i].userAgent)
	}
	i, matched := 0, 0
	count := func(b bool) {
		if b {
			matched++
		}
	}
	f := func(name string, do func(r *asked, userAgent []byte)) {
		t.Helper()
		if got := testing.AllocsPerRun(2000, func() { i++; do(&requests[i%512], agents[i%512]) }); got != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, got)
		}
	}
	f("mode", func(*asked, []byte) { count(switches.Mode(WS) == Off) })
	f("source", func(r *asked, _ []byte) { count(rules.MatchSource(r.src)) })
	f("user agent", func(_ *asked, userAgent []byte) { count(rules.MatchUserAgent(userAgent)) })
	f("peer id", func(r *asked, _ []byte) { count(rules.MatchPeerID(&r.peerID)) })
	f("info hash", func(r *asked, _ []byte) { count(rules.MatchInfoHash(&r.infoHash)) })
	f("note", func(r *asked, userAgent []byte) { talkers.Note(r.src, userAgent, &r.peerID, &r.infoHash) })
	f("nothing is due", func(*asked, []byte) { switches.Expire(time.Time{}); rules.Expire(time.Time{}) })
	if matched == 0 {
		t.Error("no rule matched anything: this test tests nothing")
	}
}
