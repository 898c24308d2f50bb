package config

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// redis is checked whole even when it is not in use, as everything else; only its addresses may then be missing.
func (p *problems) redis(kind string, c Redis) {
	p.check("store.redis.addrs", kind != "redis" || len(c.Addrs) > 0, "empty, while store.kind is redis; give an address, as 127.0.0.1:6379")
	p.check("store.redis.addrs", len(c.Addrs) <= 64, "got %d addresses; must be 64 at most", len(c.Addrs))
	for i, a := range c.Addrs {
		p.check("store.redis.addrs", isRedisAddr(a), "got %q; must be host:port, as 127.0.0.1:6379, or unix:/path", a)
		p.check("store.redis.addrs", !slices.Contains(c.Addrs[:i], a), "%q is given twice; keep one", a)
	}
	p.check("store.redis.username", c.Username == "" || c.Password != "", "set, while store.redis.password is empty; give both or neither")
	p.check("store.redis.db", c.DB >= 0 && c.DB <= 65535, "got %d; must be from 0 to 65535", c.DB)
	p.oneOf("store.redis.cluster", c.Cluster, "auto", "on", "off")
	p.check("store.redis.db", c.DB == 0 || c.Cluster != "on", "got %d, while store.redis.cluster is on; a cluster has database 0 alone", c.DB)
	p.check("store.redis.addrs", len(c.Addrs) < 2 || c.Cluster != "off" || c.Sentinel != "", "got %d addresses, while store.redis.cluster is off; give one", len(c.Addrs))
	p.redisSentinel(c)
	for _, f := range [][2]string{{"tls_ca", c.TLSCA}, {"tls_cert", c.TLSCert}, {"tls_key", c.TLSKey}, {"tls_name", c.TLSName}} {
		p.check("store.redis."+f[0], f[1] == "" || c.TLS, "set, while store.redis.tls is false; set that to true")
	}
	p.check("store.redis.tls_cert", (c.TLSCert == "") == (c.TLSKey == ""), "one of store.redis.tls_cert and tls_key is empty; give both or neither")
	// Below a few milliseconds a busy Redis looks like a dead one; above a second clients have better to do.
	p.within("store.redis.wait", c.Wait, 5*time.Millisecond, time.Second)
	p.check("store.redis.node", len(c.Node) <= 64 && isPrintable(c.Node), "got %q; must be printable ASCII without blanks, 64 characters at most", c.Node)
}

func (p *problems) redisSentinel(c Redis) {
	p.check("store.redis.sentinel", len(c.Sentinel) <= 64 && isPrintable(c.Sentinel), "got %q; must be printable ASCII without blanks, 64 characters at most", c.Sentinel)
	p.check("store.redis.sentinel", c.Sentinel == "" || c.Cluster != "on", "set, while store.redis.cluster is on; a cluster needs no sentinels")
	p.check("store.redis.sentinel", c.Sentinel == "" || !slices.ContainsFunc(c.Addrs, func(a string) bool { return strings.HasPrefix(a, "unix:") }),
		"set, while store.redis.addrs has a unix socket; give the sentinels' host:port")
	p.check("store.redis.sentinel_password", c.SentinelPassword == "" || c.Sentinel != "", "set, while store.redis.sentinel is empty; name the master there")
	p.check("store.redis.sentinel_username", c.SentinelUsername == "" || c.SentinelPassword != "", "set, while store.redis.sentinel_password is empty; give both or neither")
}

func isRedisAddr(a string) bool {
	if path, ok := strings.CutPrefix(a, "unix:"); ok {
		return path != "" && len(path) < 108 // sockaddr_un, unix(7)
	}
	host, port, err := net.SplitHostPort(a)
	n, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && host != "" && n > 0
}
