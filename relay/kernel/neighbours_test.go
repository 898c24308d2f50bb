package kernel

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// steps are those of a rule, as the kernel gives them.
func steps(all ...expression) []byte {
	var b []byte
	for _, e := range all {
		b = append(b, e...)
	}
	return b
}

var (
	toSeat4 = passing{backend: netip.MustParseAddrPort("10.66.0.2:6969"), device: &net.Interface{Index: 7, Name: "wg0"}}
	toSeat6 = passing{backend: netip.MustParseAddrPort("[fd00::2]:6969")}
)

func TestARuleIsReadAsFarAsItIsKnown(t *testing.T) {
	t.Parallel()
	answer4 := toSeat4
	answer4.answer = true
	native := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	dst4 := payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4, r0)
	src4 := payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4, r0)
	seat, neighbour, network := []byte{10, 66, 0, 2}, []byte{10, 66, 0, 3}, []byte{10, 66, 0, 0}
	for _, tt := range []struct {
		name  string
		p     passing
		steps []byte
		want  string // never, may, certain, may named, certain named
	}{
		{"no condition", toSeat4, steps(accept()), "certain"},
		{"the backend", toSeat4, steps(dst4, equal(r0, seat), accept()), "certain named"},
		{"another backend", toSeat4, steps(dst4, equal(r0, neighbour), accept()), "never"},
		{"not another backend", toSeat4, steps(dst4, unequal(r0, neighbour), accept()), "certain"},
		{"not the backend", toSeat4, steps(dst4, unequal(r0, seat), accept()), "never"},
		{"its network", toSeat4, steps(dst4, mask(r0, []byte{255, 255, 255, 0}), equal(r0, network), accept()), "certain named"},
		{"a network up to it", toSeat4, steps(dst4, compare(unix.NFT_CMP_LTE, r0, seat), accept()), "certain"},
		{"a network behind it", toSeat4, steps(dst4, compare(unix.NFT_CMP_GT, r0, seat), accept()), "never"},
		{"a client", toSeat4, steps(src4, equal(r0, seat), accept()), "may"},
		{"any client", toSeat4, steps(src4, mask(r0, []byte{0, 0, 0, 0}), equal(r0, make([]byte, 4)), accept()), "certain"},
		{"answers of the backend", answer4, steps(src4, equal(r0, seat), accept()), "certain named"},
		{"answers to somebody", answer4, steps(dst4, equal(r0, seat), accept()), "may"},
		{"its port", toSeat4, steps(payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, r0), equal(r0, []byte{0x1b, 0x39}), accept()), "certain"},
		{"its port, of a client", toSeat4, steps(payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, r0), equal(r0, []byte{0x1b, 0x39}), accept()), "may"},
		{"UDP", toSeat4, steps(meta(unix.NFT_META_L4PROTO, r0), equal(r0, []byte{unix.IPPROTO_UDP}), accept()), "never"},
		{"IPv6", toSeat4, steps(meta(unix.NFT_META_NFPROTO, r0), equal(r0, []byte{unix.NFPROTO_IPV6}), accept()), "never"},
		{"out by the tunnel", toSeat4, steps(meta(unix.NFT_META_OIF, r0), equal(r0, native(7)), accept()), "certain named"},
		{"out by the tunnel, from somewhere", toSeat4, steps(meta(unix.NFT_META_OIF, r0), equal(r0, native(7)), meta(unix.NFT_META_IIF, r0), equal(r0, native(2)), accept()), "may named"},
		{"in by the tunnel", toSeat4, steps(meta(unix.NFT_META_IIF, r0), equal(r0, native(7)), accept()), "may"},
		{"by any wg", toSeat4, steps(meta(unix.NFT_META_OIFNAME, r0), equal(r0, []byte("wg")), accept()), "certain named"},
		{"by any wg, not known", toSeat6, steps(meta(unix.NFT_META_OIFNAME, r0), equal(r0, []byte("wg")), accept()), "may"},
		{"of flows that there are", toSeat4, steps(append(anyOf(unix.NFT_CT_STATE, stateEstablished|stateRelated, r0), accept())...), "never"},
		{"of flows that there are, an answer", answer4, steps(append(anyOf(unix.NFT_CT_STATE, stateEstablished|stateRelated, r0), accept())...), "certain"},
		{"forwarded", toSeat4, steps(append(isForwarded(r0), accept())...), "certain named"},
		{"in a set", toSeat4, steps(dst4, isIn("friends", r0), accept()), "may"},
		{"the backend's IPv6 address", toSeat6, steps(payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16, r0), equal(r0, toSeat6.backend.Addr().AsSlice()), accept()), "certain named"},
	} {
		r := reading{passing: tt.p, certain: true}
		verdict, _, matches := r.rule(tt.steps)
		got := "may"
		switch {
		case !matches:
			got = "never"
		case r.certain:
			got = "certain"
		}
		if matches && r.named {
			got += " named"
		}
		if got != tt.want || matches && verdict != nfAccept {
			t.Errorf("%s: got %s, verdict %d; want %s", tt.name, got, verdict, tt.want)
		}
	}
}

