package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// beatScript records that a node lives, forgets those that have not been heard of, and tells who is left.
//
// The nodes are one hash: a node's ID, and the time of its last beat by Redis's clock, 1 if its subscription stands, and its state.
var beatScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local life = tonumber(ARGV[3])
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2])
  redis.call('PEXPIRE', KEYS[1], life / 1000)
end
redis.call('SET', KEYS[2], ARGV[4], 'NX')
local all, alive = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local at, rest = string.match(all[i + 1], '^(%d+) (.*)$')
  at = tonumber(at)
  if not at or at < now - life or at > now + life then
    redis.call('HDEL', KEYS[1], all[i])
  else
    alive[#alive + 1] = all[i]
    alive[#alive + 1] = rest
  end
end
local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')
return {string.format('%.0f', now), redis.call('GET', KEYS[2]), last[2] or '0', alive}
`)

// Peer is a node that was heard of in the last 3 s, this one included.
type Peer struct {
	ID    ID
	State string // as its Config.State says
	Self  bool
}

// Gone is a node that was there and is not, and when it was heard of last.
type Gone struct {
	Peer
	At time.Time
}

// What is told of nodes that are gone: for so long, and of so many.
const (
	keepGone = 10 * time.Minute
	maxGone  = 32
)

// Gone are the nodes that were there in the last ten minutes, as far as this one has seen, the last to go first.
func (n *Node) Gone() []Gone {
	gone := *n.gone.Load()
	now := time.Now()
	return slices.DeleteFunc(slices.Clone(gone), func(g Gone) bool { return now.Sub(g.At) > keepGone })
}

// miss notes who of those there were is not among those there are.
func (n *Node) miss(were, are []Peer, at time.Time) {
	gone := n.Gone()
	with := len(gone)
	for _, p := range were {
		if !slices.ContainsFunc(are, func(q Peer) bool { return q.ID == p.ID }) {
			gone = slices.Insert(gone, 0, Gone{p, at})
		}
	}
	// Who was cut off is back under its name.
	gone = slices.DeleteFunc(gone, func(g Gone) bool {
		return slices.ContainsFunc(are, func(q Peer) bool { return q.ID == g.ID })
	})
	if len(gone) > 0 || with > 0 {
		gone = gone[:min(len(gone), maxGone)]
		n.gone.Store(&gone)
	}
}

// Peers are the nodes there are, by ID. While Redis does not answer there are none.
func (n *Node) Peers() []Peer { return *n.peers.Load() }

// runBeat connects, and says each beatEvery that this node lives.
func (n *Node) runBeat(ctx context.Context) {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	heard := time.Now()
	unbroken := heard // since when each beat has been heard before others could be taken for dead
	failing := false
	for beats := 0; ; beats++ {
		err := n.beat(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			now := time.Now()
			if now.Sub(heard) > lifetime/2 {
				unbroken = now // others may have found Redis gone as long, and not been able to say that they live
			}
			heard = now
			n.sure.Store(now.Sub(unbroken) > lifetime && len(n.Peers()) < maxNodes)
			if failing || beats == 0 {
				n.log.Info("in touch with the other nodes", "nodes", len(n.Peers()), "id", n.id.String())
			}
			failing = false
		default:
			n.metrics.beatsFailed.Add(1)
			n.up.Store(false)
			if !failing {
				n.log.Warn("out of touch with the other nodes: redis does not answer", "why", err)
			}
			failing = true
			if beats%4 == 0 {
				n.link.Reload(ctx)
			}
			if time.Since(heard) > lifetime { // they may be dead as well
				n.sure.Store(false)
				n.alive.Store(&map[ID]bool{})
				n.peers.Store(&[]Peer{})
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-n.beatNow:
		}
	}
}

func (n *Node) beat(ctx context.Context) error {
	if _, err := n.redis(); err != nil {
		if _, err := n.link.Connect(ctx); err != nil {
			return err
		}
	}
	state := n.cfg.State()
	listening := "0 "
	if n.listening.Load() {
		listening = "1 "
	}
	began := time.Now()
	r, err := n.callBeat(ctx, listening+state[:min(len(state), maxState)])
	if err != nil {
		return err
	}
	took := time.Since(began)
	n.metrics.beatSeconds.Store(int64(took))
	n.skewNs.Store(r.nowUs*1e3 - began.Add(took/2).UnixNano())
	alive := make(map[ID]bool, len(r.peers))
	for i := range r.peers {
		p := &r.peers[i]
		if p.Self = p.ID == n.id; !p.Self {
			alive[p.ID] = p.listening
		}
	}
	peers := make([]Peer, 0, len(r.peers))
	for _, p := range r.peers {
		peers = append(peers, p.Peer)
	}
	n.alive.Store(&alive)
	n.miss(n.Peers(), peers, began)
	n.peers.Store(&peers)
	n.up.Store(true)
	n.orders.heard(r.life, r.lastSeq)
	return nil
}

// leave takes this node out of those that live, so that nobody waits for its end to show.
func (n *Node) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, _ = n.callBeat(ctx, "")
}

func (n *Node) callBeat(ctx context.Context, text string) (beatReply, error) {
	client, err := n.redis()
	if err != nil {
		return beatReply{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	keys := []string{n.key("nodes"), n.key("life"), n.key("index")}
	raw, err := beatScript.Run(ctx, client, keys, n.id[:], text, lifetime.Microseconds(), n.id.String()+strconv.FormatInt(time.Now().UnixNano(), 36)).Slice()
	if err != nil {
		return beatReply{}, err
	}
	return parseBeat(raw)
}

// beatReply is what beatScript says.
type beatReply struct {
	nowUs   int64
	life    string // changes when Redis has lost what it was told
	lastSeq int64
	peers   []heardPeer
}

type heardPeer struct {
	Peer
	listening bool
}

var errReply = errors.New("redis said what this version does not understand")

func parseBeat(raw []any) (r beatReply, err error) {
	if len(raw) != 4 {
		return r, fmt.Errorf("%w: %d parts", errReply, len(raw))
	}
	r.nowUs, err = number(raw[0])
	if err == nil {
		r.lastSeq, err = number(raw[2])
	}
	r.life, _ = raw[1].(string)
	alive, ok := raw[3].([]any)
	if err != nil || !ok || r.life == "" || len(alive)%2 != 0 {
		return r, errReply
	}
	for i := 0; i < len(alive) && len(r.peers) < maxNodes; i += 2 {
		id, _ := alive[i].(string)
		text, _ := alive[i+1].(string)
		if len(id) != len(ID{}) || len(text) < 2 || len(text) > maxState+2 {
			continue // of a version that is not ours
		}
		r.peers = append(r.peers, heardPeer{Peer{ID: ID([]byte(id)), State: text[2:]}, text[0] == '1'})
	}
	slices.SortFunc(r.peers, func(a, b heardPeer) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return r, nil
}

// number reads a whole number that a script wrote as text: as a Lua number it would have lost its end.
func number(v any) (int64, error) {
	text, _ := v.(string)
	x, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %.40q is no number", errReply, text)
	}
	return x, nil
}
