// Package config is the one place where the keys of spillway are declared.
//
// A key is a field of Config. Its name tag (prefix for a section) is the key
// in the file, in the environment (SPILLWAY_HTTP_MAX_CONNS) and of the flag
// (--http.max_conns); Default gives its value when nobody does; a
// reload:"restart" tag says that SIGHUP cannot change it. To add a key: a
// field, a default, a paragraph in spillway.example.yaml, and a line in Check
// if some values are wrong. Tests hold the four together.
//
// Load passes through: Default, readFile (parseYAML, then decoder.section and
// decoder.value), readEnv, readFlags, Check.
package config

import (
	_ "embed"
	"time"
)

// Config is everything an operator can set. A Config from Load has passed
// Check. It holds no references to the outside: copy it, but treat its lists
// as read only.
//
// The tags embed, prefix, group and help are read by the command line parser.
type Config struct {
	DataDir string  `name:"data_dir" reload:"restart" help:"Where swarms and the admin token are kept. $STATE_DIRECTORY, set by systemd, is the default when it is there."`
	Log     Log     `embed:"" prefix:"log." group:"Log"`
	HTTP    HTTP    `embed:"" prefix:"http." group:"HTTP: announce, scrape, /stats"`
	Admin   Admin   `embed:"" prefix:"admin." group:"Admin: metrics, health, profiles"`
	Tracker Tracker `embed:"" prefix:"tracker." group:"Tracker: what clients are told"`
	WS      WS      `embed:"" prefix:"ws." group:"WebSocket: WebTorrent peers"`
	UDP     UDP     `embed:"" prefix:"udp." group:"UDP: announce and scrape"`
	Store   Store   `embed:"" prefix:"store." group:"Store: where swarms live"`
	Shedder Shedder `embed:"" prefix:"shedder." group:"Shedder: what happens when there is too much to do"`

	// Relay is for another program than the rest, which is no business of serve's command line.
	Relay Relay `kong:"-" prefix:"relay."`
}

// Log says what is written to stderr.
type Log struct {
	Level  string `name:"level" help:"debug, info, warn or error."`
	Format string `name:"format" reload:"restart" help:"text or json."`
}

// HTTP is the public side.
type HTTP struct {
	Listen          StringList `name:"listen" reload:"restart" help:"Addresses to serve on: host:port, unix:/path, systemd or systemd:NAME (sockets handed over by systemd)."`
	TrustedProxies  StringList `name:"trusted_proxies" placeholder:"CIDR,..." help:"Who may say where a client comes from: addresses, CIDRs, or the word cloudflare."`
	CloudflareFile  string     `name:"cloudflare_file" placeholder:"FILE" help:"A newer list of Cloudflare's CIDRs than the one built in, one a line."`
	RealIPHeader    string     `name:"real_ip_header" help:"Header in which trusted proxies name the client; its nearest untrusted address counts."`
	ProxyProtocol   bool       `name:"proxy_protocol" reload:"restart" help:"Trusted proxies must send the PROXY protocol, v1 or v2; anybody else who does is refused."`
	TLS             TLS        `embed:"" prefix:"tls."`
	MaxConns        int        `name:"max_conns" reload:"restart" help:"Connections open at once, over all addresses; more wait in the kernel's queue."`
	IdleTimeout     Duration   `name:"idle_timeout" reload:"restart" help:"Time a client has for a whole request, and to send the next one."`
	ShutdownTimeout Duration   `name:"shutdown_timeout" help:"Time open requests have to end when spillway stops."`
}

// TLS names the certificate of the public side; both or neither.
type TLS struct {
	Cert string `name:"cert" reload:"restart" placeholder:"FILE" help:"Certificate chain, PEM. Read again when the file changes."`
	Key  string `name:"key" reload:"restart" placeholder:"FILE" help:"Its private key, PEM."`
}

