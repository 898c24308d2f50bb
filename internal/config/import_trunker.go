package config

import (
	"strconv"
	"time"
)

// What is said of keys that have no counterpart.
const (
	trunkerRPC = "nodes share swarms through Redis here, not by calling one another: docs/redis.md"
	noShards   = "there are 64 shards, enough for any number of cores in use"
	noEvents   = "no event is produced for each announce; /metrics and /stats.json count them"
	noCache    = "no cache is needed. To share swarms among nodes there is store.redis, with a Redis of its own"
	noDatabase = "there is no SQL; swarms live in memory"
)

// trunker reads Trunker's conf/prod.yaml or the JSON of $TRUNKER_CONFIG (github.com/PBH-BTN/trunker). Its keys moved in 2025:
// what was tracker.maxPeersPerTorrent is tracker.memory.maxPeersPerTorrent now, and both are known here.
func (im *Imported) trunker(text []byte) error {
	leaves, err := importYAML(text, im.File)
	if err != nil {
		return err
	}
	is := byKey(leaves)
	im.each(leaves, importTable{
		"tracker.hostPorts":                 func(l imported) { im.trunkerListen(l, is["tracker.useUnixSocket"]) },
		"tracker.useUnixSocket":             im.drops("http.listen says it: unix:/path"),
		"tracker.ttl":                       im.trunkerTTL,
		"tracker.intervalTask":              im.drops("peers are forgotten all the time, a few swarms a second, not in one sweep"),
		"tracker.mode":                      im.trunkerMode,
		"tracker.useDB":                     im.trunkerUseDB,
		"tracker.useAnnounceIP":             im.spoofing,
		"tracker.enablePersist":             im.trunkerPersist,
		"tracker.memory.enablePersist":      im.trunkerPersist,
		"tracker.memory.persistFile":        im.trunkerPersistFile,
		"tracker.maxPeersPerTorrent":        im.trunkerMaxPeers,
		"tracker.memory.maxPeersPerTorrent": im.trunkerMaxPeers,
		"tracker.shard":                     im.drops(noShards),
		"tracker.memory.shard":              im.drops(noShards),
		"tracker.wsServer.shard":            im.drops(noShards),
		"tracker.memory.enableWS":           im.trunkerWS,
		"tracker.wsServer.enable":           im.trunkerWS,
		"tracker.udpServer.enable":          func(l imported) { im.trunkerUDP(l, is["tracker.udpServer.hostPorts"]) },
		"tracker.udpServer.hostPorts": func(l imported) {
			if is["tracker.udpServer.enable"].text != "true" {
				im.drop(l, "UDP was off")
			} else {
				im.from("udp.listen", l)
			}
		},
		"tracker.enableMetrics":       im.openMetrics,
		"tracker.metricsHostPorts":    im.metricsMoved,
		"tracker.debugPort":           im.drops("profiles are at /debug/pprof of admin.listen, behind the token"),
		"tracker.trackerId":           im.drops("replies carry no tracker id: no client needs it"),
		"tracker.rpc.enableServer":    im.drops(trunkerRPC),
		"tracker.rpc.hostPorts":       im.drops(trunkerRPC),
		"tracker.rpc.remoteServer":    im.drops(trunkerRPC),
		"tracker.xdp.enable":          im.trunkerXDP,
		"tracker.xdp.interface":       im.trunkerXDP,
		"tracker.enableEventProducer": im.drops(noEvents),
		"rocketmq.topic":              im.drops(noEvents),
		"rocketmq.endpoint":           im.drops(noEvents),
		"cache.enable":                im.drops(noCache),
		"cache.network":               im.drops(noCache),
		"cache.addr":                  im.drops(noCache),
		"cache.host":                  im.drops(noCache),
		"cache.port":                  im.drops(noCache),
		"database.database":           im.drops(noDatabase),
		"database.host":               im.drops(noDatabase),
		"database.port":               im.drops(noDatabase),
		"database.user":               im.drops(noDatabase),
		"database.pass":               im.drops(noDatabase),
		"tracker.database.database":   im.drops(noDatabase),
		"tracker.database.host":       im.drops(noDatabase),
		"tracker.database.port":       im.drops(noDatabase),
		"tracker.database.user":       im.drops(noDatabase),
		"tracker.database.pass":       im.drops(noDatabase),
	})
	if _, said := is["tracker.hostPorts"]; !said {
		im.listen("http.listen", "0.0.0.0:8888", imported{key: "what Trunker does when tracker.hostPorts is not there"})
	}
	if _, said := is["tracker.udpServer.enable"]; !said {
		im.set("udp.listen", "", imported{key: "Trunker serves UDP only when tracker.udpServer.enable is true; remove this line and Spillway does, on port 6969"})
	}
	// Not keys, but what it does with every request.
	im.trustProxy("", imported{key: "X-Forwarded-For"})
	im.look(imported{key: "X-Real-IP"}, "Trunker looks at it when there is no X-Forwarded-For. One header counts here: if your proxy sends X-Real-IP "+
		"only, set http.real_ip_header, or it will be refused")
	return nil
}

