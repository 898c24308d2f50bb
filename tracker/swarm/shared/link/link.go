// Package link finds the Redis that nodes share, and connects to it: to one server, to a cluster, or to the master that sentinels name.
//
// Nobody needs it to be there: Connect is called again until it succeeds, and until then Client is nil.
package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Config says where Redis is, and who we are there.
type Config struct {
	Addrs    []string // host:port, or unix:/path; several are nodes of one cluster, or sentinels
	Username string
	Password string
	DB       int
	Cluster  string      // auto (default), on or off
	TLS      *tls.Config // nil: none

	// Sentinel is the name that Addrs, which are sentinels then, know the master by. They have users and passwords of their own.
	Sentinel         string
	SentinelUsername string
	SentinelPassword string

	// What follows is up to whoever connects, not to the operator.

	Name         string        // in CLIENT LIST
	Timeout      time.Duration // to connect; of a call; of the wait for a connection that is free
	Conns        int           // at most, to one Redis
	ClusterConns int           // and to each node of a cluster
}

// Link is the way to Redis. It is safe for concurrent use, but for Connect.
type Link struct {
	cfg       Config
	client    atomic.Pointer[redis.UniversalClient] // nil until somebody has answered once
	clustered atomic.Bool
}

// quiet ends go-redis's own lines on stderr: what they say is in the errors of calls.
var quiet = sync.OnceFunc(func() { redis.SetLogger(silence{}) })

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// New makes a link that is not connected.
func New(cfg Config) *Link {
	quiet()
	return &Link{cfg: cfg}
}

// ErrConnecting is for calls while nobody has answered yet.
var ErrConnecting = errors.New("redis has not answered yet")

// Client is nil until somebody has answered once. From then on it is always the same.
func (l *Link) Client() redis.UniversalClient {
	if c := l.client.Load(); c != nil {
		return *c
	}
	return nil
}

// Clustered tells whether it is a cluster. Before Connect has succeeded it is not.
func (l *Link) Clustered() bool { return l.clustered.Load() }

// Connect finds out whom it has to do with. It returns the address that answered first.
func (l *Link) Connect(ctx context.Context) (addr string, err error) {
	if l.cfg.Sentinel != "" {
		client := redis.NewFailoverClient(l.failoverOptions())
		if err := client.Ping(ctx).Err(); err != nil {
			_ = client.Close()
			return "", err
		}
		l.use(client, false)
		return strings.Join(l.cfg.Addrs, ","), nil
	}
	err = ErrConnecting
	for _, addr := range l.cfg.Addrs {
		var client redis.UniversalClient
		var clustered bool
		if client, clustered, err = l.try(ctx, addr); err == nil {
			l.use(client, clustered)
			return addr, nil
		}
	}
	return "", err
}

func (l *Link) use(client redis.UniversalClient, clustered bool) {
	l.clustered.Store(clustered)
	l.client.Store(&client)
}

// try asks one address what it is.
func (l *Link) try(ctx context.Context, addr string) (client redis.UniversalClient, clustered bool, err error) {
	single := redis.NewClient(l.options(addr))
	switch l.cfg.Cluster {
	case "", "auto":
		var info string
		info, err = single.Info(ctx, "cluster").Result()
		clustered = strings.Contains(info, "cluster_enabled:1")
	default:
		err = single.Ping(ctx).Err()
		clustered = l.cfg.Cluster == "on"
	}
	if err == nil && !clustered {
		return single, false, nil
	}
	_ = single.Close()
	if err != nil {
		return nil, false, err
	}
	return redis.NewClusterClient(l.clusterOptions()), true, nil
}

// Reload has the client of a cluster look who its masters are now: a dead one redirects nobody.
func (l *Link) Reload(ctx context.Context) {
	if c, ok := l.Client().(*redis.ClusterClient); ok {
		c.ReloadState(ctx)
	}
}

// Close ends the connections there are.
func (l *Link) Close() {
	if c := l.Client(); c != nil {
		_ = c.Close()
	}
}

func (l *Link) options(addr string) *redis.Options {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	c := &l.cfg
	return &redis.Options{
		Network: network, Addr: addr, Username: c.Username, Password: c.Password, DB: c.DB,
		// What failed is tried again by the caller, with what has come together since.
		MaxRetries: -1, DialerRetries: 1,
		DialTimeout: c.Timeout, ReadTimeout: c.Timeout, WriteTimeout: c.Timeout, PoolTimeout: c.Timeout,
		ContextTimeoutEnabled: true,
		PoolSize:              c.Conns,
		ClientName:            clientName(c.Name),
		DisableIdentity:       true,
		Protocol:              2, // nothing of RESP3 is used; push messages are not wanted
		TLSConfig:             c.TLS,
		// No hidden traffic: what is sent stands in our code.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

func (l *Link) clusterOptions() *redis.ClusterOptions {
	o := l.options(l.cfg.Addrs[0])
	return &redis.ClusterOptions{
		Addrs:    slices.Clone(l.cfg.Addrs), // the client appends to them
		Username: o.Username, Password: o.Password, ClientName: o.ClientName,
		MaxRedirects: 3, MaxRetries: o.MaxRetries, DialerRetries: o.DialerRetries,
		DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, PoolTimeout: o.PoolTimeout,
		ContextTimeoutEnabled: true, PoolSize: l.cfg.ClusterConns, DisableIdentity: true, Protocol: o.Protocol, TLSConfig: o.TLSConfig,
		MaintNotificationsConfig: o.MaintNotificationsConfig,
	}
}

// failoverOptions: the client asks the sentinels for the master each time it opens a connection, and is told by them when there is
// another.
func (l *Link) failoverOptions() *redis.FailoverOptions {
	o := l.options(l.cfg.Addrs[0])
	return &redis.FailoverOptions{
		MasterName: l.cfg.Sentinel, SentinelAddrs: slices.Clone(l.cfg.Addrs),
		SentinelUsername: l.cfg.SentinelUsername, SentinelPassword: l.cfg.SentinelPassword,
		Username: o.Username, Password: o.Password, DB: o.DB, ClientName: o.ClientName,
		MaxRetries: o.MaxRetries, DialerRetries: o.DialerRetries,
		DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, PoolTimeout: o.PoolTimeout,
		ContextTimeoutEnabled: true, PoolSize: o.PoolSize, DisableIdentity: true, Protocol: o.Protocol, TLSConfig: o.TLSConfig,
	}
}

// clientName is what CLIENT SETNAME takes: no blanks.
func clientName(name string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, strings.TrimSuffix(name, "-"))
}

// Files are what a connection by TLS may need besides the system's certificate authorities, in PEM. The names in brackets are the
// configuration's keys.
type Files struct {
	CA   string // whom to trust instead of the system's authorities (store.redis.tls_ca)
	Cert string // who we are, for a Redis that asks (store.redis.tls_cert)
	Key  string // (store.redis.tls_key)
	Name string // what Redis's certificate is for, if not the address it is reached at (store.redis.tls_name)
}

// TLS reads the files. Our own certificate is read again for each connection: they are renewed often.
func TLS(f Files) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.Name}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("store.redis.tls_ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("store.redis.tls_ca: %s: no certificate in it; it must have one or more in PEM, which begin with -----BEGIN CERTIFICATE-----", f.CA)
		}
	}
	if f.Cert != "" {
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
			if err != nil {
				return nil, fmt.Errorf("store.redis.tls_cert, tls_key: %w", err)
			}
			return &cert, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return cfg, nil
}
