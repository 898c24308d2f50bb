package config

import (
	"net/url"
	"strconv"
	"strings"
	"time"
)

// What is said of keys that have no counterpart.
const (
	chihayaLifetime = "a silent peer is forgotten after twice the interval it was told, whatever the load has made of that (tracker.peer_ttl: 0s)"
	noRedisTimeout  = "an announce waits for Redis store.redis.wait at most, 100ms, and is answered without it then"
	noTiming        = "always timed: spillway_announce_seconds"
	noScrapeLimit   = "74 torrents a scrape, as many as a packet of UDP holds"
	noConnectionKey = "the key is made at the first start, and kept in data_dir/udp.key; an id is good for two to four minutes"
)

// chihaya reads chihaya.yaml (github.com/chihaya/chihaya, dist/example_config.yaml). Keys of storage are known by the name of the
// storage, options of a hook by the name of the hook.
func (im *Imported) chihaya(text []byte) error {
	leaves, err := importYAML(text, im.File)
	if err != nil {
		return err
	}
	is := byKey(leaves)
	plain, hooks := cutHooks(leaves)
	im.each(plain, importTable{
		"chihaya.announce_interval":     im.chihayaInterval,
		"chihaya.min_announce_interval": im.drops("min interval equals the interval: some clients wait for the one, some for the other (docs/protocol.md)"),
		"chihaya.metrics_addr":          im.metricsMoved,

		"chihaya.http.addr":                  func(l imported) { im.chihayaListen("http.listen", l) },
		"chihaya.http.https_addr":            func(l imported) { im.chihayaHTTPS(l, is["chihaya.http.addr"].text) },
		"chihaya.http.tls_cert_path":         func(l imported) { im.chihayaTLS("http.tls.cert", l, is) },
		"chihaya.http.tls_key_path":          func(l imported) { im.chihayaTLS("http.tls.key", l, is) },
		"chihaya.http.read_timeout":          im.drops("http.idle_timeout (20s) is the time a whole request has"),
		"chihaya.http.write_timeout":         im.drops("http.idle_timeout (20s) is the time a reply has to be taken, too"),
		"chihaya.http.enable_keepalive":      im.chihayaKeepalive,
		"chihaya.http.idle_timeout":          func(l imported) { im.chihayaIdle(l, is["chihaya.http.enable_keepalive"]) },
		"chihaya.http.enable_request_timing": im.drops(noTiming),
		"chihaya.http.announce_routes":       im.chihayaRoute,
		"chihaya.http.scrape_routes":         im.chihayaRoute,
		"chihaya.http.allow_ip_spoofing":     im.spoofing,
		"chihaya.http.real_ip_header":        im.chihayaRealIP,
		"chihaya.http.max_numwant":           im.chihayaNumWant,
		"chihaya.http.default_numwant":       im.chihayaNumWant,
		"chihaya.http.max_scrape_infohashes": im.drops(noScrapeLimit),

		"chihaya.udp.addr":                  func(l imported) { im.chihayaListen("udp.listen", l) },
		"chihaya.udp.max_clock_skew":        im.drops(noConnectionKey),
		"chihaya.udp.private_key":           im.drops(noConnectionKey),
		"chihaya.udp.enable_request_timing": im.drops(noTiming),
		"chihaya.udp.allow_ip_spoofing":     im.spoofing,
		"chihaya.udp.max_numwant":           func(l imported) { im.chihayaUDPNumWant(l, is) },
		"chihaya.udp.default_numwant":       func(l imported) { im.chihayaUDPNumWant(l, is) },
		"chihaya.udp.max_scrape_infohashes": im.drops(noScrapeLimit),

		"chihaya.storage.name":                                 im.chihayaStorage,
		"chihaya.storage.config.gc_interval":                   im.drops("peers are forgotten all the time, a few swarms a second, not in one sweep"),
		"chihaya.storage.config.peer_lifetime":                 im.drops(chihayaLifetime),
		"chihaya.storage.config.shard_count":                   im.drops(noShards),
		"chihaya.storage.config.prometheus_reporting_interval": im.drops("/metrics is counted when it is asked for"),
		"chihaya.storage.config.redis_broker":                  func(l imported) { im.chihayaBroker(l, is["chihaya.storage.name"].text) },
		"chihaya.storage.config.redis_read_timeout":            im.drops(noRedisTimeout),
		"chihaya.storage.config.redis_write_timeout":           im.drops(noRedisTimeout),
		"chihaya.storage.config.redis_connect_timeout":         im.drops(noRedisTimeout),

		"chihaya.prehooks":  im.drops("nothing is said"),
		"chihaya.posthooks": im.drops("nothing is said"),
	})
	for _, hook := range hooks {
		im.chihayaHook(hook)
	}
	if im.taken["udp.listen"] == "" {
		im.set("udp.listen", "", imported{key: "chihaya has no UDP without a udp section; remove this line to serve it on port 6969"})
	}
	if im.taken["http.listen"] == "" {
		im.set("http.listen", "127.0.0.1:6969", imported{key: "chihaya has no HTTP without an http section. Here it cannot be turned off: it is for this machine only"})
	}
	if l := is["chihaya.http.real_ip_header"]; l.text != "" {
		im.set("http.real_ip_header", l.text, l)
		im.trustProxy(l.text, l) // here, because it is known now what is listened on
	}
	return nil
}

