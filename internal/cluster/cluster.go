// Package cluster is what nodes that share their swarms through Redis share besides: who is there, messages from node to node,
// and the operator's orders to all of them.
//
// Each node says four times a second that it lives (beat.go) and hears who else does. A message passes through, in order:
//
//	Node.Send      one copy into a bounded queue; never blocks
//	Node.send      all that has come together, a payload a node, in one round trip: PUBLISH on that node's channel
//	Node.listen    the other node's subscription, into a bounded queue
//	Config.Receive
//
// Messages are not kept for anybody: what cannot be delivered now is counted and gone. Orders (orders.go) are kept, in Redis and on
// each node's disk, until all have followed them. docs/redis.md has the layout, the bounds and what happens when.
package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/tracker/swarm/shared/link"
)

// ID names one run of one node.
type ID [4]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Config says where Redis is and what is done with what comes. Zero means the default.
type Config struct {
	Redis  link.Config // its Name is this node's
	Prefix string      // of keys and channels; default "sw:"

	MaxMessage int    // bytes of a message; default 128 KiB
	File       string // where orders are kept over a restart; "" keeps none

	// Receive is called with each message of another node, by one goroutine. It keeps nothing of it.
	Receive func(message []byte)
	// Apply is called with each order that is news to this node, by one goroutine, in the order in which they were given.
	Apply func(Order)
	// State is what the other nodes are told of this one, in at most maxState bytes; asked each beat. Nil says nothing.
	State func() string
}

// Bounds.
const (
	timeout      = 500 * time.Millisecond // of a call
	beatEvery    = 250 * time.Millisecond
	lifetime     = 3 * time.Second // a node that has not been heard of for so long is dead
	maxState     = 512
	maxNodes     = 1024
	maxQueue     = 8 << 20   // bytes of messages that wait for Redis
	maxInbox     = 8 << 20   // bytes of payloads that wait for Receive
	maxInboxLen  = 4096      // and how many
	maxPayload   = 128 << 10 // bytes of several messages published together
	maxOrders    = 4096
	maxWhatBytes = 1 << 10
	maxTextBytes = 1 << 10
)

func (c *Config) defaults() {
	if c.Prefix == "" {
		c.Prefix = "sw:"
	}
	if c.MaxMessage == 0 {
		c.MaxMessage = 128 << 10
	}
	if c.Receive == nil {
		c.Receive = func([]byte) {}
	}
	if c.Apply == nil {
		c.Apply = func(Order) {}
	}
	if c.State == nil {
		c.State = func() string { return "" }
	}
}

// Node is this node among the others. It is safe for concurrent use.
type Node struct {
	cfg     Config
	log     *slog.Logger
	id      ID
	link    *link.Link
	out     outbox
	in      inbox
	orders  orders
	metrics counters

	listening atomic.Bool                 // others' messages reach us
	up        atomic.Bool                 // Redis takes ours
	alive     atomic.Pointer[map[ID]bool] // the other nodes that were heard of; true: it hears others
	sure      atomic.Bool                 // that there are no more
	peers     atomic.Pointer[[]Peer]
	gone      atomic.Pointer[[]Gone]
	skewNs    atomic.Int64  // how far Redis's clock is ahead of ours
	beatNow   chan struct{} // holds one
}

// New makes a node of a name of chance. problem is what the operator should know of Config.File; the node works all the same. It
// connects when Run does.
func New(cfg Config, log *slog.Logger) (n *Node, problem error) {
	cfg.defaults()
	n = &Node{cfg: cfg, log: log, link: newLink(cfg.Redis), beatNow: make(chan struct{}, 1)}
	_, _ = rand.Read(n.id[:])
	n.alive.Store(&map[ID]bool{})
	n.peers.Store(&[]Peer{})
	n.gone.Store(&[]Gone{})
	n.out.woken = make(chan struct{}, 1)
	n.in.payloads = make(chan string, maxInboxLen)
	return n, n.orders.open(cfg.File)
}

// ID is what other nodes know this one by.
func (n *Node) ID() ID { return n.id }

// Alive tells whether a message to the node would reach it, as far as is known: Redis answers, and it was heard of in the last 3 s.
// It allocates nothing and waits for nobody.
func (n *Node) Alive(id ID) bool {
	return (*n.alive.Load())[id] && n.up.Load()
}

// Dead tells whether the node is known to be gone: this one has heard without a break for 3 s who lives, in which any that does has
// said so, and that one has not. What is not Alive need not be Dead. It allocates nothing and waits for nobody.
func (n *Node) Dead(id ID) bool {
	if id == n.id || !n.sure.Load() {
		return false
	}
	_, heard := (*n.alive.Load())[id]
	return !heard
}

// Run keeps in touch until ctx ends. Then it tells the others that this node is gone.
func (n *Node) Run(ctx context.Context) {
	var tasks sync.WaitGroup
	for _, task := range []func(context.Context){n.runBeat, n.runSend, n.runListen, n.runReceive, n.runOrders} {
		tasks.Go(func() { task(ctx) })
	}
	tasks.Wait()
	n.leave()
	n.link.Close()
}

// pause waits for d, and tells whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// poke puts something into a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is there
	}
}

// newLink makes the way to Redis: for beats, messages and orders.
func newLink(cfg link.Config) *link.Link {
	cfg.Name = "spillway-cluster-" + cfg.Name
	cfg.Timeout = timeout
	cfg.Conns, cfg.ClusterConns = 4, 4
	return link.New(cfg)
}

// redis returns the client, or an error while nobody has answered.
func (n *Node) redis() (redis.UniversalClient, error) {
	if c := n.link.Client(); c != nil {
		return c, nil
	}
	return nil, link.ErrConnecting
}

// key is one of ours. The braces keep all of them in one slot of a cluster, where one script may see them.
func (n *Node) key(name string) string { return n.cfg.Prefix + "{cluster}:" + name }

// channel is where messages for a node go.
func (n *Node) channel(id ID) string { return n.cfg.Prefix + "node:" + id.String() }

// clock is Redis's, in microseconds of Unix time, as far as it is known: nodes whose clocks differ must agree on whose word is the
// last.
func (n *Node) clock(at time.Time) int64 { return (at.UnixNano() + n.skewNs.Load()) / 1e3 }

// time is the opposite of clock. Zero is the zero time.
func (n *Node) time(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.Unix(0, us*1e3-n.skewNs.Load())
}
