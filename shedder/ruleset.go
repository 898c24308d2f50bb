package shedder

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/gaissmai/bart"
)

// Bounds on the values of rules, in bytes after unescaping.
const (
	maxPeerIDBytes    = 20
	maxUserAgentBytes = 128
)

// The shortest networks that can be blocked: a wider one is a slip of the hand more often than an order.
const (
	minBits4 = 8
	minBits6 = 16
)

// ruleRandom is the value of the rule for ids that have no client's form.
const ruleRandom = "random"

// ruleSet is rules as requests meet them. It does not change, but for the hits.
type ruleSet struct {
	kinds      RuleKinds
	infoHashes map[[20]byte]*atomic.Uint64
	sources    bart.Table[*atomic.Uint64]
	peerIDs    prefixSet
	random     *atomic.Uint64 // nil: no such rule
	userAgents prefixSet
}

func compileRules(rules map[ruleKey]*heldRule) *ruleSet {
	s := &ruleSet{infoHashes: map[[20]byte]*atomic.Uint64{}}
	for key, held := range rules {
		s.kinds |= 1 << key.kind
		switch key.kind {
		case RuleInfoHash:
			var infoHash [20]byte
			if _, err := hex.Decode(infoHash[:], []byte(key.value)); err != nil {
				panic("BUG: rule not canonical: " + key.value)
			}
			s.infoHashes[infoHash] = held.hits
		case RuleSource:
			prefix, err := parseSource(key.value)
			if err != nil {
				panic("BUG: rule not canonical: " + key.value)
			}
			s.sources.Insert(prefix, held.hits)
		case RulePeerID:
			if key.value == ruleRandom {
				s.random = held.hits
			} else {
				s.peerIDs.add(unescapeValue(key.value), held.hits)
			}
		case RuleUserAgent:
			s.userAgents.add(unescapeValue(key.value), held.hits)
		}
	}
	s.peerIDs.compile()
	s.userAgents.compile()
	return s
}

// Empty tells that there is no rule.
func (r *Rules) Empty() bool { return r.Kinds() == 0 }

// Kinds tells of what kinds there are rules, so that what none asks for need not be looked up.
func (r *Rules) Kinds() RuleKinds { return r.compiled.Load().kinds }

// MatchInfoHash tells whether a rule blocks infoHash, and counts it.
func (r *Rules) MatchInfoHash(infoHash *[20]byte) bool {
	s := r.compiled.Load()
	return s.kinds.Has(RuleInfoHash) && hit(s.infoHashes[*infoHash])
}

// MatchSource tells whether a rule blocks addr, and counts it for the smallest network that does. The zero Addr is blocked by
// none.
func (r *Rules) MatchSource(addr netip.Addr) bool {
	s := r.compiled.Load()
	if !s.kinds.Has(RuleSource) || !addr.IsValid() {
		return false
	}
	hits, _ := s.sources.Lookup(addr.Unmap())
	return hit(hits)
}

// MatchPeerID tells whether a rule blocks peerID, and counts it for the shortest prefix that does.
func (r *Rules) MatchPeerID(peerID *[20]byte) bool {
	s := r.compiled.Load()
	if !s.kinds.Has(RulePeerID) {
		return false
	}
	return hit(s.peerIDs.match(peerID[:])) || s.random != nil && PeerIDForm(peerID[:]) == FormRandom && hit(s.random)
}

// MatchUserAgent tells whether a rule blocks userAgent, and counts it for the shortest prefix that does. No rule blocks the
// empty one.
func (r *Rules) MatchUserAgent(userAgent []byte) bool {
	s := r.compiled.Load()
	return s.kinds.Has(RuleUserAgent) && hit(s.userAgents.match(userAgent))
}

func hit(hits *atomic.Uint64) bool {
	if hits == nil {
		return false
	}
	hits.Add(1)
	return true
}

// prefixSet finds the prefix that something begins with.
type prefixSet struct{ prefixes []prefixHits }

type prefixHits struct {
	prefix string
	hits   *atomic.Uint64
}

func (p *prefixSet) add(prefix string, hits *atomic.Uint64) {
	p.prefixes = append(p.prefixes, prefixHits{prefix, hits})
}