// cutHooks takes the keys of hooks out of leaves, those of one hook together.
func cutHooks(leaves []imported) (plain []imported, hooks [][]imported) {
	last := ""
	for _, l := range leaves {
		hook, _, found := strings.Cut(l.key, "].")
		if !found || !strings.HasPrefix(hook, "chihaya.prehooks[") && !strings.HasPrefix(hook, "chihaya.posthooks[") {
			plain = append(plain, l)
			continue
		}
		if hook != last {
			hooks = append(hooks, nil)
			last = hook
		}
		hooks[len(hooks)-1] = append(hooks[len(hooks)-1], l)
	}
	return plain, hooks
}

func (im *Imported) chihayaHook(hook []imported) {
	name := ""
	for _, l := range hook {
		if strings.HasSuffix(l.key, "].name") {
			name = l.text
		}
	}
	for _, l := range hook {
		_, l.key, _ = strings.Cut(l.key, "].")
		option := strings.TrimPrefix(l.key, "options.")
		if name != "" {
			l.key = name + ": " + l.key
		}
		switch {
		case option == "name" && l.text == name:
			im.chihayaHookName(l)
		case name == "torrent approval" && option == "whitelist":
			im.chihayaList("allow", l)
		case name == "torrent approval" && option == "blacklist":
			im.chihayaList("deny", l)
		case name == "client approval" && option == "blacklist":
			im.chihayaClients(l)
		case name == "client approval" && option == "whitelist":
			if l.odd != "nothing" && len(l.items) > 0 {
				im.look(l, "not taken over: clients are refused by name (tracker.block_peer_ids), not admitted by name; a list of those admitted is always out of date")
			} else {
				im.drop(l, "nothing is said")
			}
		case name == "interval variation":
			im.drop(l, "every reply has it: 20 %% up or down, so that clients which came together do not come back together")
		case name == "jwt":
			im.drop(l, "see above")
		default:
			im.note(NoteUnknown, l, "not a key of %s's that is known here", im.From)
		}
	}
}

func (im *Imported) chihayaHookName(l imported) {
	switch l.text {
	case "torrent approval":
		im.drop(l, "tracker.access does it")
	case "client approval":
		im.drop(l, "tracker.block_peer_ids does it, for clients that are refused")
	case "interval variation":
		im.drop(l, "every reply has it")
	case "jwt":
		im.look(l, "not taken over: announces are not signed here. tracker.passkeys serves only who knows a word; this tracker would serve everybody")
	default:
		im.note(NoteUnknown, l, "not a hook of %s's that is known here; what it did is not done", im.From)
	}
}

