// Package swarm knows who is in which swarm.
//
// It holds, for every info hash, the endpoints that announced it and how many of them are seeders, and hands out a fair
// random sample of them. It knows nothing of HTTP, UDP or configuration files.
//
// An announce passes through, in order:
//
//	Table.Announce   picks the shard of the info hash and takes its lock, the only one
//	shard.find       the swarm of the info hash, made on the first announce
//	list.find        the peer's entry in its family's list
//	list.insert, list.move, list.remove
//	sample           copies peers into the reply
//
// Everything else happens beside that path: Table.Run sweeps expired peers a shard at a time, Table.Save writes a
// snapshot a few swarms at a time.
//
// A peer is its address and port, never its peer id: a million random peer ids announced from one endpoint are one peer
// (docs/adr/0001-identity-is-the-endpoint.md).
package swarm

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// InfoHash names a torrent: 20 raw bytes, SHA-1 for BEP 3, the truncated SHA-256 for BEP 52.
type InfoHash [20]byte

// Event is what a peer says has happened to it (BEP 3; Paused: BEP 21).
type Event uint8

// The events. An unknown or empty event is EventNone.
const (
	EventNone Event = iota
	EventStarted
	EventStopped
	EventCompleted
	EventPaused
)

// Endpoint4 is an IPv4 peer as it stands on the wire: address, then port, big endian (BEP 23).
type Endpoint4 [6]byte

// Endpoint6 is an IPv6 peer as it stands on the wire: address, then port, big endian (BEP 7).
type Endpoint6 [18]byte

// EndpointWeb is a WebSocket peer: a name that whoever holds its socket gave it. It has no address that others could
// use, so it is counted with the rest, and told to WebSocket peers only.
type EndpointWeb [8]byte

// Announce is one peer's word about one torrent. The caller owns it; a store keeps nothing of it after the call.
type Announce struct {
	InfoHash InfoHash
	// V4 and V6 are where the peer can be reached. Nearly always one of the two is there; with both, the peer is listed
	// in both families. A WebSocket peer has Web and neither.
	V4           Endpoint4
	V6           Endpoint6
	Web          EndpointWeb
	Has4, Has6   bool
	HasWeb       bool
	Event        Event
	Seeder       bool          // left is exactly 0
	Unreachable  bool          // port 0: answered, never stored
	NumWant      int           // most peers to hand out; 0 or less means none
	TTL          time.Duration // how long the peer is believed alive; at most MaxTTL, at least one Tick
	PreferFamily Family        // whose family gets at least half of the peers; FamilyAny leaves it to chance
	OneFamily    bool          // only peers of PreferFamily: the reply has room for no others (BEP 15)
}

// Family is an address family.
type Family uint8

// The families.
const (
	FamilyAny Family = iota
	Family4
	Family6
)

// SetEndpoint makes addr the announcing endpoint of its family, unmapping IPv4-mapped addresses.
func (a *Announce) SetEndpoint(addr netip.Addr, port uint16) {
	addr = addr.Unmap()
	if addr.Is4() {
		ip := addr.As4()
		copy(a.V4[:4], ip[:])
		binary.BigEndian.PutUint16(a.V4[4:], port)
		a.Has4 = true
		return
	}
	ip := addr.As16()
	copy(a.V6[:16], ip[:])
	binary.BigEndian.PutUint16(a.V6[16:], port)
	a.Has6 = true
}

// Counts is what is known of a swarm. A peer announcing over both families is two peers: identity is the endpoint.
type Counts struct {
	Complete    uint32 // seeders
	Incomplete  uint32 // everybody else, partial seeds included
	Downloaded  uint32 // completed downloads ever counted
	Downloaders uint32 // Incomplete less the partial seeds (BEP 21)
}

// Reply is what an announce gives back. The caller owns it and may use it again: its slices are truncated and refilled.
type Reply struct {
	Counts
	Peers4   []byte // 6 bytes a peer (BEP 23)
	Peers6   []byte // 18 bytes a peer (BEP 7)
	PeersWeb []byte // 8 bytes a peer: EndpointWeb
	FarWeb   []byte // 12 bytes a peer of another node: 4 of its node, then EndpointWeb; only of a store that nodes share
	Known    bool   // the peer was already in the swarm
}

// Tick is the resolution of a peer's lifetime in a store.
const Tick = 4 * time.Second

// MaxTTL bounds a peer's lifetime: 15 bits of ticks, compared modulo, reach half of 36 hours.
const MaxTTL = 16 * time.Hour
