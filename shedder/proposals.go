package shedder

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// What is usual is an average over about ten windows.
const (
	usualWindows = 10
	usualKeys    = 128   // of a dimension
	usualLeast   = 0.001 // a smaller share is not kept
	usualSamples = 50    // a window of fewer counts for less, so that a night does not wipe out a day
)

// When a trait is proposed.
const (
	proposeSamples = 200
	proposeLearnt  = 3 // windows: before, nothing is usual, and all would be proposed
	proposeShare   = 0.3
	proposeTimes   = 4 // the usual share,
	proposeAbove   = 0.05
	proposeUsual   = 0.25 // a trait of so many is the public, whatever its share is now
	proposeMost    = 5
)

// Proposal is a trait that the requests of an overload have in common and usual ones have not: a rule that may end it.
type Proposal struct {
	Kind  RuleKind
	Value string // as Rules.Add takes it
	Share float64
	Usual float64
	Why   string // as a reason for Rules.Add
}

// Proposals returns what may be blocked to end the overload that there is, at most five, the narrowest first: sources,
// networks, and then those that are least usual. A trait that those before it explain is left out until they are blocked.
// There are none without overload, before enough is known of it, or in the first minutes of the process.
func (t *Talkers) Proposals() []Proposal {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.overloaded || t.learnt < proposeLearnt {
		return nil
	}
	windows := []*talkerCounts{t.now}
	if t.last.overloaded {
		windows = append(windows, t.last)
	}
	samples := uint64(0)
	for _, w := range windows {
		samples += w.samples
	}
	if samples < proposeSamples {
		return nil
	}
	var proposals []Proposal
	var blocked []sharedKey // the networks proposed
	covered := 0.0          // and their share
	for _, dimension := range []int{bySource, byPrefix} {
		for _, x := range merge(dimension, windows...) {
			network, share := x.key.network(), x.share
			for _, b := range blocked {
				if network.Contains(b.key.network().Addr()) {
					share -= b.share
				}
			}
			usual := t.usual[dimension].of(&x)
			if !stands(share, usual) || !t.ProposeLocal && isLocal(network.Addr()) {
				continue
			}
			blocked = append(blocked, x)
			covered += share
			what := "this source"
			if dimension == byPrefix {
				what = "this network"
			}
			proposals = append(proposals, propose(RuleSource, x.key.value(dimension), x.share, usual, what, ""))
		}
	}
	narrow := len(proposals)
	for _, dimension := range []int{byPeerID, byUserAgent, byInfoHash} {
		for _, x := range merge(dimension, windows...) {
			if p, ok := t.trait(dimension, &x, covered); ok {
				proposals = append(proposals, p)
			}
		}
	}
	slices.SortStableFunc(proposals[narrow:], func(a, b Proposal) int { return cmp.Compare(a.Usual, b.Usual) })
	return proposals[:min(len(proposals), proposeMost)]
}

// trait proposes x if it stands out even without what blocking the networks proposed takes away, all of which may have it.
func (t *Talkers) trait(dimension int, x *sharedKey, covered float64) (Proposal, bool) {
	usual := t.usual[dimension].of(x)
	switch {
	case dimension == byInfoHash:
	case x.key.n > 0:
		usual = t.usual[dimension].beginning(&x.key) // a rule looks at how they begin
	case dimension == byUserAgent || x.key.form != FormRandom:
		return Proposal{}, false // no rule can be made of no User-Agent, nor of the other forms
	}
	if !stands(x.share-covered, usual) {
		return Proposal{}, false
	}
	value := x.key.value(dimension)
	switch dimension {
	case byUserAgent:
		return propose(RuleUserAgent, value, x.share, usual, "this User-Agent", ""), true
	case byInfoHash:
		return propose(RuleInfoHash, value, x.share, usual, "this torrent", "; it may just be a popular torrent, look at it first"), true
	}
	if x.key.n == 0 {
		return propose(RulePeerID, value, x.share, usual, "peer ids with no client's form", ""), true
	}
	return propose(RulePeerID, value, x.share, usual, "peer ids that begin so", ""), true
}

// stands tells whether a share stands out from the usual one.
func stands(share, usual float64) bool {
	return share >= proposeShare && share >= proposeTimes*usual+proposeAbove && usual <= proposeUsual
}

func propose(kind RuleKind, value string, share, usual float64, what, but string) Proposal {
	return Proposal{Kind: kind, Value: value, Share: share, Usual: usual,
		Why: fmt.Sprintf("%.0f %% of requests in the overload have %s, %.0f %% usually%s", 100*share, what, 100*usual, but)}
}

// isLocal tells an address that only a network of one's own can have, carriers' among them (RFC 6598): most likely a proxy's.
func isLocal(addr netip.Addr) bool {
	return addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() || sharedSpace.Contains(addr)
}

var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// baseline is what shares are usual in a dimension.
type baseline struct{ shares []sharedKey }

func (b *baseline) of(x *sharedKey) float64 {
	for i := range b.shares {
		if b.shares[i].hash == x.hash && b.shares[i].key.equal(&x.key) {
			return b.shares[i].share
		}
	}
	return 0
}

// beginning is the usual share of all that begin with key.
func (b *baseline) beginning(key *talkerKey) (sum float64) {
	for i := range b.shares {
		if bytes.HasPrefix(b.shares[i].key.bytes(), key.bytes()) {
			sum += b.shares[i].share
		}
	}
	return sum
}

// learn folds a window without overload into what is usual: the mean of all of them first, then one that forgets. It is
// called with mu held.
func (t *Talkers) learn(w *talkerCounts) {
	if w.samples == 0 {
		return
	}
	weight := min(1, float64(w.samples)/usualSamples)
	t.learnt = min(t.learnt+weight, usualWindows)
	for dimension := range t.usual {
		t.usual[dimension].fold(merge(dimension, w), weight/t.learnt)
	}
}

func (b *baseline) fold(shares []sharedKey, alpha float64) {
	for i := range b.shares {
		b.shares[i].share *= 1 - alpha
	}
	known := len(b.shares)
	for _, x := range shares {
		x.share *= alpha
		i := slices.IndexFunc(b.shares[:known], func(y sharedKey) bool { return y.hash == x.hash && y.key.equal(&x.key) })
		if i >= 0 {
			b.shares[i].share += x.share
		} else {
			b.shares = append(b.shares, x)
		}
	}
	sortShares(b.shares)
	keep := min(len(b.shares), usualKeys)
	for keep > 0 && b.shares[keep-1].share < usualLeast {
		keep--
	}
	b.shares = slices.Clip(b.shares[:keep])
}
