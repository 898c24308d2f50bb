package cluster

import (
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/tracker/swarm/shared/link"
)

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