// compile sorts, and drops those that begin with another one, which matches all that they match.
func (p *prefixSet) compile() {
	slices.SortFunc(p.prefixes, func(a, b prefixHits) int { return strings.Compare(a.prefix, b.prefix) })
	kept := p.prefixes[:0]
	for _, x := range p.prefixes {
		if len(kept) == 0 || !strings.HasPrefix(x.prefix, kept[len(kept)-1].prefix) {
			kept = append(kept, x)
		}
	}
	p.prefixes = kept
}

// match returns nil if b begins with none. Of those sorted at or before b the last is the only one that can begin b: what
// stands between a prefix of b and b begins with that prefix too, and such are dropped.
func (p *prefixSet) match(b []byte) *atomic.Uint64 {
	low, high := 0, len(p.prefixes)
	for low < high {
		if mid := (low + high) / 2; p.prefixes[mid].prefix <= string(b) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return nil
	}
	x := p.prefixes[low-1]
	if len(x.prefix) > len(b) || x.prefix != string(b[:len(x.prefix)]) {
		return nil
	}
	return x.hits
}

// CanonicalRule gives the one way to write a value, and tells whether it is one.
func CanonicalRule(kind RuleKind, value string) (string, bool) {
	canonical, err := canonicalRule(kind, value)
	return canonical, err == nil
}

// canonicalRule gives the one way to write a value, or what is wrong with it.
func canonicalRule(kind RuleKind, value string) (string, error) {
	switch kind {
	case RuleInfoHash:
		var infoHash [20]byte
		if n, err := hex.Decode(infoHash[:], []byte(value[:min(len(value), 40)])); err != nil || n != 20 || len(value) != 40 {
			return "", fmt.Errorf("value %q: an info hash has 40 hex digits", cleanText(value, 100))
		}
		return hex.EncodeToString(infoHash[:]), nil
	case RulePeerID:
		if value == ruleRandom {
			return value, nil
		}
		return canonicalPrefix(value, maxPeerIDBytes, `the word random, or the beginning of an id, as -XL0019`)
	case RuleUserAgent:
		return canonicalPrefix(value, maxUserAgentBytes, "the beginning of the header")
	case RuleSource:
		prefix, err := parseSource(value)
		if err != nil {
			return "", fmt.Errorf("value %q: %w", cleanText(value, 100), err)
		}
		if prefix.IsSingleIP() {
			return prefix.Addr().String(), nil
		}
		return prefix.String(), nil
	}
	return "", fmt.Errorf("kind %d: must be info-hash, peer-id, user-agent or source", uint8(kind))
}

func canonicalPrefix(value string, maxBytes int, want string) (string, error) {
	if len(value) <= 3*maxBytes {
		if b := unescapeValue(value); len(b) > 0 && len(b) <= maxBytes {
			return escapeValue(b), nil
		}
	}
	return "", fmt.Errorf("value %q: must be %s, 1 to %d bytes", cleanText(value, 100), want, maxBytes)
}

// parseSource reads an address or a CIDR.
func parseSource(value string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(value)
	if err != nil {
		addr, err := netip.ParseAddr(value)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, errors.New("must be an address, or a CIDR as 192.0.2.0/24")
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		if prefix.Bits() < 96 {
			return netip.Prefix{}, errors.New("write an IPv4 network as 192.0.2.0/24")
		}
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96) // requests come unmapped
	}
	minBits := minBits6
	if prefix.Addr().Is4() {
		minBits = minBits4
	}
	if prefix.Bits() < minBits {
		return netip.Prefix{}, fmt.Errorf("would block too much; must be a /%d or a smaller network", minBits)
	}
	return prefix.Masked(), nil
}

// escapeValue writes bytes as a value can be shown anywhere and typed: printable ASCII as it is, but % and all else as %XX.
func escapeValue(b string) string {
	plain := true
	for i := range len(b) {
		plain = plain && isPlain(b[i])
	}
	if plain {
		return b
	}
	const digits = "0123456789ABCDEF"
	var s strings.Builder
	for i := range len(b) {
		if c := b[i]; isPlain(c) {
			s.WriteByte(c)
		} else {
			s.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return s.String()
}

func isPlain(c byte) bool { return c >= ' ' && c <= '~' && c != '%' }

// unescapeValue undoes escapeValue. A % without two hex digits behind it stands for itself.
func unescapeValue(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		var c [1]byte
		if s[i] == '%' && i+2 < len(s) {
			if _, err := hex.Decode(c[:], []byte(s[i+1:i+3])); err == nil {
				b = append(b, c[0])
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}