// WS is for browsers. They connect to the addresses of HTTP, at any path, and to
// an address of their own if there is one.
type WS struct {
	Listen        string     `name:"listen" reload:"restart" help:"One more address for WebSockets, and nothing else: host:port, unix:/path or systemd:NAME; empty: those of http.listen alone."`
	MaxConns      int        `name:"max_conns" reload:"restart" help:"WebSockets open at once; a handshake above that gets 503."`
	MaxConnsPerIP int        `name:"max_conns_per_ip" reload:"restart" help:"WebSockets of one IPv4 address or IPv6 /64."`
	MaxMessage    Size       `name:"max_message" reload:"restart" help:"Bytes of one message; a longer one closes its WebSocket."`
	MaxOffers     int        `name:"max_offers" reload:"restart" help:"Offers of one announce that are relayed."`
	MaxHashes     int        `name:"max_hashes" reload:"restart" help:"Torrents on one WebSocket; further ones are answered, not stored."`
	Rate          int        `name:"rate" reload:"restart" help:"Messages a second of one WebSocket, in the long run; those above are dropped."`
	Burst         int        `name:"burst" reload:"restart" help:"Messages of one WebSocket at once."`
	MaxQueue      Size       `name:"max_queue" reload:"restart" help:"Bytes that wait for one WebSocket that does not read; the oldest messages are dropped."`
	MaxBuffered   Size       `name:"max_buffered" reload:"restart" help:"Bytes that wait, or are read in part, for all of them."`
	Interval      Duration   `name:"interval" help:"Time between two announces of a WebSocket peer, told with +-20 % of jitter."`
	Ping          Duration   `name:"ping" reload:"restart" help:"Silence after which a WebSocket is pinged."`
	Idle          Duration   `name:"idle" reload:"restart" help:"Silence after which it is closed."`
	AllowOrigins  StringList `name:"allow_origins" reload:"restart" placeholder:"ORIGIN,..." help:"Web sites whose pages may connect, as https://example.org; empty: all."`
}

// UDP is BEP 15, which most clients of public torrents speak.
type UDP struct {
	Listen        StringList `name:"listen" reload:"restart" help:"Addresses to serve on: host:port; empty turns UDP off."`
	ReceiveBuffer Size       `name:"receive_buffer" reload:"restart" help:"Bytes of packets that may wait in the kernel, of each socket; there is one for each core and address."`
}

// Admin is the operator's side.
type Admin struct {
	Listen      string `name:"listen" reload:"restart" help:"host:port or unix:/path; empty turns it off."`
	Token       string `name:"token" reload:"restart" placeholder:"TOKEN" help:"Bearer token; empty: made once and kept in data_dir/admin.token. Others on the machine see flags: use the file or the environment."`
	OpenMetrics bool   `name:"open_metrics" reload:"restart" help:"Serve /metrics without the token."`
}

// Tracker is what clients are told, and who is served.
type Tracker struct {
	Interval     Duration   `name:"interval" help:"Time between two announces of a client, told with +-20 % of jitter."`
	MaxInterval  Duration   `name:"max_interval" help:"What the interval may be stretched to under load, and what refused clients are told."`
	PeerTTL      Duration   `name:"peer_ttl" help:"Time after which a silent peer is forgotten; 0s: twice the interval told."`
	NumWant      NumWant    `embed:"" prefix:"numwant."`
	IPParam      string     `name:"ip_param" help:"ignore: the address of the connection counts; private: clients at private addresses may name theirs (ip=, ipv4=, ipv6=)."`
	Access       Access     `embed:"" prefix:"access."`
	Passkeys     string     `name:"passkeys" placeholder:"FILE" help:"File of passkeys, one a line: only /announce/PASSKEY is served. Empty: any passkey, ignored."`
	BlockPeerIDs StringList `name:"block_peer_ids" placeholder:"PREFIX,..." help:"Peer ids beginning so are refused, as -XL0019."`
}

// NumWant bounds the peers of one reply.
type NumWant struct {
	Default int `name:"default" help:"Peers in a reply when the client does not say."`
	Max     int `name:"max" help:"Peers in a reply, however many the client wants."`
}

// Access says which torrents are tracked.
type Access struct {
	Mode string `name:"mode" help:"open: any torrent; allow: those in the file; deny: all but those in the file."`
	File string `name:"file" placeholder:"FILE" help:"Hex info hashes, one a line, # comments. Read again when it changes."`
}

// Store is where swarms live.
type Store struct {
	Kind     string   `name:"kind" reload:"restart" help:"memory: of this node alone; redis: shared with other nodes."`
	Memory   Memory   `embed:"" prefix:"memory."`
	Redis    Redis    `embed:"" prefix:"redis."`
	Snapshot Snapshot `embed:"" prefix:"snapshot."`
}

// Memory bounds the swarms in memory. What does not fit is refused and
// counted, so that strangers cannot make the tracker grow without end.
type Memory struct {
	Max              Size `name:"max" reload:"restart" help:"Memory for swarms and peers."`
	MaxSwarms        int  `name:"max_swarms" reload:"restart" help:"Torrents known at once."`
	MaxPeersPerSwarm int  `name:"max_peers_per_swarm" reload:"restart" help:"Peers known of one torrent."`
}

