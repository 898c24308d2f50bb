package shedder

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// RuleKind is what a rule looks at.
type RuleKind uint8

// The kinds of rules.
const (
	RuleInfoHash  RuleKind = iota // 40 hex digits
	RulePeerID                    // a prefix, 1 to 20 bytes, as -XL0019; or the word "random": ids that have no client's form
	RuleUserAgent                 // a prefix of the User-Agent header, 1 to 128 bytes; "" cannot be given
	RuleSource                    // an address or a CIDR
	ruleKindCount
)

var ruleKindNames = [ruleKindCount]string{"info-hash", "peer-id", "user-agent", "source"}

func (k RuleKind) String() string { return ruleKindNames[k] }

// ParseRuleKind reads a kind's name.
func ParseRuleKind(s string) (RuleKind, error) {
	for k, name := range ruleKindNames {
		if s == name {
			return RuleKind(k), nil
		}
	}
	return 0, fmt.Errorf("kind %q: must be info-hash, peer-id, user-agent or source", s)
}

// RuleKinds is a set of kinds.
type RuleKinds uint8

// Has tells whether k is in the set.
func (s RuleKinds) Has(k RuleKind) bool { return s&(1<<k) != 0 }

// Rule is an abuse rule in force: what it matches is answered politely and not served.
type Rule struct {
	Kind   RuleKind
	Value  string    // in its canonical form
	Until  time.Time // zero: for good
	Reason string
	By     string
	Since  time.Time
	Hits   uint64 // since the start of the process, and of several rules that match a request one counts it
}

// MaxRules is how many rules there can be. Matching costs the same for one as for all; to change one takes longer the more
// there are, for the file is written whole.
const MaxRules = 10000

// Rules hold what is blocked, compiled for each request and on disk for the next start.
type Rules struct {
	compiled atomic.Pointer[ruleSet] // never nil; what it points to does not change but for the hits

	file    stateFile
	changes changes[ruleChange]

	mu      sync.Mutex // guards what follows; never held while the disk is waited for
	rules   map[ruleKey]*heldRule
	next    time.Time // the first end of a rule; zero: none ends
	version uint64
}

type ruleKey struct {
	kind  RuleKind
	value string
}

// heldRule is not changed once it is in the map, but for its hits.
type heldRule struct {
	Rule
	hits *atomic.Uint64 // outlives the rule's replacement by one of the same value
}

func (r *heldRule) state() Rule {
	rule := r.Rule
	rule.Hits = r.hits.Load()
	return rule
}

type ruleChange struct {
	rule  Rule
	added bool
}

// OpenRules reads path and always returns rules that work; problem is what the operator should know of it. Without a file
// there are none. A file that cannot be read is replaced by its copy, path + ".last"; when that is no good either there are
// none. The path "" keeps nothing.
func OpenRules(path string) (r *Rules, problem error) {
	r = &Rules{file: stateFile{path: path, maxBytes: 16 << 20}, rules: map[ruleKey]*heldRule{}}
	now := time.Now()
	var notes error
	lost, problem := r.file.load(func(content []byte) error {
		rules, said, err := parseRules(content, now)
		if err == nil {
			r.rules, notes = rules, said
		}
		return err
	})
	if lost {
		problem = fmt.Errorf("%w; no rules are in force", problem)
	}
	r.compile()
	return r, errors.Join(notes, problem)
}

// OnChange has f called after each change, as Switches.OnChange does. Register before the first change.
func (r *Rules) OnChange(f func(rule Rule, added bool)) {
	r.changes.told = append(r.changes.told, func(c ruleChange) { f(c.rule, c.added) })
}

// Add puts a rule in force, for d or, if that is 0, for good, and replaces the one of the same value. It is in force at once
// and on disk when Add returns nil. An error that is ErrNotDurable comes with the rule, which is in force; any other error
// names the field that is wrong, and nothing has changed.
func (r *Rules) Add(kind RuleKind, value string, d time.Duration, reason, by string) (Rule, error) {
	canonical, err := canonicalRule(kind, value)
	if err != nil {
		return Rule{}, err
	}
	if err := checkOrder(d, reason, by); err != nil {
		return Rule{}, err
	}
	now := time.Now().UTC()
	key := ruleKey{kind, canonical}
	held := &heldRule{Rule: Rule{Kind: kind, Value: canonical, Until: endOf(now, d), Reason: reason, By: by, Since: now}}
	r.mu.Lock()
	if old := r.rules[key]; old != nil {
		held.hits = old.hits
	} else if len(r.rules) >= MaxRules {
		r.mu.Unlock()
		return Rule{}, fmt.Errorf("value %q: there are %d rules, and cannot be more; remove some, or block a network in place of its addresses",
			canonical, MaxRules)
	} else {
		held.hits = new(atomic.Uint64)
	}
	r.rules[key] = held
	rule := held.state()
	r.changes.push(ruleChange{rule, true})
	version := r.changed()
	r.mu.Unlock()
	r.changes.tell()
	return rule, r.file.save(version, r.render)
}

