package config

import (
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

const opentrackerFifo = "write the list anew (to a file beside it, then mv): tracker.access.file is read again when it changes"

// opentracker reads opentracker.conf: one key and value a line (erdgeist's opentracker, opentracker.conf.sample).
func (im *Imported) opentracker(text []byte) error {
	leaves, err := importLines(text, im.File)
	if err != nil {
		return err
	}
	is := byKey(leaves)
	syncs := func(l imported) {
		im.look(l, "nodes share swarms through Redis here, not by multicast: store.kind: redis and store.redis.addrs, docs/redis.md")
	}
	im.each(leaves, importTable{
		"listen.tcp_udp": func(l imported) {
			im.opentrackerListen("http.listen", l)
			im.opentrackerListen("udp.listen", l)
		},
		"listen.tcp":                 func(l imported) { im.opentrackerListen("http.listen", l) },
		"listen.udp":                 func(l imported) { im.opentrackerListen("udp.listen", l) },
		"listen.udp.workers":         im.drops("there is a socket and a loop for each core"),
		"access.whitelist":           func(l imported) { im.opentrackerList("allow", l, is["tracker.rootdir"].text) },
		"access.blacklist":           func(l imported) { im.opentrackerList("deny", l, is["tracker.rootdir"].text) },
		"access.fifo_add":            im.drops(opentrackerFifo),
		"access.fifo_delete":         im.drops(opentrackerFifo),
		"access.stats":               im.drops("/stats and /stats.json are public and tell nothing of anybody; the rest is on admin.listen, behind a token"),
		"access.stats_path":          im.drops("/stats has no other name, and need not hide: it tells nothing of anybody"),
		"access.proxy":               im.opentrackerProxy,
		"tracker.rootdir":            im.drops("there is no chroot; the systemd unit sees to that (deploy/systemd/spillway.service). Paths of lists were taken as below it"),
		"tracker.user":               im.drops("it changes no user; the systemd unit gives it one of its own (DynamicUser=)"),
		"tracker.redirect_url":       im.drops("/ shows the announce URLs"),
		"livesync.cluster.listen":    syncs,
		"livesync.cluster.node_ip":   syncs,
		"batchsync.cluster.admin_ip": syncs,
	})
	im.opentrackerSockets()
	return nil
}

// opentrackerSockets sees to what was not said: without any listen line opentracker has TCP and UDP on 6969, with one it has
// no more than was said.
func (im *Imported) opentrackerSockets() {
	http, udp := im.taken["http.listen"] != "", im.taken["udp.listen"] != ""
	switch {
	case http && !udp:
		im.set("udp.listen", "", imported{key: "no listen.udp and no listen.tcp_udp; remove this line to serve UDP on port 6969"})
	case udp && !http:
		im.set("http.listen", "127.0.0.1:6969", imported{key: "no listen.tcp and no listen.tcp_udp, and HTTP cannot be turned off: it is for this machine only"})
	}
}

func (im *Imported) opentrackerListen(key string, l imported) {
	addr, err := parseOpentrackerAddr(l.text)
	if err != nil {
		im.look(l, "%v; it is left out", err)
		return
	}
	text := addr.String()
	if addr.Addr() == netip.IPv6Unspecified() {
		text = ":" + strconv.Itoa(int(addr.Port())) // IPv4 as well, as with opentracker's WANT_V6
	}
	im.listen(key, text, l)
}

func (im *Imported) opentrackerList(mode string, l imported, root string) {
	path := l.text
	// It is looked for after the chroot; but where it was written as a whole, as in Debian's file, nobody means it to be there twice.
	if root != "" && path != "" && !strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/") {
		path = filepath.Join(root, path)
	}
	if path == "" {
		im.look(l, "names no file; every torrent is served")
		return
	}
	im.list(mode, ImportList{Key: l.key, Line: l.line, Path: path}, l)
}

func (im *Imported) opentrackerProxy(l imported) {
	_, errPrefix := netip.ParsePrefix(l.text)
	_, errAddr := netip.ParseAddr(l.text)
	if errPrefix != nil && errAddr != nil {
		im.look(l, "got %q; must be an address or a CIDR; it is left out", shorten(l.text))
		return
	}
	im.add("http.trusted_proxies", l.text, l)
}