// Redis is where nodes share swarms, with store.kind redis.
type Redis struct {
	Addrs    StringList `name:"addrs" reload:"restart" placeholder:"HOST:PORT,..." help:"Redis or Valkey, 7 or later; of a cluster some of its nodes. unix:/path is possible."`
	Username string     `name:"username" reload:"restart" help:"Redis's user (ACL); empty: the default user."`
	Password string     `name:"password" reload:"restart" help:"Its password. Others on the machine see flags: use the file or the environment."`
	DB       int        `name:"db" reload:"restart" help:"Number of the database; a cluster has 0 alone."`
	Cluster  string     `name:"cluster" reload:"restart" help:"auto: ask Redis; on; off."`
	TLS      bool       `name:"tls" reload:"restart" help:"Connect by TLS; the system's certificate authorities are trusted, or those of SSL_CERT_FILE."`
	TLSCA    string     `name:"tls_ca" reload:"restart" placeholder:"FILE" help:"With tls: certificate authorities to trust instead, PEM."`
	TLSCert  string     `name:"tls_cert" reload:"restart" placeholder:"FILE" help:"With tls: this node's certificate, PEM, for a Redis that asks. Read again for each connection."`
	TLSKey   string     `name:"tls_key" reload:"restart" placeholder:"FILE" help:"Its key, PEM."`
	TLSName  string     `name:"tls_name" reload:"restart" help:"With tls: the name in Redis's certificate, where it is not the address."`
	Sentinel string     `name:"sentinel" reload:"restart" help:"Name that sentinels know the master by; addrs are the sentinels' then."`

	SentinelUsername string `name:"sentinel_username" reload:"restart" help:"The sentinels' user (ACL)."`
	SentinelPassword string `name:"sentinel_password" reload:"restart" help:"The sentinels' password, often none."`

	Wait Duration `name:"wait" reload:"restart" help:"Most time an announce waits for a torrent that this node does not know yet."`
	Node string   `name:"node" reload:"restart" help:"Name of this node in Redis's CLIENT LIST; empty: the host's."`
}

// Snapshot says how often the swarms are written to data_dir.
type Snapshot struct {
	Every Duration `name:"every" help:"Time between two snapshots of the swarms; 0s: only at exit."`
}

// Shedder says what happens when there is too much to do. The defaults need no
// tuning.
type Shedder struct {
	Enabled   bool     `name:"enabled" reload:"restart" help:"Refuse what cannot be served. false: serve whoever comes, until it breaks. Switches and rules hold either way."`
	Target    Duration `name:"target" reload:"restart" help:"There is overload when half of the requests waited longer than this before they were read."`
	PerSource Budget   `embed:"" prefix:"per_source."`
	PerPrefix Budget   `embed:"" prefix:"per_prefix."`
	MemoryMax Size     `name:"memory_max" reload:"restart" help:"Memory of the process: above 85 % no new WebSockets, above 92 % no new connections. 0B: GOMEMLIMIT, or else nine tenths of what the machine or the cgroup has."`
	AutoRules Duration `name:"auto_rules" reload:"restart" help:"How long what an attack has in common is blocked by itself in an overload; 0s: it is proposed only."`
	Firewall  bool     `name:"firewall" reload:"restart" help:"Have the kernel (nftables) drop sources far above their budget in an overload. Needs CAP_NET_ADMIN, and clients that connect directly."`
}

// Budget is what a source may ask for while there is an overload.
type Budget struct {
	Rate  int `name:"rate" reload:"restart" help:"Requests a second in the long run, in an overload; 0: no bound."`
	Burst int `name:"burst" reload:"restart" help:"Requests at once."`
}

// Relay is the machine in front.
type Relay struct {
	Listen       StringList  `name:"listen" reload:"restart" help:"Addresses that are forwarded: :80 for all of this machine's, or 203.0.113.7:80."`
	Backends     StringList  `name:"backends" reload:"restart" placeholder:"ADDR:PORT,..." help:"Where connections go, as 10.66.0.2:6969 or [fd00::2]:6969; *3 behind one gives it three times the sources."`
	Mode         string      `name:"mode" reload:"restart" help:"kernel: nftables forwards, which needs root or CAP_NET_ADMIN; proxy: this program does; auto: the kernel where it can."`
	Masquerade   string      `name:"masquerade" reload:"restart" help:"on: backends see this machine's address; off: the client's, for which their way back must lead through here; auto: off where that is so."`
	Health       RelayHealth `embed:"" prefix:"health."`
	Budget       int         `name:"budget" reload:"restart" help:"Connections that may wait for a backend's first sign of life; more are refused at once."`
	PerSource    int         `name:"per_source" reload:"restart" help:"New connections a second of one IPv4 address or IPv6 /64; 0: no bound. Behind a CDN leave 0: every address is the CDN's."`
	Profile      string      `name:"profile" reload:"restart" help:"fast-fail: the kernel is set as docs/fast-fail.md has it; none: it is left as it is."`
	ProfileExtra bool        `name:"profile_extra" reload:"restart" help:"What the profile lacks as well: time_wait, established, loose, buckets."`
	Proxy        RelayProxy  `embed:"" prefix:"proxy."`
	Admin        RelayAdmin  `embed:"" prefix:"admin."`
}