func (im *Imported) chihayaInterval(l imported) {
	d, err := parseGoDuration(l.text)
	if err != nil {
		im.look(l, "%v; tracker.interval is left at its default", err)
		return
	}
	im.interval(d, l)
}

func (im *Imported) chihayaListen(key string, l imported) {
	if l.text == "" {
		im.drop(l, "empty: not listened on")
		return
	}
	if _, _, ok := cutHostPort(l.text); !ok {
		im.look(l, "got %q, which is not host:port; it is left out", shorten(l.text))
		return
	}
	im.listen(key, l.text, l)
}

func (im *Imported) chihayaHTTPS(l imported, plain string) {
	switch {
	case l.text == "":
		im.drop(l, "empty: not listened on")
	case plain != "":
		im.look(l, "not taken over: http.listen is HTTP or HTTPS, not both. A proxy or a CDN in front of the HTTP one can do HTTPS; "+
			"or run a second node with http.tls, and share swarms (docs/redis.md)")
	default:
		im.chihayaListen("http.listen", l)
	}
}

func (im *Imported) chihayaTLS(key string, l imported, is map[string]imported) {
	switch {
	case l.text == "":
		im.drop(l, "empty: no TLS")
	case is["chihaya.http.https_addr"].text == "":
		im.drop(l, "https_addr is empty: no TLS")
	case is["chihaya.http.addr"].text != "":
		im.look(l, "not taken over, as https_addr; %s is its place", key)
	default:
		im.set(key, l.text, l)
	}
}

func (im *Imported) chihayaKeepalive(l imported) {
	if !im.flag(l) {
		im.drop(l, "connections are kept when the client wants it; http.idle_timeout and http.max_conns bound them")
		return
	}
	im.drop(l, "always so")
}

func (im *Imported) chihayaIdle(l, keepalive imported) {
	if keepalive.text != "true" {
		im.drop(l, "it was not in use, because connections were not kept; http.idle_timeout is 20s")
		return
	}
	d, err := parseGoDuration(l.text)
	if err != nil {
		im.look(l, "%v; http.idle_timeout is left at its default", err)
		return
	}
	if d > 0 {
		im.set("http.idle_timeout", min(max(Duration(d), Duration(time.Second)), Duration(time.Hour)).String(), l)
		im.look(l, "http.idle_timeout is the time for a whole request as well; the default, 20s, leaves more room for others")
	}
}

func (im *Imported) chihayaRoute(l imported) {
	if len(l.items) == 0 {
		im.drop(l, "nothing is said")
	}
	for _, route := range l.items {
		r := imported{key: l.key, line: route.line}
		word := "/announce"
		if strings.HasSuffix(l.key, "scrape_routes") {
			word = "/scrape"
		}
		segments := strings.Split(strings.Trim(route.text, "/"), "/")
		switch {
		case route.text == word || route.text == word+".php":
			im.drop(r, "%s is always served", route.text)
		case len(segments) == 2 && (segments[0] == word[1:] && isParameter(segments[1]) || segments[1] == word[1:] && isParameter(segments[0])):
			im.drop(r, "%s is always served; tracker.passkeys says which passkeys are", printable(shorten(route.text)))
		default:
			im.look(r, "%q is not served: %s, %s.php and %s/PASSKEY are. Clients with that URL get a 404, so a proxy has to rewrite it", printable(shorten(route.text)), word, word, word)
		}
	}
}

// isParameter knows the parameters of chihaya's router: /announce/:passkey.
func isParameter(segment string) bool {
	return len(segment) > 1 && (segment[0] == ':' || segment[0] == '*')
}

func (im *Imported) spoofing(l imported) {
	if im.flag(l) {
		im.look(l, "not taken over: with it anybody can send a swarm's clients to anybody. The address of the connection counts; "+
			"tracker.ip_param: private lets clients at private addresses name theirs")
		return
	}
	im.set("tracker.ip_param", "ignore", l)
}