func TestChainsOfChains(t *testing.T) {
	t.Parallel()
	drop, back, maybe := decide(nfDrop, ""), decide(unix.NFT_RETURN, ""), isIn("x", r0)
	for _, tt := range []struct {
		name  string
		rules map[string][][]byte
		want  fate
	}{
		{"nothing", nil, undecided},
		{"jump to a drop", map[string][][]byte{"f": {steps(jump("a"))}, "a": {steps(drop)}}, dropped},
		{"perhaps a jump to a drop", map[string][][]byte{"f": {steps(maybe, jump("a")), steps(accept())}, "a": {steps(drop)}}, accepted},
		{"return before a drop", map[string][][]byte{"f": {steps(jump("a"))}, "a": {steps(back), steps(drop)}}, undecided},
		{"perhaps a return before a drop", map[string][][]byte{"f": {steps(jump("a"))}, "a": {steps(maybe, back), steps(drop)}}, dropped},
		{"go to an end", map[string][][]byte{"f": {steps(continueAt("a")), steps(drop)}, "a": nil}, undecided},
		{"no such chain", map[string][][]byte{"f": {steps(jump("a")), steps(accept())}}, accepted},
		{"round and round", map[string][][]byte{"f": {steps(jump("f")), steps(jump("f")), steps(jump("f"))}}, undecided},
	} {
		rs := ruleset{rules: tt.rules, steps: rulesetSteps}
		start := time.Now()
		if got := rs.walk("f", toSeat4, true, false, 0); got != tt.want || time.Since(start) > 5*time.Second {
			t.Errorf("%s: got %d in %v, want %d", tt.name, got, time.Since(start), tt.want)
		}
	}
}

// What other programs put into their rules is not ours to choose.
func FuzzRuleset(f *testing.F) {
	f.Add(steps(accept()), steps(jump("a")))
	f.Add(steps(append(isForwarded(r0), mask(r0, []byte{1, 2, 3}), equal(r0, bytes.Repeat([]byte{7}, 64)), accept())...), steps(ct(0, r0), continueAt("f")))
	f.Add(steps(payload(1, 16, 4, 23), mask(23, make([]byte, 64)), equal(23, make([]byte, 4))), steps(meta(6, 22), immediate(23, make([]byte, 64))))
	f.Add(steps(payload(2, 1<<32-1, 1<<32-1, r0), newExpression("match", appendBytes(appendText(nil, 1, "conntrack"), 3, make([]byte, 160)))),
		steps(newExpression("range", appendNest(append32(append32(nil, 1, 8), 2, 0), 3, appendBytes(nil, 1, []byte{1})))))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		for _, p := range []passing{toSeat4, toSeat6} {
			for _, p.answer = range []bool{false, true} {
				rs := ruleset{rules: map[string][][]byte{"f": {one, two}, "a": {two, one}}, steps: 1000}
				if got := rs.walk("f", p, true, false, 0); got != undecided && got != accepted && got != dropped {
					t.Fatalf("got %d", got)
				}
			}
		}
		_, _ = parseGate(unix.NFPROTO_INET, one)
	})
}