// RelayHealth says how a backend is asked whether it lives.
type RelayHealth struct {
	Path    string   `name:"path" reload:"restart" help:"What is asked, by GET."`
	Every   Duration `name:"every" reload:"restart" help:"Time between two probes of a backend at the most; three times that while all is well."`
	Timeout Duration `name:"timeout" reload:"restart" help:"Time an answer may take."`
	Fall    int      `name:"fall" reload:"restart" help:"Failures in a row after which a backend is down."`
	Rise    int      `name:"rise" reload:"restart" help:"Answers in a row after which it is up again."`
}

// RelayProxy bounds the proxy mode.
type RelayProxy struct {
	MaxConns       int      `name:"max_conns" reload:"restart" help:"Connections open at once; more wait in the kernel's queue."`
	ConnectTimeout Duration `name:"connect_timeout" reload:"restart" help:"Time a backend has to take a connection."`
	IdleTimeout    Duration `name:"idle_timeout" reload:"restart" help:"Silence after which a connection is ended."`
	SendProxy      bool     `name:"send_proxy" reload:"restart" help:"Tell backends the client's address by the PROXY protocol, v2; they need http.proxy_protocol."`
}

// RelayAdmin is the relay's own operator's side.
type RelayAdmin struct {
	Listen      string `name:"listen" reload:"restart" help:"host:port or unix:/path; empty turns it off."`
	Token       string `name:"token" reload:"restart" placeholder:"TOKEN" help:"Bearer token; empty: made once and kept in data_dir/admin.token. Others on the machine see flags: use the file or the environment."`
	OpenMetrics bool   `name:"open_metrics" reload:"restart" help:"Serve /metrics without the token."`
}

// Default returns what is used when nothing is given. It serves.
func Default() Config {
	return Config{
		DataDir: "./data",
		Log:     Log{Level: "info", Format: "text"},
		HTTP: HTTP{
			Listen:          StringList{":6969"},
			RealIPHeader:    "X-Forwarded-For",
			MaxConns:        20000,
			IdleTimeout:     Duration(20 * time.Second),
			ShutdownTimeout: Duration(10 * time.Second),
		},
		WS: WS{
			MaxConns:      100_000,
			MaxConnsPerIP: 1000,
			MaxMessage:    64 << 10,
			MaxOffers:     20,
			MaxHashes:     1000,
			Rate:          10,
			Burst:         200,
			MaxQueue:      256 << 10,
			MaxBuffered:   256 << 20,
			Interval:      Duration(2 * time.Minute),
			Ping:          Duration(time.Minute),
			Idle:          Duration(4 * time.Minute),
		},
		UDP:   UDP{Listen: StringList{":6969"}, ReceiveBuffer: 4 << 20},
		Admin: Admin{Listen: "127.0.0.1:7070"},
		Tracker: Tracker{
			Interval:    Duration(30 * time.Minute),
			MaxInterval: Duration(90 * time.Minute),
			NumWant:     NumWant{Default: 50, Max: 200},
			IPParam:     "ignore",
			Access:      Access{Mode: "open"},
		},
		Store: Store{
			Kind: "memory",
			Memory: Memory{
				Max:              512 << 20,
				MaxSwarms:        2_000_000,
				MaxPeersPerSwarm: 200_000,
			},
			Redis:    Redis{Cluster: "auto", Wait: Duration(100 * time.Millisecond)},
			Snapshot: Snapshot{Every: Duration(5 * time.Minute)},
		},
		Shedder: Shedder{
			Enabled:   true,
			Target:    Duration(50 * time.Millisecond),
			PerSource: Budget{Rate: 20, Burst: 200},
			PerPrefix: Budget{Rate: 200, Burst: 2000},
		},
		Relay: Relay{
			Listen:     StringList{":80", ":443"},
			Mode:       "auto",
			Masquerade: "auto",
			Health: RelayHealth{
				Path:    "/healthz",
				Every:   Duration(100 * time.Millisecond),
				Timeout: Duration(300 * time.Millisecond),
				Fall:    2,
				Rise:    1,
			},
			Budget:       1500,
			Profile:      "fast-fail",
			ProfileExtra: true,
			Proxy: RelayProxy{
				MaxConns:       20000,
				ConnectTimeout: Duration(500 * time.Millisecond),
				IdleTimeout:    Duration(5 * time.Minute),
			},
			Admin: RelayAdmin{Listen: "127.0.0.1:7071"},
		},
	}
}

//go:embed spillway.example.yaml
var example string

// Example is a configuration file with every key, its default and what it is
// for. Loading it gives Default.
func Example() string { return example }
