package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// KeyError is a value that cannot be used.
type KeyError struct {
	Key string // as "http.max_conns"
	Msg string // what was got, and what it must be
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Msg }

// Check says what is wrong with c, in the order of the keys. It looks at the
// values only: files and sockets are tried by those who use them.
func Check(c Config) []*KeyError {
	var p problems
	p.check("data_dir", c.DataDir != "", "empty; name a directory to keep swarms in")
	p.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	p.oneOf("log.format", c.Log.Format, "text", "json")
	p.http(c.HTTP)
	p.ws(c.WS)
	p.udp(c.UDP)
	p.admin("admin", c.Admin.Listen, c.Admin.Token)
	p.tracker(c.Tracker)
	p.oneOf("store.kind", c.Store.Kind, "memory", "redis")
	p.redis(c.Store.Kind, c.Store.Redis)
	p.check("store.memory.max", c.Store.Memory.Max >= 1<<20, "got %s; must be 1MiB or more", c.Store.Memory.Max)
	p.atLeast("store.memory.max_swarms", c.Store.Memory.MaxSwarms, 1)
	p.atLeast("store.memory.max_peers_per_swarm", c.Store.Memory.MaxPeersPerSwarm, 1)
	every := time.Duration(c.Store.Snapshot.Every)
	p.check("store.snapshot.every", every == 0 || every >= time.Second, "got %s; must be 1s or more, or 0s for a snapshot at exit only", c.Store.Snapshot.Every)
	p.within("shedder.target", c.Shedder.Target, 5*time.Millisecond, 2*time.Second)
	p.budget("shedder.per_source", c.Shedder.PerSource)
	p.budget("shedder.per_prefix", c.Shedder.PerPrefix)
	p.check("shedder.memory_max", c.Shedder.MemoryMax == 0 || c.Shedder.MemoryMax >= 32<<20,
		"got %s; must be 32MiB or more, or 0B for what the machine has", c.Shedder.MemoryMax)
	auto := time.Duration(c.Shedder.AutoRules)
	p.check("shedder.auto_rules", auto == 0 || auto >= time.Second && auto <= 24*time.Hour,
		"got %s; must be from 1s to 24h, or 0s to propose only", c.Shedder.AutoRules)
	p.relay(c.Relay)
	return p
}

type problems []*KeyError

func (p *problems) http(c HTTP) {
	p.check("http.listen", len(c.Listen) > 0, "empty; give an address, as :6969")
	tcp := false
	for _, a := range c.Listen {
		p.address("http.listen", a)
		tcp = tcp || !isSystemd(a) && !strings.HasPrefix(a, "unix:")
	}
	for i, a := range c.Listen {
		p.check("http.listen", !slices.Contains(c.Listen[:i], a), "%q is given twice; keep one", a)
	}
	for _, s := range c.TrustedProxies {
		_, errPrefix := netip.ParsePrefix(s)
		_, errAddr := netip.ParseAddr(s)
		p.check("http.trusted_proxies", s == "cloudflare" || errPrefix == nil || errAddr == nil,
			"got %q; must be an address, a CIDR as 10.0.0.0/8, or the word cloudflare", s)
	}
	p.check("http.real_ip_header", isToken(c.RealIPHeader), "got %q; must be the name of a header, as X-Forwarded-For", c.RealIPHeader)
	p.check("http.proxy_protocol", !c.ProxyProtocol || !tcp || len(c.TrustedProxies) > 0,
		"on, while http.trusted_proxies is empty: the proxy itself would be refused; name it there")
	p.check("http.tls.cert", c.TLS.Cert != "" || c.TLS.Key == "", "empty, while http.tls.key is set; give both or neither")
	p.check("http.tls.key", c.TLS.Key != "" || c.TLS.Cert == "", "empty, while http.tls.cert is set; give both or neither")
	p.atLeast("http.max_conns", c.MaxConns, 1)
	p.within("http.idle_timeout", c.IdleTimeout, time.Second, time.Hour)
	p.within("http.shutdown_timeout", c.ShutdownTimeout, 0, time.Hour)
}

