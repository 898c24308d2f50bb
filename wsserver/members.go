package wsserver

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"spillway/tracker/swarm"
)

// member is a peer in a swarm: one torrent and one peer id on one socket. A socket has several: WebTorrent shares a page's
// socket between torrents, libtorrent shares it between torrents that have each a peer id of their own, and two
// clients of one page may be in one swarm.
//
// The store knows it by its place in the table and how often that place was given before: swarm.EndpointWeb.
type member struct {
	socket atomic.Pointer[socket] // nil while the place is free
	gen    atomic.Uint32          // of the place: at least 1 when it is first given

	// What follows is the socket's reader's, or, while the place is free, the table's.
	next     uint32 // place plus one of the socket's next member, or of the next free place; 0 ends
	infoHash swarm.InfoHash
	peerID   [20]byte
}

const memberChunk = 256

// memberTable is the places of members, in chunks that stay where they are.
type memberTable struct {
	chunks []atomic.Pointer[[memberChunk]member]

	mu   sync.Mutex // guards what follows
	free uint32     // place plus one, 0 for none
	made uint32     // places that exist
	used int
}

// init bounds the members by eight a socket: most have one, and 56 bytes each.
func (t *memberTable) init(maxConns int) {
	t.chunks = make([]atomic.Pointer[[memberChunk]member], (8*maxConns+memberChunk-1)/memberChunk)
}

func (t *memberTable) max() int { return len(t.chunks) * memberChunk }

func (t *memberTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used
}

func (t *memberTable) at(place uint32) *member {
	return &t.chunks[place/memberChunk].Load()[place%memberChunk]
}

// add gives s a place, or ok is false when there is none. The caller is s's reader.
func (t *memberTable) add(s *socket) (m *member, place uint32, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.free != 0:
		place = t.free - 1
		m = t.at(place)
		t.free = m.next
	case int(t.made) == t.max():
		return nil, 0, false
	default:
		place = t.made
		if place%memberChunk == 0 {
			t.chunks[place/memberChunk].Store(new([memberChunk]member))
		}
		t.made++
		m = t.at(place)
		m.gen.Store(1)
	}
	t.used++
	m.socket.Store(s)
	return m, place, true
}

// remove frees a place. Endpoints made of it before find nobody any more.
func (t *memberTable) remove(place uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.at(place)
	if m.gen.Add(1) == 0 {
		m.gen.Store(1) // the zero endpoint is nobody's
	}
	m.socket.Store(nil)
	m.next = t.free
	t.free = place + 1
	t.used--
}

func (t *memberTable) endpoint(place uint32) (e swarm.EndpointWeb) {
	binary.LittleEndian.PutUint32(e[:4], place)
	binary.LittleEndian.PutUint32(e[4:], t.at(place).gen.Load())
	return e
}

// find returns the socket of an endpoint, or nil when the peer is gone.
func (t *memberTable) find(e []byte) *socket {
	place, gen := binary.LittleEndian.Uint32(e[:4]), binary.LittleEndian.Uint32(e[4:8])
	if int(place/memberChunk) >= len(t.chunks) {
		return nil
	}
	chunk := t.chunks[place/memberChunk].Load()
	if chunk == nil {
		return nil
	}
	m := &chunk[place%memberChunk]
	s := m.socket.Load()
	if m.gen.Load() != gen {
		return nil // after the socket was read: else the place might have been given to another in between
	}
	return s
}

// A socket's own members: a list, and beside it an index once it is long.

const scanMembers = 16

type memberKey struct {
	infoHash swarm.InfoHash
	peerID   [20]byte
}

// member returns the place of one of the socket's members.
func (s *socket) member(infoHash *swarm.InfoHash, peerID *[20]byte) (place uint32, ok bool) {
	if s.index != nil {
		place, ok = s.index[memberKey{*infoHash, *peerID}]
		return place, ok
	}
	for at := s.members; at != 0; {
		m := s.server.members.at(at - 1)
		if m.infoHash == *infoHash && m.peerID == *peerID {
			return at - 1, true
		}
		at = m.next
	}
	return 0, false
}

// maxPeerIDs bounds the peer ids of one torrent on one socket. A page has a client or two in a swarm; whoever has a
// thousand wants the offers of all others.
const maxPeerIDs = 8

// join makes a member, or ok is false when the socket or the server has as many as it may.
func (s *socket) join(infoHash *swarm.InfoHash, peerID *[20]byte) (place uint32, ok bool) {
	if s.memberCount >= s.server.cfg.MaxHashes || s.peerIDs(infoHash) >= maxPeerIDs {
		return 0, false
	}
	m, place, ok := s.server.members.add(s)
	if !ok {
		return 0, false
	}
	m.infoHash, m.peerID, m.next = *infoHash, *peerID, s.members
	s.members = place + 1
	s.memberCount++
	if s.memberCount > scanMembers {
		if s.index == nil {
			s.index = make(map[memberKey]uint32, 2*scanMembers)
			for at := m.next; at != 0; {
				n := s.server.members.at(at - 1)
				s.index[memberKey{n.infoHash, n.peerID}] = at - 1
				at = n.next
			}
		}
		s.index[memberKey{*infoHash, *peerID}] = place
	}
	return place, true
}

func (s *socket) peerIDs(infoHash *swarm.InfoHash) (n int) {
	for at := s.members; at != 0; {
		m := s.server.members.at(at - 1)
		if m.infoHash == *infoHash {
			n++
		}
		at = m.next
	}
	return n
}

// leave takes a member out of the socket's list and frees its place.
func (s *socket) leave(place uint32) {
	t := &s.server.members
	gone := t.at(place)
	if s.index != nil {
		delete(s.index, memberKey{gone.infoHash, gone.peerID})
	}
	for at := &s.members; *at != 0; at = &t.at(*at - 1).next {
		if *at == place+1 {
			*at = gone.next
			s.memberCount--
			t.remove(place)
			return
		}
	}
	panic("BUG: a member that its socket does not have")
}
