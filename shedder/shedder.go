// Package shedder decides what is served when there is more than can be. It knows requests by what they cost and by what is
// lost when they are refused, and nothing of HTTP or of swarms.
//
// A request passes through, in order:
//
//	Gate.Observe   how old it was when it was read: the signal of overload
//	Gate.Admit     the endpoint's switch, the source's budget, how old it is, the brownout step
//	Gate.Park      the wait of one that is refused, where its connection is kept
//
// That is one straight line of atomics: no lock, no allocation, 55 ns (go test -bench=Admit ./shedder). What decides is
// elsewhere, and slower: Gate.Step, every 50 ms, asks law.step (whether there is an overload, and how long who is refused
// waits), ladder.step (the brownout), budgets.step (how much sources may ask), interval.step (what clients are told) and memoryLevel, all
// of them pure. Switches and Rules are the operator's word, which wins over all of it.
package shedder

import (
	"fmt"
	"net/netip"
	"time"
)

// Endpoint is what can be switched, shed and counted by itself.
type Endpoint uint8

// The endpoints (contract: switches).
const (
	Announce Endpoint = iota // over HTTP
	Scrape                   // over HTTP
	WS                       // WebSocket: handshakes, and all that comes on open sockets
	UDP
	EndpointCount
)

var endpointNames = [EndpointCount]string{"announce", "scrape", "ws", "udp"}

func (e Endpoint) String() string { return endpointNames[e] }

// ParseEndpoint reads an endpoint's name.
func ParseEndpoint(s string) (Endpoint, error) {
	for e, name := range endpointNames {
		if s == name {
			return Endpoint(e), nil
		}
	}
	return 0, fmt.Errorf("endpoint %q: must be announce, scrape, ws or udp", s)
}

// Class orders requests by what is lost when one is refused; the last is refused first. A client's own words decide (its
// event, its left), so a class gives nothing but a place in the order; what a source may have at most is not asked of it.
type Class uint8

// The classes.
const (
	Leaving      Class = iota // stopped, completed: it ends or turns a peer, and is not soon heard again
	KnownLeecher              // of a source that was served before the overload began
	KnownSeeder
	Unknown // of a source never seen: what an attacker looks like
	Offers  // a WebSocket message
	Scrapes
	Upgrade // a new WebSocket
	classCount
)

// reserves is the share of the burst that is kept for the classes before. Where those alone ask for more than the rate, a
// class gets nothing.
var reserves = [classCount]float64{0, .2, .35, .5, .6, .75, .9}

// patience is how long a request of a class may have waited in an overload, in quarters of the target. Those that are refused
// first are gone before the others have waited so long.
var patience = [classCount]time.Duration{8, 6, 5, 4, 3, 2, 1}

// Verdict is what is to become of a request.
type Verdict uint8

// The verdicts.
const (
	Serve      Verdict = iota
	Trim               // serve it, with fewer peers or offers
	Shed               // do not serve it, and answer in the way that brings the fewest retries
	OverBudget         // the same, because its source asks too much
	Refuse             // the endpoint's switch, or a rule, says so
	Lost               // not decided upon: the kernel had no room for it, as Gate.Lose was told
	verdictCount
)

// Request is what is known of a request when it is decided upon.
type Request struct {
	Endpoint Endpoint
	Class    Class      // KnownLeecher and KnownSeeder become Unknown if the source is not known
	Source   netip.Addr // unmapped; the zero Addr has no budget
	Now      time.Time
	Age      time.Duration // since the kernel had it; negative: not known

	// Alone says that the connection carries no other request: to refuse this one costs what serving it does, so the rate does
	// not refuse it. Such connections are bounded where they are accepted.
	Alone bool
	// Direct says that Source is the connection's own address, which the kernel can drop.
	Direct bool

	// Crowded says of a packet that more come than are read, whatever the gate knows. Then Admit sets Offends where the source asks
	// so far above its budget that the kernel should drop it for a while: refusing costs as much as serving.
	Crowded, Offends bool
}