func (p *problems) ws(c WS) {
	if c.Listen != "" {
		p.address("ws.listen", c.Listen)
	}
	p.atLeast("ws.max_conns", c.MaxConns, 1)
	p.atLeast("ws.max_conns_per_ip", c.MaxConnsPerIP, 1)
	// An announce with ten offers of 3 KiB is what clients send; a buffer of this size is kept for each two cores.
	p.check("ws.max_message", c.MaxMessage >= 4<<10 && c.MaxMessage <= 4<<20, "got %s; must be from 4KiB to 4MiB", c.MaxMessage)
	p.atLeast("ws.max_offers", c.MaxOffers, 1)
	p.atLeast("ws.max_hashes", c.MaxHashes, 1)
	p.check("ws.rate", c.Rate >= 1 && c.Rate <= 1_000_000, "got %d; must be from 1 to 1000000", c.Rate)
	p.check("ws.burst", c.Burst >= 1 && c.Burst <= 1_000_000, "got %d; must be from 1 to 1000000", c.Burst)
	p.check("ws.max_queue", c.MaxQueue >= c.MaxMessage, "got %s; must be ws.max_message (%s) or more, or the longest is never sent", c.MaxQueue, c.MaxMessage)
	p.check("ws.max_buffered", c.MaxBuffered >= c.MaxQueue, "got %s; must be ws.max_queue (%s) or more", c.MaxBuffered, c.MaxQueue)
	// libtorrent does not go below a minute.
	p.within("ws.interval", c.Interval, 20*time.Second, 3*time.Hour)
	p.within("ws.ping", c.Ping, time.Second, time.Hour)
	p.check("ws.idle", c.Idle > c.Ping, "got %s; must be longer than ws.ping (%s)", c.Idle, c.Ping)
}

func (p *problems) udp(c UDP) {
	for i, a := range c.Listen {
		p.check("udp.listen", !isSystemd(a) && !strings.HasPrefix(a, "unix:"), "got %q; UDP has host:port only, as :6969", a)
		p.address("udp.listen", a)
		p.check("udp.listen", !slices.Contains(c.Listen[:i], a), "%q is given twice; keep one", a)
	}
	// Less than a hundred packets are lost while the garbage is collected; more than a second's are answers to clients that have
	// given up.
	p.check("udp.receive_buffer", c.ReceiveBuffer >= 64<<10 && c.ReceiveBuffer <= 256<<20, "got %s; must be from 64KiB to 256MiB", c.ReceiveBuffer)
}

func (p *problems) tracker(c Tracker) {
	// Below 5 minutes libtorrent does not go, and the lists of public trackers
	// refuse more than 3 hours.
	p.within("tracker.interval", c.Interval, 5*time.Minute, 3*time.Hour)
	p.check("tracker.max_interval", c.MaxInterval >= c.Interval, "got %s; must be tracker.interval (%s) or longer", c.MaxInterval, c.Interval)
	p.within("tracker.max_interval", c.MaxInterval, 0, 3*time.Hour)
	// 20 % is the jitter: a peer told the longest interval would be forgotten
	// before it is back.
	p.check("tracker.peer_ttl", c.PeerTTL == 0 || c.PeerTTL >= c.Interval+c.Interval/5,
		"got %s; must be 1.2 times tracker.interval (%s) or longer, or 0s for twice the interval told", c.PeerTTL, c.Interval)
	p.within("tracker.peer_ttl", c.PeerTTL, 0, 7*24*time.Hour)
	p.atLeast("tracker.numwant.default", c.NumWant.Default, 0)
	p.check("tracker.numwant.max", c.NumWant.Max >= 1 && c.NumWant.Max <= 1000, "got %d; must be from 1 to 1000", c.NumWant.Max)
	p.check("tracker.numwant.default", c.NumWant.Default <= c.NumWant.Max, "got %d; must not be above tracker.numwant.max (%d)", c.NumWant.Default, c.NumWant.Max)
	p.oneOf("tracker.ip_param", c.IPParam, "ignore", "private")
	p.oneOf("tracker.access.mode", c.Access.Mode, "open", "allow", "deny")
	p.check("tracker.access.file", c.Access.File != "" || c.Access.Mode == "open", "empty, while tracker.access.mode is %s; name the file of info hashes", c.Access.Mode)
	for _, prefix := range c.BlockPeerIDs {
		p.check("tracker.block_peer_ids", len(prefix) >= 1 && len(prefix) <= 20, "got %q; must have 1 to 20 bytes, as -XL0019", prefix)
	}
}