func (im *Imported) trunkerListen(l, unix imported) {
	if unix.text == "true" {
		im.listen("http.listen", "unix:"+l.text, l)
		if l.text != "" && l.text[0] != '/' {
			im.look(l, "the socket is made where serve is started; give its whole path, as unix:/run/spillway/http.sock, and tell the proxy")
		}
		return
	}
	if _, _, ok := cutHostPort(l.text); !ok {
		im.look(l, "got %q, which is not host:port; http.listen is left at its default", shorten(l.text))
		return
	}
	im.listen("http.listen", l.text, l)
}

// Trunker tells clients its ttl as the interval, and forgets them after the same time.
func (im *Imported) trunkerTTL(l imported) {
	seconds, err := strconv.ParseInt(l.text, 10, 32)
	if err != nil {
		im.look(l, "got %q; must be seconds; tracker.interval is left at its default", shorten(l.text))
		return
	}
	im.interval(time.Duration(seconds)*time.Second, l)
	im.look(l, "it was the interval and the time after which a peer is forgotten; the second is twice the interval here (tracker.peer_ttl)")
}

func (im *Imported) trunkerMode(l imported) {
	switch l.text {
	case "memory":
		im.set("store.kind", "memory", l)
	case "rpc":
		im.look(l, "several nodes share swarms through Redis here: store.kind: redis and store.redis.addrs, docs/redis.md. Until then this node has swarms of its own")
	case "db", "database":
		im.look(l, "there is no SQL: swarms live in memory, are written to data_dir every 5m, and may be shared through Redis (store.kind)")
	default:
		im.look(l, "got %q; swarms live in memory (store.kind)", shorten(l.text))
	}
}

func (im *Imported) trunkerUseDB(l imported) {
	if im.flag(l) {
		im.look(l, "there is no SQL: swarms live in memory, are written to data_dir every 5m, and may be shared through Redis (store.kind)")
		return
	}
	im.set("store.kind", "memory", l)
}

func (im *Imported) trunkerPersist(l imported) {
	if im.flag(l) {
		im.drop(l, "always so: swarms are written to data_dir every store.snapshot.every, 5m, and at exit")
		return
	}
	im.set("store.snapshot.every", "0s", l)
	im.look(l, "swarms are written to data_dir at exit all the same, so that a restart is warm")
}

func (im *Imported) trunkerPersistFile(l imported) {
	im.look(l, "data_dir is the directory that holds swarms.snapshot. Trunker's file cannot be read: swarms fill within one interval, as clients announce")
}

func (im *Imported) trunkerMaxPeers(l imported) {
	if n, err := strconv.Atoi(l.text); err != nil || n < 1 {
		im.look(l, "got %q; store.memory.max_peers_per_swarm is left at its default", shorten(l.text))
		return
	}
	if im.set("store.memory.max_peers_per_swarm", l.text, l) {
		im.look(l, "newcomers above it are told of peers and not listed, while Trunker drops somebody else. A peer costs 8 bytes here: "+
			"remove the line, and large swarms stay whole")
	}
}

func (im *Imported) trunkerWS(l imported) {
	if im.flag(l) {
		im.drop(l, "WebSockets are served wherever HTTP is, at any path; ws.* bounds them")
		return
	}
	im.look(l, "WebSockets are served wherever HTTP is. Once it runs, spillway ctl ws off --reason unwanted; it is kept over restarts")
}

func (im *Imported) trunkerUDP(l, hostPorts imported) {
	if !im.flag(l) {
		im.set("udp.listen", "", l)
		return
	}
	if _, _, ok := cutHostPort(hostPorts.text); !ok {
		im.look(l, "tracker.udpServer.hostPorts is not host:port; udp.listen is left at its default, :6969")
		return
	}
	im.listen("udp.listen", hostPorts.text, l)
}

func (im *Imported) trunkerXDP(l imported) {
	if l.key == "tracker.xdp.enable" && im.flag(l) {
		im.look(l, "shedder.firewall: true has the kernel drop sources far above their budget, by nftables; it needs CAP_NET_ADMIN and clients that connect directly")
		return
	}
	im.drop(l, "shedder.firewall is the like of it, by nftables, on all interfaces")
}

// openMetrics keeps a scraper going that knows no token.
func (im *Imported) openMetrics(l imported) {
	if !im.flag(l) {
		im.drop(l, "/metrics is always there, on admin.listen, behind the token")
		return
	}
	im.set("admin.open_metrics", "true", l)
}

func (im *Imported) metricsMoved(l imported) {
	if im.From == "chihaya" && l.text != "" { // Trunker has a key of its own for that
		im.set("admin.open_metrics", "true", l)
	}
	im.look(l, "Prometheus finds /metrics at admin.listen now, 127.0.0.1:7070; names differ (docs/metrics.md). The switches are "+
		"there too, so keep it off public addresses: from elsewhere use a tunnel")
}