func (im *Imported) chihayaRealIP(l imported) {
	if l.text == "" {
		im.drop(l, "empty: no proxy in front")
	}
	// Otherwise it is taken over when it is known what is listened on.
}

func (im *Imported) chihayaNumWant(l imported) {
	key := "tracker.numwant.max"
	if strings.HasSuffix(l.key, "default_numwant") {
		key = "tracker.numwant.default"
	}
	n, err := strconv.Atoi(l.text)
	if err != nil || n < 1 {
		im.look(l, "got %q; %s is left at its default", shorten(l.text), key)
		return
	}
	if n > 1000 {
		im.look(l, "more than 1000 peers are never told; %s is 1000", key)
	}
	im.set(key, strconv.Itoa(min(n, 1000)), l)
	if w := &im.Config.Tracker.NumWant; w.Default > w.Max { // of two lines that disagree the bound counts
		im.set("tracker.numwant.default", strconv.Itoa(w.Max), l)
	}
}

// chihayaUDPNumWant takes the bounds of UDP when there is no HTTP: here both have the same.
func (im *Imported) chihayaUDPNumWant(l imported, is map[string]imported) {
	http, said := is[strings.Replace(l.key, ".udp.", ".http.", 1)]
	switch {
	case !said:
		im.chihayaNumWant(l)
	case http.text == l.text:
		im.drop(l, "the same as HTTP's, and tracker.numwant is for both")
	default:
		im.look(l, "tracker.numwant is for HTTP and UDP; HTTP's %s is taken", shorten(http.text))
	}
}

func (im *Imported) chihayaStorage(l imported) {
	switch l.text {
	case "memory", "redis":
		im.set("store.kind", l.text, l)
	default:
		im.note(NoteUnknown, l, "not a storage of %s's that is known here; swarms live in memory (store.kind)", im.From)
	}
}

func (im *Imported) chihayaBroker(l imported, storage string) {
	if storage != "redis" {
		im.drop(l, "storage.name is not redis")
		return
	}
	u, err := url.Parse(l.text)
	if err != nil || u.Scheme != "redis" || u.Host == "" {
		im.look(l, "not redis://PASSWORD@HOST:PORT/DB; give store.redis.addrs yourself")
		im.set("store.kind", "memory", l)
		return
	}
	im.set("store.redis.addrs", u.Host, l)
	if password := u.User.String(); password != "" { // the whole of it, as chihaya takes it
		if p, err := url.PathUnescape(password); err == nil {
			password = p
		}
		im.set("store.redis.password", password, l)
	}
	if db := strings.Trim(u.Path, "/"); db != "" && db != "0" {
		im.set("store.redis.db", db, l)
	}
	im.look(l, "chihaya's swarms in it are not read. Give Spillway a Redis or a database (store.redis.db) of its own, with maxmemory-policy noeviction (docs/redis.md), and keep this file from others' eyes if there is a password in it")
}

func (im *Imported) chihayaList(mode string, l imported) {
	if !l.list || len(l.items) == 0 {
		im.drop(l, "nothing is said")
		return
	}
	list := ImportList{Key: l.key, Line: l.line}
	for _, item := range l.items {
		list.Hashes = append(list.Hashes, item.text)
	}
	im.list(mode, list, l)
}

// chihayaClients takes over six letters of a peer id: those behind the dash, or the first when there is no dash.
func (im *Imported) chihayaClients(l imported) {
	if len(l.items) == 0 {
		im.drop(l, "nothing is said")
	}
	for _, item := range l.items {
		if len(item.text) != 6 || !isPrintable(item.text) {
			im.look(imported{key: l.key, line: item.line}, "got %q; chihaya wants 6 bytes; it is left out", printable(shorten(item.text)))
			continue
		}
		im.add("tracker.block_peer_ids", "-"+item.text, l)
		im.add("tracker.block_peer_ids", item.text, l)
	}
}