// relay does not ask for backends: a tracker's configuration has none.
func (p *problems) relay(c Relay) {
	p.check("relay.listen", len(c.Listen) > 0, "empty; give an address, as :80")
	p.check("relay.listen", len(c.Listen) <= 64, "got %d addresses; must be 64 at most", len(c.Listen))
	for i, a := range c.Listen {
		_, err := ParseRelayListen(a)
		p.check("relay.listen", err == nil, "%v", err)
		p.check("relay.listen", !slices.Contains(c.Listen[:i], a), "%q is given twice; keep one", a)
	}
	p.check("relay.backends", len(c.Backends) <= 16, "got %d backends; must be 16 at most", len(c.Backends))
	for _, a := range c.Backends {
		_, _, err := ParseRelayBackend(a)
		p.check("relay.backends", err == nil, "%v", err)
	}
	p.oneOf("relay.mode", c.Mode, "auto", "kernel", "proxy")
	p.oneOf("relay.masquerade", c.Masquerade, "auto", "on", "off")
	p.check("relay.health.path", strings.HasPrefix(c.Health.Path, "/") && isPrintable(c.Health.Path), "got %q; must begin with / and hold no blanks", c.Health.Path)
	p.within("relay.health.every", c.Health.Every, 20*time.Millisecond, time.Minute)
	p.within("relay.health.timeout", c.Health.Timeout, 20*time.Millisecond, time.Minute)
	p.check("relay.health.timeout", c.Health.Timeout <= 20*c.Health.Every, "got %s; must be 20 times relay.health.every (%s) at most", c.Health.Timeout, c.Health.Every)
	p.check("relay.health.fall", c.Health.Fall >= 1 && c.Health.Fall <= 100, "got %d; must be from 1 to 100", c.Health.Fall)
	p.check("relay.health.rise", c.Health.Rise >= 1 && c.Health.Rise <= 100, "got %d; must be from 1 to 100", c.Health.Rise)
	p.check("relay.budget", c.Budget >= 16 && c.Budget <= 65536, "got %d; must be from 16 to 65536", c.Budget)
	p.check("relay.per_source", c.PerSource >= 0 && c.PerSource <= 1_000_000, "got %d; must be from 1 to 1000000, or 0 for no bound", c.PerSource)
	p.oneOf("relay.profile", c.Profile, "fast-fail", "none")
	p.atLeast("relay.proxy.max_conns", c.Proxy.MaxConns, 1)
	p.within("relay.proxy.connect_timeout", c.Proxy.ConnectTimeout, 10*time.Millisecond, time.Minute)
	p.within("relay.proxy.idle_timeout", c.Proxy.IdleTimeout, time.Second, 24*time.Hour)
	p.admin("relay.admin", c.Admin.Listen, c.Admin.Token)
}

// admin is the operator's side, of a tracker or a relay.
func (p *problems) admin(section, listen, token string) {
	if listen != "" {
		p.address(section+".listen", listen)
		p.check(section+".listen", !isSystemd(listen), "got %q; the admin side has no systemd sockets, use host:port or unix:/path", listen)
	}
	p.check(section+".token", token == "" || len(token) >= 16, "got %d characters; must be 16 or more (openssl rand -hex 32)", len(token))
	p.check(section+".token", isPrintable(token), "has a character that no header can carry; must be printable ASCII without blanks")
}

func (p *problems) budget(key string, b Budget) {
	p.check(key+".rate", b.Rate >= 0 && b.Rate <= 1_000_000, "got %d; must be from 1 to 1000000, or 0 for no bound", b.Rate)
	p.check(key+".burst", b.Burst >= 1 && b.Burst <= 1_000_000, "got %d; must be from 1 to 1000000", b.Burst)
}

func (p *problems) check(key string, ok bool, format string, args ...any) {
	if !ok {
		*p = append(*p, &KeyError{key, fmt.Sprintf(format, args...)})
	}
}

func (p *problems) oneOf(key, got string, words ...string) {
	p.check(key, slices.Contains(words, got), "got %q; must be %s", got, strings.Join(words, " or "))
}

func (p *problems) atLeast(key string, got, least int) {
	p.check(key, got >= least, "got %d; must be %d or more", got, least)
}

func (p *problems) within(key string, got Duration, least, most time.Duration) {
	p.check(key, time.Duration(got) >= least && time.Duration(got) <= most, "got %s; must be from %s to %s", got, Duration(least), Duration(most))
}

// address accepts host:port, unix:/path and the names of systemd's sockets.
func (p *problems) address(key, a string) {
	if isSystemd(a) {
		return
	}
	if path, ok := strings.CutPrefix(a, "unix:"); ok {
		// sockaddr_un has room for 108 bytes with the zero at the end, unix(7).
		p.check(key, path != "" && len(path) < 108, "got %q; must be unix:/path of 1 to 107 bytes", a)
		return
	}
	_, port, err := net.SplitHostPort(a)
	n, portErr := strconv.ParseUint(port, 10, 16)
	p.check(key, err == nil && portErr == nil && n <= 65535, "got %q; must be host:port, as :6969 or [::1]:6969, or unix:/path", a)
}

func isSystemd(a string) bool { return a == "systemd" || strings.HasPrefix(a, "systemd:") }

// isToken is the grammar of a header's name, RFC 9110 5.6.2.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != "" && isPrintable(s)
}

func isPrintable(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

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