// Remove ends a rule, and tells whether there was one. The errors are those of Add.
func (r *Rules) Remove(kind RuleKind, value string) (bool, error) {
	canonical, err := canonicalRule(kind, value)
	if err != nil {
		return false, err
	}
	key := ruleKey{kind, canonical}
	r.mu.Lock()
	held := r.rules[key]
	if held == nil {
		r.mu.Unlock()
		return false, nil
	}
	delete(r.rules, key)
	r.changes.push(ruleChange{held.state(), false})
	version := r.changed()
	r.mu.Unlock()
	r.changes.tell()
	return true, r.file.save(version, r.render)
}

// Has tells whether there is a rule of this very value, in its canonical form.
func (r *Rules) Has(kind RuleKind, value string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rules[ruleKey{kind, value}] != nil
}

// Find returns the rule of this value, in any form.
func (r *Rules) Find(kind RuleKind, value string) (Rule, bool) {
	canonical, err := canonicalRule(kind, value)
	if err != nil {
		return Rule{}, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	held := r.rules[ruleKey{kind, canonical}]
	if held == nil {
		return Rule{}, false
	}
	return held.state(), true
}

// List returns the rules by kind, then value.
func (r *Rules) List() []Rule {
	r.mu.Lock()
	list := make([]Rule, 0, len(r.rules))
	for _, held := range r.rules {
		list = append(list, held.state())
	}
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Value, b.Value))
	})
	return list
}

// Expire ends the rules whose time is up, and returns them. When there is any it waits for the disk, as it does every 10
// seconds while a change could not be saved: call it where that holds up nothing.
func (r *Rules) Expire(now time.Time) []Rule {
	var gone []Rule
	r.mu.Lock()
	save := r.file.retryDue(now)
	if isDue(r.next, now) {
		for key, held := range r.rules {
			if isDue(held.Until, now) {
				delete(r.rules, key)
				gone = append(gone, held.state())
				r.changes.push(ruleChange{held.state(), false})
			}
		}
		r.changed()
		save = true
	}
	version := r.version
	r.mu.Unlock()
	r.changes.tell()
	if save {
		_ = r.file.save(version, r.render) // as in Switches.Expire
	}
	return gone
}

// changed is called with mu held, after a change of rules.
func (r *Rules) changed() (version uint64) {
	r.version++
	r.compile()
	return r.version
}

// compile puts rules in force. It is called with mu held.
func (r *Rules) compile() {
	r.next = time.Time{}
	for _, held := range r.rules {
		if u := held.Until; !u.IsZero() && (r.next.IsZero() || u.Before(r.next)) {
			r.next = u
		}
	}
	r.compiled.Store(compileRules(r.rules))
}

// rulesFile is the file.
type rulesFile struct {
	Version int         `json:"version"`
	Rules   []ruleEntry `json:"rules"`
}

type ruleEntry struct {
	Kind   string     `json:"kind"`
	Value  string     `json:"value"`
	Until  *time.Time `json:"until"`
	Reason string     `json:"reason"`
	By     string     `json:"by"`
	Since  *time.Time `json:"since"`
}

const rulesVersion = 1

func (r *Rules) render() (version uint64, file any) {
	r.mu.Lock()
	version = r.version
	r.mu.Unlock()
	// Not of one moment with the version, but of a later one: a change between the two is saved twice, and none is missed.
	entries := []ruleEntry{}
	for _, rule := range r.List() {
		entries = append(entries, ruleEntry{
			Kind: rule.Kind.String(), Value: rule.Value, Until: timeOrNil(rule.Until), Reason: rule.Reason, By: rule.By, Since: timeOrNil(rule.Since),
		})
	}
	return version, rulesFile{Version: rulesVersion, Rules: entries}
}

// parseRules reads the file. Rules that make no sense, or are too many, are left out and noted; those whose time is up are
// left out.
func parseRules(content []byte, now time.Time) (rules map[ruleKey]*heldRule, notes, err error) {
	var file rulesFile
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, nil, err
	}
	if file.Rules == nil {
		return nil, nil, errors.New("has no list of rules in it")
	}
	rules = make(map[ruleKey]*heldRule, min(len(file.Rules), MaxRules))
	ignored := 0
	ignore := func(err error) {
		if ignored++; ignored == 1 {
			notes = err
		}
	}
	for _, entry := range file.Rules {
		kind, err := ParseRuleKind(entry.Kind)
		if err != nil {
			ignore(err)
			continue
		}
		value, err := canonicalRule(kind, entry.Value)
		if err != nil {
			ignore(err)
			continue
		}
		if isDue(timeOrZero(entry.Until), now) {
			continue
		}
		if len(rules) >= MaxRules {
			ignore(fmt.Errorf("value %q: there are %d rules already", value, MaxRules))
			continue
		}
		rules[ruleKey{kind, value}] = &heldRule{Rule: Rule{
			Kind: kind, Value: value, Until: timeOrZero(entry.Until), Since: timeOrZero(entry.Since),
			Reason: cleanText(entry.Reason, MaxReasonBytes), By: cleanText(entry.By, maxByBytes),
		}, hits: new(atomic.Uint64)}
	}
	if ignored > 0 {
		notes = fmt.Errorf("%d rules of the file were ignored, the first: %w", ignored, notes)
	}
	return rules, notes, nil
}
