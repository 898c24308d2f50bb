package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// link is the way to Redis.
type link struct {
	client    atomic.Pointer[redis.UniversalClient] // nil until somebody has answered once
	clustered atomic.Bool
}

// quiet ends go-redis's own lines on stderr: what they say is in this package's log.
var quiet = sync.OnceFunc(func() { redis.SetLogger(silence{}) })

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

var errConnecting = errors.New("redis has not answered yet")

// redis returns the client, or an error while nobody has answered.
func (n *Node) redis() (redis.UniversalClient, error) {
	if c := n.link.client.Load(); c != nil {
		return *c, nil
	}
	return nil, errConnecting
}

// connect finds out whom it has to do with.
func (n *Node) connect(ctx context.Context) error {
	err := errConnecting
	for _, addr := range n.cfg.Addrs {
		single := redis.NewClient(n.options(addr))
		mode := n.cfg.Cluster
		if mode == "" || mode == "auto" {
			var info string
			if info, err = single.Info(ctx, "cluster").Result(); err == nil {
				mode = "off"
				if strings.Contains(info, "cluster_enabled:1") {
					mode = "on"
				}
			}
		} else {
			err = single.Ping(ctx).Err()
		}
		if err != nil {
			_ = single.Close()
			continue
		}
		var client redis.UniversalClient = single
		if mode == "on" {
			_ = single.Close()
			client = redis.NewClusterClient(n.clusterOptions())
		}
		n.link.clustered.Store(mode == "on")
		n.link.client.Store(&client)
		return nil
	}
	return err
}

func (n *Node) options(addr string) *redis.Options {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	o := &redis.Options{
		Network: network, Addr: addr, Username: n.cfg.Username, Password: n.cfg.Password, DB: n.cfg.DB,
		MaxRetries: -1, DialerRetries: 1,
		DialTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout, PoolTimeout: timeout,
		ContextTimeoutEnabled: true,
		PoolSize:              4, // beats, messages, orders
		ClientName:            clientName(n.cfg.Name),
		DisableIdentity:       true,
		Protocol:              2,
		// No hidden traffic: what this sends is in this package.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if n.cfg.TLS {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return o
}

func (n *Node) clusterOptions() *redis.ClusterOptions {
	o := n.options(n.cfg.Addrs[0])
	return &redis.ClusterOptions{
		Addrs:    slices.Clone(n.cfg.Addrs), // the client appends to them
		Username: o.Username, Password: o.Password, ClientName: o.ClientName,
		MaxRedirects: 3, MaxRetries: -1, DialerRetries: 1,
		DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, PoolTimeout: o.PoolTimeout,
		ContextTimeoutEnabled: true, PoolSize: o.PoolSize, DisableIdentity: true, Protocol: 2, TLSConfig: o.TLSConfig,
		MaintNotificationsConfig: o.MaintNotificationsConfig,
	}
}

// clientName is what CLIENT SETNAME takes: no blanks.
func clientName(node string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, strings.TrimSuffix("spillway-cluster-"+node, "-"))
}

// reload has the client of a cluster look who its masters are now: a dead one redirects nobody.
func (n *Node) reload(ctx context.Context) {
	if c, err := n.redis(); err == nil {
		if cc, ok := c.(*redis.ClusterClient); ok {
			cc.ReloadState(ctx)
		}
	}
}

func (n *Node) close() {
	if c, err := n.redis(); err == nil {
		_ = c.Close()
	}
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
